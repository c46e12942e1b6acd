"""The abstract base of all dynamics models."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from gymnasium.spaces import Space
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from layeredrl.models.noise_shape import NoiseShape
from layeredrl.types import Batch, ModelStep, Prediction, Propagation, Rollout

Info = dict[str, Tensor]
LogProb = tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"], Info]


class Model(ABC, nn.Module):
    """A stochastic dynamics model: what may follow a state and an action, and whether the episode ends.

    States, contexts and actions are flat rows with any leading dims (see `layeredrl.spaces`); next states are
    absolute. Whatever the inside looks like, queries write to none of their inputs and change no statistics. A
    model is made in evaluation mode and leaves it only while it learns.

    Args:
        n_models: members E of an ensemble.
        n_particles_per_model: particles P per member in a rollout.
        device: where parameters and inputs lie.

    Attributes:
        state_space, context_space, action_space: whose rows it reads; None means no context. Subclasses set them.
    """

    state_space: Space[Any]
    context_space: Space[Any] | None
    action_space: Space[Any]
    n_total_env_steps: Tensor
    optimizer: torch.optim.Optimizer | None = None

    def __init__(
        self,
        n_models: int = 1,
        n_particles_per_model: int = 1,
        device: torch.device | str = torch.device("cpu"),
    ):
        super().__init__()
        for name, value in (("n_models", n_models), ("n_particles_per_model", n_particles_per_model)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}, expected an integer of at least 1")
        self.n_models = n_models
        self.n_particles_per_model = n_particles_per_model
        self.register_buffer("n_total_env_steps", torch.zeros((), dtype=torch.long, device=torch.device(device)))

    @property
    def device(self) -> torch.device:
        return self.n_total_env_steps.device

    def set_n_total_env_steps(self, n: int) -> None:
        """Tell the model how many environment steps were taken in total, for what is scheduled by them."""
        self.n_total_env_steps.fill_(n)

    @property
    def elites(self) -> Int[Tensor, " elites"]:
        """Indices of the members to rely on; all, unless the model knows better."""
        return torch.arange(self.n_models, device=self.device)

    def capture_state(self) -> tuple[object, ...] | None:
        """What decides how a rollout is computed besides its arguments: tensors, and numbers read from these.

        None: rollouts mustn't be captured as a CUDA graph, see `layeredrl.nets.captured`.
        """
        return None

    @property
    def noise_shape(self) -> NoiseShape | None:
        """Of the noise around what `predict` expects, whose mean and variance it leaves; None means normal."""
        return None

    @abstractmethod
    def get_parameters(self) -> Iterator[Tensor]:
        """What an optimizer is to train."""

    @abstractmethod
    def loss(self, batch: Batch) -> Float[Tensor, ""]:
        """What training minimises. A pure function: it changes no statistics."""

    @abstractmethod
    def predict(
        self,
        state: Float[Tensor, "*batch S"],
        context: Num[Tensor, "*batch C"] | None,
        action: Num[Tensor, "*batch A"],
        std: float | Tensor | None = None,
    ) -> Prediction:
        """What each member expects; `std` overrides the predicted standard deviation."""

    @abstractmethod
    def sample(
        self,
        state: Float[Tensor, "*batch S"],
        context: Num[Tensor, "*batch C"] | None,
        action: Num[Tensor, "*batch A"],
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "*batch S"]:
        """Draw next states from exactly the law whose density `get_log_prob` gives."""

    @abstractmethod
    def rollout(
        self,
        initial_state: Float[Tensor, "B S"],
        context: Num[Tensor, "B C"] | None,
        actions: Num[Tensor, "B H A"],
        deterministic: bool = False,
        loss_mode: bool = False,
        *,
        propagation: Propagation = "ts_inf",
        members: Int[Tensor, " members"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Rollout:
        """Follow the actions from the initial states with E·P particles each."""

    def unroll(
        self,
        initial_state: Float[Tensor, "B S"],
        context: Num[Tensor, "B C"] | None,
        actions: Num[Tensor, "B H A"],
        deterministic: bool = False,
        loss_mode: bool = False,
        *,
        propagation: Propagation = "ts_inf",
        members: Int[Tensor, " members"] | None = None,
        max_rows: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Iterator[ModelStep]:
        """The steps of `rollout`, one at a time, for those who needn't keep them all.

        A model that can do better than rolling out first overrides this, and may then read no more than `max_rows`
        rows at a time.
        """
        rollout = self.rollout(
            initial_state,
            context,
            actions,
            deterministic,
            loss_mode,
            propagation=propagation,
            members=members,
            generator=generator,
        )
        n_particles = rollout.step_mean.shape[2]  # 1 where all particles of a member coincide
        states = rearrange(rollout.state[:, :, :n_particles], "b e p t s -> t e p b s")
        means, variances = (rearrange(x, "b e p h s -> h e p b s") for x in (rollout.step_mean, rollout.step_var))
        term_probs = rearrange(rollout.term_prob[:, :, :n_particles], "b e p h -> h e p b")
        for t, term_prob in enumerate(term_probs):
            yield ModelStep(states[t], states[t + 1], term_prob, partial(lambda t: (means[t], variances[t]), t))

    @abstractmethod
    def get_log_prob(
        self,
        state: Float[Tensor, "*batch S"],
        context: Num[Tensor, "*batch C"] | None,
        action: Num[Tensor, "*batch A"],
        next_state: Float[Tensor, "*batch S"],
    ) -> LogProb:
        """Log density of `next_state`, probability of termination, and an info dict with `means (…, E, S)`."""

    def get_prob(
        self,
        state: Float[Tensor, "*batch S"],
        context: Num[Tensor, "*batch C"] | None,
        action: Num[Tensor, "*batch A"],
        next_state: Float[Tensor, "*batch S"],
        **more: Any,
    ) -> LogProb:
        """Density of `next_state`, finite; otherwise as `get_log_prob`, which takes `more`."""
        log_prob, term_prob, info = self.get_log_prob(state, context, action, next_state, **more)
        # The largest exponent whose exponential is finite in this precision.
        largest = torch.finfo(log_prob.dtype).max
        return log_prob.exp().clamp_max(largest), term_prob, info

    def update_statistics(self, batch: Batch) -> None:
        """Move running statistics by a training batch."""

    def learn(self, batch_lst: Sequence[Batch]) -> Float[Tensor, ""] | None:
        """One optimizer step per batch; the mean loss. A model with nothing to learn does nothing.

        Raises:
            ValueError: a batch holds a NaN or an infinity (nothing has changed then), or there is no optimizer.
        """
        if not batch_lst or next(self.get_parameters(), None) is None:
            return None
        if self.optimizer is None:
            raise ValueError("learn: the model has no optimizer; construct it with create_optimizer=True")
        for batch in batch_lst:
            self.check_batch(batch)
        self.train()
        losses = [self._learn_from(batch, self.optimizer) for batch in batch_lst]
        self.eval()
        return torch.stack(losses).mean()

    def check_batch(self, batch: Batch) -> None:
        """Refuse data that can't be learned from."""
        batch.check_finite()

    def _learn_from(self, batch: Batch, optimizer: torch.optim.Optimizer) -> Float[Tensor, ""]:
        self.update_statistics(batch)
        loss = self.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()
