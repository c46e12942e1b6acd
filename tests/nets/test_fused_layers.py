"""Fused: what a kernel runs as one operation answers as a plain loop over members does."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from layeredrl.nets import stacked_linear
from layeredrl.nets.bounded_features import Bound, BoundedFeatures, std_bound
from layeredrl.nets.native.library import kernels_work
from layeredrl.nets.stacked import Stacked
from layeredrl.nets.turns import ROWS_FOR_TURNS
from tests.nets.loops import IN, OUT, E, assert_equals_a_loop, inner, last, rows_of_all_kinds, sequential

bounds = partial(BoundedFeatures, [(1, std_bound(-2.0, 1.0)), (1, Bound())])
FUSED = {
    "linear": sequential(inner, nn.ReLU, partial(last, bias=False)),
    "deep": sequential(inner, nn.SiLU, partial(nn.Linear, 8, 8), nn.SiLU, last),
    "bounded": sequential(inner, nn.SiLU, last, bounds),
    "bounded linear": sequential(partial(nn.Linear, IN, OUT), bounds),
    "nested": lambda: nn.Sequential(nn.Sequential(inner(), nn.SiLU(), last()), nn.Tanh()),
}


@pytest.mark.parametrize("kind", FUSED)
@pytest.mark.parametrize("n_rows", [1, 6, ROWS_FOR_TURNS])
def test_what_is_fused_equals_a_loop_with_gradients_and_without(kind, n_rows):
    members = [FUSED[kind]() for _ in range(E)]
    stacked = Stacked(members, (torch.randn(5, IN),), fuse=True)
    x, order = rows_of_all_kinds(n_rows), torch.tensor([2, 0])
    with torch.no_grad(), Calls() as calls:
        together, chosen = stacked(x), stacked.select(order).run(x[:2])
    assert calls.names.count("layeredrl::fully_connected") == 2 * kernels_work()
    with torch.no_grad():
        expected = torch.stack([member(rows) for member, rows in zip(members, x, strict=True)])
        expected_of_chosen = torch.stack([members[e](rows) for e, rows in zip(order, x[:2], strict=True)])
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(chosen, expected_of_chosen, rtol=1e-4, atol=1e-5)
    assert_equals_a_loop(members, stacked, x)


def test_what_is_fused_goes_as_before_in_double_precision():
    members = [FUSED["deep"]().double() for _ in range(E)]
    stacked, x = (
        Stacked([member.float() for member in members], (torch.randn(5, IN),), fuse=True).double(),
        rows_of_all_kinds(),
    )
    with torch.no_grad():
        expected = torch.stack([member.double()(rows) for member, rows in zip(members, x.double(), strict=True)])
        torch.testing.assert_close(stacked(x.double()), expected)


@pytest.mark.parametrize(
    "layers",
    [
        (inner, nn.Tanh, last),
        (inner, nn.ReLU, nn.ReLU, last),
        (inner, nn.ReLU),
        (inner, nn.ReLU, last, bounds, nn.ReLU, partial(nn.Linear, OUT, 8)),
        (inner, nn.ReLU, partial(nn.Linear, 8, 8), nn.SiLU, last),
    ],
)
def test_what_the_kernel_does_not_know_is_not_fused(layers):
    members = [sequential(*layers)() for _ in range(E)]
    stacked, x = Stacked(members, (torch.randn(5, IN),), fuse=True), rows_of_all_kinds()
    with torch.no_grad(), Calls() as calls:
        together = stacked(x)
    assert "layeredrl::fully_connected" not in calls.names
    expected = torch.stack([member(rows) for member, rows in zip(members, x, strict=True)])
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-5)


def test_what_was_made_in_double_precision_can_be_fused_in_single_precision():
    torch.set_default_dtype(torch.float64)
    try:
        members = [FUSED["bounded"]() for _ in range(E)]
        stacked = Stacked(members, (torch.randn(5, IN),), fuse=True).float()
    finally:
        torch.set_default_dtype(torch.float32)
    x = rows_of_all_kinds()
    with torch.no_grad(), Calls() as calls:
        together = stacked(x)
    assert ("layeredrl::fully_connected" in calls.names) == kernels_work()
    expected = torch.stack([member.float()(rows) for member, rows in zip(members, x, strict=True)])
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-5)


def test_what_is_fused_goes_as_before_where_the_kernel_does_not_work(monkeypatch):
    members = [FUSED["deep"]() for _ in range(E)]
    stacked, x = Stacked(members, (torch.randn(5, IN),), fuse=True), rows_of_all_kinds()
    monkeypatch.setattr(stacked_linear, "kernels_serve", lambda x: False)  # as on another machine
    with torch.no_grad(), Calls() as calls:
        stacked(x)
    assert "layeredrl::fully_connected" not in calls.names


class Calls(TorchDispatchMode):
    """Names the operations inside of it."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))
