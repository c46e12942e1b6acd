"""How good models are, as pictures."""

import torch
from jaxtyping import Bool
from matplotlib.figure import Figure
from torch import Tensor

from experiments.model_quality_judging import Judgement
from layeredrl.metrics.segments import Segments
from layeredrl.models.model import Model
from layeredrl.training.collector import Episode
from layeredrl.training.evaluation import forecast
from layeredrl.training.plots import draw_doubts, draw_forecast

# Fan charts: so many windows, so many coordinates.
N_WINDOWS, N_COORDINATES = 3, 4


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
    draw_doubts(left, judgement.test)
    left.set_title("Error where the model is unsure")
    kinds = {"test set": judgement.test_information, "shifted": judgement.shifted_information}
    values = {name: information.log10() for name, information in kinds.items() if information is not None}
    low, high = (float(x) for x in torch.cat(list(values.values())).aminmax())
    for name, value in values.items():
        shares = value.histc(bins=40, min=low, max=high) / len(value)
        right.stairs(
            shares.tolist(), (10 ** torch.linspace(low, high, 41)).tolist(), fill=True, alpha=0.5, label=name
        )
    title = "What could be learned" if judgement.auroc is None else f"AUROC {judgement.auroc:.3f}"
    right.set(title=title, xscale="log", xlabel="epistemic information, nats", ylabel="share of transitions")
    right.legend()
    return figure


def _evenly(items: Tensor, n: int) -> list[int]:
    """Some of the items, or all, from the first to the last."""
    return items[torch.linspace(0, len(items) - 1, min(n, len(items))).round().long()].tolist()
