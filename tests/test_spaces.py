"""Spaces as flat tensors: round trips, features, and every refusal."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from hypothesis import given
from hypothesis import strategies as st

from layeredrl.spaces import (
    bounds,
    check_rows,
    check_space,
    feature_size,
    features,
    from_rows,
    row_size,
    to_rows,
)

BOX = Box(-1.0, 1.0, (2,))
DISCRETE = Discrete(3, start=5)
BOXES = st.builds(
    lambda shape, dtype: Box(0, 200, shape, dtype),
    st.sampled_from([(), (1,), (3,), (2, 3), (2, 1, 2)]),
    st.sampled_from([np.float32, np.float64, np.uint8, np.int64]),
)
DISCRETES = st.builds(lambda n, start: Discrete(n, start=start), st.integers(1, 6), st.integers(-5, 5))
N_ENVS = st.integers(0, 4)


def sample(space, n, seed=0):
    """A batch of values, as a vector environment gives them."""
    space.seed(seed)
    values = [space.sample() for _ in range(n)]
    return np.array(values, dtype=space.dtype).reshape(n, *(space.shape or ()))


@given(BOXES | DISCRETES, N_ENVS)
def test_values_survive_the_way_to_rows_and_back(space, n):
    values = sample(space, n)
    rows = to_rows(space, values)
    assert rows.shape == (n, row_size(space))
    back = from_rows(space, rows)
    assert back.shape == values.shape
    assert back.dtype == space.dtype
    np.testing.assert_allclose(back, values, rtol=1e-7 if space.dtype == np.float64 else 0)
    assert all(space.contains(value if space.shape else space.dtype.type(value)) for value in back)


@given(BOXES | DISCRETES, st.integers(1, 4))
def test_rows_of_values_pass_the_check(space, n):
    check_rows("rows", to_rows(space, sample(space, n)), space, leading=(n,), contained=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("high", [0.1, 0.3, 1.0, 2.7])
def test_the_bounds_as_values_lie_inside_the_space(dtype, high):
    """Float32 can't hold every bound of a float64 Box; an action at the bound must be allowed all the same."""
    space = Box(-high, high, (1,), dtype)
    for bound in bounds(space):
        assert space.contains(from_rows(space, bound.unsqueeze(0))[0])


def test_rows_are_flat_in_the_order_of_numpy():
    values = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    rows = to_rows(Box(0, 20, (2, 3)), values)
    assert rows.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_rows_are_floating_point_or_long():
    assert to_rows(Box(0, 9, (2,), np.uint8), np.zeros((3, 2), np.uint8)).dtype == torch.float32
    assert to_rows(DISCRETE, np.array([5, 7])).dtype == torch.long


def test_rows_share_no_memory_with_what_the_environment_reuses():
    values = np.zeros((2, 2), dtype=np.float32)
    rows = to_rows(BOX, values)
    values[:] = 9.0
    assert not rows.any()


@pytest.mark.parametrize(
    ("space", "n_rows", "n_features"),
    [
        (None, 0, 0),
        (DISCRETE, 1, 3),
        (Box(0, 1, ()), 1, 1),
        (Box(0, 1, (4,)), 4, 4),
        (Box(0, 1, (2, 3)), 6, 6),
    ],
)
def test_sizes(space, n_rows, n_features):
    assert (row_size(space), feature_size(space)) == (n_rows, n_features)


def test_discrete_features_are_one_hot_from_the_start_of_the_space():
    code = features(DISCRETE, torch.tensor([[[5], [7]], [[6], [5]]]))
    assert code.tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 0]]]
    assert code.dtype == torch.get_default_dtype()


def test_box_features_are_the_rows():
    row = torch.randn(4, 2)
    assert features(BOX, row) is row


def test_bounds_are_flat():
    low, high = bounds(Box(np.array([[0, 1], [2, 3]]), np.array([[4, 5], [6, np.inf]]), dtype=np.float64))
    assert low.tolist() == [0, 1, 2, 3]
    assert high.tolist() == [4, 5, 6, float("inf")]


# Refusals -----------------------------------------------------------------------------------------------------


def test_only_box_and_discrete_are_supported():
    check_space("s", BOX)
    check_space("s", DISCRETE)
    check_space("s", None, optional=True)
    with pytest.raises(TypeError, match=r"s: got MultiDiscrete\(\[2 3\]\), expected a gymnasium Box or Discrete$"):
        check_space("s", MultiDiscrete([2, 3]))
    with pytest.raises(TypeError, match=r"s: got 3, expected a gymnasium Box or Discrete or None"):
        check_space("s", 3, optional=True)
    with pytest.raises(TypeError, match=r"s: got None, expected"):
        check_space("s", None)


@pytest.mark.parametrize(
    ("value", "space", "more", "error", "message"),
    [
        (None, BOX, {}, ValueError, r"x: got None, expected rows of Box"),
        (torch.zeros(2), None, {}, ValueError, r"x: got a Tensor, expected None"),
        ([0.0, 0.0], BOX, {}, TypeError, r"x: got list, expected a Tensor"),
        (np.zeros(2), BOX, {}, TypeError, r"x: got ndarray, expected a Tensor"),
        (torch.zeros(2, dtype=torch.long), BOX, {}, TypeError, r"x: got dtype torch\.int64, expected torch"),
        (torch.zeros(2).double(), BOX, {}, TypeError, r"x: got dtype torch\.float64, expected torch\.float32"),
        (torch.tensor([5.0]), DISCRETE, {}, TypeError, r"x: got dtype torch\.float32, expected integers for Dis"),
        (torch.tensor([True]), DISCRETE, {}, TypeError, r"x: got dtype torch\.bool, expected integers"),
        (torch.zeros(4, 3), BOX, {}, ValueError, r"x: got shape \(4, 3\), expected \(…, 2\)"),
        (torch.tensor(0.0), BOX, {}, ValueError, r"x: got shape \(\), expected \(…, 2\)"),
        (torch.zeros(4, 2), BOX, {"leading": (5,)}, ValueError, r"x: got shape \(4, 2\), expected \(5, 2\)"),
        (torch.zeros(2), BOX, {"leading": (1,)}, ValueError, r"x: got shape \(2,\), expected \(1, 2\)"),
        (torch.tensor([5, 6]), DISCRETE, {}, ValueError, r"x: got shape \(2,?\), expected \(…, 1\)"),
        (torch.zeros(2), BOX, {"device": torch.device("meta")}, ValueError, r"x: got device cpu, expected meta"),
        (torch.tensor([[4]]), DISCRETE, {}, ValueError, r"x: got 4 at index \(0, 0\), expected values inside"),
        (torch.tensor([[5], [8]]), DISCRETE, {}, ValueError, r"x: got 8 at index \(1, 0\), expected values inside"),
        (torch.tensor([0.0, 1.5]), BOX, {"contained": True}, ValueError, r"x: got 1\.5 at index \(1,\), expected"),
        (torch.tensor([-1.001, 0.0]), BOX, {"contained": True}, ValueError, r"x: got -1\.001.* expected values"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused(value, space, more, error, message, unchecked):
    with pytest.raises(error, match=message):
        check_rows("x", value, space, **more)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_refused_by_place(bad):
    rows = torch.zeros(3, 2)
    rows[1, 0] = bad
    with pytest.raises(ValueError, match=rf"x: got {bad} at index \(1, 0\), expected finite values"):
        check_rows("x", rows, BOX)


def test_rows_that_fit_pass():
    check_rows("x", None, None)
    check_rows("x", torch.full((2, 3, 2), 7.0), BOX)  # not asked to be contained
    check_rows("x", torch.full((2,), 1 + 1e-6), BOX, contained=True)  # a rounding error outside
    check_rows("x", torch.full((2,), 1e30), Box(-torch.inf, torch.inf, (2,)), contained=True)
    check_rows("x", torch.tensor([[5], [7]], dtype=torch.int32), DISCRETE, leading=(2,))
