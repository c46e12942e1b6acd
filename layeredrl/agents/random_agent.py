"""Uniformly random actions."""

from typing import Any

import torch
from gymnasium.spaces import Box, Space
from jaxtyping import Bool, Float, Num
from torch import Tensor

from layeredrl.agents.agent import Agent
from layeredrl.space_sampling import sample
from layeredrl.spaces import check_space, leaves


class RandomAgent(Agent):
    """Draws actions uniformly from a space of any kind, whose Boxes must have finite bounds.

    Args:
        action_space: what to draw from.
        generator: source of the randomness.
    """

    def __init__(self, action_space: Space[Any], *, generator: torch.Generator | None = None):
        check_space("action_space", action_space)
        if any(isinstance(leaf, Box) and not leaf.is_bounded() for leaf in leaves(action_space)):
            raise ValueError(f"action_space: got {action_space}, expected finite bounds to draw from")
        self.action_space, self.generator = action_space, generator

    def act(
        self, state: Float[Tensor, "V S"], context: Num[Tensor, "V C"] | None = None
    ) -> tuple[Num[Tensor, "V A"], dict[str, Float[Tensor, " V"]]]:
        return sample(self.action_space, (len(state),), generator=self.generator, device=state.device), {}

    def reset(self, mask: Bool[Tensor, " V"] | None = None) -> None:
        """There is nothing to forget."""
