"""A small task in an untrained model, for the tests of what plans are worth."""

import torch
from torch import nn

from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from tests.models.ensembles import draw, make_ensemble

V, N, H = 2, 3, 4


class Net(ProbFCDynamics):
    """A member that ends episodes often. SiLU has a gradient everywhere."""

    def __init__(self, *spaces_and_modes):
        super().__init__(*spaces_and_modes, hidden_sizes=(8,), nonlinearity=nn.SiLU)
        nn.init.constant_(self.net[-2].bias[-1:], -0.5)
        nn.init.normal_(self.net[-2].weight[-1:])


def make_model(**settings):
    return make_ensemble(**{"net": Net, "n_models": 3, "n_modes": 2, "n_particles_per_model": 2, **settings})


def start(model):
    """Where V plannings start: states and contexts."""
    return draw(model.state_space, V), draw(model.context_space, V)


def draw_plans(model):
    return draw(model.action_space, V, N, H)


def reward(state, context, action, next_state):
    bonus = 0.0 if context is None else (context * next_state[..., :2]).sum(dim=-1)
    return state[..., 0] - next_state[..., 1].square() + 0.1 * action.sum(dim=-1) + bonus


def falls(state, context, action, next_state):
    return next_state[..., 2] > 0.5


def may_fall(state, context, action, next_state):
    """With a probability."""
    return (2 * next_state[..., 2]).sigmoid()


def ones(state, context, action, next_state):
    return torch.ones_like(next_state[..., 0])


def never(state, context, action, next_state):
    return torch.zeros_like(next_state[..., 0], dtype=torch.bool)


def seeded(seed=7):
    return torch.Generator().manual_seed(seed)
