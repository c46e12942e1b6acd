"""Spaces as flat tensors: sizes, features, bounds, and what a row is."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple, flatdim
from gymnasium.vector.utils import batch_space
from hypothesis import given
from hypothesis import strategies as st

from layeredrl.space_values import from_rows, to_rows
from layeredrl.spaces import (
    bounds,
    check_rows,
    clip,
    counts_and_starts,
    feature_size,
    features,
    is_discrete,
    leaves,
    row_dtype,
    row_size,
)
from tests.generated_spaces import (
    DISCRETE_SPACES,
    MATRIX,
    SPACES,
    batch_of,
    code_of,
    discrete_columns,
    values_of,
)

BOX = Box(-1.0, 1.0, (2,))
DISCRETE = Discrete(3, start=5)
BINARY = MultiBinary(2)
MIXED = Dict({"z": BOX, "a": Tuple([DISCRETE, MultiDiscrete([2, 3], start=[0, -1])]), "m": BINARY})
# As rows of MIXED: a[0] | a[1] | m | z
MIXED_ROW = [6.0, 1.0, -1.0, 0.0, 1.0, 0.5, -0.5]


@pytest.mark.parametrize(
    ("space", "n_rows", "n_features"),
    [
        (None, 0, 0),
        (DISCRETE, 1, 3),
        (MultiDiscrete([2, 3]), 2, 5),
        (MATRIX, 4, 14),
        (MultiBinary((2, 3)), 6, 6),
        (Box(0, 1, ()), 1, 1),
        (Box(0, 1, (4,)), 4, 4),
        (Box(0, 1, (2, 3)), 6, 6),
        (MIXED, 7, 12),
    ],
)
def test_sizes(space, n_rows, n_features):
    assert (row_size(space), feature_size(space)) == (n_rows, n_features)


@given(SPACES)
def test_features_are_as_many_as_gymnasiums(space):
    assert feature_size(space) == flatdim(space)


def test_leaves_come_in_the_order_of_tuples_and_of_sorted_keys():
    inner = MIXED["a"]
    assert list(leaves(MIXED)) == [inner[0], inner[1], BINARY, BOX]
    assert list(leaves(Tuple([MIXED, DISCRETE]))) == [inner[0], inner[1], BINARY, BOX, DISCRETE]
    assert list(leaves(BOX)) == [BOX]


@pytest.mark.parametrize(
    ("space", "discrete"),
    [(BOX, False), (DISCRETE, True), (BINARY, True), (MATRIX, True), (MIXED, False), (MIXED["a"], True)],
)
def test_rows_are_integers_where_every_leaf_is_discrete(space, discrete):
    assert is_discrete(space) == discrete
    assert row_dtype(space) == (torch.long if discrete else torch.float32)


def test_counts_and_starts_stand_in_the_order_of_columns():
    assert counts_and_starts(DISCRETE) == ([3], [5])
    assert counts_and_starts(MATRIX) == ([2, 3, 4, 5], [0, 1, -1, 2])
    assert counts_and_starts(BINARY) == ([2, 2], [0, 0])


# Features -----------------------------------------------------------------------------------------------------


@given(SPACES, st.integers(1, 4))
def test_features_are_gymnasiums_code_leaf_by_leaf(space, n):
    values = values_of(space, n)
    rows = to_rows(space, batch_of(space, values))
    expected = torch.stack([code_of(space, value) for value in values])
    got = features(space, rows)
    assert got.dtype == torch.get_default_dtype()
    torch.testing.assert_close(got, expected)
    assert torch.equal(features(space, rows.expand(2, 3, n, -1)), got.expand(2, 3, n, -1))


@given(DISCRETE_SPACES, st.integers(1, 4))
def test_features_of_discrete_numbers_are_0_or_1_also_beside_a_box(space, n):
    both = Tuple([Box(-9.0, 9.0, (2,)), space])
    code = features(both, to_rows(both, batch_of(both, values_of(both, n))))[..., 2:]
    assert bool(((code == 0) | (code == 1)).all())


def test_codes_are_one_hot_from_the_start_of_the_space():
    code = features(DISCRETE, torch.tensor([[[5], [7]], [[6], [5]]]))
    assert code.tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 0]]]
    assert features(MIXED, torch.tensor(MIXED_ROW)).tolist() == [0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0.5, -0.5]


def test_box_features_are_the_rows():
    row = torch.randn(4, 2)
    assert features(BOX, row) is row
    assert features(Box(0, 255, (2,), np.uint8), torch.tensor([[3, 4]])).dtype == torch.get_default_dtype()


@pytest.mark.parametrize(("space", "row"), [(DISCRETE, [8]), (DISCRETE, [4]), (MATRIX, [0, 1, 3, 2])])
def test_a_number_outside_its_range_has_no_code(space, row):
    with pytest.raises(RuntimeError, match="Class values must be"):
        features(space, torch.tensor([row]))


def test_gradients_reach_what_is_not_discrete():
    row = torch.tensor(MIXED_ROW, requires_grad=True)
    features(MIXED, row).sum().backward()
    assert row.grad.tolist() == [0, 0, 0, 1, 1, 1, 1]


# Bounds -------------------------------------------------------------------------------------------------------


def test_bounds_are_flat():
    low, high = bounds(Box(np.array([[0, 1], [2, 3]]), np.array([[4, 5], [6, np.inf]]), dtype=np.float64))
    assert low.tolist() == [0, 1, 2, 3]
    assert high.tolist() == [4, 5, 6, float("inf")]


def test_bounds_of_discrete_numbers_are_the_first_and_the_last():
    low, high = bounds(MATRIX)
    assert (low.tolist(), high.tolist()) == ([0, 1, -1, 2], [1, 3, 2, 6])
    assert low.dtype == high.dtype == torch.long
    low, high = bounds(MIXED)
    assert (low.tolist(), high.tolist()) == ([5, 0, -1, 0, 0, -1, -1], [7, 1, 1, 1, 1, 1, 1])
    assert low.dtype == high.dtype == torch.float32


@given(SPACES, st.integers(1, 4))
def test_values_lie_within_the_bounds_and_the_bounds_within_the_space(space, n):
    rows, limits = to_rows(space, batch_of(space, values_of(space, n))), bounds(space)
    assert bool(((limits[0] <= rows) & (rows <= limits[1])).all())
    for limit in limits:
        assert limit.dtype == row_dtype(space)
        check_rows("limit", limit, space, contained=True)
        assert batch_space(space, 1).contains(from_rows(space, limit[None]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("high", [0.1, 0.3, 1.0, 2.7, 1e300])
def test_the_bounds_as_values_lie_inside_the_space(dtype, high):
    """Float32 can't hold every bound of a float64 Box; an action at the bound must be allowed all the same."""
    space = Box(-min(high, 1e38) if dtype == np.float32 else -high, min(high, 1e38), (1,), dtype)
    for bound in bounds(space):
        assert bound.isfinite()
        assert space.contains(from_rows(space, bound.unsqueeze(0))[0])


def test_changing_the_bounds_leaves_the_space_alone():
    for bound in bounds(BOX):
        bound.fill_(9.0)
    assert np.abs(BOX.low).max() == np.abs(BOX.high).max() == 1


def test_clipping_moves_boxes_only():
    wild = torch.tensor([99.0, -99.0, 5.5, 9.0, -9.0, 7.0, -7.0])
    assert clip(MIXED, wild).tolist() == [99, -99, 5.5, 9, -9, 1, -1]
    assert clip(BOX, torch.tensor([[3.0, -0.5]])).tolist() == [[1, -0.5]]
    assert clip(DISCRETE, torch.tensor([[99]])).tolist() == [[99]]


@given(SPACES, st.integers(0, 10))
def test_clipped_rows_lie_within_the_bounds_of_every_box(space, seed):
    rows = 500 * torch.randn(8, row_size(space), generator=torch.Generator().manual_seed(seed))
    discrete = torch.tensor(discrete_columns(space))
    (low, high), clipped = bounds(space), clip(space, rows)
    assert torch.equal(clipped[:, discrete], rows[:, discrete])
    expected = torch.minimum(torch.maximum(rows, low), high)
    assert torch.equal(clipped[:, ~discrete], expected[:, ~discrete])


def test_finite_numbers_may_be_so_large_that_their_sum_is_not():
    rows = torch.full((2, 3), 3e38)
    check_rows("state", rows, Box(-np.inf, np.inf, (3,)))
    rows[1, 2] = torch.inf
    with pytest.raises(ValueError, match=r"state: got inf at index \(1, 2\), expected finite values"):
        check_rows("state", rows, Box(-np.inf, np.inf, (3,)))
