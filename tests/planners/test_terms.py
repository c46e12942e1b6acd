"""Terms of an objective: by hand on models of known answers, and against plain Python on others."""

import math

import pytest
import torch

from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.terms import ActionCost, DisagreementBonus, Halt, MaxDistance, MOPOPenalty
from tests.models.ensembles import make_batch, make_fixed
from tests.planners.small_task import N, draw_plans, make_model, may_fall, never, ones, reward, seeded, start
from tests.reference import terms
from tests.reference.returns import plan_values

SCALE = torch.tensor([1.0, 2.0, 4.0])
ROOT_3 = math.sqrt(3)


def value_of(model, *applied, plan=None, horizon=3, **settings):
    """Of a plan from the origin, with one reward a step."""
    plan = torch.zeros(horizon, 2) if plan is None else torch.tensor(plan)
    objective = ModelObjective(model, ones, never, terms=applied, **settings)
    return objective(torch.zeros(1, 3))(plan[None, None]).item()


def drifting_apart(*offsets, std=1e-6):
    """Members that differ by a step's offset in each of the three dimensions."""
    return make_fixed(*({"offset": offset, "std": std} for offset in offsets))


# By hand --------------------------------------------------------------------------------------------------------


def test_actions_cost_their_squared_norm():
    plan = [[0.5, -1.0], [0.0, 0.0], [1.0, 0.0]]
    assert value_of(drifting_apart(0.0), ActionCost(0.1), plan=plan) == pytest.approx(3 - 0.1 * (1.25 + 0 + 1))


def test_mopo_charges_the_norm_of_the_noisiest_member():
    """Whoever's particle it is, so that all of them pay."""
    model = make_fixed({"offset": 0.0, "std": 0.3}, {"offset": 4.0, "std": 0.4})
    assert value_of(model, MOPOPenalty(0.5)) == pytest.approx(3 * (1 - 0.5 * 0.4 * ROOT_3))
    in_units = 0.4 * math.sqrt(1 + 1 / 4 + 1 / 16)
    assert value_of(model, MOPOPenalty(0.5, SCALE)) == pytest.approx(3 * (1 - 0.5 * in_units))


def test_disagreement_is_the_deviation_between_the_members_means():
    """Of 0 and 4, it is 2 in each dimension, whatever the noise."""
    model = drifting_apart(0.0, 4.0, std=0.3)
    once = {"horizon": 1}
    assert value_of(model, DisagreementBonus(0.5), **once) == pytest.approx(1 + 0.5 * 2 * ROOT_3)
    in_units = 2 * math.sqrt(1 + 1 / 4 + 1 / 16)
    assert value_of(model, DisagreementBonus(-0.5, SCALE), **once) == pytest.approx(1 - 0.5 * in_units)


def test_disagreement_adds_up_as_paths_drift_apart_but_not_on_a_common_one():
    model = drifting_apart(0.0, 4.0)
    drifting = 3 + 0.5 * (2 + 4 + 6) * ROOT_3
    assert value_of(model, DisagreementBonus(0.5)) == pytest.approx(drifting, rel=1e-4)
    together = 3 + 0.5 * (2 + 2 + 2) * ROOT_3
    assert value_of(model, DisagreementBonus(0.5), propagation="expectation") == pytest.approx(together, rel=1e-4)


def test_a_halt_costs_its_penalty_and_ends_the_episode():
    """The farthest two of three members, 5 apart a step in each dimension, are 5 √3, 10 √3, … apart."""
    model = drifting_apart(1.0, 0.0, 5.0)
    values = [value_of(model, Halt(MaxDistance(t * ROOT_3), penalty=7.0)) for t in (4.9, 5.1, 9.9, 10.1, 15.1)]
    assert values == [-7.0, 1 - 7.0, 1 - 7.0, 2 - 7.0, 3.0]


def test_members_on_a_common_path_halt_at_once_or_never():
    model = drifting_apart(1.0, 0.0, 5.0)
    for threshold, expected in ((4.9 * ROOT_3, -7.0), (5.1 * ROOT_3, 3.0)):
        assert value_of(model, Halt(MaxDistance(threshold), penalty=7.0), propagation="expectation") == expected


def test_a_halt_measures_distances_in_units():
    model, distance = drifting_apart(0.0, 5.0), 5 * math.sqrt(1 + 1 / 4 + 1 / 16)
    values = [value_of(model, Halt(MaxDistance(distance + x, SCALE), 7.0), horizon=1) for x in (-0.01, 0.01)]
    assert values == [-7.0, 1.0]


def test_a_single_member_cannot_tell_where_to_halt():
    with pytest.raises(ValueError, match="members: got a single one, which has nobody to disagree with"):
        value_of(drifting_apart(0.0), Halt(MaxDistance(1.0), 7.0))


def test_terms_are_applied_in_their_order():
    """What a halt costs replaces what was charged before it, and is charged for after it."""
    model, plan = drifting_apart(0.0, 5.0), [[1.0, 0.0]]
    cost, halt = ActionCost(0.25), Halt(MaxDistance(1.0), penalty=7.0)
    assert value_of(model, cost, halt, plan=plan) == pytest.approx(-7.0)
    assert value_of(model, halt, cost, plan=plan) == pytest.approx(-7.25)


def test_a_soft_end_is_charged_for_by_how_much_it_is_one():
    """Costs after a probable end count as little as rewards do."""
    model = drifting_apart(0.0)
    objective = ModelObjective(
        model, ones, lambda s, c, a, n: torch.full_like(n[..., 0], 0.75), terms=[ActionCost(1.0)]
    )
    value = objective(torch.zeros(1, 3))(torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]])).item()
    assert value == pytest.approx(1 + 0.25 * (1 - 2))


# By a loop ------------------------------------------------------------------------------------------------------

PAIRS = {
    "action-cost": (ActionCost(0.3), terms.action_cost(0.3)),
    "mopo": (MOPOPenalty(0.7), terms.mopo_penalty(0.7, [1, 1, 1])),
    "mopo-in-units": (MOPOPenalty(0.7, SCALE), terms.mopo_penalty(0.7, [1, 2, 4])),
    "morel": (Halt(MaxDistance(0.8), 3.0), terms.morel_halt(0.8, 3.0, [1, 1, 1])),
    "morel-in-units": (Halt(MaxDistance(0.3, SCALE), 3.0), terms.morel_halt(0.3, 3.0, [1, 2, 4])),
    "disagreement": (DisagreementBonus(0.7), terms.disagreement_bonus(0.7, [1, 1, 1])),
    "disagreement-in-units": (DisagreementBonus(-0.7, SCALE), terms.disagreement_bonus(-0.7, [1, 2, 4])),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
@pytest.mark.parametrize("propagation", ["ts_inf", "ts1", "moment_matching", "expectation"])
def test_terms_are_those_of_a_loop_over_members(pair, propagation):
    model = make_model()
    (state, _), plans = start(model), draw_plans(model)
    settings = {"discount": 0.9, "termination": may_fall}
    objective = ModelObjective(model, reward, **settings, propagation=propagation, terms=pair[:1])
    values = objective(state, generator=seeded())(plans)
    loop = {**settings, "propagation": propagation, "terms": pair[1:]}
    expected = plan_values(model, state, None, plans, reward, generator=seeded(), **loop)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)
    bare = plan_values(model, state, None, plans, reward, generator=seeded(), **{**loop, "terms": ()})
    assert not torch.allclose(values, bare, atol=0.01)


@pytest.mark.parametrize("propagation", ["ts_inf", "ts1", "moment_matching", "expectation"])
def test_particles_halt_where_members_disagree_more_than_on_held_out_data(propagation):
    """By a loop over particles: each is put before all members, one by one."""
    model, penalty = make_model(), 5.0
    model.fit_epistemic_limit(make_batch(100), share=0.6)
    (state, _), plans = start(model), draw_plans(model)
    halt = Halt(model.epistemic_limit, penalty)
    objective = ModelObjective(model, reward, may_fall, propagation=propagation, terms=[halt])
    values = objective(state, generator=seeded())(plans).flatten()
    rows = plans.flatten(0, 1)
    starts = state.repeat_interleave(N, dim=0)
    rollout = model.rollout(starts, None, rows, propagation=propagation, generator=seeded())
    halted = []
    for plan, particles, value in zip(rows, rollout.state.flatten(1, 2), values, strict=True):
        returns = []
        for path in particles:
            total, alive = 0.0, 1.0
            for t, action in enumerate(plan):
                mean, weights, _, _ = model.predict(path[None, t], None, action[None])
                std = (weights[..., None] * mean).sum(dim=2)[0].std(dim=0, correction=0)
                halted.append(bool((std > model.epistemic_limit.std).any()))
                if halted[-1]:
                    total -= alive * penalty
                    break
                total += alive * reward(path[t], None, action, path[t + 1]).item()
                alive *= 1 - may_fall(path[t], None, action, path[t + 1]).item()
            returns.append(total)
        assert value.item() == pytest.approx(sum(returns) / len(returns), rel=1e-3, abs=1e-3)
    assert any(halted)
    assert not all(halted)
