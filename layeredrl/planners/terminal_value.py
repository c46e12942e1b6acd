"""What is still to come where a plan ends."""

import torch
from jaxtyping import Float, Num
from torch import Tensor

from layeredrl.policies.model import Model


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
        """Values; NaN for states that aren't finite, as those of particles that have broken down."""
        inputs = {"observations": state} if context is None else {"observations": state, "context": context}
        # Not `act`, which refuses NaN: a plan may lead anywhere, and then it has no value.
        value, _ = self.model.compute(inputs, role=self.role)
        if value.shape != (len(state), 1):
            raise ValueError(
                f"model: got values of shape {tuple(value.shape)}, expected ({len(state)}, 1), one per state"
            )
        return torch.where(state.isfinite().all(dim=-1), value.squeeze(-1), torch.nan)
