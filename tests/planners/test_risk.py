"""Measures of risk: against plain Python and closed forms, and that none of them overlooks a broken particle."""

import math

import pytest
import torch
from torch.distributions import Normal

from layeredrl.planners import risk
from layeredrl.planners.cem import CEM
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.risk import CVaR
from tests.models.ensembles import ACTION, make_fixed
from tests.planners.small_task import never, seeded
from tests.reference import risks

MEASURES = {"mean": risk.mean, "worst-member": risk.worst_member, "cvar-0.2": CVaR(0.2), "cvar-1": CVaR(1.0)}
ALL = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())


def by_loop(measure, returns):
    return torch.tensor([measure(plan.tolist()) for plan in returns.unbind(dim=-1)])


@pytest.mark.parametrize("shape", [(1, 1, 4), (3, 2, 5), (5, 4, 1)])
def test_mean_and_worst_member_are_those_of_a_loop(shape):
    returns = torch.randn(shape)
    torch.testing.assert_close(risk.mean(returns), by_loop(risks.mean, returns))
    torch.testing.assert_close(risk.worst_member(returns), by_loop(risks.worst_member, returns))


@pytest.mark.parametrize("alpha", [1e-6, 0.05, 0.1, 1 / 3, 0.35, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("shape", [(1, 1, 4), (3, 2, 5), (5, 4, 1)])
def test_cvar_is_the_mean_of_the_worst_share_of_a_sorted_list(shape, alpha):
    returns = torch.randn(shape)
    torch.testing.assert_close(CVaR(alpha)(returns), by_loop(risks.cvar(alpha), returns))


def test_cvar_runs_from_the_worst_particle_to_the_mean():
    returns = torch.randn(3, 4, 6)
    torch.testing.assert_close(CVaR(1.0)(returns), risk.mean(returns))
    torch.testing.assert_close(CVaR(1e-9)(returns), returns.amin(dim=(0, 1)))
    values = torch.stack([CVaR(alpha)(returns) for alpha in torch.linspace(0.01, 1.0, 50).tolist()])
    assert (values.diff(dim=0) >= -1e-6).all()


@pytest.mark.parametrize("alpha", [0.05, 0.25, 1.0])
def test_cvar_of_gaussian_returns_is_the_closed_form(alpha):
    """μ − σ φ(z) / α, where z is the α-quantile; the sum of three steps has a variance of 3 σ²."""
    model = make_fixed({"offset": 0.5, "std": 0.2}, n_particles_per_model=50_000)
    objective = ModelObjective(model, lambda s, c, a, n: n[..., 0] - s[..., 0], never, risk=CVaR(alpha))
    value = objective(torch.zeros(1, 3), generator=seeded())(torch.zeros(1, 1, 3, 2)).item()
    std, normal = 0.2 * math.sqrt(3), Normal(0.0, 1.0)
    density = 0.0 if alpha == 1.0 else normal.log_prob(normal.icdf(torch.tensor(alpha))).exp().item()
    assert value == pytest.approx(1.5 - std * density / alpha, abs=0.01)


def test_the_worst_member_is_the_one_that_expects_least_whatever_its_noise():
    model = make_fixed(
        {"offset": 1.0, "std": 3.0},
        {"offset": 0.5, "std": 0.1},
        {"offset": 2.0, "std": 1.0},
        n_particles_per_model=5000,
    )
    values = {
        name: ModelObjective(model, lambda s, c, a, n: n[..., 0], never, risk=measure)(
            torch.zeros(1, 3), generator=seeded()
        )(torch.zeros(1, 1, 1, 2)).item()
        for name, measure in {**MEASURES, "cvar-0.01": CVaR(0.01)}.items()
    }
    assert values["worst-member"] == pytest.approx(0.5, abs=0.02)
    assert values["mean"] == pytest.approx(3.5 / 3, abs=0.1)
    assert values["cvar-0.01"] < -4.0  # the noisy member's bad luck


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@ALL
def test_a_single_broken_particle_makes_a_plan_worthless(measure, bad):
    """Of ten, the one that is broken may be the best, which the worst share leaves out."""
    model = make_fixed(*({"offset": float(e), "std": 1e-6} for e in range(10)))

    def breaks_down(state, context, action, next_state):
        broken = (next_state[..., 0] > 8.5) & (action[..., 0] > 0.5)
        return torch.where(broken, bad, next_state[..., 0])

    plans = torch.zeros(1, 2, 1, 2)
    plans[0, 1, 0, 0] = 1.0
    values = ModelObjective(model, breaks_down, never, risk=measure)(torch.zeros(1, 3))(plans)
    assert values[0, 0].isfinite()
    assert not values[0, 1].isfinite()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@ALL
def test_a_plan_that_breaks_down_ranks_last(measure, bad):
    """It would be the best but for one member's broken step."""
    model = make_fixed({"offset": 0.0, "std": 1e-6}, {"offset": 1.0, "std": 1e-6})

    def breaks_down(state, context, action, next_state):
        broken = (action[..., 0] > 0.5) & (next_state[..., 0] > 0.5)
        return torch.where(broken, bad, action[..., 0] - 100.0)

    planner = CEM(ACTION, 3, n_candidates=50)
    plan = planner.plan(ModelObjective(model, breaks_down, risk=measure)(torch.zeros(2, 3)), planner.init(2))
    assert plan.value.isfinite().all()
    assert (plan.actions[..., 0] <= 0.5).all()


@pytest.mark.parametrize("bad", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_outside_its_range_is_refused(bad):
    with pytest.raises(ValueError, match=rf"alpha: got {bad}, expected"):
        CVaR(bad)
