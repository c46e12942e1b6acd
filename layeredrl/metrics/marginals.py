"""What is foretold of each dimension of a state: a mixture of Gaussians, the common currency of all metrics.

Where a model is calibrated such that its noise isn't normal, it is of that shape in all components.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from layeredrl.models.mixture import log_prob_per_dim, log_weights, mixture_log_prob, mixture_moments
from layeredrl.models.noise_shape import NoiseShape
from layeredrl.types import Prediction, Rollout

# Forecasts are at most this large: their squares, summed over many particles, are finite float32 numbers.
LARGEST = 1e15
# Gaussians that stand for a component of another shape, and points that each of them is found from.
N_PARTS, POINTS_PER_PART = 8, 256


@dataclass(frozen=True)
class Marginals:
    """Mixtures of K diagonal laws over states of S dimensions, Gaussians unless they have another shape.

    Attributes:
        mean, std: of each component; `std` is positive, and neither is larger than `LARGEST`.
        weights: of the components, which sum to 1.
        shape: of their noise, which has mean 0 and variance 1; None means normal.
    """

    mean: Float[Tensor, "*batch K S"]
    std: Float[Tensor, "*batch K S"]
    weights: Float[Tensor, "*batch K"]
    shape: NoiseShape | None = None

    def __post_init__(self) -> None:
        _refuse(~(self.mean.abs() <= LARGEST), "mean", self.mean, f"numbers within ±{LARGEST:g}")
        is_wrong = ~((self.std > 0) & (self.std <= LARGEST))
        _refuse(is_wrong, "std", self.std, f"positive numbers of at most {LARGEST:g}")

    def moments(self) -> tuple[Float[Tensor, "*batch S"], Float[Tensor, "*batch S"]]:
        """Mean and variance of each dimension."""
        return mixture_moments(self.mean, self.std, self.weights)

    def cdf(self, value: Float[Tensor, "*#batch S"]) -> Float[Tensor, "*batch S"]:
        """Probability of each dimension to be at most `value`."""
        score = (rearrange(value, "... s -> ... 1 s") - self.mean) / self.std
        score = score if self.shape is None else self.shape.straighten(score)
        weights = rearrange(self.weights, "... k -> ... k 1")
        return (weights * torch.special.ndtr(score)).sum(dim=-2).clamp(0.0, 1.0)

    def log_prob(self, value: Float[Tensor, "*#batch S"]) -> Float[Tensor, "*batch S"]:
        """Log density of each dimension by itself, finite however far `value` lies from all components."""
        per_component = log_prob_per_dim(rearrange(value, "... s -> ... 1 s"), self.mean, self.std, self.shape)
        weighted = rearrange(log_weights(self.weights), "... k -> ... k 1") + per_component
        return torch.logsumexp(weighted, dim=-2)

    def joint_log_prob(self, value: Float[Tensor, "*#batch S"]) -> Float[Tensor, "*batch"]:
        """Log density of the whole state, which the components tie together; finite likewise."""
        return mixture_log_prob(value, self.mean, self.std, log_weights(self.weights), self.shape)

    def pooled(self) -> "Marginals":
        """The uniform mixture over the last leading dim: of members, the ensemble that they are."""
        return Marginals(
            mean=rearrange(self.mean, "... e k s -> ... (e k) s"),
            std=rearrange(self.std, "... e k s -> ... (e k) s"),
            weights=rearrange(self.weights, "... e k -> ... (e k)") / self.weights.shape[-2],
            shape=self.shape,
        )

    def as_gaussians(self) -> "Marginals":
        """The same for Gaussians. Each component of another shape is cut into even parts, of which each is one."""
        if self.shape is None:
            return self
        part_mean, part_std = _parts(self.shape)
        mean, std = (rearrange(x, "... k s -> ... k 1 s") for x in (self.mean, self.std))
        mean, std = (rearrange(x, "... k j s -> ... (k j) s") for x in (mean + std * part_mean, std * part_std))
        return Marginals(mean, std, repeat(self.weights / N_PARTS, "... k -> ... (k j)", j=N_PARTS))


def from_prediction(prediction: Prediction, shape: NoiseShape | None = None) -> Marginals:
    """What each member foretells of the next state: leading dims `(…, E)`, its M modes as components.

    Args:
        prediction: of a model.
        shape: its `noise_shape`.
    """
    return Marginals(prediction.mean, prediction.std, prediction.weights, shape)


def from_rollout(rollout: Rollout) -> Marginals:
    """What each member foretells after 1 … H steps: leading dims `(B, H, E)`, its P particles as components.

    The components are the laws of the steps that led there, not the particles themselves, so that even a few
    particles give a density. Their spread stands for the noise of earlier steps: where P is small, the mixture is
    narrower than what it stands for, and its mean off by chance. Its variance is 1 − 1 / P of what earlier noise
    makes of it, plus the noise of the last step.
    """
    mean = rearrange(rollout.step_mean, "b e p h s -> b h e p s")
    std = rearrange(rollout.step_var.sqrt(), "b e p h s -> b h e p s")
    return Marginals(mean, std, torch.full_like(mean[..., 0], 1 / mean.shape[-2]))


def _parts(shape: NoiseShape) -> tuple[Float[Tensor, "J S"], Float[Tensor, "J S"]]:
    """Mean and standard deviation of the noise between neighbouring ones of J + 1 even quantiles."""
    n = N_PARTS * POINTS_PER_PART
    normal = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n).to(shape.values)
    noise = shape.bend(repeat(normal, "n -> n s", s=len(shape.values)))
    points = rearrange(noise, "(j p) s -> j p s", j=N_PARTS)
    return points.mean(dim=1), points.std(dim=1, correction=0)


def _refuse(is_wrong: Tensor, name: str, value: Tensor, expected: str) -> None:
    if bool(is_wrong.any()):
        place = tuple(is_wrong.nonzero()[0].tolist())
        raise ValueError(f"Marginals.{name}: got {value[place].item()} at index {place}, expected {expected}")
