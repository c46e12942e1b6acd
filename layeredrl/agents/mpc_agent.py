"""Model-predictive control: plan at every step, execute the first action."""

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from layeredrl.agents.agent import Agent
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.planner import Planner, PlannerState


class MPCAgent(Agent):
    """Plans anew at every step, from where the last plan left off.

    The number of environments is that of the first `act`; it can change whenever all are new.

    Args:
        planner: how to search.
        objective: what a plan is worth.
        generator: source of all noise, in the search and in the model.
    """

    def __init__(self, planner: Planner, objective: ModelObjective, *, generator: torch.Generator | None = None):
        self.planner, self.objective, self.generator = planner, objective, generator
        self.state: PlannerState | None = None

    def act(
        self, state: Float[Tensor, "V S"], context: Num[Tensor, "V C"] | None = None
    ) -> tuple[Num[Tensor, "V A"], dict[str, Float[Tensor, " V"]]]:
        """The first actions of the plans, their `value`, and the planner's diagnostics."""
        planner_state = self.planner.init(len(state)) if self.state is None else self.state
        if len(planner_state.mean) != len(state):
            raise ValueError(
                f"state: got {len(state)} environments, expected {len(planner_state.mean)} as before; "
                "call reset() without a mask when all environments are new"
            )
        objective = self.objective(state, context, generator=self.generator)
        plan = self.planner.plan(objective, planner_state, generator=self.generator)
        self.state = self.planner.shift(plan.state)
        return plan.actions[:, 0], {"value": plan.value, **plan.diagnostics}

    def reset(self, mask: Bool[Tensor, " V"] | None = None) -> None:
        """Forget the environments where `mask` is True; None: all, and their number."""
        if mask is None:
            self.state = None
        elif self.state is not None:
            self.state = self.planner.reset(self.state, mask)
