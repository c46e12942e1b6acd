"""Noise that is correlated over time, against closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layeredrl.planners.noise import coloured_noise, smooth_noise


def covariance(horizon: int, beta: float) -> torch.Tensor:
    """Of noise whose spectrum is given: Σ over all frequencies of power · cos(2π f (t − t')), by hand."""
    times = torch.arange(horizon, dtype=torch.float64)
    total, power_sum = torch.zeros(horizon, horizon, dtype=torch.float64), 0.0
    for k in range(horizon):
        frequency = min(k, horizon - k) / horizon
        power = max(frequency, 1 / horizon) ** -beta
        total += power * torch.cos(2 * math.pi * k / horizon * (times[:, None] - times))
        power_sum += power
    return (total / power_sum).float()


@pytest.mark.parametrize("horizon", [1, 2, 7, 12])
@pytest.mark.parametrize("beta", [0.0, 0.5, 2.0, 4.0])
def test_covariance_over_time_is_that_of_the_spectrum(horizon, beta):
    noise = coloured_noise((40_000, horizon, 1), beta, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        noise[..., 0].T.cov().reshape(horizon, horizon), covariance(horizon, beta), rtol=0, atol=0.03
    )


@given(beta=st.floats(0, 5), horizon=st.integers(1, 40))
def test_the_covariance_of_the_reference_has_ones_on_its_diagonal(beta, horizon):
    torch.testing.assert_close(covariance(horizon, beta).diagonal(), torch.ones(horizon))


def test_dimensions_are_independent():
    noise = coloured_noise((40_000, 3, 2), 2.0, generator=torch.Generator().manual_seed(0))
    across = (noise[..., 0].T @ noise[..., 1]) / 40_000
    torch.testing.assert_close(across, torch.zeros(3, 3), rtol=0, atol=0.03)


def test_white_noise_of_no_colour_comes_from_the_generator_alone():
    before = torch.get_rng_state()
    noises = [coloured_noise((2, 5, 3), 1.0, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(noises[0], noises[1])
    assert not torch.equal(noises[0], noises[2])


def test_smoothed_noise_follows_its_recursion_from_a_stationary_start():
    white = torch.randn(3, 6, 2)
    smooth = smooth_noise(white, 0.8)
    assert torch.equal(smooth[:, 0], white[:, 0])
    for t in range(1, 6):
        torch.testing.assert_close(smooth[:, t], 0.8 * smooth[:, t - 1] + 0.6 * white[:, t])


def test_no_smoothing_changes_nothing():
    white = torch.randn(3, 6, 2)
    assert torch.equal(smooth_noise(white, 0.0), white)
