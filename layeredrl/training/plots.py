"""Pictures. Needs matplotlib, from the extra `experiments`."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from layeredrl.metrics.calibration import COVERAGE_LEVELS
from layeredrl.metrics.doubts import Doubts
from layeredrl.metrics.quality import ForecastQuality, ModelQuality
from layeredrl.training.diagnosis import Diagnosis
from layeredrl.training.evaluation import Forecast

FORETOLD, HAPPENED = "tab:blue", "black"
# Space to either side of what happened, as a multiple of its range.
ROOM = 2.0
# Bins that doubts are averaged in, at most, and transitions in each, at least.
MAX_BINS, MIN_PER_BIN = 20, 10


def draw_forecast(axes: Axes, forecast: Forecast, dim: int) -> None:
    """The fan of foretold states of one dimension, widest quantiles lightest, and what happened."""
    n_bands = len(forecast.levels) // 2
    times = range(forecast.quantiles.shape[1])
    values = forecast.quantiles[..., dim].cpu()
    for low in range(n_bands):
        band = f"{forecast.levels[-1 - low] - forecast.levels[low]:.0%} of the particles"
        axes.fill_between(times, values[low], values[-1 - low], color=FORETOLD, alpha=0.25, lw=0, label=band)
    if forecast.levels[n_bands] == 0.5:
        axes.plot(times, values[n_bands], color=FORETOLD, lw=1, label="median")
    axes.plot(times, forecast.actual[:, dim].cpu(), color=HAPPENED, lw=1, ls="--", label="what happened")
    axes.set_ylabel(f"state {dim}")
    # Where a system is unstable, the fan grows without bounds: what happened is to remain readable.
    lowest, highest = (float(x) for x in forecast.actual[:, dim].aminmax())
    if lowest < highest:
        room = ROOM * (highest - lowest)
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, lowest - room), min(top, highest + room))


def fan_chart(forecast: Forecast, title: str) -> Figure:
    """A fan per state dimension."""
    n_dims = forecast.actual.shape[1]
    figure = Figure(figsize=(7, 1.2 + 1.6 * n_dims), layout="constrained")
    for dim, axes in enumerate(figure.subplots(n_dims, sharex=True, squeeze=False)[:, 0]):
        draw_forecast(axes, forecast, dim)
    figure.axes[0].set_title(title)
    figure.axes[-1].set_xlabel("steps ahead")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), ncols=4, loc="outside lower center")
    return figure


def correlation_chart(diagnosis: Diagnosis, title: str) -> Figure:
    """How the members' errors correlate, pair by pair."""
    correlation = diagnosis.error_correlation.cpu().numpy()
    size = 1.5 + 0.5 * len(correlation)
    figure = Figure(figsize=(max(size, 3.5), size), layout="constrained")
    axes = figure.subplots()
    axes.imshow(correlation, vmin=-1, vmax=1, cmap="RdBu_r")
    for (row, column), value in np.ndenumerate(correlation):
        color = "white" if abs(value) > 0.6 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
    places = range(len(correlation))
    axes.set(title=title, xlabel="member", ylabel="member", xticks=places, yticks=places)
    return figure


def noise_chart(diagnosis: Diagnosis, title: str) -> Figure:
    """Histograms of the predicted noise, all members together, between the bounds of the networks."""
    n_dims = diagnosis.log_std.shape[-1]
    held = [bound for bound in (diagnosis.at_lower, diagnosis.at_upper) if bound is not None]
    figure = Figure(figsize=(7, 1.2 + 1.1 * n_dims), layout="constrained")
    for dim, axes in enumerate(figure.subplots(n_dims, sharex=True, squeeze=False)[:, 0]):
        log_std = diagnosis.log_std[..., dim].flatten().cpu()
        counts, edges = np.histogram(log_std[log_std.isfinite()], bins=50)
        axes.stairs(counts, edges, fill=True, color=FORETOLD)
        for at_bound in held:
            axes.axvline(at_bound.bound, color=HAPPENED, lw=1, ls="--")
        axes.set_ylabel(f"state {dim}")
        axes.set_yticks([])
    figure.axes[0].set_title(title)
    figure.axes[-1].set_xlabel("log standard deviation, in units of the targets")
    return figure


def calibration_chart(
    forecasts: Mapping[str, ForecastQuality], dims: Bool[Tensor, " S"], title: str = ""
) -> Figure:
    """Coverage of central intervals, and PIT histograms, as means over dimensions.

    Args:
        forecasts: by name. A single one shows its dimensions as well.
        dims: that count: those that change.
        title: of the whole.
    """
    figure = Figure(figsize=(10, 4.9), layout="constrained")
    figure.suptitle(title)
    curve, histogram = figure.subplots(1, 2)
    levels = (0.0, *COVERAGE_LEVELS, 1.0)
    curve.plot([0, 1], [0, 1], color=HAPPENED, lw=1, ls="--", label="perfect")
    histogram.axhline(1.0, color=HAPPENED, lw=1, ls="--")
    for name, forecast in forecasts.items():
        coverage, shares = forecast.coverage[dims].cpu(), forecast.pit_histogram[dims].cpu()
        n_bins = shares.shape[1]
        edges = np.linspace(0, 1, n_bins + 1)
        if len(forecasts) == 1:
            for row, (within, bins) in enumerate(zip(coverage, shares, strict=True)):
                label = None if row else "each dimension"
                curve.plot(levels, [0.0, *within, 1.0], color="tab:gray", lw=0.8, alpha=0.6, label=label)
                histogram.stairs(n_bins * bins, edges, color="tab:gray", lw=0.8, alpha=0.6)
        curve.plot(levels, [0.0, *coverage.mean(dim=0), 1.0], label=name)
        histogram.stairs(n_bins * shares.mean(dim=0), edges, lw=1.5)
    curve.set(title="Coverage of central intervals", xlabel="level", ylabel="share within", aspect="equal")
    curve.legend(loc="lower right")
    histogram.set(title="PIT histogram", xlabel="CDF of the forecast at what happened", ylabel="density")
    histogram.set_ylim(bottom=0)
    return figure


def horizon_chart(forecasts: Mapping[str, ModelQuality], unit: Float[Tensor, "H S"], title: str = "") -> Figure:
    """Error and predicted spread against the horizon, a panel for each dimension of the state.

    The bands are those of the first model, to be compared with its error.

    Args:
        forecasts: quality after 1 … H steps, by name.
        unit: how far states change within as many steps, as a standard deviation.
        title: of the whole.
    """
    first, unit = next(iter(forecasts.values())), unit.cpu()
    n_steps, n_dims = unit.shape
    n_columns = min(4, n_dims)
    n_rows = math.ceil(n_dims / n_columns)
    figure = Figure(figsize=(max(3.2 * n_columns, 8), 1.5 + 2.2 * n_rows), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(n_rows, n_columns, sharex=True, squeeze=False).flatten()
    times = range(1, n_steps + 1)
    for dim, axes in enumerate(panels[:n_dims]):
        bands = {"predicted std": (first.ensemble.sharpness, 0.2), "epistemic std": (first.epistemic_std, 0.5)}
        for name, (std, alpha) in bands.items():
            axes.fill_between(times, std[:, dim].cpu(), color="tab:gray", alpha=alpha, lw=0, label=name)
        for name, quality in forecasts.items():
            axes.plot(times, quality.ensemble.rmse[:, dim].cpu(), label=f"RMSE, {name}")
        axes.plot(times, unit[:, dim], color=HAPPENED, lw=1, ls=":", label="std of the change itself")
        axes.set(title=f"state {dim}", ylim=(0, 1.3 * float(unit[:, dim].max())))
    for axes in panels[:n_dims:n_columns]:
        axes.set_ylabel("in units of the state")
    for axes in panels[n_dims:]:
        axes.remove()
    for axes in panels[max(0, n_dims - n_columns) : n_dims]:
        axes.set_xlabel("steps ahead")
        axes.tick_params(labelbottom=True)
    figure.legend(*panels[0].get_legend_handles_labels(), ncols=4, loc="outside lower center")
    return figure


def doubts_chart(doubts: Doubts, title: str = "") -> Figure:
    """Whether the model is wrong where its members disagree."""
    figure = Figure(figsize=(6, 4.6), layout="constrained")
    axes = figure.subplots()
    draw_doubts(axes, doubts)
    axes.set_title(f"{title}\nrank correlation {doubts.rank_correlation:.2f}", fontsize="medium")
    return figure


def draw_doubts(axes: Axes, doubts: Doubts) -> None:
    """Error against epistemic standard deviation, and root mean squares in bins of as many transitions each."""
    doubts = Doubts(*(value.cpu() for value in doubts))
    n_rows = len(doubts.error)
    bins = doubts.epistemic_std.argsort().tensor_split(min(MAX_BINS, math.ceil(n_rows / MIN_PER_BIN)))
    epistemic_std, std, error = ([float(value[rows].square().mean().sqrt()) for rows in bins] for value in doubts)
    size = 2 if n_rows > 1000 else 8
    axes.scatter(doubts.epistemic_std, doubts.error, s=size, color="silver", rasterized=True, label="a transition")
    axes.plot(
        epistemic_std, error, "o-", ms=4, color=FORETOLD, label=f"RMSE of {math.ceil(n_rows / len(bins))} alike"
    )
    axes.plot(epistemic_std, std, "--", color="tab:orange", label="predicted std")
    axes.plot(epistemic_std, epistemic_std, ":", color=HAPPENED, lw=1, label="epistemic std")
    if bool((doubts.epistemic_std > 0).any() & (doubts.error > 0).any()):
        axes.set(xscale="log", yscale="log")
    axes.set(xlabel="epistemic std, in units of a step's change", ylabel="error, in units of a step's change")
    axes.legend(loc="upper left")  # to look for the best place takes longer than to draw
