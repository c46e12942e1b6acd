"""ModelObjective: what plans are worth, and that finding out leaves no trace."""

import pytest
import torch
from torch import nn

from layeredrl.models import propagation
from layeredrl.models.propagation import MERGE
from layeredrl.planners import risk
from layeredrl.planners.cem import CEM
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.terms import ActionCost, DisagreementBonus, MOPOPenalty
from tests.models.ensembles import ACTION, CONTEXT, DISCRETE, NESTED, make_fixed
from tests.models.rollout_only import RolloutOnly
from tests.planners.small_task import (
    H,
    N,
    Net,
    V,
    draw_plans,
    falls,
    make_model,
    may_fall,
    never,
    ones,
    reward,
    seeded,
    start,
)
from tests.reference import risks, terms
from tests.reference.returns import plan_values


def height(state, context):
    """Terminal value of rows, and of a single state."""
    return state[..., 0] if context is None else state[..., 0] * context[..., 1]


# Settings of the objective, and the same of the loop.
SETTINGS = {
    "plain": ({}, {}),
    "discounted": ({"discount": 0.8}, {"discount": 0.8}),
    "learned-hard-end": ({"ending": "hard"}, {"hard": True}),
    "known-end": ({"termination": falls}, {"termination": falls}),
    "known-hard-end": ({"termination": falls, "ending": "hard"}, {"termination": falls}),
    "probable-end": ({"termination": may_fall}, {"termination": may_fall}),
    "probable-hard-end": ({"termination": may_fall, "ending": "hard"}, {"termination": may_fall, "hard": True}),
    "terminal-value": ({"terminal_value": height}, {"terminal_value": height}),
    "worst-member": ({"risk": risk.worst_member}, {"risk": risks.worst_member}),
    "everything": (
        {
            "termination": may_fall,
            "discount": 0.9,
            "terminal_value": height,
            "terms": (ActionCost(0.3), DisagreementBonus(0.5)),
            "risk": risk.CVaR(0.4),
            "max_rows": 5,
        },
        {
            "termination": may_fall,
            "discount": 0.9,
            "terminal_value": height,
            "terms": (terms.action_cost(0.3), terms.disagreement_bonus(0.5, [1, 1, 1])),
            "risk": risks.cvar(0.4),
        },
    ),
}
SPACES = {"box": (None, ACTION), "discrete-in-context": (CONTEXT, DISCRETE)}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("spaces", SPACES.values(), ids=SPACES.keys())
@pytest.mark.parametrize("propagation", ["ts_inf", "expectation"])
def test_values_are_those_of_a_loop_over_particles_and_time(settings, spaces, propagation):
    own, loop = settings
    model = make_model(context_space=spaces[0], action_space=spaces[1])
    model.set_elites(torch.tensor([0, 2]))
    (state, context), plans = start(model), draw_plans(model)
    objective = ModelObjective(model, reward, **{"propagation": propagation, **own})
    values = objective(state, context, generator=seeded())(plans)
    more = {"propagation": propagation, "members": torch.tensor([0, 2]), "generator": seeded(), **loop}
    expected = plan_values(model, state, context, plans, reward, **more)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("propagation", ["ts1", "moment_matching"])
def test_values_are_those_of_a_loop_where_particles_meet_other_members(propagation):
    model = make_model()
    (state, context), plans = start(model), draw_plans(model)
    values = ModelObjective(model, reward, propagation=propagation)(state, context, generator=seeded())(plans)
    expected = plan_values(model, state, context, plans, reward, propagation=propagation, generator=seeded())
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)


def test_actions_and_contexts_of_any_nesting_are_planned_with():
    model = make_model(action_space=NESTED, context_space=NESTED)
    (state, context), plans = start(model), draw_plans(model)

    def push(state, context, action, next_state):
        return next_state.sum(dim=-1) * context[..., 0] + action[..., 3]

    values = ModelObjective(model, push)(state, context, generator=seeded())(plans)
    expected = plan_values(model, state, context, plans, push, generator=seeded())
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("propagation", MERGE)
def test_a_model_that_only_rolls_out_gives_the_same_values(propagation):
    model = make_model()
    (state, _), plans = start(model), draw_plans(model)
    values, expected = (
        ModelObjective(m, reward, propagation=propagation, terms=[DisagreementBonus(1.0)])(
            state, generator=seeded()
        )(plans)
        for m in (RolloutOnly(model), model)
    )
    torch.testing.assert_close(values, expected)


def test_the_last_step_before_the_end_counts_and_no_later_one():
    """One reward a step, an end after the first: a return of 1."""
    model = make_model()
    objective = ModelObjective(model, ones, lambda s, c, a, n: n[..., 0].isfinite())
    assert torch.equal(objective(torch.randn(V, 3))(draw_plans(model)), torch.ones(V, N))


def test_an_end_of_half_a_chance_is_none_if_it_is_hard():
    """Soft, each step halves what counts: 1 + ½ + ¼ + …"""
    model = make_fixed({"offset": 0.0, "std": 0.1, "term_prob": 0.5}, {"offset": 0.0, "std": 0.1, "term_prob": 0.5})
    values = [
        ModelObjective(model, ones, ending=ending)(torch.zeros(1, 3))(torch.zeros(1, 1, H, 2)).item()
        for ending in ("soft", "hard")
    ]
    assert values == [pytest.approx(2 - 2 ** (1 - H)), H]


def test_a_reward_of_actions_alone_is_enough():
    model = make_model()
    objective, plans = ModelObjective(model, lambda s, c, a, n: a[..., 0], never), draw_plans(model)
    torch.testing.assert_close(objective(torch.randn(V, 3))(plans), plans[..., 0].sum(dim=2))


@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float64])
def test_rewards_of_any_dtype_leave_ends_probable(dtype):
    """An end with a probability of 0.9 isn't none, only because rewards are whole numbers."""
    model = make_fixed({"offset": 0.0, "std": 0.1})
    objective = ModelObjective(
        model,
        lambda s, c, a, n: torch.ones(n.shape[:-1], dtype=dtype),
        lambda s, c, a, n: torch.full_like(n[..., 0], 0.9),
        terms=[ActionCost(1.0)],
    )
    values = objective(torch.zeros(1, 3))(torch.zeros(1, 1, 3, 2))
    torch.testing.assert_close(values, torch.tensor([[1.11]]))


@pytest.mark.parametrize("name", ["reward", "termination"])
@pytest.mark.parametrize("wrong", [lambda x: x.unsqueeze(-1), lambda x: x[..., :2]], ids=["extra-dim", "too-few"])
def test_functions_that_return_a_wrong_shape_are_named(name, wrong, unchecked):
    functions = {"reward": reward, "termination": falls}
    right = functions[name]
    functions[name] = lambda *transition: wrong(right(*transition))
    model = make_model()
    with pytest.raises(ValueError, match=rf"{name}: got values of shape .*, expected .* \(3, 2, 6\)"):
        ModelObjective(model, **functions)(torch.randn(V, 3))(draw_plans(model))


@pytest.mark.parametrize("name", ["reward", "termination"])
def test_functions_that_return_no_tensor_are_named(name, unchecked):
    functions = {"reward": reward, "termination": falls, name: lambda *transition: 1.0}
    model = make_model()
    with pytest.raises(TypeError, match=rf"{name}: got a float, expected a Tensor of one value per transition"):
        ModelObjective(model, **functions)(torch.randn(V, 3))(draw_plans(model))


def test_a_broken_member_outside_the_elites_does_not_matter():
    model = make_model()
    (state, _), plans = start(model), draw_plans(model)
    model.set_elites(torch.tensor([0, 2]))
    before = ModelObjective(model, reward)(state, generator=seeded())(plans)
    for parameter in model.get_parameters():
        parameter.data[1] = torch.nan
    assert torch.equal(ModelObjective(model, reward)(state, generator=seeded())(plans), before)
    assert ModelObjective(model, reward, use_elites=False)(state)(plans).isnan().all()


@pytest.mark.parametrize(
    ("name", "bad", "expected"),
    [
        ("discount", 0.0, r"a number in \(0, 1\]"),
        ("discount", 1.1, r"a number in \(0, 1\]"),
        ("discount", -0.5, r"a number in \(0, 1\]"),
        ("discount", float("nan"), r"a number in \(0, 1\]"),
        ("propagation", "ts2", "one of ts_inf, ts1, moment_matching, expectation"),
        ("ending", "sudden", "one of soft, hard"),
        ("max_rows", 0, "an integer of at least 1"),
        ("max_rows", 2.5, "an integer of at least 1"),
    ],
)
def test_bad_settings_are_refused(name, bad, expected, unchecked):
    with pytest.raises(ValueError, match=rf"{name}: got '?{bad}'?, expected {expected}"):
        ModelObjective(make_model(), reward, **{name: bad})


def test_a_missing_or_superfluous_context_is_refused(unchecked):
    model = make_model(context_space=CONTEXT)
    with pytest.raises(ValueError, match=r"context: got None, expected rows of Box"):
        ModelObjective(model, reward)(torch.randn(V, 3))(draw_plans(model))
    model = make_model()
    with pytest.raises(ValueError, match=r"context: got a Tensor, expected None"):
        ModelObjective(model, reward)(torch.randn(V, 3), torch.rand(V, 2))(draw_plans(model))


class NetWithModes(Net):
    """A member whose layers behave differently in training: they draw noise and keep statistics."""

    def __init__(self, *spaces_and_modes):
        super().__init__(*spaces_and_modes)
        self.net.insert(2, nn.BatchNorm1d(8)).insert(3, nn.Dropout(0.5))


@pytest.mark.parametrize("net", [Net, NetWithModes])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_planning_leaves_the_model_bit_identical(net, training):
    model, planner = make_model(net=net).train(training), CEM(ACTION, H, n_candidates=10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    planner.plan(ModelObjective(model, reward)(torch.randn(V, 3)), planner.init(V))
    after = model.state_dict()
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert changed == []
    assert all(module.training == training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_generator_decides_the_values_and_spares_the_global_one():
    model = make_model()
    (state, _), plans = start(model), draw_plans(model)
    objective = ModelObjective(model, reward)
    before = torch.get_rng_state()
    first, again = (objective(state, generator=seeded())(plans) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(objective(state, generator=seeded(8))(plans), first)


def test_inputs_are_not_written_to():
    model = make_model()
    (state, _), plans = start(model), draw_plans(model)
    before = state.clone(), plans.clone()
    ModelObjective(model, reward, falls, terms=[ActionCost(1.0)], terminal_value=height)(state)(plans)
    assert torch.equal(state, before[0])
    assert torch.equal(plans, before[1])


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
def test_what_is_imagined_after_the_end_does_not_count(bad):
    """The first step ends the episode; rewards, ends and values from then on are broken."""
    model = make_fixed({"offset": 1.0, "std": 1e-6})

    def reward(state, context, action, next_state):
        return torch.where(state[..., 0] > 0.5, bad, 2.0)

    def termination(state, context, action, next_state):
        return torch.where(state[..., 0] > 0.5, torch.nan, 1.0)

    objective = ModelObjective(model, reward, termination, terminal_value=lambda s, c: s[:, 0] * bad)
    assert objective(torch.zeros(1, 3))(torch.zeros(1, 2, 4, 2)).tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize("ending", ["soft", "hard"])
def test_an_end_that_is_nan_makes_a_plan_worthless(ending):
    """It is neither an end, after which costs don't count any more, nor none."""
    model = make_fixed({"offset": 1.0, "std": 1e-6})

    def costs(state, context, action, next_state):
        return -ones(state, context, action, next_state)

    def termination(state, context, action, next_state):
        return torch.where(action[..., 0] > 0.5, torch.nan, torch.zeros_like(next_state[..., 0]))

    plans = torch.zeros(1, 2, 3, 2)
    plans[0, 1, 1, 0] = 1.0
    values = ModelObjective(model, costs, termination, ending=ending)(torch.zeros(1, 3))(plans)
    assert values[0, 0] == -3.0
    assert values[0, 1].isnan()


def test_moments_that_no_term_asks_for_are_not_computed(monkeypatch):
    def refuse(*_):
        raise AssertionError("moments were computed")

    model = make_model()
    plans, state = draw_plans(model), torch.randn(V, 3)
    monkeypatch.setattr(propagation, "mixture_moments", refuse)
    assert ModelObjective(model, reward)(state)(plans).isfinite().all()
    with pytest.raises(AssertionError, match="moments were computed"):
        ModelObjective(model, reward, terms=[MOPOPenalty(1.0)])(state)(plans)


def test_a_term_may_write_to_the_rewards_and_ends_that_it_gets():
    """Even if the reward is a part of the state, or one number for all particles."""

    def writes(step, action, rewards, ends):
        rewards -= 100.0
        ends += 0.1
        return rewards, ends

    def returns(step, action, rewards, ends):
        return rewards - 100.0, ends + 0.1

    def position(state, context, action, next_state):
        return next_state[..., 0]

    def half(state, context, action, next_state):
        return torch.tensor(0.5)

    model = make_model()
    (state, _), plans = start(model), draw_plans(model)
    for max_rows in (None, 5):
        first, second = (
            ModelObjective(model, position, half, terms=[term], max_rows=max_rows)(state, generator=seeded())(plans)
            for term in (writes, returns)
        )
        assert torch.equal(first, second)
