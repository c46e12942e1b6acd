"""Windows of transitions that say where they come from: the state of step t of episode i is 100 i + t."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layeredrl.metrics.segments import Segments, cut_segments
from layeredrl.types import Batch


def record(*lengths, truncated=True, context=None):
    """Episodes after one another. The action of a step is the negative of its state."""
    state = torch.cat([100.0 * i + torch.arange(n) for i, n in enumerate(lengths)])[:, None]
    last = torch.cat([torch.arange(n) == n - 1 for n in lengths])
    return Batch(
        state,
        context,
        -state,
        state + 1,
        terminated=last & (not truncated),
        truncated=last if truncated else None,
    )


def starts(segments):
    return segments.state[:, 0, 0].tolist()


def test_windows_hold_consecutive_steps_and_the_states_between():
    segments = cut_segments(record(5, 4), horizon=2)
    assert segments.state.squeeze(-1).tolist() == [[0, 1, 2], [2, 3, 4], [100, 101, 102], [102, 103, 104]]
    assert segments.action.squeeze(-1).tolist() == [[0, -1], [-2, -3], [-100, -101], [-102, -103]]
    assert segments.context is None
    assert (len(segments), segments.horizon) == (4, 2)


@pytest.mark.parametrize("truncated", [True, False])
def test_no_window_crosses_the_end_of_an_episode(truncated):
    assert starts(cut_segments(record(2, 3, 1, 4, truncated=truncated), horizon=3)) == [100, 300]


def test_an_end_counts_even_where_the_next_episode_starts_in_the_same_state():
    state = torch.zeros(4, 1)
    batch = Batch(state, None, state, state, torch.tensor([0.0, 1.0, 0.0, 0.0]))
    assert len(cut_segments(batch, horizon=2)) == 2
    with pytest.raises(ValueError, match="horizon: got 3, expected at most 2"):
        cut_segments(batch, horizon=3)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), horizon=st.integers(1, 9), stride=st.integers(1, 9)
)
def test_windows_are_those_of_a_loop_over_episodes(lengths, horizon, stride):
    expected = [100.0 * i + t for i, n in enumerate(lengths) for t in range(0, n, stride) if t + horizon <= n]
    if horizon <= max(lengths):
        assert starts(cut_segments(record(*lengths), horizon, stride=stride)) == expected


def test_a_jump_that_no_flag_tells_of_is_an_end_as_well():
    batch = record(3, 3)
    batch = Batch(batch.state, None, batch.action, batch.next_state, batch.terminated)
    assert starts(cut_segments(batch, horizon=3)) == [0, 100]


def test_the_context_is_the_same_within_a_window():
    context = torch.tensor([0, 0, 0, 1, 1, 1])[:, None]
    segments = cut_segments(record(6, context=context), horizon=2)
    assert starts(segments) == [0, 3]
    assert segments.context.tolist() == [[0], [1]]


def test_episodes_shorter_than_the_horizon_are_told_of():
    with pytest.raises(ValueError, match="horizon: got 6, expected at most 5, the length of the longest episode"):
        cut_segments(record(3, 5, 2), horizon=6)


def test_interleaved_environments_are_told_of():
    batch = record(4, 4)
    with pytest.raises(ValueError, match=r"horizon: got 2, expected at most 1, .* in a row"):
        cut_segments(batch[[0, 4, 1, 5, 2, 6]], horizon=2)


@pytest.mark.parametrize(
    ("batch", "settings", "message"),
    [
        (record(3)[:0], {"horizon": 1}, r"batch: got leading dims \(0,\), expected \(B,\) with at least one"),
        (record(3).map(lambda x: x[None]), {"horizon": 1}, r"batch: got leading dims \(1, 3\)"),
        (record(3).map(lambda x: x / 0), {"horizon": 1}, r"Batch\.state: row 0 is nan, expected finite values"),
        (record(3), {"horizon": 0}, "horizon: got 0, expected at least 1"),
        (record(3), {"horizon": 1, "stride": 0}, "stride: got 0, expected at least 1"),
    ],
)
def test_bad_input_is_named(batch, settings, message, unchecked):
    with pytest.raises(ValueError, match=message):
        cut_segments(batch, **settings)


def test_segments_have_one_state_more_than_actions(unchecked):
    with pytest.raises(ValueError, match=r"Segments\.state: got shape \(2, 3, 1\), expected \(2, 4, S\)"):
        Segments(torch.zeros(2, 3, 1), None, torch.zeros(2, 3, 1))
