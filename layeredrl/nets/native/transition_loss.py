"""How well members explain their transitions, by the kernels of `transition_loss.cpp`. Everything is float32."""

import ctypes
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from layeredrl.nets.native.library import Int, Kernel, Pointer, refuse_second_derivatives


class _Rows(ctypes.Structure):
    """As the kernels know it."""

    _fields_ = (
        *((name, Int) for name in ("n_members", "n_rows", "n_targets")),
        ("said", Pointer),
        ("said_steps", 2 * Int),
        ("target", Pointer),
        ("target_steps", 2 * Int),
        ("terminated", Pointer),
        ("terminated_steps", 2 * Int),
        ("max_score", ctypes.c_float),
    )


_run_forward = Kernel("transition_loss_forward", [*[Pointer] * 3, ctypes.c_int])
_run_backward = Kernel("transition_loss_backward", [*[Pointer] * 4, ctypes.c_int])


def transition_loss(
    said: Float[Tensor, "E R F"], target: Float[Tensor, "E R S"], terminated: Bool[Tensor, "E R"], max_score: float
) -> tuple[Float[Tensor, "E R"], Float[Tensor, "E R"]]:
    """−log density of targets under Gaussians and binary cross-entropy of ends, as one operation.

    Args:
        said: by members of rows: S means and S standard deviations, the weight of their only mode, which doesn't
            matter, and the probability of an end. Fastest for rows that stand upright.
        target, terminated: what happened.
        max_score: how many standard deviations a target counts as being off, at most.

    Returns:
        Both, for each row. They can be differentiated once.
    """
    assert said.shape[-1] == 2 * target.shape[-1] + 2
    tensors = _side_by_side(said, dim=1), _side_by_side(target, dim=2), terminated
    if torch.is_grad_enabled():
        return _TransitionLoss.apply(max_score, *tensors)
    return _forward(max_score, *tensors)


class _TransitionLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, max_score: float, said: Tensor, target: Tensor, terminated: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.max_score = max_score
        ctx.save_for_backward(said, target, terminated)
        return _forward(max_score, said, target, terminated)

    @staticmethod
    def backward(ctx: Any, of_nll: Tensor, of_termination_loss: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        of_nll, of_termination_loss = of_nll.contiguous(), of_termination_loss.contiguous()
        said, target, terminated = ctx.saved_tensors
        of_said = said.new_empty(said.mT.shape).mT
        _run_backward(
            ctypes.byref(_rows(ctx.max_score, said, target, terminated)),
            of_nll.data_ptr(),
            of_termination_loss.data_ptr(),
            of_said.data_ptr(),
            torch.get_num_threads(),
        )
        of_target = -of_said[..., : target.shape[-1]] if ctx.needs_input_grad[2] else None
        return None, of_said, of_target, None


def _forward(max_score: float, said: Tensor, target: Tensor, terminated: Tensor) -> tuple[Tensor, Tensor]:
    nll, termination_loss = said.new_empty(terminated.shape), said.new_empty(terminated.shape)
    rows = ctypes.byref(_rows(max_score, said, target, terminated))
    _run_forward(rows, nll.data_ptr(), termination_loss.data_ptr(), torch.get_num_threads())
    return nll, termination_loss


def _rows(max_score: float, said: Tensor, target: Tensor, terminated: Tensor) -> _Rows:
    return _Rows(
        *target.shape,
        said.data_ptr(),
        said.stride()[::2],
        target.data_ptr(),
        target.stride()[:2],
        terminated.data_ptr(),
        terminated.stride(),
        max_score,
    )


def _side_by_side(x: Tensor, dim: int) -> Tensor:
    """The same numbers, those along an axis side by side in memory."""
    return x if x.stride(dim) == 1 else x.movedim(dim, -1).contiguous().movedim(-1, dim)
