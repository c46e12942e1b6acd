"""Gymnasium spaces as flat tensors: sizes, one-hot codes, bounds, and the checks at every entry.

Spaces are nested at will: the *leaves* are Box, Discrete, MultiDiscrete and MultiBinary, what holds them are Tuple
and Dict. A Tuple lays its leaves side by side in its own order, a Dict in the order of its sorted keys.

A *row* is how a value of the space is kept in a tensor: a Box or MultiBinary flattened, one number for a Discrete
or an entry of a MultiDiscrete, as the environment counts them (from `start`). Rows are integers if every leaf is
discrete, else in floating point, whole numbers where a leaf is discrete. *Features* are what a network reads: the
same, but with a one-hot code in place of each number of a Discrete or MultiDiscrete.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple
from jaxtyping import Float, Num
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

# Actions may leave a Box by this share of its width: float32 arithmetic does.
BOUNDS_TOLERANCE = 1e-5
# float32 holds all whole numbers up to this one.
LARGEST_WHOLE = 2**24


def leaves(space: Space[Any]) -> Iterator[Space[Any]]:
    """The spaces at the ends of the nesting, in the order of their columns in a row."""
    if isinstance(space, Dict):
        for key in sorted(space.spaces):
            yield from leaves(space.spaces[key])
    elif isinstance(space, Tuple):
        for part in space.spaces:
            yield from leaves(part)
    else:
        yield space


def is_discrete(space: Space[Any]) -> bool:
    """Whether every leaf is discrete, so that rows are integers."""
    return not any(isinstance(leaf, Box) for leaf in leaves(space))


def row_dtype(space: Space[Any]) -> torch.dtype:
    """How rows are stored."""
    return torch.long if is_discrete(space) else torch.float32


def counts_and_starts(leaf: Space[Any]) -> tuple[list[int], list[int]]:
    """How many values each number of a discrete leaf has, and the first of them."""
    if isinstance(leaf, Discrete):
        return [int(leaf.n)], [int(leaf.start)]
    if isinstance(leaf, MultiDiscrete):
        return leaf.nvec.flatten().tolist(), leaf.start.flatten().tolist()
    assert isinstance(leaf, MultiBinary)
    return [2] * row_size(leaf), [0] * row_size(leaf)


def row_size(space: Space[Any] | None) -> int:
    """Length of a row: one column per element of a Box or MultiBinary and per discrete number; 0 for None."""
    return 0 if space is None else sum(math.prod(leaf.shape or ()) for leaf in leaves(space))


def feature_size(space: Space[Any] | None) -> int:
    """Length of the features: as `row_size`, but n for a number of n possible values."""
    return 0 if space is None else sum(_leaf_feature_size(leaf) for leaf in leaves(space))


def _leaf_feature_size(leaf: Space[Any]) -> int:
    return sum(counts_and_starts(leaf)[0]) if isinstance(leaf, Discrete | MultiDiscrete) else row_size(leaf)


# Rows ---------------------------------------------------------------------------------------------------------


def by_leaf(space: Space[Any], rows: Num[Tensor, "*batch R"]) -> Iterable[tuple[Space[Any], Tensor]]:
    """Each leaf with its columns of the rows."""
    spaces = [space] if isinstance(space, Box) else list(leaves(space))
    if len(spaces) == 1:
        return [(spaces[0], rows)]
    return zip(spaces, rows.split([row_size(leaf) for leaf in spaces], dim=-1), strict=True)


def features(space: Space[Any], rows: Num[Tensor, "*batch R"]) -> Float[Tensor, "*batch F"]:
    """What a network reads: numbers of Discrete and MultiDiscrete one-hot, all others as they are.

    Raises:
        RuntimeError: a discrete number outside its range.
    """
    if isinstance(space, Box) and rows.is_floating_point():
        return rows
    dtype = rows.dtype if rows.is_floating_point() else torch.get_default_dtype()
    return join([_leaf_features(leaf, columns).to(dtype) for leaf, columns in by_leaf(space, rows)])


def _leaf_features(leaf: Space[Any], columns: Num[Tensor, "*batch R"]) -> Num[Tensor, "*batch F"]:
    if not isinstance(leaf, Discrete | MultiDiscrete):
        return columns
    numbers = zip(columns.long().unbind(dim=-1), *counts_and_starts(leaf), strict=True)
    return join([one_hot(number - start, count) for number, count, start in numbers])


def bounds(space: Space[Any], device: torch.device | str = "cpu") -> tuple[Num[Tensor, " R"], Num[Tensor, " R"]]:
    """Lowest and highest row. For a Box: float32 numbers inside its bounds, even if these are float64."""
    low, high = zip(*map(_leaf_bounds, leaves(space)), strict=True)
    return join(low).to(device), join(high).to(device)


def _leaf_bounds(leaf: Space[Any]) -> tuple[Num[Tensor, " R"], Num[Tensor, " R"]]:
    if not isinstance(leaf, Box):
        counts, starts = counts_and_starts(leaf)
        ends = [start + count - 1 for count, start in zip(counts, starts, strict=True)]
        return torch.tensor(starts), torch.tensor(ends)
    low, high = leaf.low.flatten(), leaf.high.flatten()
    if leaf.dtype != np.float32:
        low, high = _float32_inside(low, high)
    return torch.from_numpy(low), torch.from_numpy(high)


def _float32_inside(low: NDArray[Any], high: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with np.errstate(over="ignore"):  # what overflows comes back from infinity
        low32, high32 = low.astype(np.float32), high.astype(np.float32)
    return (
        np.where(low32 < low, np.nextafter(low32, np.float32(np.inf)), low32),
        np.where(high32 > high, np.nextafter(high32, np.float32(-np.inf)), high32),
    )


def clip(space: Space[Any], rows: Num[Tensor, "*batch R"]) -> Num[Tensor, "*batch R"]:
    """Rows whose Boxes are clipped to their bounds. Discrete numbers stay: no other is nearly the same."""
    if isinstance(space, Box):
        return rows.clamp(*bounds(space, rows.device))
    if is_discrete(space):
        return rows
    return join([clip(leaf, columns) for leaf, columns in by_leaf(space, rows)])


def join(columns: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """Columns of several leaves side by side; those of a single one are not copied."""
    return columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)


# Checks -------------------------------------------------------------------------------------------------------


def check_space(name: str, space: object, *, optional: bool = False) -> None:
    """Check that `space` can be laid out in rows (or is None, where `optional`).

    Raises:
        TypeError: it is no Box, Discrete, MultiDiscrete or MultiBinary, nor a Tuple or Dict of one such or more.
        ValueError: a discrete number beside a Box is too large for floating point.
    """
    if space is None and optional:
        return
    if not _is_supported(space):
        kinds = "Box, Discrete, MultiDiscrete, MultiBinary, or Tuple or Dict of such"
        raise TypeError(f"{name}: got {space!r}, expected a gymnasium {kinds}{', or None' if optional else ''}")
    assert isinstance(space, Space)
    if is_discrete(space):
        return
    for leaf in leaves(space):
        if not isinstance(leaf, Box) and max(bound.abs().max() for bound in bounds(leaf)) > LARGEST_WHOLE:
            raise ValueError(
                f"{name}: got {leaf} beside a Box, expected numbers of at most {LARGEST_WHOLE} either side of 0, "
                "which floating point holds exactly"
            )


def _is_supported(space: object) -> bool:
    if isinstance(space, Tuple | Dict):
        parts = space.spaces.values() if isinstance(space, Dict) else space.spaces
        return len(parts) > 0 and all(map(_is_supported, parts))
    return isinstance(space, Box | Discrete | MultiDiscrete | MultiBinary)


def check_indices(name: str, indices: Sequence[int], size: int) -> None:
    """Raise a ValueError that names those which are no integers in 0 … size − 1."""
    unknown = [index for index in indices if index not in range(size)]
    if unknown:
        raise ValueError(f"{name}: got {unknown}, expected indices in 0 … {size - 1}")


def check_rows(
    name: str,
    value: object,
    space: Space[Any] | None,
    *,
    leading: tuple[int, ...] | None = None,
    device: torch.device | None = None,
    contained: bool = False,
) -> None:
    """Check that `value` holds finite rows of `space`.

    Args:
        name: of the argument, for the message.
        value: rows with any leading dims; None exactly where `space` is None.
        space: any that `check_space` accepts, or None.
        leading: the leading dims that the rows must have.
        device: where they must lie.
        contained: whether values outside the bounds of a Box are refused too, as they are for actions. Discrete
            numbers outside their range, or between two of them, always are.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: missing, superfluous, of another shape or device, not finite, or outside the space.
    """
    check_layout(name, value, space, leading=leading, device=device)
    if space is None or not isinstance(value, Tensor):
        return
    first = 0
    for leaf, columns in by_leaf(space, value):
        nearest = _nearest_inside(leaf, columns, bounded=contained or not isinstance(leaf, Box))
        if not torch.equal(nearest, columns.to(nearest.dtype)):
            *place, column = (nearest != columns).nonzero()[0].tolist()
            index, got = (*place, first + column), columns[(*place, column)].item()
            expected = f"values inside {leaf}" if math.isfinite(got) else "finite values"
            raise ValueError(f"{name}: got {got} at index {index}, expected {expected}")
        first += columns.shape[-1]


def check_layout(
    name: str,
    value: object,
    space: Space[Any] | None,
    *,
    leading: tuple[int, ...] | None = None,
    device: torch.device | None = None,
) -> None:
    """As `check_rows`, but the values may be anything: imagined states can grow without bounds."""
    if space is None or value is None:
        if space is not None or value is not None:
            got = "None" if value is None else f"a {type(value).__name__}"
            raise ValueError(f"{name}: got {got}, expected {'None' if space is None else f'rows of {space}'}")
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a Tensor")
    size, takes_integers = _layout(_Identity(space))
    _check_dtype(name, value, space, takes_integers)
    expected = (*(leading if leading is not None else value.shape[:-1]), size)
    if tuple(value.shape) != expected:
        shape = ("…", size) if leading is None else expected
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected ({', '.join(map(str, shape))})")
    if device is not None and value.device != device:
        raise ValueError(f"{name}: got device {value.device}, expected {device}")


def _check_dtype(name: str, value: Tensor, space: Space[Any], takes_integers: bool) -> None:
    if takes_integers:
        if value.is_floating_point() or value.dtype == torch.bool:
            raise TypeError(f"{name}: got dtype {value.dtype}, expected integers for {space}")
    elif value.dtype != torch.get_default_dtype():
        raise TypeError(f"{name}: got dtype {value.dtype}, expected {torch.get_default_dtype()} for {space}")


def _nearest_inside(
    leaf: Space[Any], columns: Num[Tensor, "*batch R"], *, bounded: bool
) -> Num[Tensor, "*batch R"]:
    """The same numbers where they are finite and, if `bounded`, inside; others, or NaN, elsewhere."""
    numbers = columns if isinstance(leaf, Box) or not columns.is_floating_point() else columns.round()
    return numbers.clamp(*_limits(_Identity(leaf), columns.device, columns.dtype, bounded))


class _Identity(NamedTuple):
    """What makes a key of a space, which can't be hashed: no other space equals it, be it the same or not."""

    space: Space[Any]

    def __hash__(self) -> int:
        return id(self.space)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and self.space is other.space


# What follows is kept, as finding it takes longer than a check of few rows.


@lru_cache(maxsize=64)
def _layout(space: _Identity) -> tuple[int, bool]:
    """Length of a row, and whether rows are integers."""
    return row_size(space.space), is_discrete(space.space)


@lru_cache(maxsize=64)
def _limits(
    leaf: _Identity, device: torch.device, dtype: torch.dtype, bounded: bool
) -> tuple[Num[Tensor, " R"], Num[Tensor, " R"]]:
    """The lowest and the highest row of this type to accept: that are finite at least, or in a `bounded` leaf."""
    low, high = bounds(leaf.space, device)
    if not isinstance(leaf.space, Box):
        return low, high
    if not bounded:
        low, high = torch.full_like(low, -torch.inf), torch.full_like(high, torch.inf)
    slack = BOUNDS_TOLERANCE * (high - low).nan_to_num(nan=0.0, posinf=0.0)
    return (low - slack).to(dtype).nan_to_num(), (high + slack).to(dtype).nan_to_num()
