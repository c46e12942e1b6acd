"""Spaces of any nesting as one flat tensor: their sizes, and the way there and back.

A value of a space is kept as *elements* along the last axis of a tensor: a Box or MultiBinary flattened, one number
for a Discrete, one per entry of a MultiDiscrete, counted as the environment counts them (from `start`). A Tuple
lays its parts side by side in its own order, a Dict in the order of its sorted keys. *Features* are what a network
reads or writes: the same, but a one-hot code for each discrete number.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from jaxtyping import Num
from torch import Tensor

# What users give for a space: one of gymnasium's, a size, a shape, or nothing.
AnySpace = Space[Any] | int | np.integer[Any] | Sequence[int] | None
Shape = tuple[int, ...]


def n_features(space: AnySpace, name: str = "space") -> int:
    """Length of the features; a size counts as it is, a shape by its product, None as 0.

    Raises:
        TypeError: `space` is none of those; the message calls it `name`.
    """
    if isinstance(space, Space):
        return sum(_leaf_features(leaf, name) for leaf in leaves(space))
    return _n_plain(space, name)


def n_elements(space: AnySpace, name: str = "space") -> int:
    """Length of the elements: as `n_features`, but 1 for each discrete number."""
    if isinstance(space, Space):
        return sum(_leaf_elements(leaf, name) for leaf in leaves(space))
    return _n_plain(space, name)


def leaves(space: Space[Any]) -> Iterator[Space[Any]]:
    """The spaces at the ends of the nesting, in the order of their elements."""
    if isinstance(space, Dict):
        for key in sorted(space.spaces):
            yield from leaves(space.spaces[key])
    elif isinstance(space, Tuple):
        for part in space.spaces:
            yield from leaves(part)
    else:
        yield space


def unflatten(space: Space[Any], elements: Num[Tensor, "*batch n"]) -> Any:
    """Elements as a value of the space: a tensor with the space's own shape behind the leading dims, or a dict or
    tuple of such. A Discrete keeps its axis of length 1.

    Raises:
        ValueError: another number of elements than the space has.
    """
    size = n_elements(space)
    if elements.shape[-1] != size:
        raise ValueError(f"tensor: got shape {tuple(elements.shape)}, expected (…, {size}) for {space}")
    if isinstance(space, Dict):
        keys = sorted(space.spaces)
        spaces = [space.spaces[key] for key in keys]
        return dict(zip(keys, map(unflatten, spaces, _split(spaces, elements)), strict=True))
    if isinstance(space, Tuple):
        return tuple(map(unflatten, space.spaces, _split(space.spaces, elements)))
    return elements.reshape(elements.shape[:-1] + _leaf_shape(space))


def flatten(space: Space[Any], value: Any) -> Tensor:
    """The inverse of `unflatten`.

    Raises:
        TypeError: a value of another structure than the space's.
        ValueError: a tensor of another shape than its space's.
    """
    if isinstance(space, Dict):
        if not isinstance(value, Mapping) or set(value) != set(space.spaces):
            raise TypeError(f"value: got {value!r:.200}, expected a dict with the keys {sorted(space.spaces)}")
        return torch.cat([flatten(space.spaces[key], value[key]) for key in sorted(space.spaces)], dim=-1)
    if isinstance(space, Tuple):
        if not isinstance(value, Sequence) or len(value) != len(space.spaces):
            raise TypeError(f"value: got {value!r:.200}, expected {len(space.spaces)} parts for {space}")
        return torch.cat(list(map(flatten, space.spaces, value)), dim=-1)
    if not isinstance(value, Tensor):
        raise TypeError(f"value: got {type(value).__name__}, expected a Tensor for {space}")
    shape = _leaf_shape(space)
    n_leading = value.ndim - len(shape)
    if n_leading < 0 or tuple(value.shape[n_leading:]) != shape:
        raise ValueError(f"value: got shape {tuple(value.shape)}, expected (…, {shape}) for {space}")
    return value.reshape(*value.shape[:n_leading], _leaf_elements(space, "space"))


def encode(space: Space[Any], elements: Num[Tensor, "*batch n"]) -> Num[Tensor, "*batch f"]:
    """Features of elements: every discrete number becomes its one-hot code."""
    parts = []
    spaces = list(leaves(space))
    for leaf, part in zip(spaces, _split(spaces, elements), strict=True):
        if isinstance(leaf, Discrete | MultiDiscrete):
            counts, starts = counts_and_starts(leaf)
            index = (part - torch.tensor(starts, device=part.device)).long()
            codes = zip(index.unbind(-1), counts, strict=True)
            part = torch.cat([torch.nn.functional.one_hot(i, n) for i, n in codes], dim=-1)
        parts.append(part.to(elements.dtype if elements.is_floating_point() else torch.get_default_dtype()))
    return torch.cat(parts, dim=-1)


def counts_and_starts(space: Discrete | MultiDiscrete) -> tuple[list[int], list[int]]:
    """How many values each discrete number has, and the first of them."""
    counts, starts = (space.n, space.start) if isinstance(space, Discrete) else (space.nvec, space.start)
    return np.asarray(counts).flatten().tolist(), np.asarray(starts).flatten().tolist()


def sample(
    space: Space[Any], leading: Shape, *, generator: torch.Generator | None = None, device: torch.device
) -> Tensor:
    """Elements of values drawn uniformly: in floating point for a Box, else integers.

    Where a Box has no bound to be uniform within, the law is gymnasium's: standard normal without bounds,
    exponential from a single bound on.
    """
    drawn = [
        _sample_numbers(leaf, leading, generator, device)
        if isinstance(leaf, Box) and np.issubdtype(leaf.dtype, np.floating)
        else _sample_integers(leaf, leading, generator, device)
        for leaf in leaves(space)
    ]
    return torch.cat(drawn, dim=-1)


def _sample_numbers(space: Box, leading: Shape, generator: torch.Generator | None, device: torch.device) -> Tensor:
    low, high = limits(space, device)
    uniform = torch.rand(*leading, low.numel(), generator=generator, device=device)
    if bool((low.isfinite() & high.isfinite()).all()):
        return torch.lerp(low, high, uniform)
    normal = torch.randn(uniform.shape, generator=generator, device=device)
    exponential = -torch.log1p(-uniform)
    bounded_below, bounded_above = low.isfinite(), high.isfinite()
    one_sided = torch.where(bounded_below, low + exponential, high - exponential)
    two_sided = torch.lerp(low.nan_to_num(posinf=0.0, neginf=0.0), high.nan_to_num(posinf=0.0, neginf=0.0), uniform)
    within = torch.where(bounded_below & bounded_above, two_sided, one_sided)
    return torch.where(bounded_below | bounded_above, within, normal)


def _sample_integers(
    space: Space[Any], leading: Shape, generator: torch.Generator | None, device: torch.device
) -> Tensor:
    if isinstance(space, Discrete | MultiDiscrete):
        counts, starts = counts_and_starts(space)
    elif isinstance(space, Box):
        starts = space.low.flatten().tolist()
        counts = (space.high.astype(np.int64) - space.low.astype(np.int64) + 1).flatten().tolist()
    else:
        size = _leaf_elements(space, "space")
        counts, starts = [2] * size, [0] * size
    uniform = torch.rand(*leading, len(counts), generator=generator, device=device, dtype=torch.float64)
    integers = (uniform * torch.tensor(counts, device=device)).long() + torch.tensor(starts, device=device)
    return integers.to(torch.get_default_dtype()) if isinstance(space, Box) else integers


def limits(space: Space[Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """Lowest and highest elements of a space whose leaves are all Boxes."""
    boxes = [leaf for leaf in leaves(space) if isinstance(leaf, Box)]
    low, high = (
        torch.cat([torch.as_tensor(bound, dtype=torch.float32, device=device).flatten() for bound in bounds])
        for bounds in ([box.low for box in boxes], [box.high for box in boxes])
    )
    return low, high


def _split(spaces: Sequence[Space[Any]], elements: Tensor) -> tuple[Tensor, ...]:
    return elements.split([n_elements(space) for space in spaces], dim=-1)


def _leaf_shape(space: Space[Any]) -> Shape:
    return (1,) if isinstance(space, Discrete) else tuple(space.shape or ())


def _leaf_elements(space: Space[Any], name: str) -> int:
    if not isinstance(space, Box | Discrete | MultiDiscrete | MultiBinary):
        raise TypeError(
            f"{name}: got {space!r}, expected Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of such"
        )
    return math.prod(_leaf_shape(space))


def _leaf_features(space: Space[Any], name: str) -> int:
    if isinstance(space, Discrete | MultiDiscrete):
        return sum(counts_and_starts(space)[0])
    return _leaf_elements(space, name)


def _n_plain(size: object, name: str) -> int:
    sizes = [] if size is None else [size] if isinstance(size, int | np.integer) else size
    if not isinstance(sizes, Sequence) or not all(isinstance(n, int | np.integer) and int(n) >= 0 for n in sizes):
        raise TypeError(f"{name}: got {size!r}, expected a gymnasium space, an int, a sequence of ints, or None")
    return 0 if size is None else int(math.prod(sizes))
