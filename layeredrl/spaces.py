"""Gymnasium spaces as flat tensors: sizes, one-hot codes, bounds, conversion, and the checks at every entry.

A *row* is how a value of the space is kept in a tensor: Box values flattened, in floating point; Discrete values
as the environment counts them (from `start`), one integer. *Features* are what a network reads: the row of a Box,
a one-hot code of a Discrete.
"""

from typing import Any

import numpy as np
import torch
from einops import rearrange
from gymnasium.spaces import Box, Discrete, Space
from jaxtyping import Float, Int, Num
from numpy.typing import NDArray
from torch import Tensor

# Actions may leave a Box by this share of its width: float32 arithmetic does.
BOUNDS_TOLERANCE = 1e-5


def check_space(name: str, space: object, *, optional: bool = False) -> None:
    """Raise a TypeError unless `space` is a Box or Discrete (or None, where `optional`)."""
    if space is None and optional:
        return
    if not isinstance(space, Box | Discrete):
        expected = "a gymnasium Box or Discrete" + (" or None" if optional else "")
        raise TypeError(f"{name}: got {space!r}, expected {expected}")


def row_size(space: Space[Any] | None) -> int:
    """Length of a row: the elements of a Box, 1 for a Discrete, 0 for None."""
    if isinstance(space, Box):
        return int(np.prod(space.shape))
    return 0 if space is None else 1


def feature_size(space: Space[Any] | None) -> int:
    """Length of the features: the elements of a Box, n for a Discrete, 0 for None."""
    return int(space.n) if isinstance(space, Discrete) else row_size(space)


def features(space: Space[Any], row: Num[Tensor, "*batch R"]) -> Float[Tensor, "*batch F"]:
    """What a network reads: rows of a Box as they are, values of a Discrete one-hot."""
    if isinstance(space, Discrete):
        index = rearrange(row, "... 1 -> ...") - int(space.start)
        return torch.nn.functional.one_hot(index.long(), int(space.n)).to(torch.get_default_dtype())
    return row


def bounds(space: Box, device: torch.device | str = "cpu") -> tuple[Float[Tensor, " R"], Float[Tensor, " R"]]:
    """Lowest and highest row of a Box: float32 numbers inside its bounds, even if these are float64."""
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    low = np.where(low < space.low, np.nextafter(low, np.float32(np.inf)), low)
    high = np.where(high > space.high, np.nextafter(high, np.float32(-np.inf)), high)
    return torch.tensor(low.flatten(), device=device), torch.tensor(high.flatten(), device=device)


def to_rows(
    space: Space[Any], values: NDArray[Any], device: torch.device | str = "cpu"
) -> Float[Tensor, "V R"] | Int[Tensor, "V 1"]:
    """A batch of values, as a vector environment gives them, copied into rows."""
    dtype = torch.long if isinstance(space, Discrete) else torch.float32
    return torch.tensor(np.asarray(values), dtype=dtype, device=device).reshape(len(values), row_size(space))


def from_rows(space: Space[Any], rows: Num[Tensor, "V R"]) -> NDArray[Any]:
    """Rows as a batch of values that a vector environment takes."""
    array: NDArray[Any] = rows.detach().cpu().numpy().astype(space.dtype)
    return array.reshape(len(array), *(space.shape or ()))


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
        space: Box, Discrete or None.
        leading: the leading dims that the rows must have.
        device: where they must lie.
        contained: whether values outside the bounds of a Box are refused too, as they are for actions. Values
            outside a Discrete always are.

    Raises:
        TypeError: not a tensor, or of another dtype.
        ValueError: missing, superfluous, of another shape or device, not finite, or outside the space.
    """
    check_layout(name, value, space, leading=leading, device=device)
    if space is None or not isinstance(value, Tensor):
        return
    if not bool(torch.isfinite(value).all()):
        place = tuple((~torch.isfinite(value)).nonzero()[0].tolist())
        raise ValueError(f"{name}: got {value[place].item()} at index {place}, expected finite values")
    if contained or isinstance(space, Discrete):
        _check_contained(name, value, space)


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
    _check_dtype(name, value, space)
    expected = (*(leading if leading is not None else value.shape[:-1]), row_size(space))
    if tuple(value.shape) != expected:
        shape = ("…", row_size(space)) if leading is None else expected
        raise ValueError(f"{name}: got shape {tuple(value.shape)}, expected ({', '.join(map(str, shape))})")
    if device is not None and value.device != device:
        raise ValueError(f"{name}: got device {value.device}, expected {device}")


def _check_dtype(name: str, value: Tensor, space: Space[Any]) -> None:
    if isinstance(space, Discrete):
        if value.is_floating_point() or value.dtype == torch.bool:
            raise TypeError(f"{name}: got dtype {value.dtype}, expected integers for {space}")
    elif value.dtype != torch.get_default_dtype():
        raise TypeError(f"{name}: got dtype {value.dtype}, expected {torch.get_default_dtype()} for {space}")


def _check_contained(name: str, value: Tensor, space: Space[Any]) -> None:
    if isinstance(space, Discrete):
        low = torch.tensor(int(space.start), device=value.device)
        high = low + int(space.n) - 1
        outside = (value < low) | (value > high)
    else:
        assert isinstance(space, Box)
        low, high = bounds(space, value.device)
        slack = BOUNDS_TOLERANCE * (high - low).nan_to_num(nan=0.0, posinf=0.0)
        outside = (value < low - slack) | (value > high + slack)
    if bool(outside.any()):
        place = tuple(outside.nonzero()[0].tolist())
        raise ValueError(f"{name}: got {value[place].item()} at index {place}, expected values inside {space}")
