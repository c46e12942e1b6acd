"""What policies know of spaces beside `layeredrl.spaces`: plain sizes in place of a space, and nested tensors."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete, Space
from jaxtyping import Num
from torch import Tensor

from layeredrl.space_values import leaf_values, nest
from layeredrl.spaces import by_leaf, check_space, feature_size, leaves, row_size

# What users give for a space: one of gymnasium's, a size, a shape, or nothing.
AnySpace = Space[Any] | int | np.integer[Any] | Sequence[int] | None


def n_features(space: AnySpace, name: str = "space") -> int:
    """Length of the features; a size counts as it is, a shape by its product, None as 0.

    Raises:
        TypeError: `space` is none of those; the message calls it `name`.
        ValueError: as from `check_space`.
    """
    if isinstance(space, Space):
        check_space(name, space)
        return feature_size(space)
    return _n_plain(space, name)


def n_elements(space: AnySpace) -> int:
    """Length of a row: as `n_features`, but 1 for each discrete number."""
    if isinstance(space, Space):
        check_space("space", space)
        return row_size(space)
    return _n_plain(space, "space")


def unflatten(space: Space[Any], rows: Num[Tensor, "*batch R"]) -> Any:
    """Rows as a value of the space: a tensor with the space's own shape behind the leading dims, or a dict or tuple
    of such. A Discrete keeps its axis of length 1.

    Raises:
        ValueError: rows of another length than the space's.
    """
    size = row_size(space)
    if rows.shape[-1] != size:
        raise ValueError(f"tensor: got shape {tuple(rows.shape)}, expected (…, {size}) for {space}")
    leading = rows.shape[:-1]
    return nest(space, (columns.reshape(leading + _shape(leaf)) for leaf, columns in by_leaf(space, rows)))


def flatten(space: Space[Any], value: Any) -> Num[Tensor, "*batch R"]:
    """The inverse of `unflatten`.

    Raises:
        TypeError: a value of another structure than the space's.
        ValueError: a tensor of another shape than its space's.
    """
    tensors = zip(leaves(space), leaf_values(space, value), strict=True)
    return torch.cat([_flatten_leaf(leaf, tensor) for leaf, tensor in tensors], dim=-1)


def _flatten_leaf(leaf: Space[Any], tensor: object) -> Num[Tensor, "*batch R"]:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"value: got {type(tensor).__name__}, expected a Tensor for {leaf}")
    shape = _shape(leaf)
    n_leading = tensor.ndim - len(shape)
    if n_leading < 0 or tuple(tensor.shape[n_leading:]) != shape:
        raise ValueError(f"value: got shape {tuple(tensor.shape)}, expected (…, {shape}) for {leaf}")
    return tensor.reshape(*tensor.shape[:n_leading], row_size(leaf))


def _shape(leaf: Space[Any]) -> tuple[int, ...]:
    return (1,) if isinstance(leaf, Discrete) else tuple(leaf.shape or ())


def _n_plain(size: object, name: str) -> int:
    sizes = [] if size is None else [size] if isinstance(size, int | np.integer) else size
    if not isinstance(sizes, Sequence) or not all(isinstance(n, int | np.integer) and int(n) >= 0 for n in sizes):
        raise TypeError(f"{name}: got {size!r}, expected a gymnasium space, an int, a sequence of ints, or None")
    return 0 if size is None else int(math.prod(sizes))
