"""Model-predictive control: plan, execute the first actions, plan anew."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from layeredrl.agents.agent import Agent
from layeredrl.planners.candidates import Objective
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.planner import Plan, Planner, PlannerState

# (states, contexts, source of noise) -> plans to try
Proposals = Callable[
    [Float[Tensor, "V S"], Num[Tensor, "V C"] | None, torch.Generator | None], Num[Tensor, "V K H A"]
]


@runtime_checkable
class StateObjective(Protocol):
    """What makes the objective of plans that start in the given states, as `ModelObjective` does."""

    def __call__(
        self,
        state: Float[Tensor, "V S"],
        context: Num[Tensor, "V C"] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Objective: ...


class MPCAgent(Agent):
    """Plans again and again, from where the last plan left off.

    The number of environments is that of the first `act`; it can change whenever all are new.

    Args:
        planner: how to search.
        objective: what a plan is worth: a `ModelObjective`, or anything that is called alike.
        proposals: plans to try beside those that are drawn, such as a policy's (`PolicyProposals`).
        replan_every: steps of a plan that are executed, a multiple of the planner's `action_repeat`. None: as many
            as that.
        generator: source of all noise, in the search, in the model and in the proposals.
    """

    def __init__(
        self,
        planner: Planner,
        objective: StateObjective,
        *,
        proposals: Proposals | None = None,
        replan_every: int | None = None,
        generator: torch.Generator | None = None,
    ):
        replan_every = planner.action_repeat if replan_every is None else replan_every
        is_count = isinstance(replan_every, int) and 1 <= replan_every <= planner.horizon
        if not is_count or replan_every % planner.action_repeat:
            raise ValueError(
                f"replan_every: got {replan_every}, expected a multiple of action_repeat={planner.action_repeat} "
                f"up to the horizon of {planner.horizon}"
            )
        if isinstance(objective, ModelObjective) and objective.model.action_space != planner.action_space:
            raise ValueError(
                f"planner: got one for {planner.action_space}, expected {objective.model.action_space}, as has the "
                "objective's model"
            )
        self.planner, self.objective, self.proposals = planner, objective, proposals
        self.replan_every, self.generator = replan_every, generator
        # Where the next search starts, the plan that is executed, and how many of its steps were, by environment.
        self.state: PlannerState | None = None
        self.plan: Plan | None = None
        self.age: Int[Tensor, " V"] | None = None

    def act(
        self, state: Float[Tensor, "V S"], context: Num[Tensor, "V C"] | None = None
    ) -> tuple[Num[Tensor, "V A"], dict[str, Float[Tensor, " V"]]]:
        """The actions to execute now, and figures about the plans they belong to.

        These are the plans' `value`, how many steps of them were executed before (`plan_age`), the planner's
        diagnostics and, if the objective has a terminal value, that of the present states (`terminal_value`).
        """
        if self.age is not None and len(self.age) != len(state):
            raise ValueError(
                f"state: got {len(state)} environments, expected {len(self.age)} as before; "
                "call reset() without a mask when all environments are new"
            )
        self._replan(state, context)
        assert self.plan is not None
        assert self.age is not None
        action = self.plan.actions[torch.arange(len(state), device=state.device), self.age]
        figures = {"value": self.plan.value, "plan_age": self.age.to(self.plan.value), **self.plan.diagnostics}
        if isinstance(self.objective, ModelObjective) and self.objective.terminal_value is not None:
            with torch.no_grad():
                figures["terminal_value"] = self.objective.terminal_value(state, context)
        self.age = self.age + 1
        return action, figures

    def reset(self, mask: Bool[Tensor, " V"] | None = None) -> None:
        """Forget the environments where `mask` is True; None: all, and their number."""
        if mask is None:
            self.state = self.plan = self.age = None
        elif self.state is not None and self.age is not None:
            self.state = self.planner.reset(self.state, mask)
            self.age = torch.where(mask, self.replan_every, self.age)

    def _replan(self, state: Float[Tensor, "V S"], context: Num[Tensor, "V C"] | None) -> None:
        """Search for those environments whose plan is used up."""
        if self.state is None or self.plan is None or self.age is None:
            plan = self._search(state, context, self.planner.init(len(state)))
            self.state, self.plan = self.planner.shift(plan.state, self.replan_every), plan
            self.age = torch.zeros(len(state), dtype=torch.long, device=state.device)
            return
        due = (self.age >= self.replan_every).nonzero().squeeze(-1)
        if not len(due):
            return
        plan = self._search(state[due], None if context is None else context[due], self.state[due])
        self.state = self.state.replaced(due, self.planner.shift(plan.state, self.replan_every))
        self.plan = self.plan.replaced(due, plan)
        self.age = self.age.index_fill(0, due, 0)

    def _search(
        self, state: Float[Tensor, "V S"], context: Num[Tensor, "V C"] | None, planner_state: PlannerState
    ) -> Plan:
        objective = self.objective(state, context, generator=self.generator)
        proposals = None if self.proposals is None else self.proposals(state, context, self.generator)
        return self.planner.plan(objective, planner_state, proposals=proposals, generator=self.generator)
