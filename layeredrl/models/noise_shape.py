"""The shape of noise: standard normal numbers, bent by an increasing function for each dimension."""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

# Scores are cut off here: a float32 square of it is finite, and so is a density any number of standard deviations
# away.
MAX_STANDARD_SCORE = 1e15


def _make_knots(device: torch.device | str) -> Float[Tensor, " K"]:
    return torch.linspace(-2.1, 2.1, 15, dtype=torch.float64, device=device)


# Where the functions bend, in standard normal numbers: 96 % of these lie between the outermost two.
KNOTS = _make_knots("cpu")


class NoiseShape(NamedTuple):
    """Noise h(z) of mean 0 and variance 1, where z is standard normal and h increases, for each dimension.

    h is linear between the `KNOTS`, K in number, where it has the given strictly increasing values, and goes on
    straight beyond.
    """

    values: Float[Tensor, "S K"]

    def bend(self, normal: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch S"]:
        """Standard normal numbers to noise of this shape."""
        noise, _ = piecewise_linear(normal, _knots_like(self.values), self.values)
        return noise

    def straighten(self, noise: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch S"]:
        """Noise of this shape to standard normal numbers."""
        normal, _ = piecewise_linear(noise, self.values, _knots_like(self.values))
        return normal

    def log_prob(self, noise: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch S"]:
        """Log density of each number, finite however large it is: log φ(h⁻¹(x)) − log h′(h⁻¹(x))."""
        normal, slope = piecewise_linear(noise, self.values, _knots_like(self.values))
        return normal_log_prob(normal.clamp(-MAX_STANDARD_SCORE, MAX_STANDARD_SCORE)) + slope.log()


def normal_log_prob(score: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Log density of standard normal numbers."""
    return -0.5 * score.square() - 0.5 * math.log(2 * math.pi)


def standardized(
    values: Float[Tensor, "S K"],
) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"], NoiseShape]:
    """Mean and standard deviation of g(z), which has the given values at the `KNOTS`, and what shape remains."""
    knots = _knots_like(values)
    slope = values.diff(dim=1) / knots.diff(dim=1)
    intercept = values[:, :-1] - slope * knots[:, :-1]
    # Moments of z over each piece; the outermost reach to infinity, where the density is 0.
    inner = knots[0, 1:-1]
    infinity = inner.new_full((1,), torch.inf)
    cdf = torch.special.ndtr(torch.cat([-infinity, inner, infinity]))
    zero = inner.new_zeros(1)
    edge, density = torch.cat([zero, inner, zero]), torch.cat([zero, normal_log_prob(inner).exp(), zero])
    share, first, second = cdf.diff(), -density.diff(), cdf.diff() - (edge * density).diff()
    mean = (intercept * share + slope * first).sum(dim=1)
    square = (intercept.square() * share + 2 * intercept * slope * first + slope.square() * second).sum(dim=1)
    std = (square - mean.square()).sqrt()
    return mean, std, NoiseShape((values - rearrange(mean, "s -> s 1")) / rearrange(std, "s -> s 1"))


def piecewise_linear(
    x: Float[Tensor, "*batch S"], knots: Float[Tensor, "S K"], values: Float[Tensor, "S K"]
) -> tuple[Float[Tensor, "*batch S"], Float[Tensor, "*batch S"]]:
    """Value and slope of the functions, one a dimension, that are linear between knots and straight beyond."""
    columns = rearrange(x, "... s -> s ...").flatten(1)
    piece = torch.searchsorted(knots[:, 1:-1].contiguous(), columns.contiguous())
    slope = (values.diff(dim=1) / knots.diff(dim=1)).gather(1, piece)
    value = values.gather(1, piece) + slope * (columns - knots.gather(1, piece))
    value, slope = (rearrange(y, "s n -> n s").reshape(x.shape) for y in (value, slope))
    return value, slope


def _knots_like(values: Float[Tensor, "S K"]) -> Float[Tensor, "S K"]:
    # Made where they are needed: to copy them there would wait for a GPU.
    return _make_knots(values.device).to(values.dtype).expand_as(values)
