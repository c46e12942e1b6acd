"""Mixtures of diagonal Gaussians as pure functions. M modes, S dimensions, any leading dims."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

# A float32 square of this is finite, so a value any number of standard deviations away keeps a finite density.
MAX_STANDARD_SCORE = 1e15


def mixture_log_prob(
    value: Float[Tensor, "*#batch S"],
    mean: Float[Tensor, "*batch M S"],
    std: Float[Tensor, "*batch M S"],
    log_weights: Float[Tensor, "*batch M"],
) -> Float[Tensor, "*batch"]:
    """Log density of a mixture.

    Stays finite however far `value` lies from every mode: the sum over modes is taken in log space.

    Args:
        value: where to evaluate.
        mean, std: of each mode; `std` > 0.
        log_weights: normalised over M.
    """
    weighted = log_weights + gaussian_log_prob(rearrange(value, "... s -> ... 1 s"), mean, std).sum(dim=-1)
    return weighted.squeeze(-1) if weighted.shape[-1] == 1 else torch.logsumexp(weighted, dim=-1)


def gaussian_log_prob(
    value: Float[Tensor, "*#shape"], mean: Float[Tensor, "*#shape"], std: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    """Log density of numbers, finite however far `value` lies from `mean`."""
    score = ((value - mean) / std).clamp(-MAX_STANDARD_SCORE, MAX_STANDARD_SCORE)
    return -0.5 * score.square() - std.log() - 0.5 * math.log(2 * math.pi)


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
    normal: Float[Tensor, "*#batch S"],
    uniform: Float[Tensor, "*#batch"],
) -> Float[Tensor, "*batch S"]:
    """A draw from a mixture, given its noise: the mode by inverse transform, then the Gaussian.

    Differentiable with respect to the chosen mode's mean and std.

    Args:
        mean, std, weights: the mixture; `weights` sum to 1 over M.
        normal: standard normal noise.
        uniform: in [0, 1), which picks the mode.
    """
    if mean.shape[-2] == 1:
        return mean.squeeze(-2) + std.squeeze(-2) * normal
    edges = weights.cumsum(dim=-1)[..., :-1]
    mode = (rearrange(uniform, "... -> ... 1") >= edges).sum(dim=-1)
    index = rearrange(mode, "... -> ... 1 1").expand(*mean.shape[:-2], 1, mean.shape[-1])
    return mean.gather(-2, index).squeeze(-2) + std.gather(-2, index).squeeze(-2) * normal
