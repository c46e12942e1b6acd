"""Ready-made policies: a trunk that reads observations, and a head that speaks the language of a mixin.

    policy = policy_for(env.observation_space, env.action_space, MLP(hidden_sizes=(256, 256), activation=nn.SiLU))
    critic = Value(env.observation_space, env.action_space, GRU(hidden_size=128, sequence_length=32))

Trunks are `MLP`, `CNN` (layeredrl.policies.trunks), `GRU`, `LSTM` and `RNN` (layeredrl.policies.recurrent).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from torch import Tensor, nn

from layeredrl.policies.categorical import CategoricalMixin
from layeredrl.policies.deterministic import DeterministicMixin
from layeredrl.policies.gaussian import GaussianMixin
from layeredrl.policies.mixin import Outputs
from layeredrl.policies.model import Model
from layeredrl.policies.multi_categorical import MultiCategoricalMixin
from layeredrl.policies.squashed_gaussian import SquashedGaussianMixin
from layeredrl.policies.trunks import MLP, TrunkSettings

Device = str | torch.device | None
DEFAULT_TRUNK = MLP()


class NetworkModel(Model):
    """A trunk and a linear head. Use one of the subclasses, which add a mixin.

    Args:
        observation_space, action_space: gymnasium spaces.
        trunk: how observations are read.
        device: as for `Model`.
        **settings: of the mixin.
    """

    mixin: ClassVar[Any]

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        trunk: TrunkSettings = DEFAULT_TRUNK,
        device: Device = None,
        **settings: Any,
    ):
        Model.__init__(self, observation_space=observation_space, action_space=action_space, device=device)
        self.mixin.__init__(self, **settings)
        self.trunk = trunk.build(observation_space)
        self.head = nn.Linear(self.trunk.n_outputs, self.n_head_outputs())
        self.to(self.device)

    def n_head_outputs(self) -> int:
        return self.num_actions

    def compute(self, inputs: Mapping[str, Any], role: str = "") -> tuple[Tensor, Outputs]:
        features, outputs = self.trunk(inputs)
        return self.head(features), outputs

    def get_specification(self) -> dict[str, Any]:
        return self.trunk.specification()


class GaussianPolicy(GaussianMixin, NetworkModel):
    """Gaussian actions, with a standard deviation that is learned but the same everywhere, as PPO has it.

    Args:
        initial_log_std: where the logarithm of that standard deviation starts.
    """

    mixin = GaussianMixin

    def __init__(
        self,
        observation_space: Space[Any],
        action_space: Space[Any],
        trunk: TrunkSettings = DEFAULT_TRUNK,
        device: Device = None,
        *,
        initial_log_std: float | int = 0,
        **settings: Any,
    ):
        NetworkModel.__init__(self, observation_space, action_space, trunk, device, **settings)
        initial = torch.full((self.num_actions,), float(initial_log_std), device=self.device)
        self.log_std_parameter = nn.Parameter(initial)

    def compute(self, inputs: Mapping[str, Any], role: str = "") -> tuple[Tensor, Outputs]:
        mean, outputs = NetworkModel.compute(self, inputs, role)
        return mean, {**outputs, "log_std": self.log_std_parameter}


class SquashedGaussianPolicy(SquashedGaussianMixin, NetworkModel):
    """Gaussian actions squashed onto their bounds, with a standard deviation per observation, as SAC has it."""

    mixin = SquashedGaussianMixin
    __init__ = NetworkModel.__init__

    def n_head_outputs(self) -> int:
        return 2 * self.num_actions

    def compute(self, inputs: Mapping[str, Any], role: str = "") -> tuple[Tensor, Outputs]:
        output, outputs = NetworkModel.compute(self, inputs, role)
        mean, log_std = output.chunk(2, dim=-1)
        return mean, {**outputs, "log_std": log_std}


class CategoricalPolicy(CategoricalMixin, NetworkModel):
    """Actions of a Discrete space."""

    mixin = CategoricalMixin
    __init__ = NetworkModel.__init__


class MultiCategoricalPolicy(MultiCategoricalMixin, NetworkModel):
    """Actions of a MultiDiscrete space."""

    mixin = MultiCategoricalMixin
    __init__ = NetworkModel.__init__


class DeterministicPolicy(DeterministicMixin, NetworkModel):
    """Actions without noise."""

    mixin = DeterministicMixin
    __init__ = NetworkModel.__init__


class Value(DeterministicMixin, NetworkModel):
    """The value `(…, 1)` of observations."""

    mixin = DeterministicMixin
    __init__ = NetworkModel.__init__

    def n_head_outputs(self) -> int:
        return 1


def policy_for(
    observation_space: Space[Any],
    action_space: Space[Any],
    trunk: TrunkSettings = DEFAULT_TRUNK,
    device: Device = None,
) -> NetworkModel:
    """The stochastic policy that suits the action space: Gaussian for Box, categorical for Discrete and
    MultiDiscrete.

    Raises:
        TypeError: another action space.
    """
    for kind, policy in POLICIES.items():
        if isinstance(action_space, kind):
            return policy(observation_space, action_space, trunk, device)
    raise TypeError(f"action_space: got {action_space!r}, expected a Box, Discrete or MultiDiscrete")


POLICIES: dict[type[Space[Any]], type[NetworkModel]] = {
    Box: GaussianPolicy,
    Discrete: CategoricalPolicy,
    MultiDiscrete: MultiCategoricalPolicy,
}
