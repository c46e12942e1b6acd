"""A step of AdamW for E members with clipped gradients, by the kernel of `adamw.cpp`. Everything is float32."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from layeredrl.nets.native.library import Int, Kernel, Pointer, addresses, numbers

_step = Kernel("adamw_step", [*[Int] * 2, *[Pointer] * 6, *[ctypes.c_double] * 6, ctypes.c_int])


def step_adamw(
    parameters: Sequence[Tensor],
    gradients: Sequence[Tensor],
    means: Sequence[Tensor],
    squares: Sequence[Tensor],
    n_steps: Sequence[Tensor],
    *,
    max_norm: float,
    lr: float,
    weight_decay: float,
    eps: float,
    beta1: float,
    beta2: float,
) -> None:
    """Change everything but gradients in place.

    Args:
        parameters: with a leading axis E; all tensors are contiguous.
        gradients, means, squares: of each parameter, and of its gradients so far.
        n_steps: how many there were, a number for each parameter.
        max_norm: that the gradient of each member is scaled to, at most.
        lr, weight_decay, eps, beta1, beta2: as torch's AdamW has them.
    """
    n_members = len(parameters[0])
    _step(
        n_members,
        len(parameters),
        numbers([parameter.numel() // n_members for parameter in parameters]),
        addresses(parameters),
        addresses(gradients),
        addresses(means),
        addresses(squares),
        addresses(n_steps),
        max_norm,
        lr,
        weight_decay,
        eps,
        beta1,
        beta2,
        torch.get_num_threads(),
    )
