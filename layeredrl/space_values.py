"""Values of spaces, nested as gymnasium nests them, and their way into rows and back.

What rows are, and the order of their columns, says `layeredrl.spaces`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Dict, Space, Tuple
from jaxtyping import Num
from numpy.typing import NDArray
from torch import Tensor

from layeredrl.spaces import by_leaf, join, leaves, row_dtype, row_size


def to_rows(space: Space[Any], values: Any, device: torch.device | str = "cpu") -> Num[Tensor, "V R"]:
    """A batch of values, as a vector environment gives them, copied into rows.

    Args:
        space: of a single value.
        values: for a Tuple or Dict, a tuple or dict of batches; else an array with the batch in front.
        device: where the rows shall lie.

    Raises:
        TypeError: values of another structure than the space's.
    """
    dtype = row_dtype(space)
    arrays = zip(leaves(space), leaf_values(space, values), strict=True)
    return join([_from_array(leaf, array, dtype, device) for leaf, array in arrays])


def from_rows(space: Space[Any], rows: Num[Tensor, "V R"]) -> Any:
    """The inverse of `to_rows`: values in the dtypes of the space, sharing no memory with the rows."""
    parts = by_leaf(space, rows.detach().cpu())
    return nest(space, (_to_array(leaf, columns) for leaf, columns in parts))


def leaf_values(space: Space[Any], value: Any) -> Iterator[Any]:
    """What a value holds for each leaf, in the order of `leaves`.

    Raises:
        TypeError: a value of another structure than the space's.
    """
    if isinstance(space, Dict):
        if not isinstance(value, Mapping) or set(value) != set(space.spaces):
            raise TypeError(f"value: got {value!r:.200}, expected a dict with the keys {sorted(space.spaces)}")
        for key in sorted(space.spaces):
            yield from leaf_values(space.spaces[key], value[key])
    elif isinstance(space, Tuple):
        if not isinstance(value, Sequence) or len(value) != len(space.spaces):
            raise TypeError(f"value: got {value!r:.200}, expected {len(space.spaces)} parts for {space}")
        for part, part_value in zip(space.spaces, value, strict=True):
            yield from leaf_values(part, part_value)
    else:
        yield value


def nest(space: Space[Any], values: Iterable[Any]) -> Any:
    """The inverse of `leaf_values`: values of the leaves, nested like the space."""
    values = iter(values)
    if isinstance(space, Dict):
        return {key: nest(space.spaces[key], values) for key in sorted(space.spaces)}
    if isinstance(space, Tuple):
        return tuple(nest(part, values) for part in space.spaces)
    return next(values)


def _from_array(leaf: Space[Any], array: Any, dtype: torch.dtype, device: torch.device | str) -> Num[Tensor, "V R"]:
    return torch.tensor(np.asarray(array), dtype=dtype, device=device).reshape(len(array), row_size(leaf))


def _to_array(leaf: Space[Any], columns: Num[Tensor, "V R"]) -> NDArray[Any]:
    return columns.numpy().astype(leaf.dtype).reshape(len(columns), *(leaf.shape or ()))
