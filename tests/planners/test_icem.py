"""ICEM: the planner contract, and what it adds to CEM."""

from typing import ClassVar

import pytest
import torch
from gymnasium.spaces import Box

from layeredrl.planners.cem import CEM
from layeredrl.planners.icem import ICEM
from tests.contracts.planner_contract import ConvergingPlannerContract, Recorder

BOX = Box(-10.0, 10.0, (2,))


class TestICEMObeysTheContract(ConvergingPlannerContract):
    # Coloured noise and a small population are for haste, not for the last percent.
    thorough: ClassVar = {"n_candidates": 400, "n_iterations": 20, "noise_beta": 0.5, "population_decay": 1.0}

    def make(self, action_space, horizon=4, **settings):
        return ICEM(action_space, **{"horizon": horizon, "n_candidates": 100, **settings})


def total(plans):
    return plans.float().sum(dim=(2, 3))


def is_among(plans, candidates):
    """Whether each plan `(K, D, A)` is one of the candidates `(N, D, A)`."""
    return (plans.unsqueeze(1) == candidates.unsqueeze(0)).all(dim=(2, 3)).any(dim=1)


def test_the_population_decays_down_to_twice_the_elites():
    planner = ICEM(
        BOX, 3, n_candidates=100, n_iterations=6, population_decay=2.0, elite_ratio=0.1, keep_elite_ratio=0.3
    )
    objective = Recorder(total)
    planner.plan(objective, planner.init(1))
    drawn = [100, 50, 25, 20, 20, 20]
    kept, mean = 3, [0, 0, 0, 0, 0, 1]
    assert [asked.shape[1] for asked in objective.asked] == [n + kept + m for n, m in zip(drawn, mean, strict=True)]


def test_the_best_elites_compete_again_in_the_next_iteration():
    planner = ICEM(BOX, 3, n_candidates=50, n_iterations=3, elite_ratio=0.2, keep_elite_ratio=0.5)
    objective = Recorder(total)
    planner.plan(objective, planner.init(1))
    for before, after in zip(objective.asked[:-1], objective.asked[1:], strict=True):
        best = before[0][total(before)[0].topk(5).indices]
        assert is_among(best, after[0]).all()


def test_elites_of_the_last_step_compete_shifted_with_a_new_end():
    planner = ICEM(BOX, 3, n_candidates=50, elite_ratio=0.2, keep_elite_ratio=0.5)
    last = Recorder(total)
    plan = planner.plan(last, planner.init(1))
    elites = last.asked[-1][0][total(last.asked[-1])[0].topk(5).indices]
    first = Recorder(total)
    planner.plan(first, planner.shift(plan.state))
    candidates = first.asked[0][0]
    assert is_among(elites[:, 1:], candidates[:, :2]).all()
    ends = candidates[is_among(candidates[:, :2], elites[:, 1:])][:, 2]
    assert len(ends.unique(dim=0)) == 5


def test_the_mean_is_tried_in_the_last_iteration_only():
    objective = Recorder(lambda plans: (plans == 0).all(dim=(2, 3)).float())
    planner = ICEM(BOX, 3, n_candidates=20, n_iterations=2, momentum=1.0)
    plan = planner.plan(objective, planner.init(2))
    assert plan.value.tolist() == [1.0, 1.0]
    assert not plan.actions.any()
    assert not (objective.asked[0] == 0).all(dim=(2, 3)).any()


def test_noise_is_coloured_over_the_decisions():
    """White noise changes sign every other time; that of a random walk seldom."""

    def sign_changes(noise_beta):
        planner = ICEM(BOX, 20, n_candidates=500, noise_beta=noise_beta)
        noise = planner.draw_noise(1, torch.Generator().manual_seed(0))
        return (noise.sign().diff(dim=3) != 0).float().mean().item()

    assert sign_changes(0.0) == pytest.approx(0.5, abs=0.01)
    assert sign_changes(3.0) < 0.15


def test_without_colour_decay_and_kept_elites_it_is_cem_without_proposals():
    settings = {"n_candidates": 50, "n_iterations": 4, "elite_ratio": 0.2, "momentum": 0.3}
    icem = ICEM(BOX, 3, noise_beta=0.0, population_decay=1.0, keep_elite_ratio=0.0, **settings)
    cem = CEM(BOX, 3, **settings)
    noise = cem.draw_noise(2)
    plans = [
        planner.search(lambda x: -(x - 3).square().sum(dim=(2, 3)), planner.init(2), noise, planner.no_proposals(2))
        for planner in (icem, cem)
    ]
    torch.testing.assert_close(plans[0].actions, plans[1].actions)
    torch.testing.assert_close(plans[0].state.mean, plans[1].state.mean)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("noise_beta", -0.1),
        ("population_decay", 0.9),
        ("elite_ratio", 1.1),
        ("keep_elite_ratio", -0.1),
        ("keep_elite_ratio", float("nan")),
        ("momentum", 2.0),
        ("min_std", -1.0),
    ],
)
def test_bad_settings_are_refused(name, bad):
    with pytest.raises(ValueError, match=rf"{name}: got {bad}, expected"):
        ICEM(BOX, 3, **{name: bad})
