"""The abstract base of planners: they optimise sequences of actions against a function."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from gymnasium.spaces import Box, Discrete, Space
from jaxtyping import Bool, Float, Num
from torch import Tensor

from layeredrl.spaces import bounds, check_rows, check_space, feature_size, row_size

# Values of candidate plans; larger is better.
Objective = Callable[[Num[Tensor, "V N H A"]], Float[Tensor, "V N"]]


@dataclass(frozen=True)
class PlannerState:
    """What a planner carries from one step to the next: where it expects the best plans.

    Attributes:
        mean: of the search distribution, in features: for Discrete actions, the probability of each.
    """

    mean: Float[Tensor, "V H F"]


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


class Planner(ABC):
    """Searches for the sequence of actions that an objective values most, for many environments at once.

    A planner knows no model and no environment. It holds settings only: its state goes in and comes out.

    Args:
        action_space: Box with finite bounds (or with `initial_std` given), or Discrete.
        horizon: length of the plans.
        n_candidates: plans that are tried per iteration.
        n_iterations: times that the search distribution is refined.
        initial_std: spread of the search at its start, for a Box: a number, or one per dimension. None: a quarter
            of the bounds' width.
        device: where plans and noise lie.
    """

    def __init__(
        self,
        action_space: Space[Any],
        horizon: int,
        *,
        n_candidates: int,
        n_iterations: int,
        initial_std: float | Float[Tensor, " A"] | None = None,
        device: torch.device | str = torch.device("cpu"),
    ):
        check_space("action_space", action_space)
        for name, value in (("horizon", horizon), ("n_candidates", n_candidates), ("n_iterations", n_iterations)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: got {value!r}, expected an integer of at least 1")
        self.action_space, self.horizon = action_space, horizon
        self.n_candidates, self.n_iterations = n_candidates, n_iterations
        self.device = torch.empty(0, device=device).device
        self.initial_mean, self.initial_std = _initial_moments(action_space, initial_std, self.device)

    def init(self, n_envs: int) -> PlannerState:
        """Knowing nothing: all actions alike."""
        return PlannerState(repeat(self.initial_mean, "f -> v h f", v=n_envs, h=self.horizon))

    def shift(self, state: PlannerState, steps: int = 1) -> PlannerState:
        """The state `steps` environment steps later: what was expected moves forward, the end is open again."""
        steps = min(steps, self.horizon)
        end = repeat(self.initial_mean, "f -> v h f", v=len(state.mean), h=steps)
        return PlannerState(torch.cat([state.mean[:, steps:], end], dim=1))

    def reset(self, state: PlannerState, mask: Bool[Tensor, " V"]) -> PlannerState:
        """Forget, for the environments where `mask` is True, as their episode is another one now."""
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != state.mean.shape[:1]:
            raise ValueError(f"mask: got {mask!r:.100}, expected a bool tensor of shape ({len(state.mean)},)")
        return PlannerState(torch.where(rearrange(mask, "v -> v 1 1"), self.initial_mean, state.mean))

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
            proposals: plans to try beside those that are drawn.
            generator: source of the noise.

        Raises:
            TypeError, ValueError: proposals of the wrong type or shape or outside the action space, a state of
                another planner, values of the wrong shape, or an environment none of whose candidates has a finite
                value.
        """
        n_envs, *rest = state.mean.shape
        if rest != [self.horizon, len(self.initial_mean)]:
            raise ValueError(
                f"state: got a mean of shape {tuple(state.mean.shape)}, expected (V, {self.horizon}, "
                f"{len(self.initial_mean)}) as from `init`"
            )
        if proposals is not None:
            proposals = self._check_proposals(proposals, n_envs)
        return self.search(objective, state, self.draw_noise(n_envs, generator), proposals)

    @abstractmethod
    def search(
        self,
        objective: Objective,
        state: PlannerState,
        noise: Float[Tensor, "I V N H R"],
        proposals: Num[Tensor, "V K H A"] | None = None,
    ) -> Plan:
        """Search with a given noise. Environments don't influence each other."""

    def draw_noise(self, n_envs: int, generator: torch.Generator | None = None) -> Float[Tensor, "I V N H R"]:
        """All randomness of a search: standard normal for a Box, uniform for a Discrete."""
        size = row_size(self.action_space)
        shape = (self.n_iterations, n_envs, self.n_candidates, self.horizon, size)
        draw = torch.randn if isinstance(self.action_space, Box) else torch.rand
        return draw(shape, generator=generator, device=self.device)

    def candidates(
        self, mean: Float[Tensor, "V H F"], std: Float[Tensor, "V H F"], noise: Float[Tensor, "V N H R"]
    ) -> Num[Tensor, "V N H A"]:
        """Actions drawn from the search distribution: a Gaussian clipped to the bounds, or a categorical."""
        mean, std = (rearrange(x, "v h f -> v 1 h f") for x in (mean, std))
        if isinstance(self.action_space, Discrete):
            edges = mean.cumsum(dim=-1)[..., :-1]
            return (noise >= edges).sum(dim=-1, keepdim=True) + int(self.action_space.start)
        assert isinstance(self.action_space, Box)
        return (mean + std * noise).clamp(*bounds(self.action_space, self.device))

    def mean_plan(self, mean: Float[Tensor, "V H F"]) -> Num[Tensor, "V 1 H A"]:
        """The mean of the search distribution as a plan: its most probable actions, if they are Discrete."""
        if isinstance(self.action_space, Discrete):
            mean = mean.argmax(dim=-1, keepdim=True) + int(self.action_space.start)
        return rearrange(mean, "v h a -> v 1 h a")

    def _check_proposals(self, proposals: object, n_envs: int) -> Num[Tensor, "V K H A"]:
        n_plans = proposals.shape[1:2] if isinstance(proposals, Tensor) else ()
        leading = (n_envs, *n_plans, self.horizon)
        check_rows("proposals", proposals, self.action_space, leading=leading, device=self.device, contained=True)
        assert isinstance(proposals, Tensor)
        if isinstance(self.action_space, Box):  # what is outside by rounding only is brought back
            return proposals.clamp(*bounds(self.action_space, self.device))
        return proposals


def evaluate(objective: Objective, candidates: Num[Tensor, "V N H A"]) -> Float[Tensor, "V N"]:
    """Values of candidates, −inf where they are not finite, so that these rank last."""
    values = objective(candidates)
    if values.shape != candidates.shape[:2]:
        raise ValueError(
            f"objective: got values of shape {tuple(values.shape)}, expected {tuple(candidates.shape[:2])}"
        )
    values = torch.where(values.isfinite(), values, -torch.inf)
    hopeless = values.isinf().all(dim=1)
    if bool(hopeless.any()):
        environments = hopeless.nonzero().squeeze(-1).tolist()
        raise ValueError(f"objective: got no finite value for any candidate of environments {environments}")
    return values


def _initial_moments(
    space: Space[Any], initial_std: float | Tensor | None, device: torch.device
) -> tuple[Float[Tensor, " F"], Float[Tensor, " F"]]:
    """Mean and std of the search before anything is known, in features."""
    size = feature_size(space)
    if isinstance(space, Discrete):
        return torch.full((size,), 1 / size, device=device), torch.zeros(size, device=device)
    assert isinstance(space, Box)
    low, high = bounds(space, device)
    bounded = low.isfinite() & high.isfinite()
    if initial_std is None:
        if not bool(bounded.all()):
            raise ValueError(f"initial_std: got None, expected a number, because {space} is unbounded")
        initial_std = high / 4 - low / 4
    std = torch.as_tensor(initial_std, dtype=low.dtype, device=device).expand(size)
    if not bool((std > 0).all()):
        raise ValueError(f"initial_std: got {initial_std}, expected positive numbers")
    return torch.where(bounded, low / 2 + high / 2, torch.zeros_like(low).clamp(low, high)), std
