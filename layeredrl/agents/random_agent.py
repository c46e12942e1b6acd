"""Uniformly random actions."""

from typing import Any

import torch
from gymnasium.spaces import Box, Discrete, Space
from jaxtyping import Bool, Float, Num
from torch import Tensor

from layeredrl.agents.agent import Agent
from layeredrl.spaces import bounds, check_space


class RandomAgent(Agent):
    """Draws actions uniformly from a Discrete, or from a Box with finite bounds.

    Args:
        action_space: what to draw from.
        generator: source of the randomness.
    """

    def __init__(self, action_space: Space[Any], *, generator: torch.Generator | None = None):
        check_space("action_space", action_space)
        if isinstance(action_space, Box) and not action_space.is_bounded():
            raise ValueError(f"action_space: got {action_space}, expected finite bounds to draw from")
        self.action_space, self.generator = action_space, generator

    def act(
        self, state: Float[Tensor, "V S"], context: Num[Tensor, "V C"] | None = None
    ) -> tuple[Num[Tensor, "V A"], dict[str, Float[Tensor, " V"]]]:
        n_envs, device = len(state), state.device
        if isinstance(self.action_space, Discrete):
            index = torch.randint(int(self.action_space.n), (n_envs, 1), generator=self.generator, device=device)
            return index + int(self.action_space.start), {}
        assert isinstance(self.action_space, Box)
        low, high = bounds(self.action_space, device)
        uniform = torch.rand(n_envs, len(low), generator=self.generator, device=device)
        return low * (1 - uniform) + high * uniform, {}

    def reset(self, mask: Bool[Tensor, " V"] | None = None) -> None:
        """There is nothing to forget."""
