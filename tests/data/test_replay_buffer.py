"""ReplayBuffer: every transition says itself where it comes from."""

import io
from collections import deque
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given
from hypothesis import strategies as st

from layeredrl.data.replay_buffer import ReplayBuffer
from tests.data.payloads import ACTIONS, CONTEXTS, assert_same, make_buffer, transitions


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
