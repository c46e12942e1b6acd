"""From words on the command line to planners and measures of risk."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from gymnasium.spaces import Space

from layeredrl.planners import risk
from layeredrl.planners.cem import CEM
from layeredrl.planners.icem import ICEM
from layeredrl.planners.mppi import MPPI
from layeredrl.planners.planner import Planner, PlannerSettings
from layeredrl.planners.random_shooting import RandomShooting
from layeredrl.planners.refinement import GradientRefinement

PlannerName = Literal["cem", "icem", "mppi", "random_shooting"]


def make_planner(
    name: PlannerName,
    action_space: Space[Any],
    horizon: int,
    *,
    n_candidates: int,
    n_iterations: int,
    refine_steps: int = 0,
    device: torch.device | str = "cpu",
) -> Planner:
    """A planner that tries about `n_candidates` · `n_iterations` plans, and refines the best by gradient steps."""
    settings: PlannerSettings = {"device": device}
    if refine_steps:
        settings["refinement"] = GradientRefinement(n_steps=refine_steps)
    if name == "random_shooting":
        return RandomShooting(action_space, horizon, n_candidates=n_candidates * n_iterations, **settings)
    planners: dict[str, Callable[..., Planner]] = {"cem": CEM, "icem": ICEM, "mppi": MPPI}
    return planners[name](action_space, horizon, n_candidates=n_candidates, n_iterations=n_iterations, **settings)


def find_risk(words: str) -> risk.Risk:
    """`mean`, `worst_member` or `cvar:ALPHA`."""
    known = {"mean": risk.mean, "worst_member": risk.worst_member}
    if words in known:
        return known[words]
    name, _, alpha = words.partition(":")
    try:
        if name != "cvar":
            raise ValueError("expected mean, worst_member or cvar:ALPHA, such as cvar:0.2")
        return risk.CVaR(float(alpha))
    except ValueError as error:
        raise SystemExit(f"--risk: got {words}: {error}") from None
