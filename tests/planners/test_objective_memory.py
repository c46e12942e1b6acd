"""Valuing plans takes memory for a single step, however long the plans are."""

from functools import partial

import pytest
import torch

from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.risk import CVaR
from layeredrl.planners.terms import ActionCost, DisagreementBonus, Halt, MaxDistance, MOPOPenalty
from tests.live_bytes import LiveBytes
from tests.models.ensembles import ACTION, NESTED, draw, make_batch, make_ensemble
from tests.models.rollout_only import RolloutOnly
from tests.planners.small_task import may_fall

N = 40
# As wide as nets are, so that a step takes more than the checks of the plans.
NET = partial(ProbFCDynamics, hidden_sizes=(128, 128))
TERMS = [ActionCost(0.1), MOPOPenalty(0.1), Halt(MaxDistance(5.0), 1.0), DisagreementBonus(0.1)]
SPACES = {"plain": (None, ACTION), "nested": (NESTED, NESTED)}


@torch.no_grad()
def peak(horizon, *, spaces=(None, ACTION), wrap=lambda model: model, reward=None, halts=False, **settings):
    """Bytes that live at once at most, beside the plans."""
    torch.manual_seed(0)
    model = make_ensemble(
        context_space=spaces[0], action_space=spaces[1], net=NET, n_models=3, n_particles_per_model=4
    )
    state, context = draw(model.state_space, 2), draw(model.context_space, 2)
    plans = draw(model.action_space, 2, N, horizon)
    reward = reward or (lambda s, c, a, n: n.sum(dim=-1))
    if halts:
        model.fit_epistemic_limit(make_batch(50, *spaces))
        settings["terms"] = [Halt(model.epistemic_limit, 1.0)]
    objective = ModelObjective(wrap(model), reward, **settings)(state, context)
    with LiveBytes() as memory:
        objective(plans)
    return memory.peak


@pytest.mark.parametrize("spaces", SPACES.values(), ids=SPACES.keys())
@pytest.mark.parametrize("propagation", ["ts_inf", "ts1", "moment_matching", "expectation"])
def test_ten_times_the_horizon_takes_no_more_memory(propagation, spaces):
    settings = {"propagation": propagation, "spaces": spaces}
    assert peak(50, **settings) == pytest.approx(peak(5, **settings), rel=0.03)


def test_nor_do_terms_ends_and_values():
    settings = {"terms": TERMS, "termination": may_fall, "risk": CVaR(0.3), "terminal_value": lambda s, c: s[:, 0]}
    assert peak(50, **settings) == pytest.approx(peak(5, **settings), rel=0.03)


@pytest.mark.parametrize("propagation", ["ts_inf", "ts1", "expectation"])
def test_nor_does_asking_all_members_about_all_particles(propagation):
    settings = {"halts": True, "propagation": propagation}
    assert peak(50, **settings) == pytest.approx(peak(5, **settings), rel=0.03)
    assert peak(5, max_rows=20, **settings) < 0.6 * peak(5, **settings)


def test_a_model_that_only_rolls_out_keeps_all_steps():
    """So that the tests above could fail."""
    assert peak(50, wrap=RolloutOnly) > 2 * peak(5, wrap=RolloutOnly)


@pytest.mark.parametrize("spaces", SPACES.values(), ids=SPACES.keys())
def test_fewer_rows_at_a_time_take_less_memory(spaces):
    """The states of all particles remain; what the networks need beside them shrinks."""
    whole, half, few = (peak(5, spaces=spaces, max_rows=max_rows) for max_rows in (None, 2 * N * 2, 10))
    assert half < 0.6 * whole
    assert few < 0.4 * half


@pytest.mark.parametrize("of", ["reward", "value"])
def test_nor_do_rewards_and_values_take_more_than_their_rows(of):
    """What a wide network would need for all particles at once is needed for some of them only."""
    weight = torch.randn(3, 500)

    def wide(state):
        return (state @ weight).relu().sum(dim=-1)

    settings = {
        "reward": {"reward": lambda s, c, a, n: wide(n)},
        "value": {"terminal_value": lambda s, c: wide(s)},
    }[of]
    whole, few = (peak(5, max_rows=max_rows, **settings) for max_rows in (None, 20))
    assert few < 0.2 * whole
