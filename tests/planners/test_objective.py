"""ModelObjective: what plans are worth, and that finding out leaves no trace."""

import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import nn

from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from layeredrl.nets.prob_fc_dynamics import ProbFCDynamics
from layeredrl.planners.cem import CEM
from layeredrl.planners.objective import ModelObjective
from tests.models.ensembles import make_fixed
from tests.reference.returns import expected_return

STATE = Box(-torch.inf, torch.inf, (3,))
CONTEXT = Box(-1.0, 1.0, (2,))
BOX = Box(-1.0, 1.0, (2,))
DISCRETE = Discrete(3, start=5)
V, N, H = 2, 4, 5


class Net(ProbFCDynamics):
    """A member that ends episodes often."""

    def __init__(self, *spaces_and_modes):
        super().__init__(*spaces_and_modes, hidden_sizes=(8,))
        nn.init.constant_(self.head.bias[-1:], -1.0)


class NetWithModes(Net):
    """A member whose layers behave differently in training: they draw noise and keep statistics."""

    def __init__(self, *spaces_and_modes):
        super().__init__(*spaces_and_modes)
        self.trunk.append(nn.BatchNorm1d(8)).append(nn.Dropout(0.5))


def make_model(action_space=BOX, context_space=None, net=Net):
    return ProbabilisticEnsemble(
        STATE, context_space, action_space, net, n_models=3, n_modes=2, n_particles_per_model=2
    )


def draw_plans(action_space=BOX):
    if isinstance(action_space, Discrete):
        return torch.randint(5, 8, (V, N, H, 1))
    return torch.rand(V, N, H, 2) * 2 - 1


def reward(state, context, action, next_state):
    bonus = 0.0 if context is None else (context * next_state[..., :2]).sum(dim=-1)
    return state[..., 0] - next_state[..., 1].square() + 0.1 * action.sum(dim=-1) + bonus


def termination(state, context, action, next_state):
    return next_state[..., 2] > 0.5


def seeded():
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize("discount", [1.0, 0.8])
@pytest.mark.parametrize("known", [None, termination], ids=["learned-end", "known-end"])
@pytest.mark.parametrize("action_space", [BOX, DISCRETE], ids=["box", "discrete"])
@pytest.mark.parametrize("context_space", [None, CONTEXT], ids=["no-context", "context"])
@pytest.mark.parametrize("propagation", ["ts_inf", "expectation"])
def test_values_are_those_of_a_loop_over_particles_and_time(
    discount, known, action_space, context_space, propagation
):
    model, plans, state = make_model(action_space, context_space), draw_plans(action_space), torch.randn(V, 3)
    context = None if context_space is None else torch.rand(V, 2)
    model.set_elites(torch.tensor([0, 2]))
    objective = ModelObjective(model, reward, known, discount=discount, propagation=propagation)
    values = objective(state, context, generator=seeded())(plans)

    pairs = [(v, n) for v in range(V) for n in range(N)]
    rollout = model.rollout(
        torch.stack([state[v] for v, _ in pairs]),
        None if context is None else torch.stack([context[v] for v, _ in pairs]),
        torch.stack([plans[v, n] for v, n in pairs]),
        propagation=propagation,
        members=torch.tensor([0, 2]),
        generator=seeded(),
    )
    for row, (v, n) in enumerate(pairs):
        own_context = None if context is None else context[v]
        expected = expected_return(
            rollout, row, own_context, plans[v, n], reward, termination=known, discount=discount
        )
        assert values[v, n].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_last_step_before_the_end_counts_and_no_later_one():
    """One reward a step, an end after the first: a return of 1."""
    objective = ModelObjective(
        make_model(), lambda s, c, a, n: torch.ones_like(n[..., 0]), lambda s, c, a, n: n[..., 0].isfinite()
    )
    assert torch.equal(objective(torch.randn(V, 3))(draw_plans()), torch.ones(V, N))


def test_a_reward_of_actions_alone_is_enough():
    objective = ModelObjective(
        make_model(), lambda s, c, a, n: a[..., 0], lambda s, c, a, n: torch.zeros_like(n[..., 0]).bool()
    )
    plans = draw_plans()
    torch.testing.assert_close(objective(torch.randn(V, 3))(plans), plans[..., 0].sum(dim=2))


@pytest.mark.parametrize("name", ["reward", "termination"])
@pytest.mark.parametrize("wrong", [lambda x: x.unsqueeze(-1), lambda x: x[..., 0]], ids=["extra-dim", "no-time"])
def test_functions_that_return_a_wrong_shape_are_named(name, wrong, unchecked):
    functions = {"reward": reward, "termination": termination}
    right = functions[name]
    functions[name] = lambda *transition: wrong(right(*transition))
    objective = ModelObjective(make_model(), **functions)
    with pytest.raises(ValueError, match=rf"{name}: got .*shape"):
        objective(torch.randn(V, 3))(draw_plans())


def test_a_broken_member_outside_the_elites_does_not_matter():
    model, state, plans = make_model(), torch.randn(V, 3), draw_plans()
    model.set_elites(torch.tensor([0, 2]))
    before = ModelObjective(model, reward)(state, generator=seeded())(plans)
    for parameter in model.get_parameters():
        parameter.data[1] = float("nan")
    assert torch.equal(ModelObjective(model, reward)(state, generator=seeded())(plans), before)
    assert ModelObjective(model, reward, use_elites=False)(state)(plans).isnan().all()


@pytest.mark.parametrize("discount", [0.0, 1.1, -0.5, float("nan")])
def test_a_discount_outside_its_range_is_refused(discount):
    with pytest.raises(ValueError, match=rf"discount: got {discount}, expected"):
        ModelObjective(make_model(), reward, discount=discount)


def test_an_unknown_propagation_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"propagation: got 'ts2', expected one of ts_inf"):
        ModelObjective(make_model(), reward, propagation="ts2")(torch.randn(V, 3))(draw_plans())


def test_a_missing_or_superfluous_context_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"context: got None, expected rows of Box"):
        ModelObjective(make_model(context_space=CONTEXT), reward)(torch.randn(V, 3))(draw_plans())
    with pytest.raises(ValueError, match=r"context: got a Tensor, expected None"):
        ModelObjective(make_model(), reward)(torch.randn(V, 3), torch.rand(V, 2))(draw_plans())


@pytest.mark.parametrize("net", [Net, NetWithModes])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_planning_leaves_the_model_bit_identical(net, training):
    model, planner = make_model(net=net).train(training), CEM(BOX, H, n_candidates=10)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    planner.plan(ModelObjective(model, reward)(torch.randn(V, 3)), planner.init(V))
    after = model.state_dict()
    changed = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert changed == []
    assert all(module.training == training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_generator_decides_the_values_and_spares_the_global_one():
    model, state, plans = make_model(), torch.randn(V, 3), draw_plans()
    objective = ModelObjective(model, reward)
    before = torch.get_rng_state()
    first, again = (objective(state, generator=seeded())(plans) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(objective(state, generator=torch.Generator().manual_seed(8))(plans), first)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_plan_whose_reward_breaks_down_ranks_last(bad):
    """It would be the best but for one broken step."""

    def breaks_down(state, context, action, next_state):
        return torch.where(action[..., 0] > 0.5, bad, action[..., 0] - 100.0)

    planner = CEM(BOX, H, n_candidates=50)
    plan = planner.plan(ModelObjective(make_model(), breaks_down)(torch.randn(V, 3)), planner.init(V))
    assert plan.value.isfinite().all()
    assert (plan.actions[..., 0] <= 0.5).all()


def test_inputs_are_not_written_to():
    state, plans = torch.randn(V, 3), draw_plans()
    before = state.clone(), plans.clone()
    ModelObjective(make_model(), reward)(state)(plans)
    assert torch.equal(state, before[0])
    assert torch.equal(plans, before[1])


def test_what_is_imagined_after_the_end_does_not_count():
    """The first step ends the episode; rewards from then on are infinite."""
    model = make_fixed({"offset": 1.0, "std": 1e-6})

    def reward(state, context, action, next_state):
        return torch.where(state[..., 0] > 0.5, torch.inf, 2.0)

    def termination(state, context, action, next_state):
        return next_state[..., 0] > 0.5

    values = ModelObjective(model, reward, termination)(torch.zeros(1, 3))(torch.zeros(1, 2, 4, 2))
    assert values.tolist() == [[2.0, 2.0]]
