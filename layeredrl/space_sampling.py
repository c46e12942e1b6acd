"""Random values of spaces, as rows."""

from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from jaxtyping import Num
from torch import Tensor

from layeredrl.spaces import bounds, join, leaves


def sample(
    space: Space[Any],
    leading: tuple[int, ...],
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = torch.device("cpu"),
) -> Num[Tensor, "*leading R"]:
    """Rows of values drawn uniformly.

    Where a Box has no bound to be uniform within, the law is gymnasium's: standard normal without bounds,
    exponential from a single bound on.

    Args:
        space: to draw from.
        leading: dims in front of the rows.
        generator: source of the randomness.
        device: where the rows lie.
    """
    return join([_sample_leaf(leaf, leading, generator, device) for leaf in leaves(space)])


def _sample_leaf(
    leaf: Space[Any], leading: tuple[int, ...], generator: torch.Generator | None, device: torch.device | str
) -> Tensor:
    low, high = bounds(leaf, device)
    if not isinstance(leaf, Box) or np.issubdtype(leaf.dtype, np.integer):
        return _sample_integers(low, high, leading, generator)
    return _sample_numbers(low, high, leading, generator)


def _sample_integers(
    low: Tensor, high: Tensor, leading: tuple[int, ...], generator: torch.Generator | None
) -> Tensor:
    # Float64, so that large ranges have no gaps; the product stays below `n_values` also where it is rounded.
    uniform = torch.rand(*leading, len(low), generator=generator, device=low.device, dtype=torch.float64)
    n_values = high.double() - low.double() + 1
    return (low + (uniform * n_values).floor()).to(low.dtype)


def _sample_numbers(
    low: Tensor, high: Tensor, leading: tuple[int, ...], generator: torch.Generator | None
) -> Tensor:
    uniform = torch.rand(*leading, len(low), generator=generator, device=low.device)
    # The width could overflow, so no `low + width * uniform`; what rounding leads outside is brought back.
    within = (low * (1 - uniform) + high * uniform).clamp(low, high)
    bounded_below, bounded_above = low.isfinite(), high.isfinite()
    if bool((bounded_below & bounded_above).all()):
        return within
    normal = torch.randn(uniform.shape, generator=generator, device=low.device)
    exponential = -torch.log1p(-uniform)
    one_sided = torch.where(bounded_below, low + exponential, high - exponential)
    unbounded = torch.where(bounded_below | bounded_above, one_sided, normal)
    return torch.where(bounded_below & bounded_above, within, unbounded)
