"""How the time of a plan grows with each of its sizes, beside what its products alone would take."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.benchmark_contest import BOUND, Bench, count_model_steps
from experiments.benchmark_sizes import Planning
from experiments.measuring import Call, LargeProduct, Row

LABELS = {
    "n_models": "members E",
    "n_particles": "particles per member P",
    "n_candidates": "candidates N",
    "horizon": "horizon H",
    "n_envs": "environments V",
    "width": "width of the hidden layers",
}


def measure_scaling(bench: Bench) -> list[Row]:
    """One plan for every value of every size that is varied, the others kept; all take turns."""
    varied = {
        f"plan, {LABELS[field]} = {value}": _varied(bench.sizes.scaled, field, value)
        for field, values in bench.sizes.sweeps.items()
        for value in values
    }
    plans = {name: _plan(bench, planning) for name, planning in varied.items()}
    product = LargeProduct(bench.device)
    taken = bench.timings({**plans, BOUND: product})
    rows = []
    for name, planning in varied.items():
        flops = count_model_steps(planning, plans[name]) * planning.step_flops
        rows.append(Row(name, taken[name], BOUND, product.time_for(flops, taken[BOUND])))
    return rows


def _varied(planning: Planning, field: str, value: Any) -> Planning:
    return replace(planning, **{field: value})


def _plan(bench: Bench, planning: Planning) -> Call:
    state = torch.zeros(planning.n_envs, planning.n_states, device=bench.device)
    return partial(planning.agent(bench.device).act, state)


def draw_scaling(bench: Bench, rows: Sequence[Row], path: Path) -> None:
    """A picture of what `measure_scaling` found: a panel for each size."""
    from matplotlib.figure import Figure  # takes a second to import, which only pictures need

    figure = Figure(figsize=(9.0, 5.0), layout="constrained")
    panels = figure.subplots(2, -(-len(bench.sizes.sweeps) // 2), sharey=True, squeeze=False)
    remaining = iter(rows)
    for axes, (field, values) in zip(panels.flat, bench.sizes.sweeps.items(), strict=False):
        own = [next(remaining) for _ in values]
        axes.plot(values, [1e3 * row.ours.median for row in own], marker="o", label="one plan")
        axes.plot(values, [1e3 * row.other.median for row in own], color="0.5", linestyle="--", label=BOUND)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(values, [str(value) for value in values])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel(LABELS[field])
        axes.grid(alpha=0.3)
    for axes in panels[:, 0]:
        axes.set_ylabel("ms per plan")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    figure.savefig(path, dpi=150)
