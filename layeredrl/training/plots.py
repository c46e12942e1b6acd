"""Pictures. Needs matplotlib, from the extra `experiments`."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from layeredrl.training.diagnosis import Diagnosis
from layeredrl.training.evaluation import Forecast

FORETOLD, HAPPENED = "tab:blue", "black"
# Space to either side of what happened, as a multiple of its range.
ROOM = 2.0


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
