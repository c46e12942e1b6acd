"""A probe task for planners: a lock that opens for the right sequence of actions only, of one in many.

Steps count themselves: `state = (key + t, 2 key + t, …)`, where the key is the environment's own. A wrong action
ends the episode, and only the last right one is rewarded, so that nothing leads the way and random search is lost.
"""

import torch
from gymnasium.spaces import Box, Discrete, Space

from layeredrl.planners.objective import ModelObjective
from layeredrl.policies.model import Model
from tests.models.ensembles import STATE, make_fixed

H = 8
BOX = Box(-1.0, 1.0, (2,))
DISCRETE = Discrete(5, start=2)
TOLERANCE = 0.05


def make_lock(action_space: Space) -> ModelObjective:
    model = make_fixed({"offset": 1.0, "std": 1e-6}, {"offset": 1.0, "std": 1e-6}, action_space=action_space)

    def is_right(state, action):
        code = right_action(action_space, state)
        return ((action - code).abs() <= TOLERANCE).all(dim=-1)

    def reward(state, context, action, next_state):
        is_last = _time(state) > H - 1.5
        return (is_last & is_right(state, action)).float()

    def termination(state, context, action, next_state):
        return ~is_right(state, action)

    return ModelObjective(model, reward, termination)


def start(keys: torch.Tensor) -> torch.Tensor:
    """First states of environments with these keys."""
    return torch.stack([keys, 2 * keys, torch.zeros_like(keys)], dim=-1)


def right_action(action_space: Space, state: torch.Tensor) -> torch.Tensor:
    """A pseudo-random function of key and time, `(…, A)`."""
    key, time = state[..., 1] - state[..., 0], _time(state)
    phase = 7.3 * key.round() + 3.1 * time
    if isinstance(action_space, Discrete):
        return (2 + (phase.sin() * 100).round().remainder(5)).long().unsqueeze(-1)
    return torch.stack([phase.sin(), phase.cos()], dim=-1)


def _time(state):
    return (state[..., 0] - (state[..., 1] - state[..., 0])).round()


class Opener(Model):
    """A policy that knows the lock of whatever environment it is in."""

    def __init__(self, action_space: Space):
        super().__init__(STATE, action_space, "cpu")

    def compute(self, inputs, role=""):
        return right_action(self.action_space, inputs["observations"]), {}

    def act(self, inputs, *, role=""):
        return self.compute(inputs, role)
