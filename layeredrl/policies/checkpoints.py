"""Read tensors from files without ever running what a pickle asks for."""

import io
import pickle
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Tensors = dict[str, Tensor]

# rl_games keeps its best reward beside the weights, as a NumPy number. These make such numbers and nothing else.
NUMPY_NUMBERS: list[Any] = [
    (np.float32(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float32(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float16", "float32", "float64", "int32", "int64", "bool")),
]


def read_state_dict(path: str | PathLike[str], device: torch.device) -> Tensors:
    """Tensors by name, as `torch.save(module.state_dict(), path)` wrote them.

    Raises:
        ValueError: the file holds anything else; none of it was executed.
    """
    return _as_tensors(_read(path, path, device), path)


def read_external(path: str | PathLike[str], device: torch.device) -> Tensors:
    """The weights in an rl_games checkpoint (.pth, .pt) or a stable-baselines3 archive (.zip).

    Raises:
        ValueError: another kind of file, or one that holds more than weights and plain numbers.
    """
    suffix = Path(path).suffix
    if suffix == ".zip":
        return _as_tensors(_read_from_archive(path, device), path)
    if suffix not in (".pth", ".pt"):
        raise ValueError(
            f"path: got {str(path)!r}, expected a .pth or .pt of rl_games or a .zip of stable-baselines3"
        )
    content = _read(path, path, device, numpy_numbers=True)
    return _as_tensors(content["model"] if isinstance(content, Mapping) and "model" in content else content, path)


def check_same_tensors(argument: str, expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    """Raise a ValueError unless both have the same names and shapes, and none is lazy."""
    for name in (*expected, *got):
        if any(name in tensors and is_lazy(tensors[name]) for tensors in (expected, got)):
            raise ValueError(f"{argument}: got the lazy parameter {name!r}, which init_state_dict has to make real")
        shapes = [tuple(tensors[name].shape) if name in tensors else "nothing" for tensors in (got, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"{argument}: got {shapes[0]} for {name!r}, expected {shapes[1]}")


def named_tensors(module: nn.Module) -> Tensors:
    """Parameters and buffers by name."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _read_from_archive(path: str | PathLike[str], device: torch.device) -> object:
    try:
        with zipfile.ZipFile(path) as archive:
            weights = archive.read("policy.pth")
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"path: got {str(path)!r}, expected an archive with a policy.pth inside: {error}"
        ) from None
    return _read(io.BytesIO(weights), path, device)


def _read(
    source: str | PathLike[str] | io.BytesIO,
    path: str | PathLike[str],
    device: torch.device,
    *,
    numpy_numbers: bool = False,
) -> object:
    allowed = torch.serialization.safe_globals(NUMPY_NUMBERS) if numpy_numbers else nullcontext()
    try:
        with allowed:
            return torch.load(source, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else "it is cut off"
        raise ValueError(f"path: got {str(path)!r}, expected a file of weights alone: {reason}") from None


def _as_tensors(content: object, path: str | PathLike[str]) -> Tensors:
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"path: got {str(path)!r}, which holds no dict of tensors; expected tensors by name")
    return dict(content)
