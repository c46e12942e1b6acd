"""Who is held out and who occurs how often in which bootstrap."""

import math
from itertools import combinations

import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from layeredrl.data.membership import bootstrap_counts, holdout_mask
from layeredrl.data.replay_buffer import ReplayBuffer
from layeredrl.types import Batch

N = 100_000
SERIAL = torch.arange(N)
# A sample statistic of so many standard deviations is no accident; the draws are the same in every run.
SIGMAS = 4.5
SPACE = Box(-math.inf, math.inf, (1,))


def correlation(x: Tensor, y: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([x.double(), y.double()]))[0, 1])


def make_buffer(capacity: int, **more) -> ReplayBuffer:
    return ReplayBuffer(SPACE, None, SPACE, capacity, holdout_ratio=0.3, seed=5, **more)


def add(buffer: ReplayBuffer, n: int) -> None:
    x = torch.zeros(n, 1)
    buffer.add(Batch(x, None, x, x, torch.zeros(n, dtype=torch.bool)))


@given(
    serials=st.lists(st.integers(0, 2**62), min_size=1, max_size=20),
    data=st.data(),
    ratio=st.floats(0, 0.99),
    seed=st.integers(0, 2**31),
)
def test_a_transition_keeps_its_place_in_any_batch_and_order(serials, data, ratio, seed):
    chosen = data.draw(st.lists(st.integers(0, len(serials) - 1), min_size=1))
    serial = torch.tensor(serials)
    assert torch.equal(holdout_mask(serial[chosen], ratio, seed), holdout_mask(serial, ratio, seed)[chosen])
    assert torch.equal(bootstrap_counts(serial[chosen], 3, seed), bootstrap_counts(serial, 3, seed)[chosen])


def test_members_keep_their_bootstraps_when_others_join():
    assert torch.equal(bootstrap_counts(SERIAL[:1000], 7)[:, :3], bootstrap_counts(SERIAL[:1000], 3))


def test_a_larger_holdout_contains_the_smaller_one():
    assert bool((holdout_mask(SERIAL, 0.1) <= holdout_mask(SERIAL, 0.2)).all())
    assert not bool(holdout_mask(SERIAL, 0.0).any())


def test_membership_is_the_same_in_years():
    """Checkpoints rely on it: these figures never change."""
    assert holdout_mask(torch.arange(12), 0.3).nonzero().flatten().tolist() == [0, 1, 4, 7, 8]
    assert bootstrap_counts(torch.arange(6), 2).tolist() == [[1, 0], [1, 0], [0, 1], [0, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize("capacity", [3, 10, 50])
@pytest.mark.parametrize("chunk", [1, 3])
def test_capacity_and_batches_do_not_matter_to_a_buffer(capacity, chunk):
    reference, buffer = make_buffer(100), make_buffer(capacity)
    add(reference, 30)
    for _ in range(30 // chunk):
        add(buffer, chunk)
    assert len(buffer) == min(30, capacity)
    assert torch.equal(buffer.is_holdout, reference.is_holdout[buffer.serial])
    assert torch.equal(buffer.bootstrap_counts(4), reference.bootstrap_counts(4)[buffer.serial])


def test_a_resumed_buffer_goes_on_where_the_other_was():
    through, first, resumed = make_buffer(40), make_buffer(40), make_buffer(40)
    for n in (25, 35):
        add(through, n)
    add(first, 25)
    resumed.load_state_dict(first.state_dict())
    add(resumed, 35)
    assert torch.equal(resumed.serial, through.serial)
    assert torch.equal(resumed.is_holdout, through.is_holdout)
    assert torch.equal(resumed.bootstrap_counts(3), through.bootstrap_counts(3))


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5])
def test_the_holdout_has_the_share_that_was_asked_for(ratio, seed):
    share = holdout_mask(SERIAL, ratio, seed).double().mean().item()
    assert share == pytest.approx(ratio, abs=SIGMAS * math.sqrt(ratio * (1 - ratio) / N))


def test_holdout_and_bootstraps_know_nothing_of_each_other():
    columns = [holdout_mask(SERIAL, 0.3), *bootstrap_counts(SERIAL, 4).T]
    for x, y in combinations(columns, 2):
        assert abs(correlation(x, y)) < SIGMAS / math.sqrt(N)


@pytest.mark.parametrize("lag", [1, 2, 8, 200])
def test_neighbouring_transitions_are_assigned_independently(lag):
    for column in (holdout_mask(SERIAL, 0.3), *bootstrap_counts(SERIAL, 2).T):
        assert abs(correlation(column[lag:], column[:-lag])) < SIGMAS / math.sqrt(N)


@pytest.mark.parametrize("seed", [0, 7])
def test_bootstrap_counts_are_poisson_with_mean_one(seed):
    counts = bootstrap_counts(SERIAL, 10, seed).flatten()
    for k in range(7):
        expected = math.exp(-1) / math.factorial(k)
        share = (counts == k).double().mean().item()
        assert share == pytest.approx(expected, abs=SIGMAS * math.sqrt(expected / len(counts)))
    assert counts.double().mean().item() == pytest.approx(1, abs=SIGMAS / 1000)
    assert counts.double().var().item() == pytest.approx(1, abs=0.01)


def test_the_tail_of_the_bootstrap_counts_is_cut_where_it_does_not_matter():
    counts = bootstrap_counts(SERIAL, 10).flatten()
    n_rare = int((counts >= 7).sum())
    assert 50 < n_rare < 120  # 83 expected
    assert counts.min() == 0
    assert counts.max() <= 8


@pytest.mark.parametrize("other", [1, 2**32, 2**62])
def test_another_seed_gives_other_sets(other):
    assert abs(correlation(holdout_mask(SERIAL, 0.3, 0), holdout_mask(SERIAL, 0.3, other))) < SIGMAS / math.sqrt(N)
    zero, one = (bootstrap_counts(SERIAL, 2, seed) for seed in (0, other))
    for x in zero.T:
        for y in one.T:
            assert abs(correlation(x, y)) < SIGMAS / math.sqrt(N)


def test_another_seed_is_not_the_same_sequence_moved_along():
    """With the serial as a counter, seeds must not merely shift it."""
    zero, one = (holdout_mask(SERIAL, 0.5, seed) for seed in (0, 1))
    for shift in range(1, 20):
        assert abs(correlation(zero[shift:], one[:-shift])) < SIGMAS / math.sqrt(N)
        assert abs(correlation(one[shift:], zero[:-shift])) < SIGMAS / math.sqrt(N)


def test_held_out_transitions_are_in_no_bootstrap():
    buffer = make_buffer(1000)
    add(buffer, 1000)
    counts = buffer.bootstrap_counts(3)
    assert int(counts[buffer.is_holdout].sum()) == 0
    assert torch.equal(counts[~buffer.is_holdout], bootstrap_counts(buffer.serial, 3, 5)[~buffer.is_holdout])
