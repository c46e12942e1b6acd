"""Discrete actions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete
from torch import Tensor

from layeredrl.policies.distributions import StartedCategorical
from layeredrl.policies.mixin import Acted, Outputs, StochasticMixin


class CategoricalHead(StochasticMixin):
    """What categorical mixins share."""

    def _categorical(self, net_output: Tensor, start: int, *, unnormalized: bool) -> StartedCategorical:
        """The distribution that the network means, checked before anything is drawn from it."""
        if unnormalized:
            distribution = StartedCategorical(start, logits=net_output)
            weights = distribution.probs
            expected = "log-probabilities that are not NaN, of which one is finite and none +inf"
        else:
            distribution = StartedCategorical(start, probs=net_output)
            weights = torch.minimum(distribution.probs, net_output)
            expected = "probabilities that are finite, not negative and not all zero"
        if not weights.min().item() >= 0:  # so it is for NaN
            row = tuple((~(weights >= 0)).any(dim=-1).nonzero()[0].tolist())
            raise ValueError(
                f"{type(self).__name__}: got net output {net_output[row].tolist()!r:.200} at index {row}, "
                f"expected {expected}"
            )
        return distribution


@dataclass(frozen=True)
class CategoricalSettings:
    unnormalized_log_prob: bool
    start: int


class CategoricalMixin(CategoricalHead):
    """Acts by a categorical distribution over a Discrete space (or a plain number of actions).

    Args:
        unnormalized_log_prob: `compute` returns log-probabilities up to a constant; else probabilities up to a
            factor.
        role: that these settings are for; without one they serve every role that has none of its own.

    Raises:
        TypeError: the action space is neither Discrete nor a number.
    """

    def __init__(self, *, unnormalized_log_prob: bool = True, role: str = ""):
        space = self.action_space
        self._check_space(isinstance(space, Discrete | int | np.integer), "a Discrete (or the number of actions)")
        start = int(space.start) if isinstance(space, Discrete) else 0
        self._set_role(role, CategoricalSettings(unnormalized_log_prob, start))

    def act(self, inputs: Mapping[str, Any], *, role: str = "") -> tuple[Tensor, Outputs]:
        """Actions `(…, 1)` as the space counts them, and the outputs of `compute` with `log_prob` and `net_output`.

        Raises:
            ValueError: the network's output has the wrong width, holds a NaN or can't be normalised.
        """
        settings = self._get_role(CategoricalSettings, role)
        if settings is None:
            return super().act(inputs, role=role)
        net_output, outputs = self._computed(inputs, role)
        self._check_width("net output", net_output, self.num_actions)
        distribution = self._categorical(net_output, settings.start, unnormalized=settings.unnormalized_log_prob)
        actions = distribution.mode if inputs.get("deterministic") else distribution.draw(inputs.get("generator"))
        taken = inputs.get("taken_actions")
        if taken is not None and taken.numel() != actions.numel():
            raise ValueError(
                f"{type(self).__name__}: got taken_actions of shape {tuple(taken.shape)}, "
                f"expected {(*actions.shape, 1)}"
            )
        log_prob = distribution.log_prob(actions if taken is None else taken.reshape(actions.shape)).unsqueeze(-1)
        self._acted[role] = Acted(distribution, lambda: distribution.entropy().unsqueeze(-1))
        return actions.unsqueeze(-1), {**outputs, "log_prob": log_prob, "net_output": net_output}
