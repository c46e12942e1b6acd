"""A world whose law is known: linear dynamics with Gaussian noise, and a model that is the truth."""

import torch
from gymnasium.spaces import Box
from torch import nn

from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.types import Batch

STATE, ACTION = Box(-torch.inf, torch.inf, (2,)), Box(-1.0, 1.0, (1,))
TRANSITION = torch.tensor([[0.9, 0.2], [-0.3, 0.8]])
EFFECT = torch.tensor([[0.0], [1.0]])
NOISE = torch.tensor([0.1, 0.4])


class Linear(nn.Module):
    """Next state = TRANSITION · state + EFFECT · action + noise, whose std is `factor` times that of the world."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = factor

    def forward(self, state, context, action):
        mean = (state @ TRANSITION.T + action @ EFFECT.T).unsqueeze(-2)
        ones = torch.ones_like(mean[..., 0])
        return (mean, (self.factor * NOISE).expand_as(mean)), ones, torch.zeros_like(mean[..., 0, 0])


def linear_model(n_models=2, factor=1.0, **settings) -> ProbabilisticEnsemble:
    settings = {"predict_delta": False, "normalize_targets": False, "normalize_inputs": False, **settings}
    return ProbabilisticEnsemble(STATE, None, ACTION, lambda *_: Linear(factor), n_models, **settings)


def live(n: int) -> Batch:
    """`n` steps of a single episode in that world."""
    action = 2 * torch.rand(n, 1) - 1
    states = [torch.randn(2)]
    for kick in action @ EFFECT.T + NOISE * torch.randn(n, 2):
        states.append(TRANSITION @ states[-1] + kick)
    state = torch.stack(states)
    return Batch(state[:-1], None, action, state[1:], torch.zeros(n, dtype=torch.bool))


def noise_after(n_steps: int) -> torch.Tensor:
    """Standard deviation of the state after `n_steps`, given the start and the actions."""
    covariance = torch.zeros(2, 2)
    for _ in range(n_steps):
        covariance = TRANSITION @ covariance @ TRANSITION.T + NOISE.square().diag()
    return covariance.diag().sqrt()
