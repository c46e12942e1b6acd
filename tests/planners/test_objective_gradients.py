"""Gradients of plans' values, by which planners refine them."""

import pytest
import torch

from layeredrl.planners.cem import CEM
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.refinement import GradientRefinement
from layeredrl.planners.risk import CVaR, worst_member
from layeredrl.planners.terms import ActionCost, DisagreementBonus, MOPOPenalty
from tests.models.ensembles import ACTION, make_fixed
from tests.planners.small_task import H, draw_plans, make_model, may_fall, never, reward, seeded, start

SETTINGS = {
    "plain": {},
    "one-path": {"propagation": "expectation"},
    "changing-members": {"propagation": "ts1"},
    "matched-moments": {"propagation": "moment_matching"},
    "probable-end": {"termination": may_fall, "discount": 0.9},
    "terms": {"terms": (ActionCost(0.3), MOPOPenalty(0.2), DisagreementBonus(0.5))},
    "worst-member": {"risk": worst_member},
    "cvar": {"risk": CVaR(0.4)},
    "terminal-value": {"terminal_value": lambda state, context: state[:, 0].square()},
    "few-rows": {"max_rows": 5},
}


@pytest.fixture
def double():
    """Differences of values need more digits than planning does."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_gradients_are_finite_differences(settings, double):
    """One mode per member, as the choice between modes has no gradient; the same noise in every call."""
    model = make_model(n_modes=1)
    (state, _), plans = start(model), draw_plans(model)
    state, plans = state.double(), 0.9 * plans.double()
    objective = ModelObjective(model, reward, **settings)

    def values(plans):
        return objective(state, generator=seeded())(plans)

    assert torch.autograd.gradcheck(values, plans.requires_grad_(), atol=1e-6, fast_mode=True)


def test_gradient_in_a_deterministic_model_is_that_by_hand():
    """Positions gain 2 a for each a before them, so that the t-th of H actions moves H − t rewards."""
    model = make_fixed({"offset": 0.0, "std": 1e-6, "gain": 2.0})
    plans = torch.zeros(1, 1, H, 2, requires_grad=True)
    ModelObjective(model, lambda s, c, a, n: n[..., 0], never)(torch.zeros(1, 3))(plans).sum().backward()
    expected = torch.stack([2.0 * torch.arange(H, 0.0, -1.0), torch.zeros(H)], dim=1)
    torch.testing.assert_close(plans.grad[0, 0], expected)


@pytest.mark.parametrize("term", [DisagreementBonus(1.0), MOPOPenalty(1.0)], ids=["disagreement", "mopo"])
def test_members_that_agree_leave_gradients_finite(term):
    """The root of a variance of zero has no slope."""
    model = make_fixed(*[{"offset": 0.0, "std": 0.1, "gain": 2.0}] * 3)
    plans = torch.zeros(1, 1, H, 2, requires_grad=True)
    objective = ModelObjective(model, lambda s, c, a, n: n[..., 0], never, terms=[term])
    objective(torch.zeros(1, 3))(plans).sum().backward()
    torch.testing.assert_close(plans.grad[0, 0, :, 0], 2.0 * torch.arange(H, 0.0, -1.0))


def test_what_is_imagined_after_the_end_leaves_gradients_finite():
    """However the end depends on the action, it is certain after the first step; then rewards are infinite."""
    model = make_fixed({"offset": 1.0, "std": 1e-6, "gain": 0.1})

    def gains(state, context, action, next_state):
        return torch.where(state[..., 0] > 0.5, torch.inf, next_state[..., 0])

    plans = torch.zeros(1, 1, H, 2, requires_grad=True)
    objective = ModelObjective(model, gains, lambda s, c, a, n: (n[..., 0] + 9.0).clamp_max(1.0))
    objective(torch.zeros(1, 3))(plans).sum().backward()
    torch.testing.assert_close(plans.grad[0, 0], torch.tensor([[0.1, 0.0]] + [[0.0, 0.0]] * (H - 1)))


def test_a_planner_climbs_by_them():
    """The top of the reward lies where no candidate does."""
    model = make_fixed({"offset": 0.0, "std": 1e-6, "gain": 0.5})
    objective = ModelObjective(model, lambda s, c, a, n: -(n[..., 0] - 0.123).square(), never)(torch.zeros(2, 3))
    values = []
    for refinement in (None, GradientRefinement(n_steps=100, learning_rate=0.02)):
        planner = CEM(ACTION, H, n_candidates=10, n_iterations=1, refinement=refinement)
        values.append(planner.plan(objective, planner.init(2), generator=seeded()).value)
    assert (values[0] < -1e-3).all()
    assert (values[1] > -1e-4).all()
