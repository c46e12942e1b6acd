"""Running mean and standard deviation of training data."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

# Dimensions whose standard deviation is below this share of their mean are constant up to rounding.
CONSTANT_RATIO = 1e-6
CONSTANT_STD = 1e-12


class RunningMoments(nn.Module):
    """Mean and variance per dimension, moved by training batches only.

    The first batches are averaged; once `1 / momentum` of them were seen, older ones fade exponentially.

    Attributes:
        mean, var: set them by `update` or `set`, as the scale goes with them.
        scale: standard deviation; 1 for dimensions that don't vary.
    """

    mean: Tensor
    var: Tensor
    scale: Tensor
    n_batches: Tensor

    def __init__(self, size: int, momentum: float):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("n_batches", torch.zeros((), dtype=torch.long))

    def standardize(self, x: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch S"]:
        return (x - self.mean) / self.scale

    @torch.no_grad()
    def update(self, x: Float[Tensor, "B S"], mask: Bool[Tensor, " B"] | None = None) -> None:
        """Take in one batch; rows where `mask` is False don't count."""
        x = x if mask is None else x[mask]
        if len(x) == 0:
            return
        self.n_batches += 1
        share = torch.clamp(1.0 / self.n_batches, min=self.momentum)
        batch_var, batch_mean = torch.var_mean(x, dim=0, correction=0)
        shift = batch_mean - self.mean
        first = self.n_batches == 1
        # Moments of the mixture of the old data and the batch, with shares (1 − share, share).
        old_var = torch.where(first, batch_var, self.var)
        var = (1 - share) * (old_var + share * shift.square() * ~first) + share * batch_var
        self.set(self.mean + share * shift, var)

    @torch.no_grad()
    def set(self, mean: Float[Tensor, " S"], var: Float[Tensor, " S"]) -> None:
        """Take the given moments, and the scale that follows."""
        std = var.sqrt()
        varies = std > torch.clamp(CONSTANT_RATIO * mean.abs(), min=CONSTANT_STD)
        self.mean.copy_(mean)
        self.var.copy_(var)
        self.scale.copy_(torch.where(varies, std, 1.0))

    def reset(self) -> None:
        """Forget earlier batches as soon as the next one comes."""
        self.n_batches.zero_()
