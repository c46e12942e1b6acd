"""Transitions told apart by episode, and split."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layeredrl.data.episodes import concatenate, episode_numbers, split_episodes
from layeredrl.types import Batch


def recording(*lengths: int, mark_ends: bool = True) -> Batch:
    """Episodes of these lengths. The state is 100 · episode + time, so that it says where it is from."""
    state = torch.cat([100.0 * e + torch.arange(n) for e, n in enumerate(lengths)]).unsqueeze(1)
    ends = torch.cat([torch.arange(n) == n - 1 for n in lengths])
    return Batch(
        state=state,
        context=None,
        action=torch.zeros_like(state),
        next_state=state + 1,
        terminated=torch.zeros_like(ends),
        reward=state[:, 0],
        truncated=ends if mark_ends else None,
    )


def origins(batch: Batch) -> list[int]:
    return (batch.state[:, 0] / 100).floor().int().tolist()


@pytest.mark.parametrize("mark_ends", [True, False])
def test_a_step_that_starts_elsewhere_begins_an_episode(mark_ends):
    assert episode_numbers(recording(3, 1, 2, mark_ends=mark_ends)).tolist() == [0, 0, 0, 1, 2, 2]


@pytest.mark.parametrize("flag", ["terminated", "truncated"])
def test_an_end_begins_an_episode_even_if_the_next_step_starts_there(flag):
    batch = recording(4)
    getattr(batch, flag)[1] = True
    assert episode_numbers(batch).tolist() == [0, 0, 1, 1]


def test_another_context_begins_an_episode():
    one = recording(4)
    context = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    batch = Batch(one.state, context, one.action, one.next_state, one.terminated)
    assert episode_numbers(batch).tolist() == [0, 0, 1, 1]


def test_no_transitions_have_no_episodes():
    assert episode_numbers(recording(3)[:0]).tolist() == []


@given(st.lists(st.integers(1, 9), min_size=2, max_size=12), st.floats(0.01, 0.99), st.integers(0, 99))
def test_both_parts_are_whole_episodes_in_the_order_of_time(lengths, share, seed):
    batch = recording(*lengths)
    first, second = split_episodes(batch, share, generator=torch.Generator().manual_seed(seed))
    assert set(origins(first)).isdisjoint(origins(second))
    assert sorted(first.state[:, 0].tolist() + second.state[:, 0].tolist()) == batch.state[:, 0].tolist()
    for part in (first, second):
        assert len(part) > 0
        assert part.state[:, 0].tolist() == sorted(part.state[:, 0].tolist())


def test_the_second_part_holds_its_share_with_as_few_episodes_as_that_takes():
    batch = recording(*[5] * 20)
    for share, n_episodes in [(0.05, 1), (0.2, 4), (0.21, 5), (0.99, 19)]:
        _, second = split_episodes(batch, share)
        assert len(set(origins(second))) == n_episodes


def test_chance_decides_which_episodes():
    batch = recording(*[5] * 20)
    parts = [split_episodes(batch, 0.2, generator=torch.Generator().manual_seed(s))[1] for s in (0, 0, 1)]
    assert origins(parts[0]) == origins(parts[1])
    assert origins(parts[0]) != origins(parts[2])


def test_a_single_episode_is_cut_in_two():
    first, second = split_episodes(recording(10), 0.2)
    assert first.state[:, 0].tolist() == list(range(8))
    assert second.state[:, 0].tolist() == [8, 9]


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_both_parts_of_a_single_episode_hold_something(share):
    assert min(map(len, split_episodes(recording(2), share))) == 1


def test_wrong_arguments_are_named():
    for share in (0.0, 1.0, -0.1):
        with pytest.raises(ValueError, match=rf"share: got {share}, expected a number between 0 and 1"):
            split_episodes(recording(2, 2), share)
    with pytest.raises(ValueError, match=r"batch: got leading dims \(1,\), expected .* at least two transitions"):
        split_episodes(recording(1), 0.5)


def test_batches_one_after_another_keep_the_fields_that_all_have():
    both = concatenate([recording(2), recording(3, mark_ends=False)])
    assert both.state[:, 0].tolist() == [0, 1, 0, 1, 2]
    assert both.reward is not None
    assert both.truncated is None
    assert both.context is None
