"""Fully connected layers of E networks on a CPU, by the kernel of `fully_connected.cpp`."""

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layeredrl.nets.native import load_library

# That the kernel knows, by their numbers.
ACTIVATIONS = (nn.SiLU, nn.ReLU)

_Int, _Pointer = ctypes.c_int64, ctypes.c_void_p
_ARGUMENTS: list[Any] = [*[_Int] * 3, *[_Pointer] * 3, ctypes.c_int, *[_Pointer] * 3, ctypes.c_int]


@torch.library.custom_op("layeredrl::fully_connected", mutates_args=(), device_types="cpu")
def fully_connected(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], activation: int
) -> Tensor:
    """Linear layers with one activation between them, without gradients: an operator, so that profilers see it.

    Args:
        x: `(E, R, in)`. It is float32, as are all.
        weights, biases: of each layer, `(E, out, in)` and `(E, out)`; no bias: None.
        activation: its index among `ACTIVATIONS`.

    Returns:
        Upright rows `(E, out, R)`.
    """
    sizes = weights[0].shape[2], *(weight.shape[1] for weight in weights)
    weights = [weight.contiguous() for weight in weights]
    biases = [None if bias is None else bias.contiguous() for bias in biases]
    out = x.new_empty(len(x), sizes[-1], x.shape[1])
    _kernel()(
        len(x),
        x.shape[1],
        len(weights),
        (_Int * len(sizes))(*sizes),
        _addresses(weights),
        _addresses(biases),
        activation,
        x.data_ptr(),
        (_Int * 3)(*x.stride()),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def kernel_works() -> bool:
    """Whether the kernel can run on this machine; the first call compiles it, which takes some seconds."""
    return _kernel() is not None


@cache
def _kernel() -> Any:
    library = load_library(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    kernel: Any = library.fully_connected
    kernel.restype, kernel.argtypes = None, _ARGUMENTS
    return kernel


def _addresses(tensors: Sequence[Tensor | None]) -> Any:
    return (_Pointer * len(tensors))(*(None if tensor is None else tensor.data_ptr() for tensor in tensors))
