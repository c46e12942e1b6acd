"""Distributions of actions that torch has not."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal, constraints
from torch.nn.functional import softplus

# Expectations over a Gaussian by the trapezoidal rule, which converges exponentially for smooth functions: these
# nodes leave an error below 1e-5 for the functions of tanh here, up to standard deviations of e².
QUADRATURE_REACH = 8.0
QUADRATURE_NODES = 129


class SquashedNormal(Distribution):
    """Independent Gaussians mapped by tanh onto (low, high); batch shape `(…, A)`, as that of a `Normal`.

    The density is exact. Of the two ways to it, `latent_log_prob` takes the Gaussian value behind an action and is
    stable everywhere. `log_prob` takes the action itself, whose inverse exists in the open interval only: actions
    within rounding of a bound are moved just inside, so the answer is finite but rough there.

    Args:
        mean, std: of the Gaussians, before the map.
        low, high: bounds of each action, finite.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True

    def __init__(self, mean: Tensor, std: Tensor, low: Tensor, high: Tensor):
        self.base = Normal(mean, std, validate_args=False)
        self.low, self.high = low, high
        self.centre, self.half_width = (low + high) / 2, (high - low) / 2
        super().__init__(self.base.batch_shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.interval(self.low, self.high)

    def squash(self, latent: Tensor) -> Tensor:
        """The action of a Gaussian value."""
        # Rounding may leave the bounds by the last digit.
        return torch.clamp(self.centre + self.half_width * torch.tanh(latent), self.low, self.high)

    def latent_log_prob(self, latent: Tensor) -> Tensor:
        """Log density of the action `squash(latent)`, per action."""
        return self.base.log_prob(latent) - self._log_slope(latent)

    def log_prob(self, value: Tensor) -> Tensor:
        inside = 1.0 - torch.finfo(value.dtype if value.is_floating_point() else self.low.dtype).eps
        return self.latent_log_prob(torch.atanh(((value - self.centre) / self.half_width).clamp(-inside, inside)))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.squash(self.base.rsample(torch.Size(sample_shape)))

    @property
    def mode(self) -> Tensor:
        """The mode of the Gaussian, squashed, which is the median: what SAC acts by when it is to be deterministic.

        The density over actions has no useful mode: for wide Gaussians it peaks at the bounds.
        """
        return self.squash(self.base.loc)

    @property
    def mean(self) -> Tensor:
        return self._expect(self.squash)

    @property
    def variance(self) -> Tensor:
        mean = self.mean
        return self._expect(lambda latent: (self.squash(latent) - mean).square())

    def entropy(self) -> Tensor:
        """Differential entropy per action: that of the Gaussian, plus the expected log slope of the map."""
        return self.base.entropy() + self._expect(self._log_slope)

    def _log_slope(self, latent: Tensor) -> Tensor:
        # log(1 − tanh²u) = 2 (log 2 − u − softplus(−2u)) without cancellation.
        return self.half_width.log() + 2.0 * (math.log(2.0) - latent - softplus(-2.0 * latent))

    def _expect(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        nodes = torch.linspace(-QUADRATURE_REACH, QUADRATURE_REACH, QUADRATURE_NODES)
        nodes = nodes.to(self.base.loc).reshape(-1, *[1] * len(self.batch_shape))
        weights = torch.softmax(-nodes.square() / 2, dim=0)
        return (weights * function(self.base.loc + self.base.scale * nodes)).sum(dim=0)


class StartedCategorical(Categorical):
    """A Categorical over `start … start + n − 1`."""

    def __init__(self, start: int, *, probs: Tensor | None = None, logits: Tensor | None = None):
        self.start = start
        super().__init__(probs=probs, logits=logits, validate_args=False)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> "StartedCategorical":
        new = self._get_checked_instance(StartedCategorical, _instance)
        new.start = self.start
        return super().expand(torch.Size(batch_shape), _instance=new)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.integer_interval(self.start, self.start + self._num_events - 1)

    @property
    def mode(self) -> Tensor:
        return super().mode + self.start

    def draw(self, generator: torch.Generator | None) -> Tensor:
        """One draw per distribution of the batch, with noise from the generator.

        An exponential race, as `torch.multinomial` runs it on the same noise, but on probabilities already checked:
        of clocks that ring at rate p_i, the i-th is the first with probability p_i.
        """
        probs = self.probs.detach()
        times = torch.empty_like(probs).exponential_(generator=generator)
        index = (probs / times).argmax(dim=-1)
        return index + self.start if self.start else index

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return super().sample(torch.Size(sample_shape)) + self.start

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value - self.start if self.start else value)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return super().enumerate_support(expand) + self.start


class JointCategorical(Distribution):
    """Independent Categoricals as one distribution over vectors `(…, K)`.

    The log-probability of a vector is the sum over its components, and so is the entropy.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, components: Sequence[StartedCategorical]):
        self.components = list(components)
        super().__init__(components[0].batch_shape, torch.Size([len(components)]), validate_args=False)

    @cached_property
    def component_entropy(self) -> Tensor:
        """Entropy of each component, `(…, K)`."""
        return torch.stack([component.entropy() for component in self.components], dim=-1)

    def component_log_prob(self, value: Tensor) -> Tensor:
        """Log-probability of each component, `(…, K)`."""
        pairs = zip(self.components, value.unbind(-1), strict=True)
        return torch.stack([component.log_prob(part) for component, part in pairs], dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.component_log_prob(value).sum(dim=-1)

    def entropy(self) -> Tensor:
        return self.component_entropy.sum(dim=-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return torch.stack([component.sample(sample_shape) for component in self.components], dim=-1)

    def draw(self, generator: torch.Generator | None) -> Tensor:
        """One draw per distribution of the batch, with noise from the generator."""
        return torch.stack([component.draw(generator) for component in self.components], dim=-1)

    @property
    def mode(self) -> Tensor:
        return torch.stack([component.mode for component in self.components], dim=-1)

    @property
    def mean(self) -> Tensor:
        """NaN, as for any Categorical: its values carry no order."""
        return torch.stack([component.mean for component in self.components], dim=-1)

    @property
    def variance(self) -> Tensor:
        """NaN, as for any Categorical."""
        return torch.stack([component.variance for component in self.components], dim=-1)
