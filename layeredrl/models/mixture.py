"""Mixtures of diagonal Gaussians as pure functions. M modes, S dimensions, any leading dims.

Noise may have another shape than the normal one, the same in all modes; mean and std are those of the modes still.
"""

import math
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import hardtanh

from layeredrl.models.noise_shape import MAX_STANDARD_SCORE, NoiseShape, normal_log_prob


def mixture_log_prob(
    value: Float[Tensor, "*#batch S"],
    mean: Float[Tensor, "*batch M S"],
    std: Float[Tensor, "*batch M S"],
    log_weights: Float[Tensor, "*batch M"],
    shape: NoiseShape | None = None,
) -> Float[Tensor, "*batch"]:
    """Log density of a mixture.

    Stays finite however far `value` lies from every mode: the sum over modes is taken in log space.

    Args:
        value: where to evaluate.
        mean, std: of each mode; `std` > 0.
        log_weights: normalised over M.
        shape: of the noise; None means normal.
    """
    value = rearrange(value, "... s -> ... 1 s")
    weighted = log_weights + log_prob_per_dim(value, mean, std, shape).sum(dim=-1)
    return weighted.squeeze(-1) if weighted.shape[-1] == 1 else torch.logsumexp(weighted, dim=-1)


def log_weights(weights: Float[Tensor, "*batch M"]) -> Float[Tensor, "*batch M"]:
    """Logarithm that stays finite for modes of no weight."""
    return weights.clamp_min(torch.finfo(weights.dtype).tiny).log()


def log_prob_per_dim(
    value: Float[Tensor, "*#shape"],
    mean: Float[Tensor, "*#shape"],
    std: Float[Tensor, "*#shape"],
    shape: NoiseShape | None,
) -> Float[Tensor, "*shape"]:
    """Log density of numbers under noise of this shape, None meaning normal; finite likewise."""
    score = _standard_score(value - mean, std)
    return (normal_log_prob(score) if shape is None else shape.log_prob(score)) - std.log()


def gaussian_nll(error: Float[Tensor, "*shape"], std: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """−log density of numbers that lie this far from their means, finite however far that is.

    For training, as fast as can be: unlike `log_prob_per_dim`, it knows no transforms of `torch.func`.
    """
    return _GaussianNLL.apply(error, std)


class _GaussianNLL(torch.autograd.Function):
    """Its gradient takes half the operations that autograd would make of it, and can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, error: Tensor, std: Tensor) -> Tensor:
        ctx.save_for_backward(error, std)
        score = _standard_score(error, std)
        return std.log().add_(0.5 * math.log(2 * math.pi)).addcmul_(score, score, value=0.5)

    @staticmethod
    def backward(ctx: Any, of_nll: Tensor) -> tuple[Tensor, Tensor]:
        error, std = ctx.saved_tensors
        score = error / std
        # Where it was cut off, the score is a constant.
        score = torch.ops.aten.hardtanh_backward(score, score, -MAX_STANDARD_SCORE, MAX_STANDARD_SCORE)
        of_log_std = of_nll / std
        of_error = of_log_std * score
        return of_error, torch.addcmul(of_log_std, of_error, score, value=-1)


def _standard_score(error: Float[Tensor, "*#shape"], std: Float[Tensor, "*#shape"]) -> Float[Tensor, "*shape"]:
    # As `clamp`, whose gradient takes five operations to this one's one.
    return hardtanh(error / std, -MAX_STANDARD_SCORE, MAX_STANDARD_SCORE)


def mixture_moments(
    mean: Float[Tensor, "*batch M S"], std: Float[Tensor, "*batch M S"], weights: Float[Tensor, "*batch M"]
) -> tuple[Float[Tensor, "*batch S"], Float[Tensor, "*batch S"]]:
    """Mean and variance of a mixture: the variance within the modes plus that of their means."""
    if mean.shape[-2] == 1:
        return mean.squeeze(-2), std.squeeze(-2).square()
    weights = rearrange(weights, "... m -> ... m 1")
    total_mean = (weights * mean).sum(dim=-2)  # an einsum makes tiny matrix products of it, which takes longer
    centred = mean - rearrange(total_mean, "... s -> ... 1 s")
    return total_mean, (weights * (std.square() + centred.square())).sum(dim=-2)


def mixture_sample(
    mean: Float[Tensor, "*batch M S"],
    std: Float[Tensor, "*batch M S"],
    weights: Float[Tensor, "*batch M"],
    noise: Float[Tensor, "*#batch S"],
    uniform: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch S"]:
    """A draw from a mixture, given its noise: the mode by inverse transform, then what lies around it.

    Differentiable with respect to the chosen mode's mean and std.

    Args:
        mean, std, weights: the mixture; `weights` sum to 1 over M.
        noise: of mean 0 and variance 1.
        uniform: in [0, 1), which picks the mode.
    """
    if mean.shape[-2] == 1:
        return torch.addcmul(mean.squeeze(-2), std.squeeze(-2), noise)
    edges = weights.cumsum(dim=-1)[..., :-1]
    mode = (rearrange(uniform, "... -> ... 1") >= edges).sum(dim=-1)
    index = rearrange(mode, "... -> ... 1 1").expand(*mean.shape[:-2], 1, mean.shape[-1])
    return torch.addcmul(mean.gather(-2, index).squeeze(-2), std.gather(-2, index).squeeze(-2), noise)
