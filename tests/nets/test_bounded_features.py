"""Bounds: what they make of numbers, and that each feature gets its own."""

import math

import pytest
import torch
from torch.nn.functional import softplus

from layeredrl.nets.bounded_features import Bound, BoundedFeatures, std_bound

BOUNDS = BoundedFeatures([(2, None), (1, std_bound(-3.0, 1.0)), (3, Bound())])


def test_each_feature_has_its_own_bound():
    x = 10 * torch.randn(4, 5, 6)
    mean, std, probability = BOUNDS(x).split([2, 1, 3], dim=-1)
    assert (mean == x[..., :2]).all()
    torch.testing.assert_close(std, std_bound(-3.0, 1.0)(x[..., 2:3]))
    torch.testing.assert_close(probability, x[..., 3:].sigmoid())


def test_numbers_can_be_bounded_where_they_are():
    x = torch.randn(4, 5, 6)
    expected = BOUNDS(x)
    BOUNDS.apply_in_place(x)
    assert torch.equal(x, expected)


def test_rows_that_stand_upright_have_the_same_bounds():
    x = torch.randn(4, 5, 6)
    torch.testing.assert_close(BOUNDS.apply_to_columns(x.mT), BOUNDS(x).mT)


def test_a_bounded_std_is_that_of_two_softplus_bounds():
    """As Chua et al. 2018 have them, one after the other."""
    raw = torch.linspace(-20.0, 20.0, 81, dtype=torch.float64)
    below = 0.25 - softplus(0.25 - raw)
    expected = (-5.0 + softplus(below + 5.0)).exp()
    torch.testing.assert_close(std_bound(-5.0, 0.25)(raw), expected)


def test_the_bounds_are_reached():
    std = std_bound(-5.0, 0.25)(torch.tensor([-1e4, 1e4]))
    torch.testing.assert_close(std, torch.tensor([math.exp(-5.0), math.exp(0.25) * (1 + math.exp(-5.25))]))


def test_far_inside_its_bounds_the_std_is_the_networks_own():
    raw = torch.linspace(-5, 5, 11)
    torch.testing.assert_close(std_bound(-30.0, 30.0)(raw).log(), raw, atol=1e-5, rtol=0)


@pytest.mark.parametrize("raw", [-60.0, -30.0, 10.0])
def test_the_gradient_of_the_std_does_not_vanish_beyond_the_bounds(raw):
    x = torch.tensor(raw, requires_grad=True)
    std_bound(-5.0, 0.25)(x).backward()
    assert x.grad > 0


def test_the_bounded_std_grows_with_the_networks_own():
    assert (std_bound(-5.0, 0.25)(torch.linspace(-10, 5, 200)).diff() > 0).all()
