"""GaussianMLP: shapes, bounds, and that every input counts."""

import math

import pytest
import torch
from torch import nn

from layeredrl.nets.gaussian_mlp import MAX_LOG_STD, MIN_LOG_STD, GaussianMLP


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
