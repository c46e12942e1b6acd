"""Pictures. Needs matplotlib, from the extra `experiments`."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
