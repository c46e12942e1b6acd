"""ReplayBuffer: every transition says itself where it comes from."""

import io
import math
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Space
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.types import Batch

STATE = Box(-math.inf, math.inf, (2,))
CONTEXTS = {"none": None, "Box": Box(-5, 5, (2, 2)), "Discrete": Discrete(3, start=1)}
ACTIONS = {"Box": Box(-1, 1, (1,)), "Discrete": Discrete(4, start=-1)}
NAN, INF = float("nan"), float("inf")


def make_buffer(capacity: int = 6, context: str = "Box", action: str = "Box", **more) -> ReplayBuffer:
    return ReplayBuffer(STATE, CONTEXTS[context], ACTIONS[action], capacity, **more)


def value_of(space: Space, ident: Tensor) -> Tensor:
    """Rows of a space that differ from one transition to the next."""
    if isinstance(space, Discrete):
        return (ident.long() % int(space.n) + int(space.start))[:, None]
    return torch.sin(ident)[:, None].expand(-1, math.prod(space.shape)).clone()


def transitions(ident: Tensor, context: str = "Box", action: str = "Box") -> Batch:
    """Transitions whose every field follows from `ident`."""
    ident = ident.float()
    return Batch(
        state=torch.stack([ident, -ident], dim=1),
        context=None if context == "none" else value_of(CONTEXTS[context], ident),
        action=value_of(ACTIONS[action], ident),
        next_state=torch.stack([ident + 1, -ident], dim=1),
        terminated=ident % 3 == 0,
        reward=ident / 4,
        truncated=ident % 2 == 0,
    )


def assert_same(got: Batch, expected: Batch) -> None:
    assert dict(got.items()).keys() == dict(expected.items()).keys()
    for (name, x), (_, y) in zip(got.items(), expected.items(), strict=True):
        assert x.dtype == y.dtype, name
        assert torch.equal(x, y), name


def content(buffer: ReplayBuffer) -> dict[str, Tensor]:
    state = buffer.state_dict()
    return {"n_added": torch.tensor(state["n_added"]), **state["columns"]}


def assert_refused(buffer: ReplayBuffer, error: type[Exception], message: str, change) -> None:
    """`change(buffer)` raises, and the buffer is bit for bit what it was."""
    before = content(buffer)
    with pytest.raises(error, match=message):
        change(buffer)
    after = content(buffer)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@given(n_envs=st.integers(1, 5), more=st.integers(0, 12), n_steps=st.integers(1, 12), data=st.data())
def test_the_newest_transitions_stay_through_wrap_around(n_envs, more, n_steps, data):
    context, action = data.draw(st.sampled_from(list(CONTEXTS))), data.draw(st.sampled_from(list(ACTIONS)))
    capacity = n_envs + more
    buffer = make_buffer(capacity, context, action)
    newest: deque[int] = deque(maxlen=capacity)
    for step in range(n_steps):
        ident = 1000 * torch.arange(n_envs) + step
        buffer.add(transitions(ident, context, action))
        newest.extend(ident.tolist())
    assert len(buffer) == len(newest)
    assert_same(buffer[buffer.serial.argsort()], transitions(torch.tensor(newest), context, action))
    assert buffer.serial.sort().values.tolist() == list(range(n_steps * n_envs - len(newest), n_steps * n_envs))


def test_what_is_not_given_counts_as_zero():
    buffer = make_buffer()
    buffer.add(transitions(torch.arange(6)))
    buffer.add(replace(transitions(torch.arange(6)), reward=None, truncated=None))
    assert buffer[:].reward.tolist() == [0] * 6
    assert not bool(buffer[:].truncated.any())


def test_truncation_is_kept_apart_from_termination():
    buffer = make_buffer(4)
    both = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).bool()
    buffer.add(replace(transitions(torch.arange(4)), terminated=both[:, 0], truncated=both[:, 1]))
    assert torch.equal(torch.stack([buffer[:].terminated, buffer[:].truncated], dim=1), both)


def test_a_buffer_keeps_copies():
    buffer, batch = make_buffer(), transitions(torch.arange(3))
    buffer.add(batch)
    batch.state.zero_()
    assert buffer[:].state[:, 0].tolist() == [0, 1, 2]


def test_an_integer_box_comes_back_as_it_was_stored():
    space = Box(-(10**6), 10**6, (2,), dtype=np.int64)
    buffer = ReplayBuffer(space, None, ACTIONS["Box"], 5)
    buffer.add(transitions(torch.arange(4), context="none"))
    assert buffer[:].state.dtype == torch.float32
    assert buffer[:].state[:, 0].tolist() == [0, 1, 2, 3]


def test_membership_survives_overwriting():
    buffer, reference = make_buffer(5, holdout_ratio=0.5), make_buffer(100, holdout_ratio=0.5)
    for step in range(20):
        buffer.add(transitions(torch.arange(3) + step))
        reference.add(transitions(torch.arange(3) + step))
    assert torch.equal(buffer.is_holdout, reference.is_holdout[buffer.serial])
    assert torch.equal(buffer.bootstrap_counts(3), reference.bootstrap_counts(3)[buffer.serial])


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("n", [0, 4, 15])
def test_state_dict_round_trips_through_a_file(n, context, action):
    buffer, restored = (make_buffer(10, context, action, holdout_ratio=0.5) for _ in range(2))
    for ident in range(n):
        buffer.add(transitions(torch.tensor([ident]), context, action))
    file = io.BytesIO()
    torch.save(buffer.state_dict(), file)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    for more in range(2):
        assert len(restored) == len(buffer)
        assert_same(restored[:], buffer[:])
        assert torch.equal(restored.is_holdout, buffer.is_holdout)
        assert torch.equal(restored.bootstrap_counts(4), buffer.bootstrap_counts(4))
        for b in (buffer, restored):
            b.add(transitions(torch.tensor([100 + more]), context, action))


def test_sampling_reaches_every_transition_and_follows_its_generator():
    buffer = make_buffer(8)
    buffer.add(transitions(torch.arange(5)))
    one, two = (buffer.sample(1000, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert_same(one, two)
    assert one.state[:, 0].unique().tolist() == [0, 1, 2, 3, 4]
    assert_same(one, transitions(one.state[:, 0]))


def test_an_empty_buffer_gives_nothing():
    buffer = make_buffer()
    with pytest.raises(ValueError, match="sample: the buffer is empty"):
        buffer.sample(3)
    assert len(buffer[:]) == 0


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
    "−inf next state": (put("next_state", 2, -INF), ValueError, r"Batch\.next_state: row 2 is -inf"),
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


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (make_buffer(7), r"capacity: got 7 in the state, expected 6"),
        (make_buffer(context="none"), r"context: got nothing in the state, expected rows of shape \(4,\)"),
        (make_buffer(context="Discrete"), r"context: got \(1,\) in the state, expected rows of shape \(4,\)"),
        (make_buffer(action="Discrete"), r"action: got .*int64"),
        (ReplayBuffer(Box(-1, 1, (3,)), CONTEXTS["Box"], ACTIONS["Box"], 6), r"state: got \(3,\)"),
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
        ({"state_space": Dict({})}, TypeError, r"state_space: got Dict\(\), expected a gymnasium Box or Discrete"),
        ({"context_space": 3}, TypeError, "context_space: got 3, expected .* or None"),
        ({"action_space": None}, TypeError, "action_space: got None"),
        ({"seed": -1}, ValueError, "seed: got -1"),
    ],
)
def test_bad_settings_are_refused(changes, error, message, unchecked):
    settings = {"state_space": STATE, "context_space": None, "action_space": ACTIONS["Box"], "capacity": 5}
    with pytest.raises(error, match=message):
        ReplayBuffer(**{**settings, **changes})
