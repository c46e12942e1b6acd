"""What the elites of each iteration are worth stands in the diagnostics of a plan."""

import statistics

import pytest
import torch
from gymnasium.spaces import Box, Discrete

from layeredrl.planners.cem import CEM
from layeredrl.planners.icem import ICEM
from layeredrl.planners.mppi import MPPI

BOX = Box(-10.0, 10.0, (2,))


class Remembering:
    """The sum of a plan, and all that it was for each iteration."""

    def __init__(self, broken: int = 0):
        self.values, self.broken = [], broken

    def __call__(self, plans):
        values = plans.float().sum(dim=(2, 3))
        if plans.shape[1] > 2:  # the search, not what MPPI asks in the end
            values[:, : self.broken] = torch.nan
        self.values.append(values)
        return values


@pytest.mark.parametrize("kind", [CEM, ICEM])
@pytest.mark.parametrize("space", [BOX, Discrete(4)])
def test_mean_and_spread_are_those_of_the_best_candidates(kind, space):
    planner, objective = kind(space, 3, n_candidates=20, n_iterations=3, elite_ratio=0.25), Remembering()
    figures = planner.plan(objective, planner.init(2)).diagnostics
    for i in range(3):
        for env, values in enumerate(objective.values[i].tolist()):
            best = sorted(values, reverse=True)[:5]
            mean, spread = (float(figures[f"elite_{name}/iteration_{i}"][env]) for name in ("return", "spread"))
            assert mean == pytest.approx(statistics.fmean(best), abs=1e-4)
            assert spread == pytest.approx(statistics.pstdev(best), abs=1e-4)
    assert "elite_return/iteration_3" not in figures


@pytest.mark.parametrize("kind", [CEM, ICEM])
def test_elites_without_a_finite_value_do_not_count(kind):
    """Ten elites are asked for, and eight candidates are finite."""
    planner = kind(BOX, 3, n_candidates=20, n_iterations=1, elite_ratio=0.5)
    n_tried = 20 + planner.n_kept + 1  # with those of the last step, and the mean
    objective = Remembering(broken=n_tried - 8)
    figures = planner.plan(objective, planner.init(1)).diagnostics
    finite = objective.values[0][0, -8:].tolist()
    assert float(figures["elite_return/iteration_0"]) == pytest.approx(statistics.fmean(finite), abs=1e-4)
    assert float(figures["elite_spread/iteration_0"]) == pytest.approx(statistics.pstdev(finite), abs=1e-4)


def test_candidates_of_mppi_count_by_weight():
    planner, objective = MPPI(BOX, 3, n_candidates=20, n_iterations=2, temperature=5.0), Remembering(broken=3)
    figures = planner.plan(objective, planner.init(1)).diagnostics
    for i in range(2):
        values = objective.values[i][0, 3:].double()
        weights = (values / 5).exp() / (values / 5).exp().sum()
        mean = sum(w * v for w, v in zip(weights.tolist(), values.tolist(), strict=True))
        variance = sum(w * (v - mean) ** 2 for w, v in zip(weights.tolist(), values.tolist(), strict=True))
        assert float(figures[f"elite_return/iteration_{i}"]) == pytest.approx(mean, rel=1e-4)
        assert float(figures[f"elite_spread/iteration_{i}"]) == pytest.approx(variance**0.5, rel=1e-3)
