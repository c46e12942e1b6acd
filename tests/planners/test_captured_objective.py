"""Plans are worth the same, whether or not their valuing is captured as a CUDA graph."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from gymnasium.spaces import Box

from layeredrl.models.propagation import MERGE
from layeredrl.models.reward_model import RewardModel
from layeredrl.nets import captured, compiled
from layeredrl.planners import risk
from layeredrl.planners.cem import CEM
from layeredrl.planners.objective import ModelObjective
from layeredrl.planners.terminal_value import TerminalValue
from layeredrl.planners.terms import ActionCost, DisagreementBonus
from layeredrl.policies import MLP, Value
from tests.fake_cuda_graphs import fake_cuda_graphs
from tests.models.ensembles import ACTION, CONTEXT, NESTED, STATE, draw, make_batch
from tests.planners.small_task import H, N, V, make_model, may_fall, reward

# What compiling for a GPU may say.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:TensorFloat32 tensor cores")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NEEDS_GPU)])
def device(request, monkeypatch, unchecked):
    """A GPU, or a CPU that passes for one and doesn't compile."""
    if request.param == "cpu":
        fake_cuda_graphs(monkeypatch)
        monkeypatch.setattr(compiled.torch, "compile", lambda function, fullgraph: function)
    return request.param


@pytest.fixture
def captures(monkeypatch):
    """The graphs that were captured."""
    graphs, capture = [], captured._Graph

    def counted(*args):
        graphs.append(capture(*args))
        return graphs[-1]

    monkeypatch.setattr(captured, "_Graph", counted)
    return graphs


class Pair:
    """An objective that may be captured, and one that isn't, of the same model and with the same noise."""

    def __init__(self, device, make_objective=lambda model: ModelObjective(model, reward), **settings):
        self.device, self.n_calls = device, 0
        self.models = [make_model(**settings, compile=compile).to(device) for compile in (True, False)]
        self.objectives = [make_objective(model) for model in self.models]
        self.generators = [torch.Generator(device) for _ in self.models]
        self.models[1].load_state_dict(self.models[0].state_dict())

    def change(self, function):
        """Both models alike."""
        for model in self.models:
            torch.manual_seed(3)
            function(model)

    @torch.no_grad()
    def check(self, n_calls=3, n_plans=N, horizon=H):
        """In several planning steps, each with other states, contexts, plans and noise."""
        for _ in range(n_calls):
            self.n_calls += 1
            torch.manual_seed(self.n_calls)
            model = self.models[0]
            state = draw(STATE, V).to(self.device)
            plans = draw(model.action_space, V, n_plans, horizon).to(self.device)
            context = None if model.context_space is None else draw(model.context_space, V).to(self.device)
            values, expected = (
                objective(state, context, generator=generator.manual_seed(self.n_calls))(plans)
                for objective, generator in zip(self.objectives, self.generators, strict=True)
            )
            torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)
            assert torch.equal(*(generator.get_state() for generator in self.generators))


def learned(model):
    """A learned reward, with statistics other than 0 and 1."""
    torch.manual_seed(5)
    rewards = RewardModel(STATE, model.context_space, ACTION, n_models=4, hidden_sizes=(8,))
    batch = make_batch(50, model.context_space)
    rewards.set_statistics(replace(batch, reward=3.0 * torch.randn(50) + 1.0))
    rewards.set_elites(torch.tensor([0, 2, 3]))
    return rewards.to(model.device)


def everything(model):
    torch.manual_seed(6)
    value = TerminalValue(Value(STATE, ACTION, MLP((8,)), model.device))
    terms = (ActionCost(0.3), DisagreementBonus(0.5))
    return ModelObjective(
        model, reward, may_fall, terms=terms, risk=risk.CVaR(0.4), terminal_value=value, max_rows=5, ending="hard"
    )


def choose_elites(model):
    model.set_elites(torch.tensor([0, 2], device=model.device))


def train(model):
    for parameter in model.get_parameters():
        parameter.data.mul_(1.3)  # what torch's own counters of changes don't see


def fit(model):
    train(model)
    model.set_statistics(make_batch(100, model.context_space, model.action_space).to(model.device))


def recalibrate(method):
    def change(model):
        batch = make_batch(60, model.context_space, model.action_space).to(model.device)
        model.recalibrate(batch, method)

    return change


@pytest.mark.parametrize("propagation", MERGE)
@pytest.mark.parametrize("context_space", [None, CONTEXT], ids=["no-context", "context"])
def test_a_graph_serves_all_planning_steps(device, captures, propagation, context_space):
    pair = Pair(device, lambda m: ModelObjective(m, reward, propagation=propagation), context_space=context_space)
    pair.change(choose_elites)
    pair.check()
    assert len(captures) == 1


@pytest.mark.parametrize("make_objective", [everything, lambda m: ModelObjective(m, learned(m))])
def test_whatever_an_objective_consists_of_is_captured(device, captures, make_objective):
    pair = Pair(device, make_objective, context_space=CONTEXT, hidden_states=(1,))
    pair.check()
    assert len(captures) == 1


@NEEDS_GPU
def test_actions_and_contexts_of_any_nesting_are_captured(captures):
    """Not by the stand-in: on a CPU, codes of choices are made with a look at them."""
    Pair("cuda", context_space=NESTED, action_space=NESTED).check()
    assert len(captures) == 1


def test_each_shape_has_its_graph(device, captures):
    pair = Pair(device)
    for _ in range(3):
        for n_plans, horizon in ((N, H), (2, H), (N, 1)):
            pair.check(1, n_plans, horizon)
    assert len(captures) == 3


def test_what_comes_once_is_not_captured(device, captures):
    pair = Pair(device)
    for horizon in (1, 2, 3):
        pair.check(1, horizon=horizon)
    assert captures == []


@pytest.mark.parametrize("change", [train, fit])
def test_what_was_learned_since_counts_in_the_same_graph(device, captures, change):
    pair = Pair(device, hidden_states=(1,))
    pair.change(choose_elites)
    pair.check()
    pair.change(change)
    pair.check(1)
    assert len(captures) == 1


@pytest.mark.parametrize(
    "change",
    [
        choose_elites,
        recalibrate("temperature"),
        recalibrate("isotonic"),
        lambda model: model.train(),
        lambda model: setattr(next(model.get_parameters()), "data", 2 * next(model.get_parameters()).data),
    ],
    ids=["elites", "temperature", "isotonic", "training", "other-memory"],
)
def test_what_decides_on_kernels_makes_a_new_graph(device, captures, change):
    pair = Pair(device)
    pair.check()
    pair.change(change)
    pair.check()
    assert len(captures) == 2


def test_another_calibration_and_none_again_count(device):
    pair = Pair(device)
    for change in (recalibrate("isotonic"), recalibrate("temperature"), fit, recalibrate("temperature")):
        pair.change(change)
        pair.check(3)


def test_the_fading_symmetry_breaking_start_is_followed(device, captures):
    pair = Pair(device, symmetry_breaking_start=True, sb_start_duration=100)
    for n_steps in (0, 20, 60, 61, 99, 100, 200):
        pair.change(lambda model, n=n_steps: model.set_n_total_env_steps(n))
        pair.check(2)
    assert len(captures) == 5  # one for all that comes before it fades, and one for all after


def test_an_objective_keeps_the_elites_of_its_beginning(device, captures):
    pair = Pair(device)
    objectives = []
    for members in ([0], [1, 2]):
        pair.change(lambda model, members=members: model.set_elites(torch.tensor(members)))
        objectives.append([objective(torch.zeros(V, 3, device=device)) for objective in pair.objectives])
    plans = draw(ACTION, V, N, H).to(device)
    for objective, plain in 2 * [objectives[0], objectives[0], objectives[1], objectives[1]]:
        torch.manual_seed(0)
        with torch.no_grad():
            values = objective(plans)
            torch.manual_seed(0)
            torch.testing.assert_close(values, plain(plans))
    assert len(captures) == 4


def test_learned_rewards_follow_their_weights_and_elites(device, captures):
    pair = Pair(device, lambda model: ModelObjective(model, learned(model)))
    pair.check()
    for objective in pair.objectives:
        train(objective.reward)
    pair.check(1)
    assert len(captures) == 1
    for objective in pair.objectives:
        objective.reward.set_elites(torch.tensor([1]))
    pair.check()
    assert len(captures) == 2


class Goal:
    def __init__(self, goal):
        self.goal = goal

    def __call__(self, state, context, action, next_state):
        return -(next_state[..., 0] - self.goal).abs()


def test_a_reward_may_get_other_attributes_and_other_numbers_in_its_tensors(device, captures):
    pair = Pair(device, lambda model: ModelObjective(model, Goal(1.0)))
    pair.check()
    for objective in pair.objectives:
        objective.reward.goal = torch.tensor(2.0, device=device)
    pair.check()
    assert len(captures) == 2
    for objective in pair.objectives:
        objective.reward.goal.fill_(3.0)
    pair.check()
    assert len(captures) == 2


def test_an_enclosed_number_and_the_objective_s_own_may_be_exchanged(device):
    goal = 1.0
    pair = Pair(device, lambda model: ModelObjective(model, lambda s, c, a, n: -(n[..., 0] - goal).abs()))
    pair.check()
    goal = 2.0
    pair.check()
    for objective in pair.objectives:
        objective.discount = 0.5
    pair.check()


def test_without_a_generator_noise_is_that_of_the_device(device):
    model, plain = Pair(device).models
    objectives = [ModelObjective(m, reward)(torch.zeros(V, 3, device=device)) for m in (model, plain)]
    plans = draw(ACTION, V, N, H).to(device)
    runs = []
    for objective in objectives:
        torch.manual_seed(0)
        with torch.no_grad():
            runs.append(torch.stack([objective(plans) for _ in range(4)]))
    torch.testing.assert_close(*runs)
    assert len(runs[0].unique()) == runs[0].numel()


def waits(state, context, action, next_state):
    return next_state[..., 0] * (1.0 if state.sum().item() > 0 else 2.0)


def test_a_reward_that_waits_for_the_gpu_costs_one_warning(device, recwarn):
    pair = Pair(device, lambda model: ModelObjective(model, waits))
    pair.check(1)
    with pytest.warns(UserWarning, match=r"compile=True: plans are evaluated without a CUDA graph, .*ynchronizing"):
        pair.check(1)
    pair.check()  # without a second warning, which would be an error


def test_a_reward_s_own_error_is_raised_as_ever(device, captures):
    goal = Goal(1.0)
    pair = Pair(device, lambda model: ModelObjective(model, goal))
    pair.check()
    goal.goal = "home"
    with pytest.raises(TypeError, match="unsupported operand"):
        pair.check(1)


def test_inputs_are_checked_at_every_replay(device, captures, unchecked):
    model = make_model(compile=True).to(device)
    rewards = RewardModel(STATE, None, Box(-0.5, 0.5, (2,)), device=device)
    state, plans = torch.zeros(V, 3, device=device), torch.zeros(V, N, H, 2, device=device)
    objective = ModelObjective(model, rewards)
    with torch.no_grad():
        for _ in range(3):
            objective(state)(plans)
        assert len(captures) == 1
        with pytest.raises(ValueError, match=r"actions: got 2.0 at index \(0, 0, 0\)"):
            objective(state)(plans + 2.0)
        with pytest.raises(ValueError, match=r"action: got 0.75 at index \(0, 0, 0\)"):
            objective(state)(plans + 0.75)
        with pytest.raises(ValueError, match=r"initial_state: got nan at index \(0, 0\)"):
            objective(state + math.nan)(plans)
        with pytest.raises(ValueError, match="context: got a Tensor, expected None"):
            objective(state, torch.zeros(V, 2, device=device))(plans)


def test_gradients_are_never_captured(device, captures):
    model = make_model(compile=True).to(device)
    objective = ModelObjective(model, reward)(torch.zeros(V, 3, device=device))
    for _ in range(3):
        plans = torch.zeros(V, N, H, 2, device=device, requires_grad=True)
        objective(plans).sum().backward()
        assert plans.grad.abs().sum() > 0
    assert captures == []


def test_no_more_than_some_graphs_are_kept(device, captures, monkeypatch):
    monkeypatch.setattr(captured, "MAX_GRAPHS", 2)
    pair = Pair(device)
    for n_plans in (1, 2, 3):
        pair.check(2, n_plans)
    for n_plans in (3, 2):
        pair.check(1, n_plans)
    assert len(captures) == 3
    pair.check(2, 1)
    assert len(captures) == 4


def test_a_copy_of_a_captured_objective_is_independent(device):
    pair = Pair(device)
    pair.check()
    pair.objectives[0] = copy.deepcopy(pair.objectives[0])
    train(pair.models[0])  # of which the copy has its own
    pair.check()


@pytest.mark.parametrize("inference_mode", [torch.no_grad, torch.inference_mode])
def test_a_planner_finds_the_same_plans(device, captures, inference_mode):
    planner = CEM(ACTION, H, n_candidates=10, n_iterations=3, device=device)
    plans = []
    pair = Pair(device)
    for objective, generator in zip(pair.objectives, pair.generators, strict=True):
        state, generator = planner.init(V), generator.manual_seed(0)
        with inference_mode():
            for t in range(3):
                start = torch.full((V, 3), float(t), device=device)
                plan = planner.plan(objective(start, generator=generator), state, generator=generator)
                state = planner.shift(plan.state)
        plans.append(plan.actions)
    torch.testing.assert_close(*plans, rtol=1e-3, atol=1e-3)
    assert len(captures) == 2  # the candidates of each iteration, and the choice at the end
    assert captured.can_be_captured(torch.device(device)) is False  # as gradients are on


def test_models_that_are_not_compiled_are_not_captured(device, captures):
    pair = Pair(device)
    pair.objectives[0] = ModelObjective(pair.models[1], reward)
    pair.check()
    assert captures == []
