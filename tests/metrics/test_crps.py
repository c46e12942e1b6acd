"""The CRPS in closed form against integration, and against uncertainty-toolbox for single Gaussians."""

from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal
from uncertainty_toolbox import crps_gaussian

from layeredrl.metrics import crps as crps_module
from layeredrl.metrics.crps import crps
from layeredrl.metrics.marginals import Marginals
from tests.metrics.test_marginals import SKEWED, make_marginals


def gaussian(mean, std):
    """One component, one dimension."""
    return Marginals(mean[:, None, None], std[:, None, None], torch.ones_like(mean)[:, None])


def test_a_mixture_has_the_integral_of_the_squared_difference_of_distribution_functions():
    marginals, value = make_marginals(4), 2 * torch.randn(4, 2, dtype=torch.float64)
    grid = torch.linspace(-20, 20, 20_001, dtype=torch.float64)
    at_grid = Marginals(*(x.unsqueeze(1) for x in (marginals.mean, marginals.std, marginals.weights)))
    cdf = (at_grid.weights[..., None] * Normal(at_grid.mean, at_grid.std).cdf(grid[:, None, None])).sum(dim=-2)
    happened = (grid[:, None] >= value[:, None]).double()
    integral = torch.trapezoid((cdf - happened).square(), grid, dim=1)
    torch.testing.assert_close(crps(marginals, value), integral, atol=2e-3, rtol=0)


def test_noise_of_another_shape_scores_almost_as_by_integration():
    torch.manual_seed(0)
    marginals = replace(make_marginals(20), shape=SKEWED)
    value = torch.randn(20, 2, dtype=torch.float64)
    grid = torch.linspace(-20, 20, 20_001, dtype=torch.float64)[:, None, None].expand(-1, 20, 2)
    integral = torch.trapezoid((marginals.cdf(grid) - (grid >= value).double()).square(), grid, dim=0)
    torch.testing.assert_close(crps(marginals, value), integral, rtol=0.05, atol=5e-3)


def test_single_gaussians_score_as_in_uncertainty_toolbox():
    mean, value = torch.randn(2, 50, dtype=torch.float64)
    std = torch.rand(50, dtype=torch.float64) + 0.1
    expected = crps_gaussian(mean.numpy(), std.numpy(), value.numpy(), scaled=True)
    assert crps(gaussian(mean, std), value[:, None]).mean().item() == pytest.approx(expected)


def test_equal_components_score_as_one():
    one = make_marginals(5, k=1)
    three = Marginals(*(x.expand(5, 3, 2) for x in (one.mean, one.std)), torch.full((5, 3), 1 / 3).double())
    value = torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(crps(three, value), crps(one, value))


@pytest.mark.parametrize("at_a_time", [1, 25])
def test_rows_at_a_time_make_no_difference(monkeypatch, at_a_time):
    marginals, value = make_marginals(3, 4), torch.randn(3, 1, 2, dtype=torch.float64)
    together = crps(marginals, value)
    monkeypatch.setattr(crps_module, "PAIRS_AT_A_TIME", at_a_time)
    torch.testing.assert_close(crps(marginals, value), together)


def test_certain_forecasts_score_their_absolute_error():
    mean, value = torch.tensor([0.0, 0.0, 1e15]), torch.tensor([[0.0], [3.0], [-1e15]])
    scores = crps(gaussian(mean, torch.full((3,), 1e-30)), value)
    torch.testing.assert_close(scores, (mean[:, None] - value).abs())
