"""Gaussian actions squashed onto a bounded action space."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from layeredrl.policies.distributions import SquashedNormal
from layeredrl.policies.gaussian import GaussianHead, draw_gaussian
from layeredrl.policies.mixin import Acted, Bounds, Clip, Outputs, Reduction


@dataclass(frozen=True, eq=False)
class SquashedGaussianSettings:
    bounds: Bounds
    clip_log_std: Clip
    reduce: Reduction


class SquashedGaussianMixin(GaussianHead):
    """Acts by independent Gaussians, mapped by tanh onto the box of actions (Haarnoja et al. 2018, appendix C).

    `compute` returns mean and log standard deviation of the Gaussians *before* the map. Actions need no clipping,
    and their log-probability is exact: see `SquashedNormal`. The deterministic action is the squashed mean.

    Args:
        clip_log_std, min_log_std, max_log_std, reduction, role: as for `GaussianMixin`.

    Raises:
        TypeError: the action space isn't continuous.
        ValueError: an action has no bound, or no room between its bounds.
    """

    def __init__(
        self,
        *,
        clip_log_std: bool = True,
        min_log_std: float | int = -20,
        max_log_std: float | int = 2,
        reduction: str = "sum",
        role: str = "",
    ):
        self._check_gaussian_space()
        settings = SquashedGaussianSettings(
            bounds=self._squashing_bounds(),
            clip_log_std=self._clip_log_std(min_log_std, max_log_std, wanted=clip_log_std),
            reduce=self._reduction(reduction),
        )
        self._set_role(role, settings)

    def act(self, inputs: Mapping[str, Any], *, role: str = "") -> tuple[Tensor, Outputs]:
        """Actions `(…, A)` within their bounds, and the outputs of `compute` with `log_std` (before the map),
        `log_prob` and `mean_actions` (the squashed mean).

        Raises:
            ValueError: the network's output has the wrong width or holds a NaN.
        """
        settings = self._get_role(SquashedGaussianSettings, role)
        if settings is None:
            return super().act(inputs, role=role)
        mean, log_std, outputs = self._gaussian_parameters(inputs, role)
        log_std = settings.clip_log_std(log_std)
        distribution = SquashedNormal(mean, log_std.exp(), *settings.bounds)
        latent = draw_gaussian(mean, distribution.base.scale, inputs)
        taken = self._taken_actions(inputs)
        # What was just drawn needs no inverse map, which loses digits near the bounds.
        per_action = distribution.latent_log_prob(latent) if taken is None else distribution.log_prob(taken)
        log_prob = settings.reduce(per_action)
        self._refuse_nan(log_prob, mean=mean, log_std=log_std, taken_actions=taken)
        self._acted[role] = Acted(distribution, lambda: distribution.entropy().sum(dim=-1, keepdim=True))
        added = {"log_std": log_std, "log_prob": log_prob, "mean_actions": distribution.mode}
        return distribution.squash(latent), {**outputs, **added}

    def _squashing_bounds(self) -> Bounds:
        bounds = self._bounds()
        if bounds is None or not bool(
            (bounds.high - bounds.low).isfinite().all() & (bounds.low < bounds.high).all()
        ):
            raise ValueError(
                f"{type(self).__name__}: got action_space {self.action_space!r}, "
                "expected a Box with finite bounds, low < high for each action"
            )
        return bounds
