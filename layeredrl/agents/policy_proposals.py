"""Plans that a policy makes in a learned model, for a planner to improve on."""

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Num
from torch import Tensor

from layeredrl.agents.policy_rollout import rollout_policy
from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.policies.model import Model


class PolicyProposals:
    """What a policy does in each particle of a model, as proposals to a planner (POPLIN-A, TD-MPC).

    Particles differ by their member, by the noise of the dynamics and by that of the policy, so that they give E·P
    proposals per rollout, E being the number of elites.

    Args:
        model: to act in.
        policy: of the model's spaces; in evaluation mode, if it is recurrent.
        horizon: length of the proposals, the planner's.
        n_rollouts: from each state.
    """

    def __init__(self, model: ProbabilisticEnsemble, policy: Model, horizon: int, *, n_rollouts: int = 1):
        if n_rollouts < 1:
            raise ValueError(f"n_rollouts: got {n_rollouts}, expected at least 1")
        self.model, self.policy, self.horizon, self.n_rollouts = model, policy, horizon, n_rollouts

    @torch.no_grad()
    def __call__(
        self, state: Float[Tensor, "V S"], context: Num[Tensor, "V C"] | None, generator: torch.Generator | None
    ) -> Num[Tensor, "V K H A"]:
        """Proposals from each state."""
        n = self.n_rollouts
        states = repeat(state, "v s -> (v n) s", n=n)
        contexts = None if context is None else repeat(context, "v c -> (v n) c", n=n)
        rollout = rollout_policy(self.model, states, contexts, self.policy, self.horizon, generator=generator)
        return rearrange(rollout.action, "(v n) e p h a -> v (n e p) h a", n=n)
