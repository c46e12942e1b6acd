"""Values of any space go into rows and come back as a vector environment takes them."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple
from gymnasium.vector.utils import batch_space, create_empty_array, iterate
from hypothesis import given
from hypothesis import strategies as st

from layeredrl.space_values import from_rows, to_rows
from layeredrl.spaces import check_rows, row_dtype, row_size
from tests.generated_spaces import LEAVES, SPACES, batch_of, numbers_of, values_of

BOX = Box(-1.0, 1.0, (2,))
NESTED = Dict({"b": BOX, "a": Tuple([Discrete(3, start=5), MultiBinary(2)])})


def assert_same(got, expected):
    """Arrays of the same values, dtypes and shapes, nested alike."""
    assert type(got) is type(expected)
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for key in expected:
            assert_same(got[key], expected[key])
    elif isinstance(expected, tuple):
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    else:
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(got, expected, rtol=1e-7 if got.dtype == np.float64 else 0)


@given(SPACES, st.integers(1, 4))
def test_values_survive_the_way_to_rows_and_back(space, n):
    batch = batch_of(space, values_of(space, n))
    back = from_rows(space, to_rows(space, batch))
    assert_same(back, batch)
    assert batch_space(space, n).contains(back)
    assert len(list(iterate(batch_space(space, n), back))) == n


@given(SPACES, st.integers(1, 4))
def test_rows_are_the_numbers_of_each_value_in_order(space, n):
    values = values_of(space, n)
    rows = to_rows(space, batch_of(space, values))
    assert rows.dtype == row_dtype(space)
    expected = torch.tensor([numbers_of(space, value) for value in values], dtype=torch.float64)
    torch.testing.assert_close(rows.double(), expected, rtol=1e-7, atol=0)


@given(SPACES, st.integers(1, 4))
def test_rows_of_values_pass_the_check(space, n):
    check_rows("rows", to_rows(space, batch_of(space, values_of(space, n))), space, leading=(n,), contained=True)


@given(LEAVES)
def test_no_values_are_no_rows(space):
    rows = to_rows(space, create_empty_array(space, 0))
    assert rows.shape == (0, row_size(space))
    assert_same(from_rows(space, rows), create_empty_array(space, 0))


def test_rows_are_flat_in_the_order_of_numpy():
    values = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    rows = to_rows(Box(0, 20, (2, 3)), values)
    assert rows.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_integers_of_a_box_become_floating_point():
    assert to_rows(Box(0, 9, (2,), np.uint8), np.zeros((3, 2), np.uint8)).dtype == torch.float32


@pytest.mark.parametrize("space", [BOX, NESTED])
def test_neither_rows_nor_values_share_memory_with_what_they_were_made_of(space):
    batch = batch_of(space, values_of(space, 2))
    rows = to_rows(space, batch)
    before = rows.clone()
    (batch["b"] if space is NESTED else batch)[:] = 9.0
    assert torch.equal(rows, before)
    values = from_rows(space, rows)
    rows.zero_()
    assert_same(to_rows(space, values).numpy(), before.numpy())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"b": np.zeros((1, 2))}, r"value: got \{'b'.*, expected a dict with the keys \['a', 'b'\]"),
        (np.zeros((1, 5)), r"value: got array.*, expected a dict with the keys \['a', 'b'\]"),
        ({"b": np.zeros((1, 2)), "a": (np.zeros(1),)}, r"value: got \(array.*, expected 2 parts for Tuple"),
        ({"b": np.zeros((1, 2)), "a": np.zeros(2)}, r"value: got array.*, expected 2 parts for Tuple"),
    ],
)
def test_values_of_another_structure_are_refused(values, message):
    with pytest.raises(TypeError, match=message):
        to_rows(NESTED, values)
