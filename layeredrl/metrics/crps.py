"""The continuous ranked probability score of mixtures of Gaussians, in closed form."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from layeredrl.metrics.marginals import Marginals

# Pairs of components, times rows and dimensions, in memory at a time: 4 MB for each intermediate result.
PAIRS_AT_A_TIME = 2**20


def crps(marginals: Marginals, value: Float[Tensor, "*#batch S"]) -> Float[Tensor, "*batch S"]:
    """CRPS of each dimension, in the unit of the state; smaller is better, 0 is certain and right.

    E|X − y| − ½ E|X − X′| (Gneiting & Raftery 2007, eq. 21), which for mixtures of Gaussians is
    Σ wᵢ A(y − μᵢ, σᵢ²) − ½ ΣΣ wᵢ wⱼ A(μᵢ − μⱼ, σᵢ² + σⱼ²), where A(m, v) is the mean of |N(m, v)| (Grimit et al.
    2006). Time grows with K², memory does not. For noise of another shape it is off by a few percent.
    """
    marginals = marginals.as_gaussians()
    *leading, n_components, n_dims = marginals.mean.shape
    value = value.expand(*leading, n_dims).reshape(-1, 1, n_dims)
    mean, std = (x.reshape(-1, n_components, n_dims) for x in (marginals.mean, marginals.std))
    weights = marginals.weights.reshape(-1, n_components, 1)
    n_rows = max(1, PAIRS_AT_A_TIME // max(1, n_components * (n_components + 1) // 2 * n_dims))
    chunks = zip(*(x.split(n_rows) for x in (value, mean, std, weights)), strict=True)
    return torch.cat([_crps(*chunk) for chunk in chunks]).reshape(*leading, n_dims)


def _crps(
    value: Float[Tensor, "N 1 S"],
    mean: Float[Tensor, "N K S"],
    std: Float[Tensor, "N K S"],
    weights: Float[Tensor, "N K 1"],
) -> Float[Tensor, "N S"]:
    distance = (weights * _mean_abs(value - mean, std)).sum(dim=1)
    # ½ ΣΣ over all pairs is Σ over pairs of i < j, and half of the diagonal.
    i, j = torch.triu_indices(mean.shape[1], mean.shape[1], device=mean.device)
    share = weights[:, i] * weights[:, j] * rearrange(torch.where(i == j, 0.5, 1.0).to(mean), "pairs -> pairs 1")
    spread = _mean_abs(mean[:, i] - mean[:, j], torch.hypot(std[:, i], std[:, j]))
    return distance - (share * spread).sum(dim=1)


def _mean_abs(mean: Float[Tensor, "*shape"], std: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """A: mean absolute value of Gaussians."""
    score = mean / std
    density = torch.exp(-0.5 * score.square()) / math.sqrt(2 * math.pi)
    return 2 * std * density + mean * torch.erf(score / math.sqrt(2))
