"""CEM: the planner contract, and how the search distribution is refitted."""

import pytest
import torch
from gymnasium.spaces import Box, Discrete

from layeredrl.planners.cem import CEM
from tests.contracts.planner_contract import ConvergingPlannerContract, Recorder

BOX = Box(-10.0, 10.0, (2,))


class TestCEMObeysTheContract(ConvergingPlannerContract):
    def make(self, action_space, horizon=4, **settings):
        return CEM(action_space, **{"horizon": horizon, "n_candidates": 100, **settings})


def total(plans):
    return plans.float().sum(dim=(2, 3))


def test_one_iteration_fits_mean_and_std_of_the_elites():
    """By hand, for the last iteration but one: five of twenty, a fifth of the old moments kept."""
    planner = CEM(BOX, 3, n_candidates=20, n_iterations=2, elite_ratio=0.25, momentum=0.2)
    objective = Recorder(total)
    noise = planner.draw_noise(1)
    planner.search(objective, planner.init(1), noise, planner.no_proposals(1))
    first = objective.asked[0][0]
    elites = first[total(first[None])[0].argsort(descending=True)[:5]]
    mean = 0.8 * elites.mean(dim=0)
    std = 0.8 * elites.std(dim=0, correction=0) + 0.2 * planner.space.initial_std
    torch.testing.assert_close(objective.asked[1][0, :-1], (mean + std * noise[1, 0]).clamp(-10, 10))
    torch.testing.assert_close(objective.asked[1][0, -1], mean)


def test_momentum_of_one_keeps_the_distribution():
    planner = CEM(BOX, 3, n_candidates=50, n_iterations=3, momentum=1.0)
    objective = Recorder(total)
    plan = planner.plan(objective, planner.init(2))
    assert torch.equal(plan.state.mean, planner.init(2).mean)
    torch.testing.assert_close(plan.diagnostics["search_std"], torch.full((2,), 5.0))


def test_momentum_keeps_probabilities_of_discrete_actions():
    planner = CEM(Discrete(3, start=5), 2, n_candidates=50, n_iterations=1, momentum=0.25)
    probability = planner.plan(total, planner.init(1)).state.mean
    torch.testing.assert_close(probability.sum(dim=-1), torch.ones(1, 2))
    assert (probability >= 0.25 / 3).all()
    assert (probability[..., 2] > 0.5).all()


def test_spread_shrinks_but_never_below_min_std():
    spreads = {
        min_std: CEM(BOX, 3, n_candidates=50, n_iterations=20, min_std=min_std)
        .plan(lambda plans: -plans.square().sum(dim=(2, 3)), CEM(BOX, 3).init(2))
        .diagnostics["search_std"]
        for min_std in (0.0, 1.5)
    }
    assert (spreads[0.0] < 0.1).all()
    torch.testing.assert_close(spreads[1.5], torch.full((2,), 1.5))


def test_elites_without_a_finite_value_do_not_move_the_distribution():
    """Ten elites are asked for, four candidates are finite: the mean is theirs."""
    planner = CEM(BOX, 3, n_candidates=20, n_iterations=1, elite_ratio=0.5, momentum=0.0)
    objective = Recorder(lambda plans: torch.where(torch.arange(plans.shape[1]) < 4, total(plans), float("nan")))
    plan = planner.plan(objective, planner.init(1))
    torch.testing.assert_close(plan.state.mean, objective.asked[0][:, :4].mean(dim=1))


def test_the_mean_is_tried_in_the_last_iteration():
    """A flat start puts the mean at zero, which no draw hits."""
    planner = CEM(BOX, 3, n_candidates=5, n_iterations=1)
    plan = planner.plan(lambda plans: (plans == 0).all(dim=(2, 3)).float(), planner.init(2))
    assert plan.value.tolist() == [1.0, 1.0]
    assert not plan.actions.any()


def test_a_ratio_too_small_for_one_elite_means_one():
    planner = CEM(BOX, 3, n_candidates=20, n_iterations=1, elite_ratio=0.0, momentum=0.0)
    plan = planner.plan(total, planner.init(2))
    torch.testing.assert_close(plan.state.mean, plan.actions)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("elite_ratio", -0.1),
        ("elite_ratio", 1.1),
        ("elite_ratio", float("nan")),
        ("momentum", -0.1),
        ("momentum", 2.0),
        ("min_std", -1.0),
        ("min_std", float("nan")),
    ],
)
def test_bad_settings_are_refused(name, bad):
    with pytest.raises(ValueError, match=rf"{name}: got {bad}, expected"):
        CEM(BOX, 3, **{name: bad})
