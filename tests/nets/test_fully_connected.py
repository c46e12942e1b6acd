"""The kernels answer as a plain loop over members and layers in double precision."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import grad
from torch.nn.functional import relu, silu

from layeredrl.nets.bounded_features import Bound, BoundedFeatures, std_bound
from layeredrl.nets.memory import Reserve
from layeredrl.nets.native import fully_connected as native
from layeredrl.nets.native.fully_connected import as_bounds, fully_connected
from tests.compiler import needs_compiler

pytestmark = needs_compiler
FUNCTIONS = (silu, relu)


def draw_layers(n_members, sizes, with_bias=True):
    weights = [torch.randn(n_members, n_out, n_in) / math.sqrt(n_in) for n_in, n_out in pairwise(sizes)]
    biases = [torch.randn(n_members, n_out) if with_bias else None for n_out in sizes[1:]]
    return weights, biases


def draw_bounds(n_out, seed):
    """Of each feature another one, or none."""
    kinds = None, std_bound(-2.0, 0.5), Bound()
    return BoundedFeatures([(1, kinds[(i + seed) % 3]) for i in range(n_out)])


def loop(x, weights, biases, activation, bounds=None):
    """Rows `(E, R, out)`."""
    outputs = []
    for e, rows in enumerate(x.double()):
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            if layer > 0:
                rows = FUNCTIONS[activation](rows)
            rows = rows @ weight[e].double().T
            if bias is not None:
                rows = rows + bias[e].double()
        outputs.append(rows if bounds is None else bounds(rows))
    return torch.stack(outputs)


def assert_as_loop(x, weights, biases, activation, bounds=None):
    """Values without gradients and with them, and these: of rows, weights and biases."""
    layers = weights, biases, activation
    bounds_of_each = None if bounds is None else as_bounds(bounds)
    expected = loop(x, *layers, bounds)
    close = partial(torch.testing.assert_close, rtol=1e-5, atol=2e-5)
    with torch.no_grad():
        close(fully_connected(x, *layers, bounds_of_each).mT, expected.float())
    leaves = [tensor for tensor in (x, *weights, *biases) if tensor is not None]
    for leaf in leaves:
        leaf.requires_grad_()
    actual, expected = fully_connected(x, *layers, bounds_of_each).mT, loop(x, *layers, bounds)
    close(actual, expected.float())
    of_out = torch.randn_like(actual)
    for got, wanted in zip(grad(actual, leaves, of_out), grad(expected, leaves, of_out.double()), strict=True):
        scale = wanted.abs().max().clamp_min(1.0) if wanted.numel() > 0 else 1.0
        close(got / scale, wanted / scale)


# Around the sizes of vectors and tiles, on processors of all kinds.
SIZES = st.integers(1, 60)


@settings(deadline=None, max_examples=60)
@given(
    n_members=st.integers(1, 4),
    n_rows=st.integers(0, 110),
    sizes=st.lists(SIZES, min_size=2, max_size=5),
    activation=st.sampled_from([0, 1]),
    with_bias=st.booleans(),
    bounded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_sizes(n_members, n_rows, sizes, activation, with_bias, bounded, seed):
    torch.manual_seed(seed)
    x, layers = torch.randn(n_members, n_rows, sizes[0]), draw_layers(n_members, sizes, with_bias)
    assert_as_loop(x, *layers, activation, draw_bounds(sizes[-1], seed) if bounded else None)


# So many numbers that matrix units multiply them, where the processor has some.
@settings(deadline=None, max_examples=30)
@given(
    n_members=st.integers(1, 3),
    n_rows=st.integers(250, 600),
    width=st.integers(132, 170),
    others=st.lists(SIZES, min_size=2, max_size=4),
    place=st.integers(0, 3),
    activation=st.sampled_from([0, 1]),
    with_bias=st.booleans(),
    bounded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_many_rows_of_wide_layers(n_members, n_rows, width, others, place, activation, with_bias, bounded, seed):
    torch.manual_seed(seed)
    sizes = [*others[:place], width, *others[place:]]
    x, layers = torch.randn(n_members, n_rows, sizes[0]), draw_layers(n_members, sizes, with_bias)
    assert_as_loop(x, *layers, activation, draw_bounds(sizes[-1], seed) if bounded else None)


def test_wide_layers():
    assert_as_loop(torch.randn(2, 100, 30), *draw_layers(2, (30, 512, 300, 7)), activation=0)


@pytest.mark.parametrize("n_rows", [50, 500])
def test_answers_are_as_exact_as_float32(n_rows):
    x, (weights, biases) = torch.randn(2, n_rows, 200), draw_layers(2, (200, 200, 200))
    exact = loop(x, weights, biases, 0)
    plain = torch.nn.functional.silu(torch.baddbmm(biases[0].unsqueeze(1), x, weights[0].mT))
    plain = torch.baddbmm(biases[1].unsqueeze(1), plain, weights[1].mT)
    errors = [(answer - exact).abs().mean() for answer in (fully_connected(x, weights, biases, 0).mT, plain)]
    assert errors[0] < 2.5 * errors[1]


def test_rows_may_lie_anywhere_in_memory():
    layers = draw_layers(3, (6, 20, 4))
    for x in (
        torch.randn(1, 50, 6).expand(3, -1, -1),
        torch.randn(3, 6, 50).mT,
        torch.randn(3, 50, 12)[..., ::2],
        torch.randn(50, 3, 6).movedim(1, 0),
    ):
        assert_as_loop(x, *layers, activation=0)


@pytest.mark.parametrize("activation", [0, 1])
def test_activations_and_slopes_are_exact_for_numbers_of_all_sizes(activation):
    one = [torch.ones(1, 1, 1)] * 2, [None] * 2
    sizes = torch.logspace(-30, 30, 200)
    x = torch.cat([torch.linspace(-100, 100, 4001), sizes, -sizes]).view(1, -1, 1).requires_grad_()
    actual, expected = fully_connected(x, *one, activation).mT, FUNCTIONS[activation](x.double())
    torch.testing.assert_close(actual, expected.float(), rtol=1e-6, atol=1e-7)
    slopes, expected_slopes = (grad(value.sum(), x)[0] for value in (actual, expected))
    torch.testing.assert_close(slopes, expected_slopes, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bound", [Bound(), std_bound(-5.0, 0.25)])
def test_bounds_are_exact_for_numbers_of_all_sizes(bound):
    one, bounds = ([torch.ones(1, 1, 1)], [None]), as_bounds(BoundedFeatures([(1, bound)]))
    sizes = torch.logspace(-30, 30, 200)
    x = torch.cat([torch.linspace(-85, 85, 4001), sizes, -sizes]).view(1, -1, 1).requires_grad_()
    actual, expected = fully_connected(x, *one, 0, bounds).mT, bound(x.double())
    # The further out, the fewer bits of an exponent are left behind the point.
    tolerance = 1e-7 * (10 + x.abs().clamp_max(87)) * expected + 2e-38
    assert ((actual - expected).abs() <= tolerance).all()
    slopes, expected_slopes = (grad(value.sum(), x)[0] for value in (actual, expected))
    torch.testing.assert_close(slopes, expected_slopes, rtol=1e-5, atol=2e-7)


def test_bounds_hand_on_what_is_no_number():
    x, bounds = torch.tensor([0.0, math.nan, 1.0]).view(1, 3, 1), as_bounds(BoundedFeatures([(1, Bound())]))
    answer = fully_connected(x, [torch.ones(1, 1, 1)], [None], 0, bounds)
    assert answer.isnan().flatten().tolist() == [False, True, False]


@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize(("n_rows", "width"), [(40, 18), (300, 132)])
def test_what_is_not_finite_stays_so_and_in_its_row(activation, number, n_rows, width):
    x, layers = torch.randn(2, n_rows, 3), draw_layers(2, (3, width, width, 5))
    expected = fully_connected(x, *layers, activation)
    x[1, 7, 2] = number
    actual = fully_connected(x, *layers, activation)
    assert not actual[1, :, 7].isfinite().any()
    actual[1, :, 7] = expected[1, :, 7]
    assert torch.equal(actual, expected)


@pytest.mark.parametrize(("n_rows", "sizes"), [(40, (3, 18, 5)), (300, (3, 132, 203, 132, 5))])
def test_a_member_that_diverged_leaves_the_others_alone(n_rows, sizes):
    x, (weights, biases) = torch.randn(3, n_rows, 3), draw_layers(3, sizes)
    for weight in weights:
        weight[1] = math.nan
    actual = fully_connected(x, weights, biases, 0)
    assert actual[1].isnan().all()
    assert actual[[0, 2]].isfinite().all()


@pytest.mark.parametrize("width", [40, 140])
def test_neither_answers_nor_gradients_depend_on_threads(width, n_threads_restored):
    x, (weights, biases) = torch.randn(5, 333, 10), draw_layers(5, (10, width, width, 3))
    leaves = [tensor.requires_grad_() for tensor in (x, *weights, *biases)]
    answers = []
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        out = fully_connected(x, weights, biases, 0)
        answers.append([out, *grad(out.square().sum(), leaves)])
    for answer in answers[1:]:
        assert all(torch.equal(one, other) for one, other in zip(answer, answers[0], strict=True))


@pytest.mark.parametrize("width", [33, 133])
def test_many_rows_add_up_to_the_gradients_of_few(width):
    x, (weights, biases) = torch.randn(2, 3000, 5), draw_layers(2, (5, width, 2))
    leaves = [tensor.requires_grad_() for tensor in (*weights, *biases)]
    together = grad(fully_connected(x, weights, biases, 1).sum(), leaves)
    parts = [grad(fully_connected(part, weights, biases, 1).sum(), leaves) for part in x.split(7, dim=1)]
    for got, own in zip(together, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(own).sum(dim=0), rtol=1e-4, atol=1e-3)


def test_only_what_is_asked_for_gets_a_gradient():
    x, (weights, biases) = torch.randn(2, 20, 5), draw_layers(2, (5, 9, 2))
    weights[0].requires_grad_()
    fully_connected(x, weights, biases, 0).sum().backward()
    assert weights[0].grad.abs().sum() > 0
    assert x.grad is None
    assert weights[1].grad is None


def test_gradients_can_not_be_differentiated_again():
    x = torch.randn(2, 20, 5, requires_grad=True)
    with pytest.raises(RuntimeError, match="can't be differentiated again, expected compile=False"):
        grad(fully_connected(x, *draw_layers(2, (5, 9, 2)), 0).sum(), x, create_graph=True)


@pytest.fixture
def n_threads_restored():
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_torch_uses_the_same_units_in_between():
    """In bfloat16, products of torch's own run on them, on the same threads."""
    x, layers = torch.randn(2, 300, 140), draw_layers(2, (140, 140, 140))
    factor = torch.randn(256, 256).bfloat16()
    with torch.no_grad():
        ours, torchs = fully_connected(x, *layers, 0), factor @ factor
        for _ in range(5):
            assert torch.equal(fully_connected(x, *layers, 0), ours)
            assert torch.equal(factor @ factor, torchs)


def test_what_is_kept_lies_in_the_reserve_and_goes_back(monkeypatch):
    reserve = Reserve()
    monkeypatch.setattr(native, "_RESERVE", reserve)
    x, layers = torch.randn(2, 7, 5, requires_grad=True), draw_layers(2, (5, 9, 3))
    for _ in range(3):  # of which the second and third use what the first has left
        fully_connected(x, *layers, 0).sum().backward()
    assert sorted(map(len, reserve._unused.values())) == [1, 1]  # for what goes forth, and what goes back
