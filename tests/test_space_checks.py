"""What no space and no rows may be: every refusal, and that what fits passes."""

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, Graph, MultiBinary, MultiDiscrete, Text, Tuple
from gymnasium.spaces import Sequence as SequenceSpace
from hypothesis import assume, given
from hypothesis import strategies as st

from layeredrl.space_values import to_rows
from layeredrl.spaces import check_rows, check_space
from tests.generated_spaces import SPACES, batch_of, discrete_columns, values_of

BOX = Box(-1.0, 1.0, (2,))
ENDLESS = Box(-np.inf, np.inf, (2,))
DISCRETE = Discrete(3, start=5)
MULTI = MultiDiscrete([2, 3], start=[0, -1])
# Rows: discrete | multi | binary | box
MIXED = Dict({"a": DISCRETE, "b": Tuple([MULTI, MultiBinary(1)]), "c": BOX})
GOOD = torch.tensor([[5.0, 0, -1, 0, 0.5, -0.5], [7, 1, 1, 1, 1, 1]])
NAN, INF = float("nan"), float("inf")


@given(SPACES)
def test_spaces_of_every_kind_and_nesting_are_accepted(space):
    check_space("s", space)
    check_space("s", space, optional=True)


KINDS = "expected a gymnasium Box, Discrete, MultiDiscrete, MultiBinary, or Tuple or Dict of such"


@pytest.mark.parametrize(
    "space",
    [
        3,
        None,
        "Box",
        Box,
        Text(3),
        SequenceSpace(BOX),
        Graph(BOX, None),
        Tuple([]),
        Dict({}),
        Tuple([BOX, Text(3)]),
        Dict({"a": Tuple([BOX, Dict({})])}),
    ],
)
def test_what_has_no_rows_is_refused(space):
    with pytest.raises(TypeError, match=rf"^s: got .*, {KINDS}$"):
        check_space("s", space)


def test_none_is_a_space_only_where_it_is_optional():
    check_space("s", None, optional=True)
    with pytest.raises(TypeError, match=rf"s: got 3, {KINDS}, or None$"):
        check_space("s", 3, optional=True)


@pytest.mark.parametrize("start", [2**24 - 1, -(2**24) - 1])
def test_numbers_that_floating_point_can_not_hold_are_refused_beside_a_box(start):
    large = Discrete(3, start=start)
    check_space("s", large)
    check_space("s", Tuple([BOX, Discrete(2, start=2**24 - 1)]))
    with pytest.raises(ValueError, match=rf"s: got Discrete\(3, start={start}\) beside a Box, expected numbers of"):
        check_space("s", Tuple([BOX, Tuple([large])]))


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
        (torch.tensor([0.0, 0.0]), MULTI, {}, TypeError, r"x: got dtype torch\.float32, expected integers for Mul"),
        (torch.tensor([True]), MultiBinary(1), {}, TypeError, r"x: got dtype torch\.bool, expected integers"),
        (GOOD.long(), MIXED, {}, TypeError, r"x: got dtype torch\.int64, expected torch\.float32 for Dict"),
        (torch.zeros(4, 3), BOX, {}, ValueError, r"x: got shape \(4, 3\), expected \(…, 2\)"),
        (torch.tensor(0.0), BOX, {}, ValueError, r"x: got shape \(\), expected \(…, 2\)"),
        (torch.zeros(4, 2), BOX, {"leading": (5,)}, ValueError, r"x: got shape \(4, 2\), expected \(5, 2\)"),
        (torch.zeros(2), BOX, {"leading": (1,)}, ValueError, r"x: got shape \(2,\), expected \(1, 2\)"),
        (torch.tensor([5, 6]), DISCRETE, {}, ValueError, r"x: got shape \(2,?\), expected \(…, 1\)"),
        (GOOD[:, :5], MIXED, {}, ValueError, r"x: got shape \(2, 5\), expected \(…, 6\)"),
        (torch.zeros(2), BOX, {"device": torch.device("meta")}, ValueError, r"x: got device cpu, expected meta"),
        (torch.tensor([[4]]), DISCRETE, {}, ValueError, r"x: got 4 at index \(0, 0\), expected values inside"),
        (torch.tensor([[5], [8]]), DISCRETE, {}, ValueError, r"x: got 8 at index \(1, 0\), expected values inside"),
        (torch.tensor([[0, 2]]), MULTI, {}, ValueError, r"x: got 2 at index \(0, 1\), .* inside Multi"),
        (torch.tensor([[2, 0]]), MULTI, {}, ValueError, r"x: got 2 at index \(0, 0\), .* inside Multi"),
        (torch.tensor([-56], dtype=torch.int8), Discrete(3, start=200), {}, ValueError, r"x: got -56 at"),
        (torch.tensor([2]), MultiBinary(1), {}, ValueError, r"x: got 2 at index \(0,\), .* inside MultiBin"),
        (torch.tensor([0.0, 1.5]), BOX, {"contained": True}, ValueError, r"x: got 1\.5 at index \(1,\), expected"),
        (torch.tensor([-1.001, 0.0]), BOX, {"contained": True}, ValueError, r"x: got -1\.001.* expected values"),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused(value, space, more, error, message, unchecked):
    with pytest.raises(error, match=message):
        check_rows("x", value, space, **more)


@pytest.mark.parametrize(
    ("column", "value", "contained", "message"),
    [
        (0, 4.0, False, r"got 4\.0 at index \(1, 0\), expected values inside Discrete\(3, start=5\)"),
        (0, 5.5, False, r"got 5\.5 at index \(1, 0\), expected values inside Discrete\(3, start=5\)"),
        (2, 2.0, False, r"got 2\.0 at index \(1, 2\), expected values inside MultiDiscrete"),
        (3, 0.5, False, r"got 0\.5 at index \(1, 3\), expected values inside MultiBinary\(1\)"),
        (5, 1.5, True, r"got 1\.5 at index \(1, 5\), expected values inside Box"),
        (0, NAN, False, r"got nan at index \(1, 0\), expected finite values"),
        (4, -INF, False, r"got -inf at index \(1, 4\), expected finite values"),
    ],
)
def test_the_column_of_a_nested_row_that_does_not_fit_is_named(column, value, contained, message):
    rows = GOOD.clone()
    rows[1, column] = value
    with pytest.raises(ValueError, match=rf"^x: {message}"):
        check_rows("x", rows, MIXED, contained=contained)


@given(SPACES, st.integers(1, 3), st.data())
def test_a_discrete_number_outside_its_range_is_always_refused(space, n, data):
    columns = [column for column, discrete in enumerate(discrete_columns(space)) if discrete]
    assume(columns)
    row, column = data.draw(st.integers(0, n - 1)), data.draw(st.sampled_from(columns))
    rows = to_rows(space, batch_of(space, values_of(space, n)))
    rows[row, column] += data.draw(st.sampled_from([-10, 10]))
    with pytest.raises(ValueError, match=rf"x: got .* at index \({row}, {column}\), expected values inside"):
        check_rows("x", rows, space)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize(("space", "contained"), [(BOX, False), (BOX, True), (ENDLESS, True)])
def test_rows_that_are_not_finite_are_refused_by_place(bad, space, contained):
    rows = torch.zeros(3, 2)
    rows[1, 0] = bad
    with pytest.raises(ValueError, match=rf"x: got {bad} at index \(1, 0\), expected finite values"):
        check_rows("x", rows, space, contained=contained)


def test_doubles_may_be_larger_than_single_precision_holds():
    torch.set_default_dtype(torch.float64)
    try:
        for contained in (False, True):
            check_rows("x", torch.tensor([1e300, -1e300]), ENDLESS, contained=contained)
    finally:
        torch.set_default_dtype(torch.float32)


def test_rows_that_fit_pass():
    check_rows("x", None, None)
    check_rows("x", torch.full((2, 3, 2), 7.0), BOX)  # not asked to be contained
    check_rows("x", torch.full((2,), 1 + 1e-6), BOX, contained=True)  # a rounding error outside
    check_rows("x", torch.tensor([3.4e38, -3.4e38]), ENDLESS, contained=True)
    for dtype in (torch.int8, torch.int32):
        check_rows("x", torch.tensor([[5], [7]], dtype=dtype), DISCRETE, leading=(2,))
    check_rows("x", GOOD, MIXED, leading=(2,), contained=True)
    outside_the_box = GOOD * torch.tensor([1, 1, 1, 1, 9, 9])
    check_rows("x", outside_the_box, MIXED)
