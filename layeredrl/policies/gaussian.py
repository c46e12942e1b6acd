"""Gaussian actions: independent components, with what all Gaussian mixins share."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from layeredrl.policies.mixin import (
    Acted,
    Clip,
    Inputs,
    Outputs,
    Reduction,
    StochasticMixin,
    is_continuous,
    unchanged,
)

LOG_SQRT_2PI = math.log(math.sqrt(2.0 * math.pi))


@dataclass(frozen=True, eq=False)
class GaussianSettings:
    clip: Clip
    clip_mean: Clip
    clip_log_std: Clip
    reduce: Reduction


class GaussianHead(StochasticMixin):
    """What Gaussian mixins share; `compute` returns `(mean (…, A), {"log_std": …})`, the latter broadcasting."""

    def _gaussian_parameters(self, inputs: Inputs, role: str) -> tuple[Tensor, Tensor, Outputs]:
        """Mean, `log_std` and all outputs of the network, checked."""
        mean, outputs = self._computed(inputs, role)
        self._check_width("net output", mean, self.num_actions)
        log_std = outputs.get("log_std")
        if not isinstance(log_std, Tensor):
            raise ValueError(
                f"{type(self).__name__}.compute: got outputs with the keys {list(outputs)}, "
                "expected a Tensor 'log_std'"
            )
        if log_std.ndim > mean.ndim or any(
            n not in (1, m) for n, m in zip(log_std.shape[::-1], mean.shape[::-1], strict=False)
        ):
            raise ValueError(
                f"{type(self).__name__}.compute: got log_std of shape {tuple(log_std.shape)}, "
                f"expected what broadcasts to the mean's {tuple(mean.shape)}"
            )
        return mean, log_std, outputs

    def _check_gaussian_space(self) -> None:
        self._check_space(
            is_continuous(self.action_space), "a Box (or a size), since Gaussian actions are continuous"
        )

    def _clip_log_std(self, low: float | int, high: float | int, *, wanted: bool) -> Clip:
        if not low <= high:
            raise ValueError(
                f"{type(self).__name__}: got min_log_std {low} and max_log_std {high}, expected min ≤ max"
            )
        return partial(torch.clamp, min=low, max=high) if wanted else unchanged

    def _taken_actions(self, inputs: Inputs) -> Tensor | None:
        taken = inputs.get("taken_actions")
        if taken is not None:
            self._check_width("taken_actions", taken, self.num_actions)
        return taken


def draw_gaussian(mean: Tensor, std: Tensor, inputs: Inputs) -> Tensor:
    """The mode where the inputs ask for it, else a draw that passes gradients on to mean and std."""
    if inputs.get("deterministic"):
        return mean
    noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=inputs.get("generator"))
    return mean + noise * std


def gaussian_log_prob(value: Tensor, distribution: Normal, std: Tensor) -> Tensor:
    """Log density of each component; `std` is the distribution's own, before it was expanded to all rows.

    One standard deviation for all rows is the common case, and then most of the work. It is only done per row where
    gradients are summed over rows, which would round otherwise than torch's.
    """
    if std.requires_grad:
        return distribution.log_prob(value)
    return -((value - distribution.loc) ** 2) / (2 * std**2) - std.log() - LOG_SQRT_2PI


class GaussianMixin(GaussianHead):
    """Acts by independent Gaussians.

    Args:
        clip_actions: clip what is drawn to the bounds of the action space; the log-probability is then that of the
            clipped action under the unclipped Gaussian.
        clip_mean_actions: clip the mean before drawing.
        clip_log_std: clip `log_std` to `min_log_std` … `max_log_std`.
        reduction: of the log-probabilities of an action's components: "sum", "mean", "prod", or "none".
        role: that these settings are for; without one they serve every role that has none of its own.

    Raises:
        TypeError: the action space isn't continuous.
        ValueError: unknown reduction, log-std bounds the wrong way round, or clipping to a space without bounds.
    """

    def __init__(
        self,
        *,
        clip_actions: bool = False,
        clip_mean_actions: bool = False,
        clip_log_std: bool = True,
        min_log_std: float | int = -20,
        max_log_std: float | int = 2,
        reduction: str = "sum",
        role: str = "",
    ):
        self._check_gaussian_space()
        settings = GaussianSettings(
            clip=self._clip("clip_actions", wanted=clip_actions),
            clip_mean=self._clip("clip_mean_actions", wanted=clip_mean_actions),
            clip_log_std=self._clip_log_std(min_log_std, max_log_std, wanted=clip_log_std),
            reduce=self._reduction(reduction),
        )
        self._set_role(role, settings)

    def act(self, inputs: Mapping[str, Any], *, role: str = "") -> tuple[Tensor, Outputs]:
        """Actions `(…, A)`, and the outputs of `compute` with `log_std`, `log_prob` and `mean_actions`.

        Raises:
            ValueError: the network's output has the wrong width or holds a NaN.
        """
        settings = self._get_role(GaussianSettings, role)
        if settings is None:
            return super().act(inputs, role=role)
        mean, log_std, outputs = self._gaussian_parameters(inputs, role)
        mean, log_std = settings.clip_mean(mean), settings.clip_log_std(log_std)
        std = log_std.exp()
        distribution = Normal(mean, std, validate_args=False)
        actions = settings.clip(draw_gaussian(mean, distribution.scale, inputs))
        taken = self._taken_actions(inputs)
        log_prob = settings.reduce(gaussian_log_prob(actions if taken is None else taken, distribution, std))
        self._refuse_nan(log_prob, mean=mean, log_std=log_std, taken_actions=taken)
        self._acted[role] = Acted(distribution, lambda: distribution.entropy().sum(dim=-1, keepdim=True))
        return actions, {**outputs, "log_std": log_std, "log_prob": log_prob, "mean_actions": mean}
