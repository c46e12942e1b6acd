"""Keep what a network puts out within bounds."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Bound(NamedTuple):
    """What makes low + height · sigmoid(x − middle) of numbers; of itself, a probability."""

    low: float = 0.0
    height: float = 1.0
    middle: float = 0.0

    def __call__(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if self == Bound():
            return x.sigmoid()
        share = (x - self.middle).sigmoid_()
        return torch.add(share.new_full((), self.low), share, alpha=self.height)


def std_bound(min_log_std: float, max_log_std: float) -> Bound:
    """What keeps a log standard deviation within soft bounds, and makes a standard deviation of it.

    Bounded from above and then from below by softplus, so that the gradient doesn't vanish where the bounds are
    reached (Chua et al. 2018, appendix A.1). That the upper one is exceeded by log(1 + exp(min − max)) at most, and
    that all of it is no more than a sigmoid, follows from exp(low + softplus(u)) = exp(low) (1 + exp(u)) with
    u = high − low − softplus(high − raw), and from exp(−softplus(high − raw)) = sigmoid(raw − high).
    """
    return Bound(low=math.exp(min_log_std), height=math.exp(max_log_std), middle=max_log_std)


class BoundedFeatures(nn.Module):
    """Bounds some features of its inputs, and hands on the others as they are.

    Behind the last linear layer, it takes no time of its own where layers are fused.

    Args:
        parts: how many features, side by side, have which bound; None: none.
    """

    def __init__(self, parts: Sequence[tuple[int, Bound | None]]):
        super().__init__()
        self.sizes = [size for size, _ in parts]
        self.bounds = [bound for _, bound in parts]

    def forward(self, x: Float[Tensor, "*batch F"]) -> Float[Tensor, "*batch F"]:
        return self._bound(x, dim=-1)

    def apply_to_columns(self, columns: Float[Tensor, "E F R"]) -> Float[Tensor, "E F R"]:
        """The same for rows that stand upright."""
        return self._bound(columns, dim=-2)

    def apply_in_place(self, x: Float[Tensor, "*batch F"]) -> None:
        """The same where no gradient flows."""
        for part, bound in self._parts(x, dim=-1):
            if bound is not None:
                part.copy_(bound(part))

    def _bound(self, x: Tensor, dim: int) -> Tensor:
        return torch.cat([part if bound is None else bound(part) for part, bound in self._parts(x, dim)], dim=dim)

    def _parts(self, x: Tensor, dim: int) -> Iterable[tuple[Tensor, Bound | None]]:
        return zip(x.split_with_sizes(self.sizes, dim=dim), self.bounds, strict=True)
