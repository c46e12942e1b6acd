"""Fully connected layers of E networks on a CPU, by the kernels of `fully_connected.cpp`. Everything is float32."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from layeredrl.nets.bounded_features import Bound, BoundedFeatures
from layeredrl.nets.memory import Reserve
from layeredrl.nets.native.library import Int, Kernel, Pointer, addresses, numbers, refuse_second_derivatives

# For what is kept for the way back.
_RESERVE = Reserve()
# That the kernels know, by their numbers.
ACTIVATIONS = (nn.SiLU, nn.ReLU)

_NETWORKS = [*[Int] * 3, *[Pointer] * 2]
_count_padded = Kernel("fully_connected_padded", [*[Int] * 3, Pointer], returned=Int)
_run_forward = Kernel("fully_connected_forward", [*_NETWORKS, Pointer, ctypes.c_int, *[Pointer] * 6, ctypes.c_int])
_run_backward = Kernel(
    "fully_connected_backward", [*_NETWORKS, *[Pointer] * 2, ctypes.c_bool, *[Pointer] * 6, ctypes.c_int]
)


def fully_connected(
    x: Float[Tensor, "E R F"],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activation: int,
    bounds: Float[Tensor, "n_out 3"] | None = None,
) -> Float[Tensor, "E n_out R"]:
    """Linear layers with an activation between each two, as one operation.

    Args:
        x: rows.
        weights, biases: of each layer, `(E, out, in)` and `(E, out)`; no bias: None.
        activation: its index among `ACTIVATIONS`.
        bounds: of what comes out, see `as_bounds`; None: none.

    Returns:
        Rows that stand upright. They can be differentiated once.
    """
    if torch.is_grad_enabled():
        return _FullyConnected.apply(x, activation, bounds, *weights, *biases)
    return torch.ops.layeredrl.fully_connected(x, weights, biases, activation, bounds, False)[0]


def as_bounds(layer: BoundedFeatures) -> Float[Tensor, "n_out 3"]:
    """Low, height and middle of each feature's bound; no height: it has none."""
    bounds = torch.tensor([bound or Bound(height=0.0) for bound in layer.bounds], dtype=torch.float32, device="cpu")
    return bounds.repeat_interleave(torch.tensor(layer.sizes), dim=0)


class _FullyConnected(torch.autograd.Function):
    """Its arguments: rows, the index of the activation, bounds, all weights, all biases."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: int, bounds: Tensor | None, *tensors: Any) -> Tensor:
        n_layers = len(tensors) // 2
        weights, biases = tensors[:n_layers], tensors[n_layers:]
        out, kept = torch.ops.layeredrl.fully_connected(x, weights, biases, activation, bounds, True)
        ctx.n_rows, ctx.has_bias = x.shape[1], [bias is not None for bias in biases]
        ctx.is_bounded = bounds is not None
        ctx.save_for_backward(kept, *weights)
        return out

    @staticmethod
    def backward(ctx: Any, of_out: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        kept, *weights = ctx.saved_tensors
        weights = [weight.contiguous() for weight in weights]
        sizes, n_members = _sizes(weights), len(of_out)
        padded = _count_padded(n_members, ctx.n_rows, len(weights), numbers(sizes))
        of_sums = _RESERVE.empty(n_members * padded * sum(sizes))
        of_weights = [torch.empty_like(weight) for weight in weights]
        of_biases = [
            w.new_empty(w.shape[:2]) if has else None for w, has in zip(weights, ctx.has_bias, strict=True)
        ]
        of_x = kept.new_empty(n_members, sizes[0], ctx.n_rows) if ctx.needs_input_grad[0] else None
        _run_backward(
            n_members,
            ctx.n_rows,
            len(weights),
            numbers(sizes),
            addresses(weights),
            kept[0].data_ptr(),
            kept[1].data_ptr(),
            ctx.is_bounded,
            of_out.data_ptr(),
            numbers(of_out.mT.stride()),
            of_sums.data_ptr(),
            addresses(of_weights),
            addresses(of_biases),
            None if of_x is None else of_x.data_ptr(),
            torch.get_num_threads(),
        )
        return None if of_x is None else of_x.mT, None, None, *of_weights, *of_biases


def _forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    activation: int,
    bounds: Tensor | None,
    keep: bool,
) -> list[Tensor]:
    """The operator `layeredrl::fully_connected`: one, so that profilers and the like can see it.

    Returns:
        Upright rows; and, if asked to keep them, what goes into each layer, and the slopes of the activations and
        bounds behind each, in the kernels' own order.
    """
    weights = [weight.contiguous() for weight in weights]
    biases = [None if bias is None else bias.contiguous() for bias in biases]
    sizes, (n_members, n_rows, _) = _sizes(weights), x.shape
    out = x.new_empty(n_members, sizes[-1], n_rows)
    padded = _count_padded(n_members, n_rows, len(weights), numbers(sizes)) if keep else 0
    kept = _RESERVE.empty(2 * n_members * padded * sum(sizes)).view(2, -1) if keep else None
    _run_forward(
        n_members,
        n_rows,
        len(weights),
        numbers(sizes),
        addresses(weights),
        addresses(biases),
        activation,
        None if bounds is None else bounds.data_ptr(),
        x.data_ptr(),
        numbers(x.stride()),
        None if kept is None else kept[0].data_ptr(),
        None if kept is None else kept[1].data_ptr(),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return [out] if kept is None else [out, kept]


# `torch.library.custom_op` would take longer for all of that, and at each call too.
_LIBRARY = torch.library.Library("layeredrl", "FRAGMENT")
_LIBRARY.define(
    "fully_connected(Tensor x, Tensor[] weights, Tensor?[] biases, int activation, Tensor? bounds, bool keep)"
    " -> Tensor[]"
)
_LIBRARY.impl("fully_connected", _forward, "CPU")


def _sizes(weights: Sequence[Tensor]) -> list[int]:
    """Of the inputs, and of the outputs of each layer."""
    return [weights[0].shape[2], *(weight.shape[1] for weight in weights)]
