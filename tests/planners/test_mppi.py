"""MPPI: the planner contract, and the weighted average."""

from typing import ClassVar

import pytest
import torch
from gymnasium.spaces import Box, Discrete

from layeredrl.planners.mppi import MPPI
from tests.contracts.planner_contract import ConvergingPlannerContract, Recorder

BOX = Box(-10.0, 10.0, (2,))


class TestMPPIObeysTheContract(ConvergingPlannerContract):
    thorough: ClassVar = {
        "n_candidates": 400,
        "n_iterations": 20,
        "temperature": 0.001,
        "std_decay": 0.8,
        "initial_share": 0.1,
    }
    returns_best: ClassVar = {"result": "best"}

    def make(self, action_space, horizon=4, **settings):
        return MPPI(action_space, **{"horizon": horizon, "n_candidates": 100, **settings})


def total(plans):
    return plans.float().sum(dim=(2, 3))


def test_the_mean_moves_to_the_weighted_average():
    """Williams et al. 2018, algorithm 2, one candidate at a time."""
    planner = MPPI(BOX, 3, n_candidates=20, n_iterations=1, temperature=2.5)
    objective = Recorder(total)
    plan = planner.plan(objective, planner.init(1))
    candidates = objective.asked[0][0].double()
    weights = [torch.exp((candidate.sum() - candidates.sum(dim=(1, 2)).max()) / 2.5) for candidate in candidates]
    expected = sum(w * candidate for w, candidate in zip(weights, candidates, strict=True)) / sum(weights)
    torch.testing.assert_close(plan.state.mean[0].double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(plan.actions, plan.state.mean)
    ess = sum(weights) ** 2 / sum(w**2 for w in weights)
    assert plan.diagnostics["effective_sample_size"].item() == pytest.approx(ess.item(), rel=1e-3)


@pytest.mark.parametrize("offset", [-1e6, 0.0, 1e6])
def test_only_differences_of_values_matter(offset):
    """Values whose exponentials would be 0 or infinite."""
    planner = MPPI(BOX, 3, n_candidates=50, temperature=1.0)
    plans = [
        planner.plan(
            lambda x, c=c: (total(x) + c).double(), planner.init(1), generator=torch.Generator().manual_seed(0)
        )
        for c in (0.0, offset)
    ]
    torch.testing.assert_close(plans[0].actions, plans[1].actions, rtol=1e-3, atol=1e-3)


def test_temperature_ranges_from_the_best_candidate_to_the_plain_average():
    def mean(temperature):
        planner = MPPI(BOX, 3, n_candidates=50, n_iterations=1, temperature=temperature)
        objective = Recorder(total)
        plan = planner.plan(objective, planner.init(1))
        return plan.state.mean[0], objective.asked[0][0]

    cold, candidates = mean(1e-6)
    torch.testing.assert_close(cold, candidates[total(candidates[None])[0].argmax()])
    hot, candidates = mean(1e6)
    torch.testing.assert_close(hot, candidates.mean(dim=0), rtol=0, atol=1e-3)


def test_noise_is_correlated_between_numbers_as_wanted():
    correlation = torch.tensor([[1.0, -0.8], [-0.8, 1.0]])
    planner = MPPI(BOX, 4, n_candidates=5000, correlation=correlation, initial_std=torch.tensor([0.5, 2.0]))
    objective = Recorder(total)
    planner.plan(objective, planner.init(1))
    rows = objective.asked[0].reshape(-1, 2)
    expected = torch.tensor([[0.25, -0.8], [-0.8, 4.0]])
    torch.testing.assert_close(rows.T.cov(), expected, rtol=0.05, atol=0.05)


def test_noise_is_correlated_over_time_as_wanted():
    planner = MPPI(BOX, 10, n_candidates=5000, smoothing=0.7)
    noise = planner.draw_noise(1)[0, 0, :, :, 0]
    expected = 0.7 ** (torch.arange(10)[:, None] - torch.arange(10)).abs()
    torch.testing.assert_close(noise.T.cov(), expected, rtol=0, atol=0.08)


def test_noise_shrinks_by_std_decay():
    planner = MPPI(BOX, 4, n_candidates=2000, n_iterations=3, std_decay=0.5, initial_std=1.0, temperature=1e6)
    objective = Recorder(total)
    planner.plan(objective, planner.init(1))
    spreads = torch.stack([asked.std() for asked in objective.asked[:3]])
    torch.testing.assert_close(spreads, torch.tensor([1.0, 0.5, 0.25]), rtol=0.05, atol=0.02)


def test_control_cost_charges_what_leads_away_from_the_middle():
    """By hand, γ Σ uᵀ Σ⁻¹ ε; it weighs on the average, not on the value that is reported."""
    space, correlation = Box(-9.0, 11.0, (2,)), torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    std = torch.tensor([0.5, 2.0])
    planner = MPPI(
        space, 3, n_candidates=30, n_iterations=1, control_cost=0.3, correlation=correlation, initial_std=std
    )
    state = planner.init(1)
    mean = torch.tensor([[2.0, -1.0], [0.0, 3.0], [1.0, 1.0]])
    state = type(state)(mean[None], state.elites, state.n_open)
    objective = Recorder(total)
    plan = planner.plan(objective, state)
    covariance = std[:, None] * correlation * std
    candidates = objective.asked[0][0]
    costs = [
        0.3 * sum((u - 1.0) @ torch.linalg.inv(covariance) @ (a - u) for u, a in zip(mean, candidate, strict=True))
        for candidate in candidates
    ]
    weights = torch.softmax(total(candidates[None])[0] - torch.stack(costs), dim=0)
    torch.testing.assert_close(plan.state.mean[0], torch.einsum("n,nha->ha", weights, candidates))
    assert plan.value.item() == pytest.approx(total(plan.actions[:, None]).item())


def test_choices_are_averaged_by_their_weights():
    planner = MPPI(Discrete(3), 2, n_candidates=40, n_iterations=1, temperature=1.0)
    objective = Recorder(total)
    plan = planner.plan(objective, planner.init(1))
    candidates = objective.asked[0][0, ..., 0]
    weights = torch.softmax(candidates.sum(dim=1).float(), dim=0)
    for decision, category in [(d, c) for d in range(2) for c in range(3)]:
        expected = weights[candidates[:, decision] == category].sum()
        torch.testing.assert_close(plan.state.mean[0, decision, category], expected)


def test_a_mean_without_a_finite_value_gives_way_to_the_best_candidate():
    """Good plans lie on either side of a gap, their mean within it."""
    planner = MPPI(Box(-1.0, 1.0, (1,)), 1, n_candidates=100, n_iterations=1)
    plan = planner.plan(lambda x: torch.where(x[..., 0, 0].abs() < 0.2, float("nan"), 0.0), planner.init(2))
    assert (plan.state.mean.abs() < 0.2).all()
    assert (plan.actions.abs() >= 0.2).all()
    assert plan.value.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("smoothing", 1.0),
        ("smoothing", -0.1),
        ("std_decay", 0.0),
        ("std_decay", 1.1),
        ("control_cost", -1.0),
    ],
)
def test_bad_settings_are_refused(name, bad):
    with pytest.raises(ValueError, match=rf"{name}: got {bad}, expected"):
        MPPI(BOX, 3, **{name: bad})


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1.0]], r"shape \(1, 1\), expected \(2, 2\)"),
        ([[2.0, 0.0], [0.0, 1.0]], r".* ones on its diagonal"),
        ([[1.0, 0.5], [0.4, 1.0]], r".* expected a symmetric"),
        ([[1.0, 1.0], [1.0, 1.0]], r".* positive definite"),
    ],
)
def test_a_matrix_that_is_no_correlation_is_refused(matrix, message, unchecked):
    with pytest.raises(ValueError, match=rf"correlation: got {message}"):
        MPPI(BOX, 3, correlation=torch.tensor(matrix))
