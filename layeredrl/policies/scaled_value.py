"""A value function in the units of its data."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gymnasium.spaces import Space
from jaxtyping import Float
from torch import Tensor

from layeredrl.policies.mixin import Outputs
from layeredrl.policies.networks import DEFAULT_TRUNK, Device, Value
from layeredrl.policies.trunks import TrunkSettings
from layeredrl.spaces import check_indices


class ScaledValue(Value):
    """A `Value` of vectors that standardises what it reads, and doesn't leave the range of possible values.

    So that it learns from a few thousand states in whatever units, and doesn't promise the impossible where it has
    never been. Scales are buffers: they are part of the `state_dict`. Before they are set, it is a plain `Value`.

    Args:
        observation_space, action_space, trunk, device: as for `Value`; observations are rows of a Box.
        hidden_states: indices of coordinates that values mustn't depend on, such as a position on an endless track.
    """

    mean: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        trunk: TrunkSettings = DEFAULT_TRUNK,
        device: Device = None,
        *,
        hidden_states: Sequence[int] = (),
    ):
        Value.__init__(self, observation_space, action_space, trunk, device)
        check_indices("hidden_states", hidden_states, self.num_observations)
        # In an infinite unit, every number is zero.
        self.hidden_states = list(hidden_states)
        scale = torch.ones(self.num_observations)
        scale[self.hidden_states] = torch.inf
        buffers = {"mean": torch.zeros(self.num_observations), "scale": scale}
        buffers |= {"low": torch.tensor(-torch.inf), "high": torch.tensor(torch.inf)}
        for name, value in buffers.items():
            self.register_buffer(name, value.to(self.device))

    def set_scales(self, observations: Float[Tensor, "B S"], low: float, high: float) -> None:
        """Standardise by these observations; values lie between `low` and `high`.

        Raises:
            ValueError: `low` isn't less than `high`, or one is not finite.
        """
        if not -torch.inf < low < high < torch.inf:
            raise ValueError(f"low, high: got {low}, {high}, expected finite numbers in this order")
        std, mean = torch.std_mean(observations, dim=0, correction=0)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(std > 1e-6 * mean.abs().clamp_min(1e-6), std, 1.0))
        self.scale[self.hidden_states] = torch.inf
        self.low.fill_(low)
        self.high.fill_(high)

    def compute(self, inputs: Mapping[str, Any], role: str = "") -> tuple[Tensor, Outputs]:
        standardized = (inputs["observations"] - self.mean) / self.scale
        value, outputs = Value.compute(self, {**inputs, "observations": standardized}, role)
        if bool(self.high.isinf()):
            return value, outputs
        value = value * (self.high - self.low) / 2
        # A clamp has no gradient outside: while it learns, the network has to find its way back.
        return value if self.training else value.clamp(self.low, self.high), outputs
