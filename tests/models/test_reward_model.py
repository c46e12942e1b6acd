"""RewardModel as a function: what it answers, whom it asks, and what it doesn't look at."""

import pytest
import torch
from gymnasium.spaces import Box
from torch import Tensor

from layeredrl.models.reward_model import RewardModel
from layeredrl.types import Batch
from tests.compiler import needs_compiler
from tests.models.ensembles import ACTION, CONTEXT, DISCRETE, STATE, draw, make_batch
from tests.reference.loop_rewards import LoopRewards

SPACES = [(None, ACTION), (CONTEXT, ACTION), (None, DISCRETE), (DISCRETE, ACTION)]


def make(context_space=None, action_space=ACTION, n_models=3, **settings) -> RewardModel:
    """With statistics other than 0 and 1."""
    model = RewardModel(STATE, context_space, action_space, n_models, (16, 16), **settings)
    model.set_statistics(draw_batch(500, context_space, action_space))
    return model


def draw_batch(n: int, context_space=None, action_space=ACTION) -> Batch:
    return make_batch(n, context_space, action_space, reward=5.0 * torch.randn(n) - 20.0)


def draw_transition(
    context_space, action_space, leading, *, few=()
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """States with the `leading` dims, contexts and actions with `few`."""
    state = draw(STATE, *leading)
    return state, draw(context_space, *few), draw(action_space, *few), state + 0.3 * torch.randn_like(state)


def opinions(model: RewardModel, transition, **more) -> Tensor:
    """What each member expects of rows: (E, B)."""
    return torch.stack([law.mean for law in LoopRewards(model, **more).laws(*transition)]).float()


@pytest.mark.parametrize(("context_space", "action_space"), SPACES)
@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=needs_compiler)])
def test_it_is_the_mean_of_a_loop_over_members(context_space, action_space, compile):
    model = make(context_space, action_space, compile=compile)
    transition = draw_transition(context_space, action_space, (20,), few=(20,))
    torch.testing.assert_close(model(*transition), opinions(model, transition).mean(dim=0))


@pytest.mark.parametrize(("context_space", "action_space"), SPACES)
def test_scores_are_those_of_a_loop_over_members_in_units_of_the_reward(context_space, action_space):
    model, batch = make(context_space, action_space), draw_batch(50, context_space, action_space)
    scores = model.get_member_scores(batch)
    laws = LoopRewards(model).laws(batch.state, batch.context, batch.action, batch.next_state)
    for member, law in enumerate(laws):
        nll = -law.log_prob(batch.reward.double()).mean().float()
        torch.testing.assert_close(scores.nll[member], nll, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            scores.loss[member], nll - model.rewards.var.sqrt().log()[0], rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(scores.mse[member], (law.mean - batch.reward).square().mean().float().view(1))


def test_statistics_are_those_of_inputs_and_rewards():
    model, batch = make(CONTEXT, hidden_states=(1,)), draw_batch(300, CONTEXT)
    model.set_statistics(batch)
    inputs = torch.cat([batch.state[:, [0, 2]], batch.action, batch.next_state - batch.state, batch.context], dim=1)
    for moments, values in ((model.inputs, inputs), (model.rewards, batch.reward[:, None])):
        torch.testing.assert_close(moments.mean, values.mean(dim=0))
        torch.testing.assert_close(moments.var, values.var(dim=0, correction=0))


def test_a_constant_reward_is_in_units_of_one():
    model, batch = make(), draw_batch(30)
    batch.reward.fill_(7.0)
    model.set_statistics(batch)
    expected = model(batch.state, None, batch.action, batch.next_state)
    assert ((expected - 7.0).abs() < 2.0).all()


# Whom a particle asks ----------------------------------------------------------------------------------------


def paired_opinions(model: RewardModel, transition, judges: list[int]) -> Tensor:
    """Row by row: what `judges[i]` expects of the rows `[i]`."""
    rows = [tuple(None if x is None else x[i] for x in transition) for i in range(len(judges))]
    return torch.stack([opinions(model, row)[judge] for row, judge in zip(rows, judges, strict=True)])


@pytest.mark.parametrize(("context_space", "action_space"), SPACES)
@pytest.mark.parametrize(
    ("members", "judges"),
    [
        (None, [0, 1, 2]),
        ([0, 1, 2], [0, 1, 2]),
        ([2, 0, 1], [2, 0, 1]),
        ([0, 2], [0, 2]),
        ([1], [1]),
        ([1, 1, 1, 0], [1, 1, 1, 0]),
        # More members than there are judges: on from the first.
        ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 0, 1, 2, 0]),
        ([6, 4], [0, 1]),
    ],
)
def test_each_member_of_the_dynamics_is_judged_by_its_own(context_space, action_space, members, judges):
    model, n = make(context_space, action_space), len(judges)
    transition = draw_transition(context_space, action_space, (n, 5), few=(n, 5))
    reward = model.paired(None if members is None else torch.tensor(members))
    torch.testing.assert_close(reward(*transition), paired_opinions(model, transition, judges))


@pytest.mark.parametrize(("members", "judges"), [(None, [1, 3, 1, 3]), ([0, 3], [1, 3]), ([2, 3, 0], [1, 3, 1])])
def test_only_elites_judge(members, judges):
    model = make(n_models=4)
    model.set_elites(torch.tensor([3, 1]))
    for tensor in model.get_member_tensors().values():
        tensor[[0, 2]] = 1e6
    transition = draw_transition(None, ACTION, (len(judges), 6), few=(len(judges), 6))
    reward = model.paired(None if members is None else torch.tensor(members))
    torch.testing.assert_close(reward(*transition), paired_opinions(model, transition, judges))
    rows = tuple(None if x is None else x[0] for x in transition)
    torch.testing.assert_close(model(*rows), opinions(model, rows)[[1, 3]].mean(dim=0))


def test_a_paired_reward_follows_the_weights():
    model, transition = make(), draw_transition(None, ACTION, (3, 5), few=(3, 5))
    reward = model.paired()
    for tensor in model.get_member_tensors().values():
        tensor[[0, 1]] = tensor[[1, 0]]
    model.set_statistics(draw_batch(50))
    torch.testing.assert_close(reward(*transition), paired_opinions(model, transition, [0, 1, 2]))


def test_the_mean_over_paired_rows_is_the_reward_itself():
    model, transition = make(), draw_transition(None, ACTION, (1, 7), few=(1, 7))
    torch.testing.assert_close(model.paired()(*transition).mean(dim=0), model(*transition)[0])


# Shapes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("context_space", "action_space"), SPACES)
@pytest.mark.parametrize(
    ("leading", "few"),
    [
        ((), ()),
        ((4, 2), (4, 2)),
        ((3, 2, 4), (1, 1, 4)),
        ((4, 3, 2, 5), (4, 1, 1, 5)),
        ((3, 2, 4), ()),
        ((2,), (6, 2)),
    ],
)
def test_broadcasting_equals_row_by_row(context_space, action_space, leading, few):
    model = make(context_space, action_space)
    transition = draw_transition(context_space, action_space, leading, few=few)
    shape = torch.broadcast_shapes(leading, few)
    rows = [None if x is None else x.expand(*shape, x.shape[-1]).reshape(-1, x.shape[-1]) for x in transition]
    expected = opinions(model, rows).mean(dim=0).reshape(shape)
    torch.testing.assert_close(model(*transition), expected)


@pytest.mark.parametrize(("context_space", "action_space"), SPACES)
@pytest.mark.parametrize(
    ("leading", "few"), [((3, 2, 4), (1, 2, 4)), ((3, 2, 4), (4,)), ((3, 1, 2, 5), (1, 4, 1, 5)), ((1, 4), (3, 1))]
)
def test_paired_broadcasting_equals_row_by_row(context_space, action_space, leading, few):
    model = make(context_space, action_space)
    transition = draw_transition(context_space, action_space, leading, few=few)
    shape = torch.broadcast_shapes(leading, few)
    rows = [None if x is None else x.expand(*shape, x.shape[-1]).reshape(3, -1, x.shape[-1]) for x in transition]
    expected = paired_opinions(model, rows, [0, 1, 2]).reshape(shape)
    torch.testing.assert_close(model.paired()(*transition), expected)


def test_one_row_for_all_members_is_judged_by_each():
    model, transition = make(), draw_transition(None, ACTION, (1, 5), few=(5,))
    rows = tuple(None if x is None else x.reshape(5, -1) for x in transition)
    torch.testing.assert_close(model.paired()(*transition), opinions(model, rows))


def test_no_rows_have_no_rewards():
    model = make()
    transition = draw_transition(None, ACTION, (3, 0), few=(3, 0))
    assert model(*transition).shape == model.paired()(*transition).shape == (3, 0)


# What it doesn't look at -------------------------------------------------------------------------------------


def test_hidden_states_do_not_matter_but_their_change_does():
    model = make(hidden_states=(0, 2))
    state, _, action, next_state = transition = draw_transition(None, ACTION, (20,), few=(20,))
    # Halves, so that moving both by the same distance leaves the very same difference.
    state, next_state = (torch.round(2 * x) / 2 for x in (state, next_state))
    elsewhere = torch.tensor([300.0, 0.0, -8.0])
    rewards = model(state, None, action, next_state)
    assert torch.equal(model(state + elsewhere, None, action, next_state + elsewhere), rewards)
    assert (model(state, None, action, next_state + elsewhere) != rewards).all()
    visible = torch.tensor([0.0, 1.0, 0.0])
    assert (model(state + visible, None, action, next_state + visible) != rewards).all()
    torch.testing.assert_close(model(*transition), opinions(model, transition, hidden_states=(0, 2)).mean(dim=0))


def test_all_states_may_be_hidden():
    model, transition = make(hidden_states=(0, 1, 2)), draw_transition(None, ACTION, (4,), few=(4,))
    state, _, action, next_state = transition
    torch.testing.assert_close(model(state + 1.0, None, action, next_state + 1.0), model(*transition))


def test_which_states_are_hidden_is_kept_in_the_state():
    model, other = make(hidden_states=(2,)), make(hidden_states=(0,))
    transition = draw_transition(None, ACTION, (4,), few=(4,))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*transition), model(*transition))


# Traces ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_queries_change_nothing(training):
    model = make().train(training)
    transition = draw_transition(None, ACTION, (3, 5), few=(3, 5))
    inputs = [x.clone() for x in transition if x is not None]
    before, random_state = {n: x.clone() for n, x in model.state_dict().items()}, torch.get_rng_state()
    model(*transition)
    model.paired()(*transition)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(torch.equal(x, y) for x, y in zip(inputs, (x for x in transition if x is not None), strict=True))
    assert all(module.training == training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("how", ["mean", "paired"])
def test_gradients_flow_to_states_and_actions(how):
    model = make()
    transition = [
        None if x is None else x.requires_grad_() for x in draw_transition(None, ACTION, (3, 5), few=(3, 5))
    ]
    (model if how == "mean" else model.paired())(*transition).sum().backward()
    assert all((x.grad != 0).all() for x in transition if x is not None)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_an_imagined_state_that_broke_down_spoils_its_own_reward_only(bad):
    model = make()
    state, _, action, next_state = draw_transition(None, ACTION, (3, 5), few=(3, 5))
    for reward in (model, model.paired()):
        expected = reward(state, None, action, next_state)
        broken = next_state.clone()
        broken[1, 2, 0] = bad
        got = reward(state, None, action, broken)
        assert not got[1, 2].isfinite()
        got[1, 2] = expected[1, 2]
        assert torch.equal(got, expected)


# Errors ------------------------------------------------------------------------------------------------------

STATES, ACTIONS = torch.zeros(3, 4, 3), torch.zeros(3, 4, 2)


@pytest.mark.parametrize(
    ("transition", "error", "message"),
    [
        ((STATES[..., :2], None, ACTIONS, STATES), ValueError, r"^state: got shape \(3, 4, 2\), expected \(…, 3\)"),
        ((STATES, None, ACTIONS, STATES[..., :2]), ValueError, r"^next_state: got shape \(3, 4, 2\)"),
        (
            (STATES, None, ACTIONS[..., :1], STATES),
            ValueError,
            r"^action: got shape \(3, 4, 1\), expected \(…, 2\)",
        ),
        ((STATES, ACTIONS, ACTIONS, STATES), ValueError, "^context: got a Tensor, expected None"),
        ((STATES.double(), None, ACTIONS, STATES), TypeError, r"^state: got dtype torch\.float64"),
        ((STATES, None, ACTIONS, None), ValueError, "^next_state: got None, expected rows of Box"),
        ((STATES, None, ACTIONS, STATES.numpy()), TypeError, "^next_state: got ndarray, expected a Tensor"),
        ((STATES, None, ACTIONS, STATES.to("meta")), ValueError, "^next_state: got device meta, expected cpu"),
        (
            (STATES, None, ACTIONS + 1.5, STATES),
            ValueError,
            r"^action: got 1\.5 at index \(0, 0, 0\), expected values in",
        ),
        ((STATES, None, ACTIONS * torch.nan, STATES), ValueError, r"^action: got nan at index \(0, 0, 0\)"),
        (
            (STATES, None, ACTIONS[:2], STATES),
            ValueError,
            r"^leading dims: got state \(3, 4\), action \(2, 4\), next_state \(3, 4\), expected ones that",
        ),
    ],
)
def test_queries_name_the_argument_what_was_got_and_what_was_expected(transition, error, message, unchecked):
    model = make()
    for reward in (model, model.paired()):
        with pytest.raises(error, match=message):
            reward(*transition)


def test_missing_contexts_and_wrong_discrete_actions_are_refused(unchecked):
    model, action = make(CONTEXT, DISCRETE), torch.ones(3, 4, 1, dtype=torch.long)
    with pytest.raises(ValueError, match=r"^context: got None, expected rows of Box"):
        model(STATES, None, action, STATES)
    with pytest.raises(ValueError, match=r"^action: got 0 at index \(0, 0, 0\), expected values inside Discrete"):
        model(STATES, ACTIONS, 0 * action, STATES)
    with pytest.raises(TypeError, match=r"^action: got dtype torch\.float32, expected integers"):
        model(STATES, ACTIONS, action.float(), STATES)


@pytest.mark.parametrize("leading", [(), (4,), (2, 3)])
def test_a_first_axis_that_does_not_run_over_the_members_is_refused(leading):
    reward = make().paired()
    message = r"got leading dims \(.*\), expected a first one of 3, over members of the dynamics"
    with pytest.raises(ValueError, match=message):
        reward(*draw_transition(None, ACTION, leading, few=leading))


@pytest.mark.parametrize("members", [[], [-1, 0], [0.0, 1.0], [[0, 1]]])
def test_members_that_are_no_indices_are_refused(members, unchecked):
    with pytest.raises(ValueError, match=r"members: got tensor.*, expected some indices"):
        make().paired(torch.tensor(members))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"state_space": DISCRETE},
            TypeError,
            r"state_space: got Discrete\(4, start=1\), expected a gymnasium Box",
        ),
        ({"action_space": None}, TypeError, "action_space: got None, expected a gymnasium Box, Discrete, "),
        ({"context_space": 3}, TypeError, "context_space: got 3, expected a gymnasium Box, Discrete, .* or None"),
        ({"n_models": 0}, ValueError, "n_models: got 0, expected an integer of at least 1"),
        ({"hidden_states": (0, 3)}, ValueError, r"hidden_states: got \[3\], expected indices in 0 … 2"),
        ({"hidden_states": (-1,)}, ValueError, r"hidden_states: got \[-1\], expected"),
    ],
)
def test_the_constructor_names_what_is_wrong(settings, error, message, unchecked):
    spaces = {"state_space": STATE, "context_space": None, "action_space": ACTION}
    with pytest.raises(error, match=message):
        RewardModel(**{**spaces, **settings})


def test_transitions_without_rewards_are_refused_before_anything_changes():
    model, batch = make(), make_batch(10)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    for use in (model.check_batch, model.set_statistics, model.get_member_losses, model.get_member_scores):
        with pytest.raises(ValueError, match=r"Batch\.reward: got None, expected the reward of each transition"):
            use(batch)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_states_of_many_axes_are_read_as_rows():
    space = Box(-1.0, 1.0, (2, 3))
    model = RewardModel(space, None, ACTION, hidden_states=(5,))
    assert model(torch.zeros(4, 6), None, torch.zeros(4, 2), torch.ones(4, 6)).shape == (4,)
