"""How near forecasts come, against scikit-learn."""

import torch
from sklearn.metrics import explained_variance_score, root_mean_squared_error

from layeredrl.metrics.accuracy import explained_variance, rmse

TARGET = torch.tensor([[1.0], [2.0], [3.0]])


def test_they_are_those_of_scikit_learn():
    target = torch.randn(40, 3, dtype=torch.float64)
    forecast = target + torch.tensor([0.1, 1.0, 3.0]) * torch.randn(40, 3) + 0.5
    error = forecast - target
    expected = explained_variance_score(target, forecast, multioutput="raw_values")
    torch.testing.assert_close(explained_variance(error, target), torch.from_numpy(expected))
    expected = root_mean_squared_error(target, forecast, multioutput="raw_values")
    torch.testing.assert_close(rmse(error), torch.from_numpy(expected))


def test_an_offset_is_no_unexplained_variance():
    assert explained_variance(torch.full_like(TARGET, 7.0), TARGET).item() == 1.0


def test_a_constant_forecast_explains_nothing():
    assert explained_variance(2.0 - TARGET, TARGET).item() == 0.0


def test_a_constant_target_is_explained_by_a_constant_forecast_only():
    constant = torch.full((3, 2), 9.81)
    error = torch.tensor([[0.0, 0.0], [0.0, 0.1], [0.0, 0.0]])
    assert explained_variance(error, constant).tolist() == [1.0, 0.0]


def test_rounding_is_no_variance():
    constant = torch.full((3, 1), 9.81)
    constant[0] = constant[0].nextafter(torch.tensor(10.0))
    assert explained_variance(9.81 - constant, constant).item() == 1.0


def test_targets_are_shared_by_members():
    error, target = torch.randn(20, 4, 2), torch.randn(20, 1, 2)
    each = torch.stack([explained_variance(error[:, i], target[:, 0]) for i in range(4)])
    torch.testing.assert_close(explained_variance(error, target), each)
