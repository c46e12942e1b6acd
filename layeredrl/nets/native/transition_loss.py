"""How well members explain their transitions, by the kernels of `transition_loss.cpp`. Everything is float32."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layeredrl.nets.native.library import Int, Kernel, Pointer, refuse_second_derivatives

_STEPS = {"mean": 3, "std": 3, "term_prob": 2, "target": 3, "terminated": 2}


class _Rows(ctypes.Structure):
    """As the kernels know it."""

    _fields_ = (
        *((name, Int) for name in ("n_members", "n_rows", "n_features")),
        *((name, Pointer) for name in _STEPS),
        *((f"{name}_steps", n * Int) for name, n in _STEPS.items()),
        ("max_score", ctypes.c_float),
    )


_run_forward = Kernel("transition_loss_forward", [*[Pointer] * 3, ctypes.c_int])
_run_backward = Kernel("transition_loss_backward", [*[Pointer] * 6, ctypes.c_int])


def transition_loss(
    mean: Float[Tensor, "E R S"],
    std: Float[Tensor, "E R S"],
    term_prob: Float[Tensor, "E R"],
    target: Float[Tensor, "E R S"],
    terminated: Bool[Tensor, "E R"],
    *,
    max_score: float,
) -> tuple[Float[Tensor, "E R"], Float[Tensor, "E R"]]:
    """−log density of targets under Gaussians and binary cross-entropy of ends, as one operation.

    Args:
        mean, std, term_prob: what members say of rows. Fastest for rows that stand upright.
        target, terminated: what happened.
        max_score: how many standard deviations a target counts as being off, at most.

    Returns:
        Both, for each row. They can be differentiated once.
    """
    said = _side_by_side(mean, dim=1), _side_by_side(std, dim=1), _side_by_side(term_prob, dim=1)
    tensors = *said, _side_by_side(target, dim=2), terminated
    if torch.is_grad_enabled():
        return _TransitionLoss.apply(max_score, *tensors)
    return _forward(max_score, tensors)


class _TransitionLoss(torch.autograd.Function):
    """Its arguments: the largest score, and the tensors of `transition_loss` in their order."""

    @staticmethod
    def forward(ctx: Any, max_score: float, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        ctx.max_score = max_score
        ctx.save_for_backward(*tensors)
        return _forward(max_score, tensors)

    @staticmethod
    def backward(ctx: Any, of_nll: Tensor, of_termination_loss: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        of_nll, of_termination_loss = of_nll.contiguous(), of_termination_loss.contiguous()
        n_members, n_rows, n_features = ctx.saved_tensors[0].shape
        of_mean, of_std = of_nll.new_empty(2, n_members, n_features, n_rows).mT
        of_term_prob = torch.empty_like(of_nll)
        _run_backward(
            ctypes.byref(_rows(ctx.max_score, ctx.saved_tensors)),
            of_nll.data_ptr(),
            of_termination_loss.data_ptr(),
            of_mean.data_ptr(),
            of_std.data_ptr(),
            of_term_prob.data_ptr(),
            torch.get_num_threads(),
        )
        of_target = -of_mean if ctx.needs_input_grad[4] else None
        return None, of_mean, of_std, of_term_prob, of_target, None


def _forward(max_score: float, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    nll, termination_loss = tensors[0].new_empty(2, *tensors[0].shape[:2])
    rows = ctypes.byref(_rows(max_score, tensors))
    _run_forward(rows, nll.data_ptr(), termination_loss.data_ptr(), torch.get_num_threads())
    return nll, termination_loss


def _rows(max_score: float, tensors: Sequence[Tensor]) -> _Rows:
    pointers, steps = (tensor.data_ptr() for tensor in tensors), (tensor.stride() for tensor in tensors)
    return _Rows(*tensors[0].shape, *pointers, *steps, max_score)


def _side_by_side(x: Tensor, dim: int) -> Tensor:
    """The same numbers, those along an axis side by side in memory."""
    return x if x.stride(dim) == 1 else x.movedim(dim, -1).contiguous().movedim(-1, dim)
