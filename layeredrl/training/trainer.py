"""Fits an ensemble to what a buffer holds."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.models.ensemble import Ensemble
from layeredrl.models.examples import Examples
from layeredrl.models.losses import MemberScores
from layeredrl.training.member_adamw import MemberAdamW

# Batches whose examples are gathered in one go: few enough to lie in the cache until they are used.
DRAWN_AT_A_TIME = 8
# Share of a fit's updates that the learning rate takes to rise.
WARM_UP = 0.05


def _cosine(progress: float) -> float:
    falling = (progress - WARM_UP) / (1 - WARM_UP)
    return progress / WARM_UP if falling < 0 else 0.5 * (1 + math.cos(math.pi * falling))


# Factors of the learning rate, by the share of the fit that is done.
SCHEDULES: dict[str, Callable[[float], float]] = {"constant": lambda progress: 1.0, "cosine": _cosine}


@dataclass(frozen=True)
class TrainerConfig:
    """How an ensemble is fitted."""

    learning_rate: float = 1e-3
    """Of AdamW."""
    schedule: Literal["constant", "cosine"] = "constant"
    """What becomes of the learning rate within a fit: `cosine` lets it rise for a twentieth of the updates, then
    fall to 0 by the last that `max_epochs` and `max_updates` allow. Wants patience, and `min_improvement=0`."""
    weight_decay: float = 1e-5
    """Of AdamW."""
    batch_size: int = 64
    """Transitions per member and step."""
    max_epochs: int = 200
    """Passes over each member's bootstrap, at most."""
    max_updates: int | None = None
    """Gradient steps, at most; the epoch in which they are reached is finished. None: any number."""
    patience: int = 20
    """A member is done when its held-out loss has not improved for so many epochs."""
    min_improvement: float = 0.01
    """What counts as an improvement, in nats per transition."""
    max_grad_norm: float = 10.0
    """Of each member's gradient."""
    n_elites: int | None = None
    """Members that planners rely on: the best on held-out data. None: all."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_epochs", "max_updates", "patience", "max_grad_norm"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected a positive number")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule: got {self.schedule!r}, expected one of {', '.join(SCHEDULES)}")


@dataclass(frozen=True)
class TrainReport:
    """What a fit has done.

    Attributes:
        train_loss, holdout_loss: after each epoch. Training losses are means over the epoch.
        best_epoch: whose weights each member has kept; −1: those from before the fit.
        train, holdout: scores of the kept weights. Without held-out transitions, `holdout` is `train`.
        elites: indices of the best members.
        n_train, n_holdout: transitions.
        seconds: wall clock.
    """

    train_loss: Float[Tensor, "epochs E"]
    holdout_loss: Float[Tensor, "epochs E"]
    best_epoch: Int[Tensor, " E"]
    train: MemberScores
    holdout: MemberScores
    elites: Int[Tensor, " elites"]
    n_train: int
    n_holdout: int
    seconds: float


class EnsembleTrainer:
    """Trains all members at once, each on its own bootstrap, and stops each by its own held-out loss.

    Weights and optimizer are kept from one `fit` to the next, so that a model learns on as data come in.

    Args:
        model: what to train: the dynamics, or a reward model.
        config: how.
        progress: whether to show a progress bar.
        generator: shuffles the epochs.
    """

    def __init__(
        self,
        model: Ensemble,
        config: TrainerConfig = TrainerConfig(),
        *,
        progress: bool = False,
        generator: torch.Generator | None = None,
    ):
        n_elites = config.n_elites
        if n_elites is not None and not 1 <= n_elites <= model.n_models:
            raise ValueError(f"config.n_elites: got {n_elites}, expected a number in 1 … {model.n_models}")
        self.model, self.config = model, config
        self.progress, self.generator = progress, generator
        self.optimizer = MemberAdamW(
            model.get_parameters(),
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            max_norm=config.max_grad_norm,
            compile=model.compiled,
        )

    def fit(self, buffer: ReplayBuffer) -> TrainReport:
        """Train until no member improves any more, or for `max_epochs`; every member keeps its best weights.

        Raises:
            ValueError: the buffer holds nothing to train some member on or, with a `holdout_ratio`, nothing held
                out, or what it holds isn't for the model. Nothing has changed then.
        """
        start = time.perf_counter()
        config, model = self.config, self.model
        train, holdout = _split(buffer)
        counts = buffer.bootstrap_counts(model.n_models)
        empty = (counts.sum(dim=0) == 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"buffer: got {len(buffer)} transitions, none for members {empty}; collect more")
        data = buffer[:].to(model.device)
        model.check_batch(data)
        model.set_statistics(data[train])
        examples = model.make_examples(data)
        held_out = examples.take(holdout)
        best = _BestWeights(model, model.get_example_scores(held_out).loss, config)
        train_losses, holdout_losses = [], []
        n_epochs = self._n_epochs(counts)
        epochs = tqdm(range(n_epochs), desc="fit", unit="epoch", leave=False, disable=not self.progress)
        try:
            for epoch in epochs:
                train_losses.append(self._train_epoch(examples, counts, epoch / n_epochs, 1 / n_epochs))
                holdout_losses.append(model.get_example_scores(held_out).loss)
                best.update(epoch, holdout_losses[-1])
                epochs.set_postfix(holdout=f"{float(best.loss.mean()):.3f}")
                if not bool(best.improving.any()):
                    break
        finally:  # also after Ctrl-C
            epochs.close()
            best.restore()
            model.eval()
        holdout_scores = model.get_example_scores(held_out)
        model.set_elites(holdout_scores.loss.argsort()[: config.n_elites])
        return TrainReport(
            train_loss=torch.stack(train_losses),
            holdout_loss=torch.stack(holdout_losses),
            best_epoch=best.epoch,
            train=model.get_example_scores(examples.take(train)),
            holdout=holdout_scores,
            elites=model.elites,
            n_train=len(train),
            n_holdout=int(buffer.is_holdout.sum()),
            seconds=time.perf_counter() - start,
        )

    def _n_epochs(self, counts: Int[Tensor, "B E"]) -> int:
        """How many epochs both limits allow."""
        if self.config.max_updates is None:
            return self.config.max_epochs
        longest = int(counts.sum(dim=0).max())
        return min(
            self.config.max_epochs, math.ceil(self.config.max_updates / math.ceil(longest / self.config.batch_size))
        )

    def _train_epoch(
        self, examples: Examples, counts: Int[Tensor, "B E"], progress: float, share: float
    ) -> Float[Tensor, " E"]:
        """One pass over every member's bootstrap, a `share` of the fit from `progress` on; the mean losses."""
        self.model.train()
        batches = self._shuffled_batches(counts)
        losses = torch.empty(batches.shape[:2], device=batches.device)
        for i, batch in enumerate(_draw(examples, batches)):
            self._set_learning_rate(progress + share * (i + 0.5) / len(batches))
            loss = self.model.get_example_losses(batch)
            self.optimizer.zero_grad()
            loss.sum().backward()
            self.optimizer.step()
            losses[i] = loss.detach()
        self.model.eval()
        return losses.mean(dim=0)

    def _set_learning_rate(self, progress: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * SCHEDULES[self.config.schedule](progress)

    def _shuffled_batches(self, counts: Int[Tensor, "B E"]) -> Int[Tensor, "batches E batch_size"]:
        """Indices of transitions: each member's bootstrap in an order of its own, cycled to equal lengths."""
        pools = [torch.arange(len(counts)).repeat_interleave(n.cpu()) for n in counts.T]
        orders = [pool[torch.randperm(len(pool), generator=self.generator)] for pool in pools]
        longest = max(len(order) for order in orders)
        size = min(self.config.batch_size, longest)
        n_batches = math.ceil(longest / size)
        place = torch.arange(n_batches * size)
        index = torch.stack([order[place % len(order)] for order in orders])
        return rearrange(index, "e (n b) -> n e b", b=size).to(counts.device)


def _draw(examples: Examples, batches: Int[Tensor, "batches E batch_size"]) -> Iterator[Examples]:
    """The examples of each batch, gathered some batches at a time: each alone takes longer."""
    for some in batches.split(DRAWN_AT_A_TIME):
        drawn = examples.take(some)
        for i in range(len(some)):
            yield drawn.map(itemgetter(i))


class _BestWeights:
    """The weights with which each member explained held-out data best, and whether it still gets better."""

    def __init__(self, model: Ensemble, loss: Float[Tensor, " E"], config: TrainerConfig):
        self._tensors = model.get_member_tensors()
        self._kept = {name: tensor.clone() for name, tensor in self._tensors.items()}
        self._patience, self._min_improvement = config.patience, config.min_improvement
        self.loss = loss
        self.epoch = torch.full_like(loss, -1, dtype=torch.long)
        self.improving = torch.ones_like(loss, dtype=torch.bool)

    def update(self, epoch: int, loss: Float[Tensor, " E"]) -> None:
        better = self.improving & (loss < self.loss - self._min_improvement)
        self.loss = torch.where(better, loss, self.loss)
        self.epoch = torch.where(better, epoch, self.epoch)
        self.improving &= epoch - self.epoch < self._patience
        for name, tensor in self._tensors.items():
            self._kept[name][better] = tensor[better]

    def restore(self) -> None:
        for name, tensor in self._tensors.items():
            tensor.copy_(self._kept[name])


def _split(buffer: ReplayBuffer) -> tuple[Int[Tensor, " train"], Int[Tensor, " holdout"]]:
    """Places of training and of held-out transitions; without a hold-out, the former serve as both."""
    holdout, train = (mask.nonzero().squeeze(-1) for mask in (buffer.is_holdout, ~buffer.is_holdout))
    if len(train) == 0:
        raise ValueError(f"buffer: got {len(buffer)} transitions, none of them to train on; collect more")
    if buffer.holdout_ratio == 0:
        return train, train
    if len(holdout) == 0:
        raise ValueError(
            f"buffer: got {len(buffer)} transitions, none held out at holdout_ratio={buffer.holdout_ratio}. "
            "Collect more, or choose holdout_ratio=0 to judge members by their training data"
        )
    return train, holdout
