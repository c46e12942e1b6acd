"""What a ReplayBuffer doesn't take, and that it is bit for bit the same afterwards."""

from dataclasses import replace

import pytest
import torch
from gymnasium.spaces import Box, Dict
from torch import Tensor

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.types import Batch
from tests.data.payloads import ACTIONS, CONTEXTS, STATE, assert_refused, make_buffer, transitions

NAN, INF = float("nan"), float("inf")


def put(field: str, row: int, value: float):
    """A batch with one value replaced."""

    def change(batch: Batch) -> Batch:
        getattr(batch, field)[row].fill_(value)
        return batch

    return change


def swap(field: str, make):
    return lambda batch: replace(batch, **{field: make(getattr(batch, field))})


BAD = {
    "NaN state": (put("state", 1, NAN), ValueError, r"Batch\.state: row 1 is nan"),
    "inf context": (put("context", 0, INF), ValueError, r"Batch\.context: row 0 is inf"),
    "NaN action": (put("action", 2, NAN), ValueError, r"Batch\.action: row 2 is nan"),
    "negative inf": (put("next_state", 2, -INF), ValueError, r"Batch\.next_state: row 2 is -inf"),
    "NaN reward": (put("reward", 1, NAN), ValueError, r"Batch\.reward: row 1 is nan"),
    "NaN flag": (swap("terminated", lambda x: x / 0.0), ValueError, r"Batch\.terminated: row 0 is (nan|inf)"),
    "state size": (swap("state", lambda x: x[:, :1]), ValueError, r"Batch\.state: got shape \(3, 1\).*…, 2"),
    "next state size": (swap("next_state", lambda x: x[:, :1]), ValueError, r"Batch\.next_state: got shape"),
    "context size": (swap("context", lambda x: x[:, :3]), ValueError, r"Batch\.context: got shape \(3, 3\).*4"),
    "action size": (swap("action", lambda x: x.expand(3, 2)), ValueError, r"Batch\.action: got shape \(3, 2\)"),
    "float64": (swap("state", Tensor.double), TypeError, r"Batch\.state: got dtype torch\.float64.*float32"),
    "integers": (swap("action", Tensor.long), TypeError, r"Batch\.action: got dtype torch\.int64.*Box"),
    "no context": (swap("context", lambda _: None), ValueError, r"Batch\.context: got None, expected rows of Box"),
    "outside": (put("action", 1, 1.1), ValueError, r"Batch\.action: got 1\.1\d* at index \(1, 0\).*inside Box"),
    "too many": (lambda b: b[[0, 1, 2] * 3], ValueError, r"batch: got leading dims \(9,\).*at most 6"),
    "two leading dims": (lambda b: b.map(lambda x: x[None]), ValueError, r"batch: got leading dims \(1, 3\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_transition_is_refused_and_nothing_is_stored(case, unchecked):
    spoil, error, message = BAD[case]
    buffer = make_buffer()
    buffer.add(transitions(torch.arange(6)))
    assert_refused(buffer, error, message, lambda b: b.add(spoil(transitions(torch.arange(10, 13)))))


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        (torch.tensor([[0], [3]]), ValueError, r"Batch\.action: got 3 at index \(1, 0\), expected values inside"),
        (torch.tensor([[-2], [0]]), ValueError, r"Batch\.action: got -2 at index \(0, 0\)"),
        (torch.zeros(2, 1), TypeError, r"Batch\.action: got dtype torch\.float32, expected integers"),
    ],
)
def test_a_bad_discrete_action_is_refused(action, error, message, unchecked):
    buffer = make_buffer(action="Discrete")
    buffer.add(transitions(torch.arange(6), action="Discrete"))
    bad = replace(transitions(torch.arange(2), action="Discrete"), action=action)
    assert_refused(buffer, error, message, lambda b: b.add(bad))


def test_a_superfluous_context_and_one_outside_a_discrete_are_refused(unchecked):
    assert_refused(
        make_buffer(context="none"), ValueError, r"Batch\.context: got a Tensor, expected None",
        lambda b: b.add(transitions(torch.arange(2))),
    )  # fmt: skip
    bad = replace(transitions(torch.arange(2), "Discrete"), context=torch.tensor([[1], [4]]))
    assert_refused(make_buffer(context="Discrete"), ValueError, r"Batch\.context: got 4 at", lambda b: b.add(bad))


def test_a_nested_action_with_a_bad_number_is_refused(unchecked):
    # Columns: gear | throttle | valves.
    for column, value in ((0, 2.5), (1, 1.5), (4, 3.0)):
        bad = transitions(torch.arange(2), action="Dict")
        bad.action[1, column] = value
        message = rf"Batch\.action: got {value} at index \(1, {column}\), expected values inside"
        assert_refused(make_buffer(action="Dict"), ValueError, message, lambda b, bad=bad: b.add(bad))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make_buffer(7), r"capacity: got 7 in the state, expected 6"),
        (make_buffer(context="none"), r"context: got nothing in the state, expected .*\(4,\)"),
        (make_buffer(context="Discrete"), r"context: got .*\(1,\).* in the state, expected .*\(4,\)"),
        (make_buffer(action="Discrete"), r"action: got .*int64"),
        (ReplayBuffer(Box(-1, 1, (3,)), CONTEXTS["Box"], ACTIONS["Box"], 6), r"state: got .*\(3,\)"),
        (make_buffer(seed=9), r"seed: got 9 in the state, expected 0"),
    ],
    ids=["capacity", "no context", "other context", "other action", "other state", "other seed"],
)
def test_what_another_kind_of_buffer_stored_is_refused(other, message):
    buffer = make_buffer()
    buffer.add(transitions(torch.arange(6)))
    assert_refused(buffer, ValueError, message, lambda b: b.load_state_dict(other.state_dict()))


def test_a_superfluous_context_in_a_state_is_refused():
    assert_refused(
        make_buffer(context="none"), ValueError, "context", lambda b: b.load_state_dict(make_buffer().state_dict())
    )


def test_a_state_with_rows_missing_is_refused_before_anything_changes():
    buffer, other = make_buffer(), make_buffer()
    buffer.add(transitions(torch.arange(2)))
    other.add(transitions(torch.arange(10, 16)))
    state = other.state_dict()
    state["columns"]["reward"] = state["columns"]["reward"][:3]
    assert_refused(buffer, ValueError, "reward", lambda b: b.load_state_dict(state))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"capacity": 0}, ValueError, "capacity: got 0, expected at least 1"),
        ({"holdout_ratio": 1.0}, ValueError, r"holdout_ratio: got 1\.0, expected a number in \[0, 1\)"),
        ({"holdout_ratio": NAN}, ValueError, "holdout_ratio: got nan"),
        ({"state_space": Dict({})}, TypeError, r"state_space: got Dict\(\), expected a gymnasium Box, Discrete"),
        ({"context_space": 3}, TypeError, "context_space: got 3, expected .* or None"),
        ({"action_space": None}, TypeError, "action_space: got None"),
        ({"seed": -1}, ValueError, "seed: got -1"),
    ],
)
def test_bad_settings_are_refused(changes, error, message, unchecked):
    settings = {"state_space": STATE, "context_space": None, "action_space": ACTIONS["Box"], "capacity": 5}
    with pytest.raises(error, match=message):
        ReplayBuffer(**{**settings, **changes})
