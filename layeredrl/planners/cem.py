"""The cross-entropy method."""

from typing import Any, Unpack, get_args

import torch
from gymnasium.spaces import Space
from jaxtyping import Float, Num
from torch import Tensor

from layeredrl.planners.candidates import Objective, Result, best, conclude, evaluate
from layeredrl.planners.checks import check_choice
from layeredrl.planners.elite_refit import EliteRefit
from layeredrl.planners.planner import Plan, Planner, PlannerSettings, PlannerState
from layeredrl.planners.search_space import Sampling


class CEM(Planner):
    """Draw candidates, keep the best, fit the search distribution to them, repeat (as in Chua et al. 2018).

    Args:
        action_space, horizon, n_candidates, n_iterations, settings: see `Planner`.
        elite_ratio: share of the candidates that the distribution is fitted to.
        momentum: share of the old mean and standard deviation that is kept.
        min_std: smallest spread of the search, for the numbers of Boxes.
        sampling: whether draws are `clipped` to the bounds or `truncated` before them, see `SearchSpace.decode`.
        result: which plan to return: `best`, the best candidate of the last iteration, one of which is the mean;
            or `mean`, that of the distribution in the end, as in the paper.
    """

    def __init__(
        self,
        action_space: Space[Any],
        horizon: int,
        *,
        n_candidates: int = 400,
        n_iterations: int = 5,
        elite_ratio: float = 0.1,
        momentum: float = 0.1,
        min_std: float = 0.0,
        sampling: Sampling = "clipped",
        result: Result = "best",
        **settings: Unpack[PlannerSettings],
    ):
        super().__init__(action_space, horizon, n_candidates=n_candidates, n_iterations=n_iterations, **settings)
        check_choice("sampling", sampling, get_args(Sampling))
        check_choice("result", result, get_args(Result))
        self.refit = EliteRefit(n_candidates, elite_ratio, momentum, min_std)
        self.sampling, self.result = sampling, result

    def search(
        self,
        objective: Objective,
        state: PlannerState,
        noise: Float[Tensor, "I V N D A"],
        proposals: Num[Tensor, "V K D A"],
    ) -> Plan:
        mean, std = self.start(state)
        diagnostics: dict[str, Tensor] = {}
        for i, iteration_noise in enumerate(noise):
            parts = [proposals, self.space.decode(mean, std, iteration_noise, self.sampling)]
            if i == len(noise) - 1:
                parts.append(self.space.mode(mean))
            candidates = torch.cat(parts, dim=1)
            values = evaluate(objective, candidates)
            _, mean, std = self.refit(self.space, candidates, values, mean, std)
            diagnostics |= self.refit.figures(i, values)
        if self.result == "best":
            actions, value = best(candidates, values)
        else:
            actions, value = conclude(objective, self.space.mode(mean), candidates, values, "mean")
        diagnostics["search_std"] = std.mean(dim=(1, 2))
        return Plan(actions, value, state.advanced(mean), diagnostics)
