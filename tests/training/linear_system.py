"""A small system that is quickly learned, for tests of training."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from gymnasium.spaces import Box
from torch import nn

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.models.reward_model import RewardModel
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.types import Batch

STATE, ACTION = Box(-10.0, 10.0, (2,)), Box(-1.0, 1.0, (1,))


def make_batch(n: int, seed: int = 0) -> Batch:
    """s' = s + A s + B a + noise; it ends where the first coordinate is large. The reward is the row's number."""
    generator = torch.Generator().manual_seed(seed)
    state = 2 * torch.randn(n, 2, generator=generator)
    action = 2 * torch.rand(n, 1, generator=generator) - 1
    noise = 0.1 * torch.randn(n, 2, generator=generator)
    next_state = state + state @ torch.tensor([[0.0, -0.3], [0.3, 0.0]]) + action * torch.tensor([0.0, 1.0]) + noise
    reward = torch.arange(n, dtype=torch.float32)
    return Batch(state, None, action, next_state, next_state[:, 0] > 3, reward=reward)


def make_buffer(n: int = 300, holdout_ratio: float = 0.2, spoil: Any = None) -> ReplayBuffer:
    """`spoil` names who gets other next states: "holdout", or a place."""
    buffer = ReplayBuffer(STATE, None, ACTION, max(n, 1), holdout_ratio=holdout_ratio)
    batch = make_batch(n)
    if n == 0:
        return buffer
    buffer.add(batch)
    if spoil is not None:
        where = buffer.is_holdout if spoil == "holdout" else torch.arange(n) == spoil
        next_state = torch.where(where[:, None], -3 * batch.next_state, batch.next_state)
        buffer = ReplayBuffer(STATE, None, ACTION, n, holdout_ratio=holdout_ratio)
        buffer.add(replace(batch, next_state=next_state))
    return buffer


def make_model(n_models: int = 3, seed: int = 0, hidden_sizes: tuple[int, ...] = (16,), **more: Any):
    torch.manual_seed(seed)
    net = partial(ProbFCDynamics, hidden_sizes=hidden_sizes, nonlinearity=nn.SiLU)
    return ProbabilisticEnsemble(STATE, None, ACTION, net, n_models=n_models, **more)


def make_reward_model(n_models: int = 3, seed: int = 0, hidden_sizes: tuple[int, ...] = (16,), **more: Any):
    torch.manual_seed(seed)
    return RewardModel(STATE, None, ACTION, n_models, hidden_sizes, **more)
