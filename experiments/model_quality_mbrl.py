"""The ensemble of mbrl-lib 0.2.0 (Pineda et al. 2021), trained by its own trainer and asked in our words.

Importing this needs mbrl-lib. What it has learned is carried over into an ensemble of ours, whose members are its
networks: so forecasts of both are made, propagated and judged by the same code.
"""

import copy
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from mbrl.models import GaussianMLP, ModelTrainer, OneDTransitionRewardModel
from mbrl.models.util import EnsembleLinearLayer
from mbrl.types import TransitionBatch
from mbrl.util.replay_buffer import BootstrapIterator, TransitionIterator
from torch import Tensor, nn
from torch.nn.functional import softplus

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import NetOutput
from layeredrl.spaces import row_size
from layeredrl.types import Batch

# mbrl-lib's own for MBPO in Hopper and HalfCheetah: `examples/conf/overrides/mbpo_hopper.yaml`.
LEARNING_RATE, WEIGHT_DECAY, BATCH_SIZE = 1e-3, 1e-5, 256


class Fit(NamedTuple):
    """What mbrl-lib has learned, as an ensemble of ours, and what that took."""

    model: ProbabilisticEnsemble
    seconds: float
    n_epochs: int


def fit_mbrl(
    buffer: ReplayBuffer,
    *,
    n_models: int,
    hidden_sizes: Sequence[int],
    hidden_states: Sequence[int],
    seconds: float,
    seed: int,
) -> Fit:
    """Let mbrl-lib learn from the training transitions of a buffer, with the same ones held out.

    As by default, it keeps the weights of the least squared error on those. It never stops early.

    Args:
        buffer: on the CPU; of continuous actions and no contexts.
        n_models, hidden_sizes: of the networks, whose layers are all of one width.
        hidden_states: coordinates of the state that the networks don't read.
        seconds: of processor time that it gets: as many whole epochs as it takes to use them up.
        seed: of weights and bootstraps.
    """
    torch.manual_seed(seed)
    model = _make_model(buffer, n_models, hidden_sizes, hidden_states)
    train, holdout = (
        _as_mbrl(buffer[rows.nonzero().squeeze(-1)]) for rows in (~buffer.is_holdout, buffer.is_holdout)
    )
    rng = np.random.default_rng(seed)
    batches = BootstrapIterator(
        train, BATCH_SIZE, n_models, shuffle_each_epoch=True, permute_indices=False, rng=rng
    )
    start = time.process_time()
    model.update_normalizer(train)
    trainer = ModelTrainer(model, optim_lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    n_epochs = _train_until(start + seconds, trainer, batches, TransitionIterator(holdout, BATCH_SIZE))
    return Fit(_as_ours(model, buffer, hidden_states), time.process_time() - start, n_epochs)


def _train_until(end: float, trainer: ModelTrainer, batches: BootstrapIterator, holdout: TransitionIterator) -> int:
    """Train until the first epoch that is over at processor time `end` or later; the number of epochs.

    The trainer counts epochs and knows no clock. So it is stopped from outside, and given the weights that it would
    have chosen: those since when no member has got better on what is held out.
    """
    n_epochs = 0
    best_score: Tensor | None = None
    best_weights: dict[str, Tensor] = {}

    def watch(
        model: OneDTransitionRewardModel, _: int, epoch: int, loss: float, score: Tensor, best: Tensor
    ) -> None:
        nonlocal n_epochs, best_score, best_weights
        n_epochs += 1
        if best_score is None or not torch.equal(best, best_score):
            best_score, best_weights = best, copy.deepcopy(model.state_dict())
        if time.process_time() >= end:
            raise StopTraining

    with suppress(StopTraining):
        trainer.train(batches, holdout, callback=watch, silent=True)
    trainer.model.load_state_dict(best_weights)
    return n_epochs


class StopTraining(Exception):
    """The trainer has no other way to end early."""


class Member(nn.Module):
    """One of mbrl-lib's networks. It foretells no ends of episodes."""

    min_logvar: Tensor
    max_logvar: Tensor

    def __init__(self, net: GaussianMLP, index: int):
        super().__init__()
        layers: list[nn.Module] = []
        for hidden in net.hidden_layers:
            layers += [_linear(hidden[0], index), nn.SiLU()]
        self.net = nn.Sequential(*layers, _linear(net.mean_and_logvar, index))
        self.register_buffer("min_logvar", net.min_logvar.detach()[0].clone())
        self.register_buffer("max_logvar", net.max_logvar.detach()[0].clone())

    def forward(
        self, state: Float[Tensor, "*batch S"], context: None, action: Float[Tensor, "*batch A"]
    ) -> NetOutput:
        mean, logvar = self.net(torch.cat([state, action], dim=-1)).chunk(2, dim=-1)
        logvar = self.max_logvar - softplus(self.max_logvar - logvar)
        logvar = self.min_logvar + softplus(logvar - self.min_logvar)
        mean, std = mean.unsqueeze(-2), (0.5 * logvar).exp().unsqueeze(-2)
        return (mean, std), torch.ones_like(mean[..., 0]), torch.zeros_like(mean[..., 0, 0])


def _make_model(
    buffer: ReplayBuffer, n_models: int, hidden_sizes: Sequence[int], hidden_states: Sequence[int]
) -> OneDTransitionRewardModel:
    n_states, n_actions = (row_size(buffer.spaces[name]) for name in ("state", "action"))
    (width,) = set(hidden_sizes)
    net = GaussianMLP(
        in_size=n_states + n_actions,
        out_size=n_states,
        device="cpu",
        num_layers=len(hidden_sizes),
        ensemble_size=n_models,
        hid_size=width,
        activation_fn_cfg={"_target_": "torch.nn.SiLU"},
    )

    def hide(observations: Any) -> Any:
        seen = observations.copy()
        seen[..., list(hidden_states)] = 0.0
        return seen

    return OneDTransitionRewardModel(
        net,
        target_is_delta=True,
        normalize=True,
        normalize_double_precision=True,
        learned_rewards=False,
        obs_process_fn=hide,
    )


def _as_ours(
    model: OneDTransitionRewardModel, buffer: ReplayBuffer, hidden_states: Sequence[int]
) -> ProbabilisticEnsemble:
    """An ensemble of the same networks and input statistics."""
    state_space, action_space = buffer.spaces["state"], buffer.spaces["action"]
    assert state_space is not None
    assert action_space is not None
    members = (Member(model.model, index) for index in range(len(model)))
    ensemble = ProbabilisticEnsemble(
        state_space,
        None,
        action_space,
        partial_net=lambda *_: next(members),
        n_models=len(model),
        normalize_targets=False,
        hidden_states=hidden_states,
    )
    statistics = model.input_normalizer
    ensemble.members.inputs.set(statistics.mean[0].float(), statistics.std[0].square().float())
    return ensemble


def _linear(layer: EnsembleLinearLayer, index: int) -> nn.Linear:
    weight, bias = layer.weight.detach()[index], layer.bias.detach()[index, 0]
    linear = nn.Linear(*weight.shape)
    linear.load_state_dict({"weight": weight.T, "bias": bias})
    return linear


def _as_mbrl(batch: Batch) -> TransitionBatch:
    nothing = torch.zeros_like(batch.terminated)
    fields = batch.state, batch.action, batch.next_state, nothing.float(), batch.terminated, nothing
    return TransitionBatch(*(field.numpy() for field in fields))
