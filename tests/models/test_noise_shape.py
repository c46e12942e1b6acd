"""Bent noise: its density, its moments and its inverse, against numerical integration and samples."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layeredrl.models.noise_shape import KNOTS, NoiseShape, piecewise_linear, standardized

STEPS = st.lists(st.floats(0.01, 10.0), min_size=len(KNOTS) - 1, max_size=len(KNOTS) - 1)


def increasing(*steps):
    """Values at the knots of one dimension for each list of steps."""
    values = torch.tensor(steps, dtype=torch.float64).cumsum(dim=1)
    return torch.cat([torch.zeros(len(values), 1, dtype=torch.float64), values], dim=1) - values[:, -1:] / 3


def integrate(density, x):
    return torch.trapezoid(density, x, dim=0)


@given(STEPS, STEPS)
def test_standardized_values_have_the_moments_that_were_taken_off(first, second):
    values = increasing(first, second)
    mean, std, shape = standardized(values)
    normal = torch.linspace(-9, 9, 40_001, dtype=torch.float64).unsqueeze(1).expand(-1, 2)
    density = torch.exp(-0.5 * normal.square()) / (2 * torch.pi) ** 0.5
    bent, _ = piecewise_linear(normal, KNOTS.expand_as(values), values)
    torch.testing.assert_close(integrate(bent * density, normal), mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(integrate((bent - mean) ** 2 * density, normal).sqrt(), std, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shape.bend(normal), (bent - mean) / std)


@given(STEPS)
def test_the_density_is_the_derivative_of_the_distribution_function(steps):
    """Of h(z): P(h(z) ≤ h(u)) = Φ(u)."""
    _, _, shape = standardized(increasing(steps))
    normal = torch.linspace(-4, 4, 2001, dtype=torch.float64).unsqueeze(1)
    noise = shape.bend(normal)
    between = shape.log_prob((noise[1:] + noise[:-1]) / 2).exp() * noise.diff(dim=0)
    expected = torch.special.ndtr(normal).diff(dim=0)
    at_a_knot = (torch.bucketize(normal[1:], KNOTS) != torch.bucketize(normal[:-1], KNOTS)).squeeze()
    torch.testing.assert_close(between[~at_a_knot], expected[~at_a_knot], rtol=1e-4, atol=1e-9)


def test_straight_noise_is_normal():
    shape = NoiseShape(KNOTS.repeat(2, 1))
    noise = 3 * torch.randn(5, 4, 2, dtype=torch.float64)
    torch.testing.assert_close(shape.bend(noise), noise)
    torch.testing.assert_close(shape.log_prob(noise), torch.distributions.Normal(0.0, 1.0).log_prob(noise))


def test_each_dimension_has_a_shape_of_its_own():
    steps = torch.rand(3, len(KNOTS) - 1) + 0.1
    values = increasing(*steps.tolist())
    _, _, shape = standardized(values)
    normal = torch.randn(4, 5, 3, dtype=torch.float64)
    for d in range(3):
        alone = NoiseShape(shape.values[d : d + 1])
        torch.testing.assert_close(shape.bend(normal)[..., d : d + 1], alone.bend(normal[..., d : d + 1]))
        torch.testing.assert_close(shape.log_prob(normal)[..., d : d + 1], alone.log_prob(normal[..., d : d + 1]))


@pytest.mark.parametrize("score", [1e5, -1e15])
def test_log_density_and_its_gradient_are_finite_in_the_far_tail(score):
    """Even where the tail is a thousand times shorter than the noise is wide."""
    values = increasing([1e-3] * 4 + [1.0] * 6 + [1e-3] * 4)
    shape = NoiseShape(standardized(values)[2].values.float())
    noise = torch.full((2, 1), score, requires_grad=True)
    log_prob = shape.log_prob(noise)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert noise.grad.isfinite().all()
