"""Plans whose rewards, or whose ends, are valued by what was learned."""

from dataclasses import replace

import pytest
import torch

from layeredrl.models.reward_model import RewardModel
from layeredrl.planners.cem import CEM
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.terminal_value import TerminalValue
from layeredrl.policies import MLP, DeterministicMixin, DeterministicPolicy, Model, Value
from tests.models.ensembles import ACTION, CONTEXT, STATE, make_batch, make_fixed
from tests.planners.small_task import H, draw_plans, make_model, may_fall, never, reward, seeded, start
from tests.reference.loop_rewards import LoopRewards
from tests.reference.returns import plan_values

# Rewards ------------------------------------------------------------------------------------------------------


def make_rewards(context_space=None, n_models=3):
    rewards = RewardModel(STATE, context_space, ACTION, n_models=n_models, hidden_sizes=(8,))
    batch = make_batch(100, context_space)
    rewards.set_statistics(replace(batch, reward=3.0 * torch.randn(100) + 1.0))
    return rewards


def opinion(rewards, judge):
    """The mean reward that one member expects of a single transition, by hand."""

    def expected(state, context, action, next_state):
        rows = (None if x is None else x[None] for x in (state, context, action, next_state))
        return LoopRewards(rewards).laws(*rows)[judge].mean[0]

    return expected


@pytest.mark.parametrize(
    ("members", "elites", "judges"),
    [
        ([0, 1, 2], [0, 1, 2], [0, 1, 2]),
        ([0, 2], [0, 1, 2], [0, 2]),
        ([0, 1, 2], [1, 2], [1, 2, 1]),
        ([1, 2], [0, 2], [2, 0]),
    ],
)
@pytest.mark.parametrize("context_space", [None, CONTEXT], ids=["no-context", "context"])
def test_each_member_of_the_dynamics_is_judged_by_one_of_the_rewards(members, elites, judges, context_space):
    """Member m by the m-th elite of the rewards, counted on from the first; shown by rolling each member alone."""
    model, rewards = make_model(context_space=context_space), make_rewards(context_space)
    model.set_elites(torch.tensor(members))
    rewards.set_elites(torch.tensor(elites))
    (state, context), plans = start(model), draw_plans(model)
    values = ModelObjective(model, rewards, may_fall)(state, context, generator=seeded())(plans)
    alone = [
        plan_values(
            model,
            state,
            context,
            plans,
            opinion(rewards, judge),
            termination=may_fall,
            members=torch.tensor([member]),
            generator=seeded(),
        )
        for member, judge in zip(members, judges, strict=True)
    ]
    torch.testing.assert_close(values, torch.stack(alone).mean(dim=0), rtol=1e-3, atol=1e-3)


def test_without_elites_all_members_are_rolled_and_judged():
    model, rewards = make_model(), make_rewards()
    (state, _), plans = start(model), draw_plans(model)
    everyone = ModelObjective(model, rewards)(state, generator=seeded())(plans)
    model.set_elites(torch.tensor([1]))
    values = ModelObjective(model, rewards, use_elites=False)(state, generator=seeded())(plans)
    assert torch.equal(values, everyone)


def test_rewards_of_other_spaces_are_refused(unchecked):
    model = make_model()
    with pytest.raises(ValueError, match=r"context: got None, expected rows of Box"):
        ModelObjective(model, make_rewards(CONTEXT))(torch.zeros(2, 3))(draw_plans(model))


# Values -------------------------------------------------------------------------------------------------------


class Weighted(DeterministicMixin, Model):
    """The worth of a state in its context."""

    def __init__(self):
        Model.__init__(self, STATE, ACTION, "cpu")
        DeterministicMixin.__init__(self)

    def compute(self, inputs, role=""):
        return (inputs["observations"][:, :2] * inputs["context"]).sum(dim=-1, keepdim=True), {"role": role}


def test_a_value_model_says_what_the_last_states_are_worth():
    model, value = make_model(), Value(STATE, ACTION, MLP((8,)), "cpu")
    (state, _), plans = start(model), draw_plans(model)
    settings = {"termination": may_fall, "discount": 0.9}
    objective = ModelObjective(model, reward, **settings, terminal_value=TerminalValue(value))
    values = objective(state, generator=seeded())(plans)

    def worth(state, context):
        return value.act({"observations": state[None]}, role="value")[0].item()

    expected = plan_values(model, state, None, plans, reward, **settings, terminal_value=worth, generator=seeded())
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)


def test_a_value_model_reads_the_contexts_of_its_states():
    model = make_model(context_space=CONTEXT)
    (state, context), plans = start(model), draw_plans(model)
    objective = ModelObjective(model, reward, terminal_value=TerminalValue(Weighted()))
    values = objective(state, context, generator=seeded())(plans)
    expected = plan_values(
        model,
        state,
        context,
        plans,
        reward,
        terminal_value=lambda s, c: (s[:2] * c).sum(),
        generator=seeded(),
    )
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)


def test_a_value_model_acts_in_its_role():
    class TwoRoles(Weighted):
        def compute(self, inputs, role=""):
            return torch.full_like(inputs["observations"][:, :1], {"value": 1.0, "cost": -2.0}[role]), {}

    values = [
        TerminalValue(TwoRoles(), *role)(torch.zeros(4, 3), None).tolist() for role in ([], ["value"], ["cost"])
    ]
    assert values == [[1.0] * 4, [1.0] * 4, [-2.0] * 4]


def test_a_plan_that_leads_beyond_all_numbers_has_no_value():
    """The value model would refuse its state, and with it all the other plans."""
    model = make_fixed({"offset": 0.0, "std": 1e-6, "gain": 3e38})
    value = TerminalValue(Value(STATE, ACTION, MLP((8,)), "cpu"))
    objective = ModelObjective(model, lambda s, c, a, n: a[..., 0], never, terminal_value=value)(torch.zeros(1, 3))
    plans = torch.zeros(1, 2, H, 2)
    plans[0, 1] = 1.0
    values = objective(plans)
    assert values[0, 0].isfinite()
    assert values[0, 1].isnan()
    planner = CEM(ACTION, H, n_candidates=20)
    plan = planner.plan(objective, planner.init(1), proposals=plans)
    assert plan.value.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda s, c: s, ValueError, r"terminal_value: got shape \(36, 3\), expected \(36,\), one per state"),
        (lambda s, c: s[:1, 0], ValueError, r"terminal_value: got shape \(1,\), expected \(36,\)"),
        (lambda s, c: 1.0, TypeError, r"terminal_value: got a float, expected a Tensor"),
    ],
)
def test_values_of_a_wrong_shape_or_type_are_refused(wrong, error, message, unchecked):
    model = make_model()
    objective = ModelObjective(model, reward, terminal_value=wrong)
    with pytest.raises(error, match=message):
        objective(torch.zeros(2, 3))(draw_plans(model))


def test_what_is_no_value_model_is_refused(unchecked):
    with pytest.raises(TypeError, match=r"model: got function, expected a layeredrl\.policies Model"):
        TerminalValue(lambda state, context: state[:, 0])
    policy = TerminalValue(DeterministicPolicy(STATE, ACTION, MLP((8,)), "cpu"))
    with pytest.raises(ValueError, match=r"model: got values of shape \(5, 2\), expected \(5, 1\), one per state"):
        policy(torch.zeros(5, 3), None)
