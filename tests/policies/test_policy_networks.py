"""Ready-made policies: every trunk with every head, and recurrent states against a loop over steps."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Space
from torch import nn

from layeredrl.policies.networks import (
    CategoricalPolicy,
    DeterministicPolicy,
    GaussianPolicy,
    MultiCategoricalPolicy,
    SquashedGaussianPolicy,
    Value,
    policy_for,
)
from layeredrl.policies.recurrent import GRU, LSTM, RNN, Recurrent
from layeredrl.policies.trunks import CNN, MLP, TrunkSettings

BOX = Box(-2.0, 2.0, (2,))
HEADS = [
    (GaussianPolicy, BOX),
    (SquashedGaussianPolicy, BOX),
    (DeterministicPolicy, BOX),
    (Value, BOX),
    (CategoricalPolicy, Discrete(3, start=1)),
    (MultiCategoricalPolicy, MultiDiscrete([2, 3])),
]
IMAGES = Box(0, 255, (12, 14, 3), dtype=np.uint8)
SMALL_CNN = CNN(filters=((4, 3, 2), (8, 3, 1)), n_features=16)
TRUNKS = [
    (MLP(hidden_sizes=(16,), activation=nn.SiLU), Dict({"x": Box(-1, 1, (3,)), "gear": Discrete(4)})),
    (MLP(hidden_sizes=()), Box(-1, 1, (3,))),
    (SMALL_CNN, IMAGES),
    (GRU(hidden_size=8), Box(-1, 1, (3,))),
    (LSTM(hidden_size=8, n_layers=2), Box(-1, 1, (3,))),
    (RNN(hidden_size=8), Discrete(5)),
]
RECURRENT = [kind(hidden_size=6, n_layers=2, sequence_length=5, n_envs=3) for kind in (RNN, GRU, LSTM)]


@pytest.mark.parametrize(("head", "action_space"), HEADS)
@pytest.mark.parametrize(("trunk", "observation_space"), TRUNKS)
def test_every_head_acts_on_every_trunk(
    trunk: TrunkSettings, observation_space: Space[Any], head: Any, action_space: Space[Any]
) -> None:
    model = head(observation_space, action_space, trunk, "cpu")
    model.enable_training_mode(False)
    observations = torch.stack(
        [model.space_to_tensor(_tensors(observation_space.sample()), observation_space) for _ in range(6)]
    )
    actions, outputs = model.act({"observations": observations})
    width = 1 if head is Value else model._get_space_size(action_space, number_of_elements=False)
    assert actions.shape == (6, width)
    if "log_prob" in outputs:
        outputs["log_prob"].sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
    batched, _ = model.act({"observations": observations.reshape(2, 3, -1), "deterministic": True})
    alone, _ = model.act({"observations": observations, "deterministic": True})
    torch.testing.assert_close(batched.reshape(6, -1), alone)
    model.init_state_dict()
    model.enable_training_mode(True)
    model.init_state_dict()


def test_the_action_space_picks_the_policy() -> None:
    for space, expected in ((BOX, GaussianPolicy), (Discrete(2), CategoricalPolicy)):
        assert type(policy_for(BOX, space, device="cpu")) is expected
    assert type(policy_for(BOX, MultiDiscrete([2, 2]))) is MultiCategoricalPolicy


def test_images_may_have_their_channels_first() -> None:
    torch.manual_seed(0)
    last = Value(IMAGES, BOX, SMALL_CNN, "cpu")
    torch.manual_seed(0)
    settings = CNN(filters=SMALL_CNN.filters, n_features=SMALL_CNN.n_features, channels_first=True)
    first = Value(Box(0, 255, (3, 12, 14), dtype=np.uint8), BOX, settings, "cpu")
    images = torch.randint(256, (5, 12, 14, 3))
    values = [
        model.act({"observations": x.flatten(1)})[0]
        for model, x in ((last, images), (first, images.permute(0, 3, 1, 2)))
    ]
    torch.testing.assert_close(*values)


def test_settings_of_the_mixin_pass_through() -> None:
    policy = GaussianPolicy(BOX, BOX, device="cpu", initial_log_std=-1, clip_actions=True, reduction="none")
    _, outputs = policy.act({"observations": torch.zeros(9, 2)})
    assert outputs["log_std"].tolist() == [-1.0, -1.0]
    assert outputs["log_prob"].shape == (9, 2)


@pytest.mark.parametrize("settings", RECURRENT)
def test_specification_is_what_skrls_agents_read(settings: Recurrent) -> None:
    specification = policy_for(BOX, BOX, settings, "cpu").get_specification()
    n_states = 2 if isinstance(settings, LSTM) else 1
    assert specification == {"rnn": {"sequence_length": 5, "sizes": [(2, 3, 6)] * n_states}}
    assert policy_for(BOX, BOX, device="cpu").get_specification() == {}


@pytest.mark.parametrize("settings", RECURRENT)
@pytest.mark.parametrize("key", ["terminated", "truncated", None])
def test_sequences_with_resets_equal_steps_one_by_one(settings: Recurrent, key: str | None) -> None:
    n, length = 4, settings.sequence_length
    model = Value(Box(-1, 1, (3,)), BOX, settings, "cpu")
    observations = torch.randn(n, length, 3)
    ended = torch.rand(n, length) < 0.4
    if key is None:
        ended[:] = False
    states = [torch.randn(2, n, 6) for _ in model.get_specification()["rnn"]["sizes"]]

    model.enable_training_mode(False)
    expected, carried = [], states
    for t in range(length):
        values, outputs = model.act({"observations": observations[:, t], "rnn": carried})
        carried = [state * ~ended[:, t, None] for state in outputs["rnn"]]
        expected.append(values)

    model.enable_training_mode(True)
    # Agents store the states of every row; only those at the start of a sequence are to be read.
    rows = [torch.stack([state, *torch.randn(length - 1, 2, n, 6)], dim=2).flatten(1, 2) for state in states]
    inputs = {"observations": observations.flatten(0, 1), "rnn": rows}
    if key is not None:
        inputs[key] = ended.reshape(-1, 1)
    values, outputs = model.act(inputs)
    torch.testing.assert_close(values.reshape(n, length, 1), torch.stack(expected, dim=1))
    for state, expected_state in zip(outputs["rnn"], carried, strict=True):
        torch.testing.assert_close(state, expected_state)


@pytest.mark.parametrize("settings", RECURRENT)
def test_states_begin_afresh_without_any(settings: Recurrent) -> None:
    model = Value(BOX, BOX, settings, "cpu").eval()
    observations = torch.randn(3, 2)
    zeros = [torch.zeros(size) for size in model.get_specification()["rnn"]["sizes"]]
    fresh, given = (model.act({"observations": observations, **rnn})[0] for rnn in ({}, {"rnn": zeros}))
    assert torch.equal(fresh, given)


@pytest.mark.usefixtures("unchecked")
def test_wrong_inputs_of_networks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"observations: got shape \(4, 3\), expected \(…, 2\)"):
        policy_for(BOX, BOX, device="cpu").act({"observations": torch.zeros(4, 3)})
    with pytest.raises(TypeError, match=r"observation_space: got Box.*, expected a Box of images"):
        Value(BOX, BOX, CNN())
    with pytest.raises(ValueError, match=r"filters: got .*, expected what fits images of shape \(12, 14, 3\)"):
        Value(IMAGES, BOX, CNN())
    with pytest.raises(TypeError, match=r"action_space: got Dict.*, expected a Box, Discrete or MultiDiscrete"):
        policy_for(BOX, Dict({"a": BOX}))
    model = Value(BOX, BOX, GRU(hidden_size=4, sequence_length=5), "cpu")
    with pytest.raises(
        ValueError, match=r"observations: got 7 rows in training mode.*enable_training_mode\(False\)"
    ):
        model.act({"observations": torch.zeros(7, 2)})
    with pytest.raises(ValueError, match=r"rnn: got states of shapes \[\(1, 3, 4\)\], expected \[\(1, 5, 4\)\]"):
        model.act({"observations": torch.zeros(5, 2), "rnn": [torch.zeros(1, 3, 4)]})


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tensors(part) for key, part in value.items()}
    tensor = torch.as_tensor(np.asarray(value))
    tensor = tensor.reshape(1) if tensor.ndim == 0 else tensor
    return tensor if tensor.dtype == torch.uint8 else tensor.to(torch.float32)
