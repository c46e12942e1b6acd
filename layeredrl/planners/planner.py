"""The abstract base of planners: they optimise sequences of actions against a function."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

import torch
from einops import repeat
from gymnasium.spaces import Space
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from layeredrl.planners.candidates import Objective, with_repeats
from layeredrl.planners.checks import check_count, check_share
from layeredrl.planners.refinement import GradientRefinement, refine
from layeredrl.planners.search_space import SearchSpace
from layeredrl.spaces import check_rows, check_space, clip


@dataclass(frozen=True)
class PlannerState:
    """What a planner carries from one step to the next, for each environment. D counts decisions, see `Planner`.

    Attributes:
        mean: of the search distribution, in features: for a choice, the probability of each category.
        elites: plans worth another try; K is 0 for planners that keep none.
        n_open: decisions at the end of the plans about which nothing is known yet.
    """

    mean: Float[Tensor, "V D F"]
    elites: Num[Tensor, "V K D A"]
    n_open: Int[Tensor, " V"]

    def __len__(self) -> int:
        return len(self.n_open)

    def __getitem__(self, index: Int[Tensor, " v"]) -> "PlannerState":
        """The states of some environments."""
        return PlannerState(*(getattr(self, field.name)[index] for field in fields(self)))

    def replaced(self, index: Int[Tensor, " v"], other: "PlannerState") -> "PlannerState":
        """These states, but those of some environments exchanged."""
        own_and_new = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return PlannerState(**{name: own.index_copy(0, index, new) for name, (own, new) in own_and_new.items()})

    def advanced(
        self, mean: Float[Tensor, "V D F"], elites: Num[Tensor, "V K D A"] | None = None
    ) -> "PlannerState":
        """The states after a search, which leaves nothing open."""
        return PlannerState(mean, self.elites if elites is None else elites, torch.zeros_like(self.n_open))


@dataclass(frozen=True)
class Plan:
    """The best sequence of actions that was found for each environment.

    Attributes:
        actions: to execute from now on.
        value: what the objective gave them.
        state: what the planner knows now; `shift` it before the next step.
        diagnostics: figures about the search, one per environment.
    """

    actions: Num[Tensor, "V H A"]
    value: Float[Tensor, " V"]
    state: PlannerState
    diagnostics: dict[str, Float[Tensor, " V"]]

    def replaced(self, index: Int[Tensor, " v"], other: "Plan") -> "Plan":
        """These plans, but those of some environments exchanged."""
        return Plan(
            actions=self.actions.index_copy(0, index, other.actions),
            value=self.value.index_copy(0, index, other.value),
            state=self.state.replaced(index, other.state),
            diagnostics={
                name: figure.index_copy(0, index, other.diagnostics[name])
                for name, figure in self.diagnostics.items()
            },
        )


class PlannerSettings(TypedDict, total=False):
    """What all planners can be told besides their own settings, see `Planner`."""

    initial_std: float | Float[Tensor, " numbers"] | None
    initial_share: float
    action_repeat: int
    refinement: GradientRefinement | None
    device: torch.device | str


class Planner(ABC):
    """Searches for the sequence of actions that an objective values most, for many environments at once.

    A planner knows no model and no environment. It holds settings only: its state goes in and comes out. Inside, it
    deals in D = H / `action_repeat` decisions, each of which is held for `action_repeat` steps.

    Args:
        action_space: Box with finite bounds (or with `initial_std` given), Discrete, MultiDiscrete, or Tuple or
            Dict of such.
        horizon: length of the plans in steps, a multiple of `action_repeat`.
        n_candidates: plans that are drawn per iteration.
        n_iterations: times that the search distribution is refined.
        initial_std: spread of each search at its start, for the numbers of Boxes: one for all, or one for each.
            None: a quarter of the bounds' width.
        initial_share: the same for choices: the share of the probability that is spread evenly.
        action_repeat: steps for which each decision is held.
        refinement: climb from the best plan along the objective's gradient; for Boxes only.
        device: where plans and noise lie.
    """

    n_kept = 0
    """Elites that are kept from one step to the next."""

    def __init__(
        self,
        action_space: Space[Any],
        horizon: int,
        *,
        n_candidates: int,
        n_iterations: int,
        initial_std: float | Float[Tensor, " numbers"] | None = None,
        initial_share: float = 0.5,
        action_repeat: int = 1,
        refinement: GradientRefinement | None = None,
        device: torch.device | str = torch.device("cpu"),
    ):
        check_space("action_space", action_space)
        check_count("horizon", horizon)
        check_count("n_candidates", n_candidates)
        check_count("n_iterations", n_iterations)
        check_count("action_repeat", action_repeat)
        check_share("initial_share", initial_share)
        if horizon % action_repeat:
            raise ValueError(f"horizon: got {horizon}, expected a multiple of action_repeat={action_repeat}")
        self.action_space, self.horizon = action_space, horizon
        self.n_candidates, self.n_iterations = n_candidates, n_iterations
        self.initial_share, self.action_repeat, self.refinement = initial_share, action_repeat, refinement
        self.n_decisions = horizon // action_repeat
        self.device = torch.empty(0, device=device).device
        self.space = SearchSpace(action_space, initial_std, self.device)
        if refinement is not None and self.space.has_choices:
            raise ValueError(
                f"refinement: got one for {action_space}, expected None, as choices have no gradient to follow"
            )

    def init(self, n_envs: int) -> PlannerState:
        """Knowing nothing: all actions alike."""
        check_count("n_envs", n_envs)
        mean = repeat(self.space.initial_mean, "f -> v d f", v=n_envs, d=self.n_decisions)
        return PlannerState(
            mean,
            elites=repeat(self.space.mode(mean), "v 1 d a -> v k d a", k=self.n_kept),
            n_open=torch.full((n_envs,), self.n_decisions, device=self.device),
        )

    def shift(self, state: PlannerState, steps: int | None = None) -> PlannerState:
        """The state some environment steps later: what was expected moves forward, the end is open again.

        Args:
            state: of a plan.
            steps: that were executed, a multiple of `action_repeat`; None: as many as that.
        """
        steps = self.action_repeat if steps is None else steps
        if steps < 0 or steps % self.action_repeat:
            raise ValueError(f"steps: got {steps}, expected a multiple of action_repeat={self.action_repeat}")
        n = min(steps // self.action_repeat, self.n_decisions)
        fresh = self.init(len(state))
        return PlannerState(
            mean=torch.cat([state.mean[:, n:], fresh.mean[:, :n]], dim=1),
            elites=torch.cat([state.elites[:, :, n:], fresh.elites[:, :, :n]], dim=2),
            n_open=(state.n_open + n).clamp_max(self.n_decisions),
        )

    def reset(self, state: PlannerState, mask: Bool[Tensor, " V"]) -> PlannerState:
        """Forget, for the environments where `mask` is True, as their episode is another one now."""
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != state.n_open.shape:
            raise ValueError(f"mask: got {mask!r:.100}, expected a bool tensor of shape ({len(state)},)")
        index = mask.nonzero().squeeze(-1)
        return state.replaced(index, self.init(len(index))) if len(index) else state

    @torch.no_grad()
    def plan(
        self,
        objective: Objective,
        state: PlannerState,
        *,
        proposals: Num[Tensor, "V K H A"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Plan:
        """Search.

        Args:
            objective: `(V, N, H, A)` candidates to `(V, N)` values, larger being better. Candidates whose value is
                not finite are never chosen.
            state: from `init`, or that of the last plan after `shift` and `reset`.
            proposals: plans to try beside those that are drawn, in every iteration.
            generator: source of the noise.

        Raises:
            TypeError, ValueError: proposals of the wrong type or shape or outside the action space, a state of
                another planner, values of the wrong shape, or an environment none of whose candidates has a finite
                value.
        """
        expected = (self.n_decisions, len(self.space.initial_mean))
        if tuple(state.mean.shape[1:]) != expected:
            raise ValueError(
                f"state: got a mean of shape {tuple(state.mean.shape)}, expected (V, {expected[0]}, {expected[1]}) "
                "as from `init`"
            )
        decisions = self.no_proposals(len(state))
        if proposals is not None:
            decisions = self._check_proposals(proposals, len(state))
        objective = with_repeats(objective, self.action_repeat)
        plan = self.search(objective, state, self.draw_noise(len(state), generator), decisions)
        if self.refinement is not None:
            actions, value = refine(objective, plan.actions, self.space, self.refinement)
            plan = replace(plan, actions=actions, value=value)
        return replace(plan, actions=repeat(plan.actions, "v d a -> v (d k) a", k=self.action_repeat))

    @abstractmethod
    def search(
        self,
        objective: Objective,
        state: PlannerState,
        noise: Float[Tensor, "I V N D A"],
        proposals: Num[Tensor, "V K D A"],
    ) -> Plan:
        """Search among sequences of decisions with a given noise. Environments don't influence each other."""

    def no_proposals(self, n_envs: int) -> Num[Tensor, "V 0 D A"]:
        """For a `search` without any."""
        return self.space.mode(self.init(n_envs).mean)[:, :0]

    def draw_noise(self, n_envs: int, generator: torch.Generator | None = None) -> Float[Tensor, "I V N D A"]:
        """All randomness of a search: standard normal numbers."""
        shape = (self.n_iterations, n_envs, self.n_candidates, self.n_decisions, self.space.row_size)
        return torch.randn(shape, generator=generator, device=self.device)

    def start(self, state: PlannerState) -> tuple[Float[Tensor, "V D F"], Float[Tensor, "V D F"]]:
        """Mean and std of the first draws."""
        return self.space.spread(state.mean, self.initial_share), self.space.initial_std.expand_as(state.mean)

    def _check_proposals(self, proposals: object, n_envs: int) -> Num[Tensor, "V K D A"]:
        n_plans = proposals.shape[1:2] if isinstance(proposals, Tensor) else ()
        leading = (n_envs, *n_plans, self.horizon)
        check_rows("proposals", proposals, self.action_space, leading=leading, device=self.device, contained=True)
        assert isinstance(proposals, Tensor)
        return clip(self.action_space, proposals[:, :, :: self.action_repeat])
