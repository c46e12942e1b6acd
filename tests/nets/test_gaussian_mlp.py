"""GaussianMLP: shapes, bounds, and that every input counts."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from layeredrl.nets.gaussian_mlp import MAX_LOG_STD, MIN_LOG_STD, GaussianMLP, bounded_std


def make(hidden_sizes=(16, 16)) -> GaussianMLP:
    return GaussianMLP(4, hidden_sizes, nn.SiLU)


@pytest.mark.parametrize("leading", [(), (5,), (4, 5), (0,)])
@pytest.mark.parametrize("hidden_sizes", [(), (7,), (16, 16)])
def test_there_is_one_mean_and_one_std_per_row(leading, hidden_sizes):
    mean, std = make(hidden_sizes)(torch.randn(*leading, 4))
    assert mean.shape == std.shape == leading


def test_rows_do_not_influence_each_other():
    net, x = make(), torch.randn(6, 4)
    for together, alone in zip(net(x), net(x[2]), strict=True):
        torch.testing.assert_close(together[2], alone)


@pytest.mark.parametrize("output", [0, 1], ids=["mean", "std"])
def test_every_input_matters(output):
    x = torch.randn(4, requires_grad=True)
    make()(x)[output].backward()
    assert (x.grad != 0).all()


def test_the_std_keeps_its_bounds_for_extreme_inputs():
    mean, std = make()(1e5 * torch.randn(500, 4))
    assert mean.isfinite().all()
    assert std.min() >= math.exp(MIN_LOG_STD) * 0.9999
    assert std.max() <= math.exp(MAX_LOG_STD) * (1 + math.exp(MIN_LOG_STD - MAX_LOG_STD)) * 1.0001
    assert std.max() / std.min() > 100


def test_a_bounded_std_is_that_of_two_softplus_bounds():
    """As Chua et al. 2018 have them, one after the other."""
    raw = torch.linspace(-20.0, 20.0, 81, dtype=torch.float64)
    below = 0.25 - softplus(0.25 - raw)
    expected = (-5.0 + softplus(below + 5.0)).exp()
    torch.testing.assert_close(bounded_std(raw, -5.0, 0.25), expected)


def test_the_bounds_are_reached():
    std = bounded_std(torch.tensor([-1e4, 1e4]), -5.0, 0.25)
    torch.testing.assert_close(std, torch.tensor([math.exp(-5.0), math.exp(0.25) * (1 + math.exp(-5.25))]))


def test_far_inside_its_bounds_the_std_is_the_networks_own():
    raw = torch.linspace(-5, 5, 11)
    torch.testing.assert_close(bounded_std(raw, -30.0, 30.0).log(), raw, atol=1e-5, rtol=0)


@pytest.mark.parametrize("raw", [-60.0, -30.0, 10.0])
def test_the_gradient_of_the_std_does_not_vanish_beyond_the_bounds(raw):
    x = torch.tensor(raw, requires_grad=True)
    bounded_std(x, -5.0, 0.25).backward()
    assert x.grad > 0


def test_the_bounded_std_grows_with_the_networks_own():
    assert (bounded_std(torch.linspace(-10, 5, 200), -5.0, 0.25).diff() > 0).all()
