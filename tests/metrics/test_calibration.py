"""Calibration against uncertainty-toolbox, NumPy, and quantiles."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from uncertainty_toolbox import mean_absolute_calibration_error
from uncertainty_toolbox import sharpness as toolbox_sharpness

from layeredrl.metrics.calibration import calibration_error, coverage, pit_histogram, sharpness

LEVELS = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)


def gaussian_case(n=200, spread=1.0):
    """Means, standard deviations, what happened, and PIT values."""
    mean, std = torch.randn(n, dtype=torch.float64), torch.rand(n, dtype=torch.float64) + 0.1
    value = mean + spread * std * torch.randn(n, dtype=torch.float64)
    return mean, std, value, Normal(mean, std).cdf(value)


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_the_calibration_error_is_that_of_uncertainty_toolbox(spread):
    mean, std, value, pit = gaussian_case(spread=spread)
    expected = mean_absolute_calibration_error(mean.numpy(), std.numpy(), value.numpy())
    assert calibration_error(pit).item() == pytest.approx(expected, abs=1e-12)


def test_coverage_counts_what_lies_between_two_quantiles():
    mean, std, value, pit = gaussian_case()
    low, high = (Normal(mean[:, None], std[:, None]).icdf((1 + side * LEVELS) / 2) for side in (-1, 1))
    inside = (low <= value[:, None]) & (value[:, None] <= high)
    torch.testing.assert_close(coverage(pit, LEVELS), inside.double().mean(dim=0))


def test_what_happens_exactly_as_foretold_is_covered_at_every_level():
    assert torch.equal(coverage(torch.full((3, 1), 0.5).double(), LEVELS), torch.ones(1, 5).double())


def test_even_pit_values_are_calibrated():
    pit = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    torch.testing.assert_close(coverage(pit, LEVELS), LEVELS)
    assert calibration_error(pit) < 1e-4
    torch.testing.assert_close(pit_histogram(pit), torch.full((10,), 0.1, dtype=torch.float64))


def test_the_histogram_is_that_of_numpy():
    pit = torch.cat(
        [torch.rand(100, dtype=torch.float64), torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)]
    )
    counts, _ = np.histogram(pit.numpy(), bins=4, range=(0, 1))
    torch.testing.assert_close(pit_histogram(pit, n_bins=4), torch.from_numpy(counts / 104))


def test_every_column_is_treated_by_itself():
    pit = torch.rand(50, 2, 3)
    for function in (calibration_error, pit_histogram, lambda x: coverage(x, LEVELS)):
        columns = torch.stack([torch.stack([function(pit[:, i, j]) for j in range(3)]) for i in range(2)])
        torch.testing.assert_close(function(pit), columns)


def test_sharpness_is_that_of_uncertainty_toolbox():
    std = torch.rand(50, dtype=torch.float64) + 0.1
    assert sharpness(std.square()).item() == pytest.approx(toolbox_sharpness(std.numpy()))
