"""Random shooting."""

from typing import Any, Unpack

import torch
from gymnasium.spaces import Space
from jaxtyping import Float, Num
from torch import Tensor

from layeredrl.planners.candidates import Objective, best, evaluate
from layeredrl.planners.planner import Plan, Planner, PlannerSettings, PlannerState
from layeredrl.spaces import features


class RandomShooting(Planner):
    """Draw candidates uniformly and return the best (Nagabandi et al. 2018).

    The plan of the last step, shifted, competes as well, so that a good one isn't lost.

    Args:
        action_space, horizon, settings: see `Planner`. Draws lie within two `initial_std` of the middle of the
            bounds: anywhere inside, by default.
        n_candidates: plans that are drawn.
    """

    def __init__(
        self,
        action_space: Space[Any],
        horizon: int,
        *,
        n_candidates: int = 1000,
        **settings: Unpack[PlannerSettings],
    ):
        super().__init__(action_space, horizon, n_candidates=n_candidates, n_iterations=1, **settings)

    def search(
        self,
        objective: Objective,
        state: PlannerState,
        noise: Float[Tensor, "I V N D A"],
        proposals: Num[Tensor, "V K D A"],
    ) -> Plan:
        mean, std = (x.expand_as(state.mean) for x in (self.space.initial_mean, self.space.initial_std))
        drawn = self.space.decode(mean, std, noise[0], "uniform")
        candidates = torch.cat([proposals, drawn, self.space.mode(state.mean)], dim=1)
        actions, value = best(candidates, evaluate(objective, candidates))
        return Plan(actions, value, state.advanced(features(self.action_space, actions)), diagnostics={})
