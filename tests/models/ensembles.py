"""Small ensembles and data for the tests of this folder."""

from functools import partial

import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from torch import nn

from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.space_sampling import sample
from layeredrl.types import Batch

STATE = Box(-torch.inf, torch.inf, (3,))
ACTION = Box(-1.0, 1.0, (2,))
CONTEXT = Box(-1.0, 1.0, (2,))
DISCRETE = Discrete(4, start=1)
NESTED = Dict({"b": ACTION, "a": Tuple([DISCRETE, MultiDiscrete([2, 3], start=[-1, 5])]), "c": MultiBinary(2)})
NET = partial(ProbFCDynamics, hidden_sizes=(16, 16), nonlinearity=nn.SiLU)


def make_ensemble(*, context_space=None, action_space=ACTION, net=NET, statistics=True, **settings):
    """An ensemble with statistics other than 0 and 1."""
    model = ProbabilisticEnsemble(STATE, context_space, action_space, net, **settings)
    if statistics:
        model.set_statistics(make_batch(500, context_space, action_space))
    return model


def draw(space: Space | None, *leading: int) -> torch.Tensor | None:
    """Rows of a space."""
    return None if space is None else sample(space, leading)


def make_batch(n, context_space=None, action_space=ACTION, **more) -> Batch:
    state = 2.0 * draw(STATE, n) + 1.0
    return Batch(
        state=state,
        context=draw(context_space, n),
        action=draw(action_space, n),
        next_state=state + torch.tensor([0.01, 1.0, 3.0]) * torch.randn(n, 3),
        terminated=torch.rand(n) < 0.3,
        **more,
    )


def query(model: ProbabilisticEnsemble, *leading: int):
    """State, context and action with the given leading dims."""
    return tuple(draw(space, *leading) for space in (model.state_space, model.context_space, model.action_space))


class Fixed(nn.Module):
    """A member of known answers: delta = offset (one a mode) + gain · first action, for all dimensions alike."""

    def __init__(self, *, offset, std, gain=0.0, weights=None, term_prob=0.0):
        super().__init__()
        offset = torch.as_tensor(offset).reshape(-1, 1)
        weights = torch.full((len(offset),), 1 / len(offset)) if weights is None else torch.tensor(weights)
        constants = {"offset": offset, "weights": weights, "std": std, "gain": gain, "term_prob": term_prob}
        for name, value in constants.items():
            self.register_buffer(name, torch.as_tensor(value, dtype=torch.float32))

    def forward(self, state, context, action):
        mean = self.offset + (self.gain * action[..., :1] + torch.zeros_like(state)).unsqueeze(-2)
        weights = self.weights.expand(*state.shape[:-1], -1)
        return (mean, self.std.expand_as(mean)), weights, self.term_prob.expand_as(state[..., 0])


def make_fixed(
    *members: dict, context_space: Space | None = None, action_space: Space = ACTION, **settings
) -> ProbabilisticEnsemble:
    """An ensemble of `Fixed` members."""
    settings = {"n_modes": 1, "normalize_targets": False, "normalize_inputs": False, **settings}
    remaining = iter(members)
    return ProbabilisticEnsemble(
        STATE, context_space, action_space, lambda *_: Fixed(**next(remaining)), n_models=len(members), **settings
    )
