"""The optimizer of members that learn side by side."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.optim.adamw import adamw

from layeredrl.nets.native.adamw import step_adamw
from layeredrl.nets.native.library import kernels_serve


class MemberAdamW(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter 2019) that first scales the gradient of each member to at most some norm.

    So a member learns as it would alone, however large the gradients of others are. What it keeps in its
    `state_dict` has the names and shapes of torch's own. Gradients may be left scaled, or not.

    Args:
        parameters: contiguous, with a leading axis E.
        learning_rate, weight_decay: of AdamW.
        max_norm: of a member's gradient, over all of its parameters.
        compile: whether a step on a CPU is to be one operation, by a kernel that reads everything once; where there
            is a C++ compiler.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        learning_rate: float,
        weight_decay: float,
        max_norm: float,
        compile: bool = False,
    ):
        parameters = list(parameters)
        if not all(parameter.is_contiguous() for parameter in parameters):
            raise ValueError("parameters: got some that are not contiguous, expected none")
        settings = {"lr": learning_rate, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": weight_decay}
        # Torch looks for `fused` when it loads a state: the numbers of steps then lie where the parameters do.
        super().__init__(parameters, {**settings, "max_norm": max_norm, "compile": compile, "fused": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._step(group, parameters, [parameter.grad.contiguous() for parameter in parameters])
        return loss

    def _step(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        states = [self._get_state(parameter) for parameter in parameters]
        means, squares, n_steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        tensors = parameters, gradients, means, squares
        beta1, beta2 = group["betas"]
        settings: dict[str, Any] = {name: group[name] for name in ("lr", "weight_decay", "eps")}
        settings |= {"beta1": beta1, "beta2": beta2}
        if group["compile"] and kernels_serve(*parameters):
            step_adamw(*tensors, n_steps, max_norm=group["max_norm"], **settings)
        else:
            _clip_members(gradients, group["max_norm"])
            settings |= {"fused": group["fused"], "amsgrad": False, "maximize": False}
            adamw(*tensors, [], n_steps, **settings)

    def _get_state(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state


def _clip_members(gradients: list[Tensor], max_norm: float) -> None:
    """Scale the gradient of each member, whose parts share the leading axis E, to at most `max_norm`."""
    parts = [vector_norm(gradient.view(len(gradient), -1), dim=1) for gradient in gradients]
    norms = torch.stack(parts).norm(dim=0)
    # On a CPU, to look takes a fraction of multiplying; on a GPU, it would have to be waited for.
    if norms.device.type == "cpu" and bool((norms <= max_norm).all()):
        return
    scale = (max_norm / norms.clamp_min(torch.finfo(norms.dtype).tiny)).clamp_max(1.0)
    torch._foreach_mul_(gradients, [scale.view(-1, *[1] * (gradient.ndim - 1)) for gradient in gradients])
