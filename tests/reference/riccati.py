"""Linear-quadratic regulation, solved by the plain backward recursion (e.g. Bertsekas 2017, section 3.1)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearQuadratic:
    """x' = A x + B u, at the cost Σ x'ᵀ Q x' + uᵀ R u over all steps (x' is the state after each)."""

    A: Tensor
    B: Tensor
    Q: Tensor
    R: Tensor

    def cost(self, state: Tensor, actions: Tensor) -> Tensor:
        """Of sequences `(…, H, A)` from states `(…, S)`, step by step."""
        total = torch.zeros(())
        for action in actions.unbind(dim=-2):
            state = state @ self.A.T + action @ self.B.T
            total = total + ((state @ self.Q) * state).sum(-1) + ((action @ self.R) * action).sum(-1)
        return total

    def optimal_actions(self, state: Tensor, horizon: int) -> Tensor:
        """The best unconstrained sequence `(H, A)` from one state `(S,)`."""
        gains = []
        later = torch.zeros_like(self.Q)
        for _ in range(horizon):
            P = self.Q + later  # cost-to-go of the state after the step
            K = torch.linalg.solve(self.R + self.B.T @ P @ self.B, self.B.T @ P @ self.A)
            later = K.T @ self.R @ K + (self.A - self.B @ K).T @ P @ (self.A - self.B @ K)
            gains.insert(0, K)
        actions = []
        for K in gains:
            actions.append(-K @ state)
            state = self.A @ state + self.B @ actions[-1]
        return torch.stack(actions)


DOUBLE_INTEGRATOR = LinearQuadratic(
    A=torch.tensor([[1.0, 0.1], [0.0, 1.0]]),
    B=torch.tensor([[0.005], [0.1]]),
    Q=torch.diag(torch.tensor([1.0, 0.1])),
    R=torch.tensor([[0.05]]),
)
