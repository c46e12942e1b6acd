"""The checks of what a model is asked."""

import torch
from jaxtyping import Float
from torch import Tensor

from layeredrl.models.model import Model
from layeredrl.spaces import check_rows


def check_query(model: Model, state: Tensor, context: Tensor | None, action: Tensor) -> torch.Size:
    """Check rows of states, contexts and actions; their leading dims."""
    device = model.device
    check_rows("state", state, model.state_space, device=device)
    leading = state.shape[:-1]
    check_rows("context", context, model.context_space, leading=leading, device=device)
    check_rows("action", action, model.action_space, leading=leading, device=device, contained=True)
    return leading


def check_rollout(model: Model, initial_state: Tensor, context: Tensor | None, actions: Tensor) -> None:
    """Check initial states, their contexts, and sequences of actions."""
    check_rows("actions", actions, model.action_space, device=model.device, contained=True)
    if actions.ndim != 3 or actions.shape[1] == 0:
        raise ValueError(f"actions: got shape {tuple(actions.shape)}, expected (B, H, A) with H of at least 1")
    leading = (len(actions),)
    check_rows("initial_state", initial_state, model.state_space, leading=leading, device=model.device)
    check_rows("context", context, model.context_space, leading=leading, device=model.device)


def broadcast_std(std: float | Tensor, mean: Float[Tensor, "*batch E M S"]) -> Float[Tensor, "*batch E M S"]:
    """A given standard deviation for every mode; a ValueError unless it is positive and broadcasts."""
    std = torch.as_tensor(std, dtype=mean.dtype, device=mean.device)
    if not bool((std > 0).all()):
        raise ValueError(f"std: got {std.min().item()}, expected positive numbers")
    try:
        return std.expand_as(mean)
    except RuntimeError:
        raise ValueError(
            f"std: got shape {tuple(std.shape)}, expected what broadcasts to {tuple(mean.shape)}"
        ) from None
