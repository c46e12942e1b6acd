"""Actions, or values, straight from the network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from layeredrl.policies.mixin import Clip, Mixin, Outputs


@dataclass(frozen=True, eq=False)
class DeterministicSettings:
    clip_actions: bool
    clip: Clip


class DeterministicMixin(Mixin):
    """Acts by what `compute` returns; also the mixin of value functions.

    Args:
        clip_actions: to the bounds of the action space, which must then be a Box.
        role: that these settings are for; without one they serve every role that has none of its own.
    """

    def __init__(self, *, clip_actions: bool = False, role: str = ""):
        clip = self._clip("clip_actions", wanted=clip_actions)
        self._set_role(role, DeterministicSettings(clip_actions, clip))

    def act(self, inputs: Mapping[str, Any], *, role: str = "") -> tuple[Tensor, Outputs]:
        """Actions `(…, A)`, and the outputs of `compute`.

        Raises:
            ValueError: the network returned NaN, or another width than the bounds have.
        """
        settings = self._get_role(DeterministicSettings, role)
        if settings is None:
            return super().act(inputs, role=role)
        actions, outputs = self._computed(inputs, role)
        if settings.clip_actions:
            self._check_width("net output", actions, self.num_actions)
        self._refuse_nan(actions, net_output=actions)
        return settings.clip(actions), outputs
