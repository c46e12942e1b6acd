"""Gaussian actions as one multivariate distribution."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from layeredrl.policies.gaussian import GaussianHead, draw_gaussian
from layeredrl.policies.mixin import Acted, Clip, Outputs


@dataclass(frozen=True, eq=False)
class MultivariateGaussianSettings:
    clip: Clip
    clip_mean: Clip
    clip_log_std: Clip


class MultivariateGaussianMixin(GaussianHead):
    """Acts by a multivariate Gaussian with the diagonal covariance `exp(log_std)²`.

    Args:
        clip_actions, clip_mean_actions, clip_log_std, min_log_std, max_log_std, role: as for `GaussianMixin`.
    """

    def __init__(
        self,
        *,
        clip_actions: bool = False,
        clip_mean_actions: bool = False,
        clip_log_std: bool = True,
        min_log_std: float | int = -20,
        max_log_std: float | int = 2,
        role: str = "",
    ):
        self._check_gaussian_space()
        settings = MultivariateGaussianSettings(
            clip=self._clip("clip_actions", wanted=clip_actions),
            clip_mean=self._clip("clip_mean_actions", wanted=clip_mean_actions),
            clip_log_std=self._clip_log_std(min_log_std, max_log_std, wanted=clip_log_std),
        )
        self._set_role(role, settings)

    def act(self, inputs: Mapping[str, Any], *, role: str = "") -> tuple[Tensor, Outputs]:
        """Actions `(…, A)`, and the outputs of `compute` with `log_std`, `log_prob` and `mean_actions`.

        Raises:
            ValueError: the network's output has the wrong width or holds a NaN.
        """
        settings = self._get_role(MultivariateGaussianSettings, role)
        if settings is None:
            return super().act(inputs, role=role)
        mean, log_std, outputs = self._gaussian_parameters(inputs, role)
        mean, log_std = settings.clip_mean(mean), settings.clip_log_std(log_std)
        std = log_std.exp().expand(mean.shape[-log_std.ndim :])
        distribution = MultivariateNormal(mean, scale_tril=torch.diag_embed(std), validate_args=False)
        actions = settings.clip(draw_gaussian(mean, std, inputs))
        taken = self._taken_actions(inputs)
        log_prob = distribution.log_prob(actions if taken is None else taken).unsqueeze(-1)
        self._refuse_nan(log_prob, mean=mean, log_std=log_std, taken_actions=taken)
        self._acted[role] = Acted(distribution, lambda: distribution.entropy().unsqueeze(-1))
        return actions, {**outputs, "log_std": log_std, "log_prob": log_prob, "mean_actions": mean}
