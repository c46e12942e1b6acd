"""Vectors of discrete actions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gymnasium.spaces import MultiDiscrete
from torch import Tensor

from layeredrl.policies.categorical import CategoricalHead
from layeredrl.policies.distributions import JointCategorical
from layeredrl.policies.mixin import REDUCTIONS, Acted, Outputs, Reduction
from layeredrl.spaces import counts_and_starts


@dataclass(frozen=True, eq=False)
class MultiCategoricalSettings:
    unnormalized_log_prob: bool
    counts: list[int]
    starts: list[int]
    reduce: Reduction
    reduce_entropy: Reduction


class MultiCategoricalMixin(CategoricalHead):
    """Acts by independent categorical distributions over a MultiDiscrete space, which is flattened.

    Args:
        unnormalized_log_prob: `compute` returns log-probabilities up to a constant per component; else
            probabilities up to a factor. Either way the components lie side by side: `(…, sum of nvec)`.
        reduction: of the components' log-probabilities and entropies: "sum", "mean", "prod", or "none", which keeps
            log-probabilities apart and sums entropies.
        role: that these settings are for; without one they serve every role that has none of its own.

    Raises:
        TypeError: the action space isn't MultiDiscrete.
        ValueError: unknown reduction.
    """

    def __init__(self, *, unnormalized_log_prob: bool = True, reduction: str = "sum", role: str = ""):
        space = self.action_space
        self._check_space(isinstance(space, MultiDiscrete), "a MultiDiscrete")
        assert isinstance(space, MultiDiscrete)
        reduce = self._reduction(reduction)
        reduce_entropy = REDUCTIONS["sum"] if reduction == "none" else reduce
        counts, starts = counts_and_starts(space)
        self._set_role(
            role, MultiCategoricalSettings(unnormalized_log_prob, counts, starts, reduce, reduce_entropy)
        )

    def act(self, inputs: Mapping[str, Any], *, role: str = "") -> tuple[Tensor, Outputs]:
        """Actions `(…, K)` as the space counts them, and the outputs of `compute` with `log_prob` and `net_output`.

        Raises:
            ValueError: the network's output has the wrong width, holds a NaN or can't be normalised.
        """
        settings = self._get_role(MultiCategoricalSettings, role)
        if settings is None:
            return super().act(inputs, role=role)
        net_output, outputs = self._computed(inputs, role)
        self._check_width("net output", net_output, self.num_actions)
        parts = zip(net_output.split(settings.counts, dim=-1), settings.starts, strict=True)
        unnormalized = settings.unnormalized_log_prob
        distribution = JointCategorical(
            [self._categorical(part, start, unnormalized=unnormalized) for part, start in parts]
        )
        actions = distribution.mode if inputs.get("deterministic") else distribution.draw(inputs.get("generator"))
        taken = inputs.get("taken_actions")
        if taken is not None:
            self._check_width("taken_actions", taken, len(settings.counts))
        log_prob = settings.reduce(distribution.component_log_prob(actions if taken is None else taken))
        self._acted[role] = Acted(distribution, lambda: settings.reduce_entropy(distribution.component_entropy))
        return actions, {**outputs, "log_prob": log_prob, "net_output": net_output}
