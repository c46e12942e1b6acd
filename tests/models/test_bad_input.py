"""What users get wrong, and what they are told."""

import pytest
import torch
from gymnasium.spaces import Box, Discrete, Text

from layeredrl.models.probabilistic_ensemble import ProbabilisticEnsemble
from tests.models.ensembles import ACTION, CONTEXT, DISCRETE, NET, STATE, make_batch, make_ensemble

pytestmark = pytest.mark.usefixtures("unchecked")


class Silent(torch.nn.Module):
    def forward(self, state, context, action):
        return None


STATES, ACTIONS = torch.zeros(4, 3), torch.zeros(4, 2)


@pytest.mark.parametrize(
    ("state", "context", "action", "error", "message"),
    [
        (STATES[:, :2], None, ACTIONS, ValueError, r"state: got shape \(4, 2\), expected \(…, 3\)"),
        (STATES, None, ACTIONS[:3], ValueError, r"action: got shape \(3, 2\), expected \(4, 2\)"),
        (STATES.double(), None, ACTIONS, TypeError, r"state: got dtype torch\.float64, expected torch\.float32"),
        (STATES.numpy(), None, ACTIONS, TypeError, "state: got ndarray, expected a Tensor"),
        (STATES.to("meta"), None, ACTIONS, ValueError, "state: got device meta, expected cpu"),
        (STATES, ACTIONS, ACTIONS, ValueError, "context: got a Tensor, expected None"),
        (
            STATES,
            None,
            ACTIONS + 1.5,
            ValueError,
            r"action: got 1\.5 at index \(0, 0\), expected values inside Box",
        ),
        (STATES, None, ACTIONS / 0, ValueError, r"action: got nan at index \(0, 0\), expected finite values"),
        (STATES + torch.inf, None, ACTIONS, ValueError, r"state: got inf at index \(0, 0\), expected finite"),
    ],
)
def test_queries_name_the_argument_what_was_got_and_what_was_expected(state, context, action, error, message):
    model = make_ensemble()
    for ask in (model.predict, model.sample):
        with pytest.raises(error, match=message):
            ask(state, context, action)
    with pytest.raises(error, match=message):
        model.get_log_prob(state, context, action, STATES)


@pytest.mark.parametrize(
    ("actions", "error", "message"),
    [
        (torch.zeros(4, 2), ValueError, r"actions: got shape \(4, 2\), expected \(B, H, A\)"),
        (torch.zeros(4, 0, 2), ValueError, r"actions: got shape \(4, 0, 2\)"),
        (torch.zeros(4, 5, 1), ValueError, r"actions: got shape \(4, 5, 1\), expected \(…, 2\)"),
        (torch.zeros(3, 5, 2), ValueError, r"initial_state: got shape \(4, 3\), expected \(3, 3\)"),
        (torch.full((4, 5, 2), -3.0), ValueError, r"actions: got -3\.0 at index \(0, 0, 0\)"),
        (torch.zeros(4, 5, 2, dtype=torch.long), TypeError, r"actions: got dtype torch\.int64"),
    ],
)
def test_rollouts_check_their_actions(actions, error, message):
    with pytest.raises(error, match=message):
        make_ensemble().rollout(STATES, None, actions)


def test_unknown_propagation_lists_the_known_ones():
    with pytest.raises(ValueError, match="got 'ts2', expected one of ts_inf, ts1, moment_matching, expectation"):
        make_ensemble().rollout(STATES, None, torch.zeros(4, 2, 2), propagation="ts2")


def test_missing_context_and_wrong_discrete_actions():
    model = make_ensemble(context_space=CONTEXT, action_space=DISCRETE)
    action = torch.ones(4, 1, dtype=torch.long)
    with pytest.raises(ValueError, match="context: got None, expected rows of Box"):
        model.predict(STATES, None, action)
    with pytest.raises(ValueError, match=r"action: got 0 at index \(0, 0\), expected values inside Discrete"):
        model.predict(STATES, ACTIONS, action * 0)
    with pytest.raises(TypeError, match=r"action: got dtype torch\.float32, expected integers"):
        model.predict(STATES, ACTIONS, action.float())


def test_std_and_member_are_checked():
    model = make_ensemble(n_models=2)
    with pytest.raises(ValueError, match=r"std: got -1\.0, expected positive"):
        model.predict(STATES, None, ACTIONS, std=-1.0)
    with pytest.raises(ValueError, match=r"std: got shape \(5,\), expected what broadcasts to \(4, 2, 1, 3\)"):
        model.predict(STATES, None, ACTIONS, std=torch.ones(5))
    with pytest.raises(ValueError, match="id: got 2, expected a member in 0 … 1"):
        model.get_member_log_prob(2, STATES, None, ACTIONS, STATES)
    with pytest.raises(ValueError, match=r"next_state: got shape \(4, 2\)"):
        model.get_log_prob(STATES, None, ACTIONS, STATES[:, :2])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"state_space": Discrete(3)}, TypeError, r"state_space: got Discrete\(3\), expected a gymnasium Box"),
        (
            {"action_space": Text(3)},
            TypeError,
            r"action_space: got Text.*, expected a gymnasium Box, Discrete",
        ),
        ({"context_space": 3}, TypeError, "context_space: got 3, expected a gymnasium Box, .*, or None"),
        ({"n_models": 0}, ValueError, "n_models: got 0, expected an integer of at least 1"),
        ({"n_modes": 0}, ValueError, "n_modes: got 0"),
        ({"n_particles_per_model": 1.5}, ValueError, r"n_particles_per_model: got 1\.5"),
        ({"target_bn_momentum": 0.0}, ValueError, r"target_bn_momentum: got 0\.0, expected a number in \(0, 1\]"),
        ({"sb_start_duration": 0}, ValueError, "sb_start_duration: got 0"),
        ({"partial_net": lambda *_: Silent()}, TypeError, "partial_net: got a module that returns None, expected"),
    ],
)
def test_constructor_names_what_is_wrong(settings, error, message):
    arguments = {
        "state_space": STATE,
        "context_space": None,
        "action_space": ACTION,
        "partial_net": NET,
        **settings,
    }
    with pytest.raises(error, match=message):
        ProbabilisticEnsemble(**arguments)


def test_a_network_with_outputs_of_the_wrong_shape_is_named():
    wrong = Box(-1, 1, (5,))
    with pytest.raises(ValueError, match=r"partial_net: got .* of shapes .*5.* expected .*3"):
        make_ensemble(net=lambda state, context, action, n_modes: NET(wrong, context, Box(-1, 1, (0,)), n_modes))


def test_batches_are_checked_before_they_are_learned_from():
    model = make_ensemble(create_optimizer=True)
    batch = make_batch(4, action_space=Box(-1, 1, (3,)))
    with pytest.raises(ValueError, match=r"Batch\.action: got shape \(4, 3\), expected \(…, 2\)"):
        model.learn([batch])
    with pytest.raises(ValueError, match=r"Batch\.context: got a Tensor, expected None"):
        model.loss(make_batch(4, CONTEXT))
