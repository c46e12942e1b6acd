"""Pictures say what their figures say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from layeredrl.metrics.calibration import COVERAGE_LEVELS
from layeredrl.metrics.doubts import Doubts
from layeredrl.metrics.one_step import evaluate_one_step
from layeredrl.metrics.open_loop import evaluate_open_loop
from layeredrl.metrics.segments import cut_segments
from layeredrl.training.diagnosis import diagnose
from layeredrl.training.evaluation import Forecast
from layeredrl.training.plots import (
    calibration_chart,
    correlation_chart,
    doubts_chart,
    draw_forecast,
    fan_chart,
    horizon_chart,
    noise_chart,
)
from tests.metrics.linear_world import linear_model, live
from tests.training.linear_system import make_batch, make_model

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def make_forecast(levels=LEVELS, n_times: int = 7, n_dims: int = 3) -> Forecast:
    quantiles = torch.randn(len(levels), n_times, n_dims).sort(dim=0).values
    spread = torch.ones(n_dims)
    return Forecast(levels, quantiles, torch.randn(n_times, n_dims), spread, spread)


def draw(forecast: Forecast, dim: int):
    axes = Figure().subplots()
    draw_forecast(axes, forecast, dim)
    return axes


def lines(axes) -> dict[str, np.ndarray]:
    return {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}


@pytest.mark.parametrize("dim", [0, 2])
def test_lines_are_the_median_and_what_happened(dim):
    forecast = make_forecast()
    drawn = lines(draw(forecast, dim))
    assert drawn.keys() == {"median", "what happened"}
    assert np.array_equal(drawn["median"], forecast.quantiles[2, :, dim])
    assert np.array_equal(drawn["what happened"], forecast.actual[:, dim])


def test_bands_reach_from_quantile_to_quantile_and_are_named_by_what_they_hold():
    forecast = make_forecast()
    bands = draw(forecast, 1).collections
    assert [band.get_label() for band in bands] == ["90% of the particles", "50% of the particles"]
    for band, (low, high) in zip(bands, ((0, 4), (1, 3)), strict=True):
        corners = band.get_paths()[0].vertices[:, 1]
        assert corners.min() == pytest.approx(forecast.quantiles[low, :, 1].min().item())
        assert corners.max() == pytest.approx(forecast.quantiles[high, :, 1].max().item())


def test_no_quantile_is_passed_off_as_the_median():
    drawn = lines(draw(make_forecast(levels=(0.1, 0.9)), 0))
    assert drawn.keys() == {"what happened"}


def test_a_fan_that_explodes_leaves_what_happened_readable():
    quiet, actual = make_forecast(), torch.linspace(-1.0, 1.0, 7)[:, None].expand(7, 3)
    loud = Forecast(LEVELS, 1e6 * quiet.quantiles, actual, quiet.epistemic_std, quiet.aleatoric_std)
    assert draw(loud, 0).get_ylim() == pytest.approx((-5.0, 5.0))
    narrow = Forecast(LEVELS, 0.1 * quiet.quantiles, actual, quiet.epistemic_std, quiet.aleatoric_std)
    assert draw(narrow, 0).get_ylim() == pytest.approx((-1.1, 1.1))


@pytest.mark.parametrize("n_dims", [1, 3])
def test_a_fan_chart_has_a_picture_per_dimension(n_dims):
    forecast = make_forecast(n_dims=n_dims)
    figure = fan_chart(forecast, "Open loop after 200 steps")
    assert [axes.get_ylabel() for axes in figure.axes] == [f"state {dim}" for dim in range(n_dims)]
    assert figure.axes[0].get_title() == "Open loop after 200 steps"
    assert figure.axes[-1].get_xlabel() == "steps ahead"
    for dim, axes in enumerate(figure.axes):
        assert np.array_equal(lines(axes)["what happened"], forecast.actual[:, dim])
    figure.draw_without_rendering()


def test_it_is_drawn_without_a_global_figure():
    import matplotlib.pyplot as plt

    fan_chart(make_forecast(), "")
    assert plt.get_fignums() == []


@pytest.mark.parametrize("n_modes", [1, 2])
def test_a_correlation_chart_says_the_numbers(n_modes):
    diagnosis = diagnose(make_model(3, n_modes=n_modes), make_batch(30))
    axes = correlation_chart(diagnosis, "After 200 steps").axes[0]
    assert np.array_equal(axes.images[0].get_array(), diagnosis.error_correlation)
    expected = [f"{value:.2f}" for value in diagnosis.error_correlation.flatten().tolist()]
    assert [text.get_text() for text in axes.texts] == expected
    assert axes.get_title() == "After 200 steps"


def test_a_noise_chart_shows_the_predicted_noise_between_its_bounds():
    diagnosis = diagnose(make_model(2), make_batch(30))
    figure = noise_chart(diagnosis, "After 200 steps")
    assert [axes.get_ylabel() for axes in figure.axes] == ["state 0", "state 1"]
    for dim, axes in enumerate(figure.axes):
        assert [line.get_xdata()[0] for line in axes.lines] == [-5.0, 0.25]
        (counts,) = (patch.get_data().values for patch in axes.patches)
        assert counts.sum() == diagnosis.log_std[..., dim].numel()
    without_bounds = noise_chart(replace(diagnosis, at_lower=None, at_upper=None), "")
    assert not any(axes.lines for axes in without_bounds.axes)


def test_charts_of_a_member_that_broke_down_are_drawn_all_the_same():
    diagnosis = diagnose(make_model(2), make_batch(30))
    broken = replace(
        diagnosis,
        error_correlation=torch.full((2, 2), torch.nan),
        log_std=torch.full_like(diagnosis.log_std, torch.nan),
    )
    for figure in (correlation_chart(broken, ""), noise_chart(broken, "")):
        figure.draw_without_rendering()


@pytest.mark.parametrize("names", [["ours"], ["ours", "theirs"]])
def test_a_calibration_chart_shows_coverage_and_histogram_as_means_over_the_dimensions_that_count(names):
    quality = evaluate_one_step(linear_model(), live(50)).ensemble
    figure = calibration_chart(dict.fromkeys(names, quality), torch.tensor([False, True]), "On 50 transitions")
    curve, histogram = figure.axes
    for name in names:
        assert np.allclose(lines(curve)[name], [0.0, *quality.coverage[1], 1.0])
    assert np.allclose(lines(curve)["perfect"], [0, 1])
    assert list(lines(curve)) == ["perfect", *(["each dimension"] if len(names) == 1 else []), *names]
    assert np.allclose(curve.lines[-1].get_xdata(), [0.0, *COVERAGE_LEVELS, 1.0])
    density, edges, _ = histogram.patches[-1].get_data()
    assert np.allclose(density, 10 * quality.pit_histogram[1])
    assert (density * np.diff(edges)).sum() == pytest.approx(1.0)
    figure.draw_without_rendering()


def test_a_horizon_chart_shows_the_error_within_the_predicted_band():
    quality = evaluate_open_loop(linear_model(), cut_segments(live(60), 5))
    unit = torch.arange(1.0, 11).reshape(5, 2)
    bands = quality.ensemble.sharpness, quality.epistemic_std
    figure = horizon_chart({"ours": quality}, unit, "After 200 steps")
    assert [axes.get_title() for axes in figure.axes] == ["state 0", "state 1"]
    for dim, axes in enumerate(figure.axes):
        drawn = lines(axes)
        assert np.allclose(drawn["RMSE, ours"], quality.ensemble.rmse[:, dim])
        assert np.allclose(drawn["std of the change itself"], unit[:, dim])
        tops = [band.get_paths()[0].vertices[:, 1].max() for band in axes.collections]
        assert tops == pytest.approx([float(std[:, dim].max()) for std in bands])
    figure.draw_without_rendering()


def test_a_doubts_chart_shows_errors_of_transitions_that_are_doubted_alike():
    doubts = Doubts(torch.arange(1.0, 301), torch.arange(2.0, 302), torch.arange(301.0, 601).flip(0))
    figure = doubts_chart(doubts, "300 transitions")
    (axes,) = figure.axes
    error, std = lines(axes)["RMSE of 15 alike"], lines(axes)["predicted std"]
    assert len(error) == len(std) == 20
    assert error[0] == pytest.approx(torch.arange(586.0, 601).square().mean().sqrt().item())
    assert std[-1] == pytest.approx(torch.arange(287.0, 302).square().mean().sqrt().item())
    assert axes.get_title() == "300 transitions\nrank correlation -1.00"
    figure.draw_without_rendering()


def test_charts_of_few_transitions_and_of_dimensions_that_never_change_are_drawn_all_the_same():
    batch = live(3)
    quality, segments = evaluate_one_step(linear_model(), batch), cut_segments(batch, 1)
    none = torch.tensor([False, False])
    for figure in (
        doubts_chart(Doubts(*torch.zeros(3, 3))),
        horizon_chart({"ours": evaluate_open_loop(linear_model(), segments)}, torch.ones(1, 2)),
        calibration_chart({"ours": quality.ensemble}, none),
    ):
        figure.draw_without_rendering()
