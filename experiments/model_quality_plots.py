"""How good models are, as pictures."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from experiments.model_quality_judging import Doubts, Judgement
from layeredrl.metrics.calibration import COVERAGE_LEVELS
from layeredrl.metrics.segments import Segments
from layeredrl.models.model import Model
from layeredrl.training.collector import Episode
from layeredrl.training.evaluation import forecast
from layeredrl.training.plots import draw_forecast

# Fan charts: so many windows, so many coordinates.
N_WINDOWS, N_COORDINATES = 3, 4
# Bins of equally many transitions that doubts are averaged in.
N_BINS = 20


def calibration_figure(judgements: Mapping[str, Judgement], varies: Bool[Tensor, " S"]) -> Figure:
    """Coverage of central intervals, and PIT histograms: means over coordinates, one step ahead."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    curve, histogram = figure.subplots(1, 2)
    levels = (0.0, *COVERAGE_LEVELS, 1.0)
    curve.plot([0, 1], [0, 1], color="black", lw=1, ls="--", label="perfect")
    histogram.axhline(1.0, color="black", lw=1, ls="--")
    for name, judgement in judgements.items():
        ensemble = judgement.one_step.ensemble
        curve.plot(levels, [0.0, *ensemble.coverage[varies].mean(dim=0).tolist(), 1.0], label=name)
        shares = ensemble.pit_histogram[varies].mean(dim=0)
        edges = torch.linspace(0, 1, len(shares) + 1).tolist()
        histogram.stairs((shares * len(shares)).tolist(), edges, lw=1.5)
    curve.set(title="Coverage of central intervals", xlabel="level", ylabel="share within", aspect="equal")
    curve.legend()
    histogram.set(
        title="PIT histogram", xlabel="CDF of the forecast at what happened", ylabel="density", ylim=(0, None)
    )
    return figure


def open_loop_figure(judgements: Mapping[str, Judgement]) -> Figure:
    """Error and predicted spread against the horizon, a panel for each coordinate of the state.

    The band is the predicted standard deviation of the first model, to be compared with its error.
    """
    main = next(iter(judgements.values()))
    n_steps, n_states = main.open_loop_unit.shape
    n_columns = min(4, n_states)
    n_rows = math.ceil(n_states / n_columns)
    figure = Figure(figsize=(3.2 * n_columns, 1 + 2.2 * n_rows), layout="constrained")
    panels = figure.subplots(n_rows, n_columns, sharex=True, squeeze=False).flatten()
    times = range(1, n_steps + 1)
    for s, axes in enumerate(panels[:n_states]):
        quality = main.open_loop
        axes.fill_between(
            times, quality.ensemble.sharpness[:, s], color="tab:blue", alpha=0.2, lw=0, label="predicted std"
        )
        axes.fill_between(
            times, quality.epistemic_std[:, s], color="tab:blue", alpha=0.3, lw=0, label="epistemic std"
        )
        for name, judgement in judgements.items():
            axes.plot(times, judgement.open_loop.ensemble.rmse[:, s], label=f"RMSE, {name}")
        axes.plot(times, main.open_loop_unit[:, s], color="black", lw=1, ls=":", label="of the mean change")
        axes.set(title=f"state {s}", ylim=(0, 1.3 * float(main.open_loop_unit[:, s].max())))
    for axes in panels[n_states:]:
        axes.remove()
    for axes in panels[max(0, n_states - n_columns) : n_states]:
        axes.set_xlabel("steps ahead")
        axes.tick_params(labelbottom=True)
    figure.legend(*panels[0].get_legend_handles_labels(), ncols=3, loc="outside lower center")
    return figure


def fan_figure(
    model: Model, segments: Segments, judgement: Judgement, varies: Bool[Tensor, " S"], generator: torch.Generator
) -> Figure:
    """What the model foretells of some windows, from their start and their actions alone.

    The windows lie evenly over the test set. The coordinates go from the one that is foretold best to the worst.
    """
    order = judgement.relative_open_loop[-1].argsort()
    coordinates = _evenly(order[varies[order]], N_COORDINATES)
    windows = _evenly(torch.arange(len(segments)), N_WINDOWS)
    figure = Figure(figsize=(3.6 * len(windows), 1 + 2 * len(coordinates)), layout="constrained")
    panels = figure.subplots(len(coordinates), len(windows), sharex=True, squeeze=False)
    for column, window in zip(panels.T, windows, strict=True):
        actions = segments.action[window]
        nothing = torch.zeros(len(actions))
        episode = Episode(0, segments.state[window], actions, nothing, terminated=False, info={})
        seen = forecast(model, episode, horizon=len(actions), generator=generator)
        for axes, s in zip(column, coordinates, strict=True):
            draw_forecast(axes, seen, s)
        column[-1].set_xlabel("steps ahead")
    for row in panels[:, 1:]:
        for axes in row:
            axes.set_ylabel("")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), ncols=4, loc="outside lower center")
    return figure


def doubts_figure(judgement: Judgement) -> Figure:
    """Whether the model is wrong where it is unsure, and unsure where it has never been."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_errors(left, judgement.test)
    kinds = {"test set": judgement.test, "shifted": judgement.shifted}
    values = {name: doubts.epistemic_std.log10() for name, doubts in kinds.items() if doubts is not None}
    low, high = (float(x) for x in torch.cat(list(values.values())).aminmax())
    for name, value in values.items():
        shares = value.histc(bins=40, min=low, max=high) / len(value)
        right.stairs(
            shares.tolist(), (10 ** torch.linspace(low, high, 41)).tolist(), fill=True, alpha=0.5, label=name
        )
    title = "Epistemic standard deviation" if judgement.auroc is None else f"AUROC {judgement.auroc:.3f}"
    right.set(title=title, xscale="log", xlabel="epistemic std", ylabel="share of transitions")
    right.legend()
    return figure


def _draw_errors(axes: Axes, doubts: Doubts) -> None:
    """Root mean square error and predictions in bins of transitions that the model doubts alike."""
    bins = doubts.epistemic_std.argsort().tensor_split(N_BINS)
    epistemic_std, std, error = (
        [float(value[rows].square().mean().sqrt()) for rows in bins if len(rows)] for value in doubts
    )
    axes.scatter(doubts.epistemic_std, doubts.error, s=2, color="lightgray", rasterized=True, label="a transition")
    axes.plot(epistemic_std, error, "o-", ms=4, color="tab:blue", label="RMSE of twentieths")
    axes.plot(epistemic_std, std, "--", color="tab:orange", label="predicted std")
    axes.plot(epistemic_std, epistemic_std, ":", color="black", lw=1, label="epistemic std")
    axes.set(title="Error where the model is unsure", xscale="log", yscale="log")
    axes.set(xlabel="epistemic std", ylabel="error")
    axes.legend()


def _evenly(items: Tensor, n: int) -> list[int]:
    """Some of the items, or all, from the first to the last."""
    return items[torch.linspace(0, len(items) - 1, min(n, len(items))).round().long()].tolist()
