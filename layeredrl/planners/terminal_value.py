"""What is still to come where a plan ends."""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float, Num
from torch import Tensor

from layeredrl.policies.model import Model

# (states, their contexts) -> what they are worth; rows
ValueFunction = Callable[[Float[Tensor, "R S"], Num[Tensor, "R C"] | None], Float[Tensor, " R"]]


class TerminalValue:
    """Values of states by a value model of `layeredrl.policies`, which reads them as `inputs["observations"]`.

    Args:
        model: a deterministic model with one output, in evaluation mode.
        role: to act in.
    """

    def __init__(self, model: Model, role: str = "value"):
        if not isinstance(model, Model):
            raise TypeError(f"model: got {type(model).__name__}, expected a layeredrl.policies Model")
        self.model, self.role = model, role

    def __call__(self, state: Float[Tensor, "R S"], context: Num[Tensor, "R C"] | None) -> Float[Tensor, " R"]:
        """Values; NaN for states that aren't finite, as particles that have broken down are."""
        finite = state.isfinite().all(dim=-1)
        inputs = {"observations": torch.where(rearrange(finite, "r -> r 1"), state, 0.0)}
        if context is not None:
            inputs["context"] = context
        value, _ = self.model.act(inputs, role=self.role)
        return torch.where(finite, rearrange(value, "r 1 -> r"), torch.nan)
