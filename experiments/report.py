"""What a run leaves behind: a folder with result.json and a picture, and a table in the terminal."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from layeredrl.models.model import Model
from layeredrl.training.collector import Episode
from layeredrl.training.evaluation import forecast
from layeredrl.training.plots import draw_forecast

# Steps that the picture looks ahead.
FORECAST_HORIZON = 100


def make_run_folder(parent: Path, name: str | None, seed: int) -> Path:
    """A new folder; one that exists is never written to."""
    folder = parent / (name or f"{datetime.now():%Y%m%d-%H%M%S}-seed{seed}")
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise SystemExit(f"--name: {folder} exists already and is never overwritten; choose another name") from None
    return folder


def write_report(
    folder: Path,
    args: Any,
    training: Sequence[tuple[int, Episode]],
    evaluation: Sequence[Episode],
    *,
    eval_seed: int,
    interrupted: bool,
    seconds: float,
    model: Model,
) -> None:
    """Write result.json and result.png, and print the evaluation.

    Args:
        folder: where to write.
        args: dataclass of the run's arguments.
        training: environment steps so far and the episode, for each episode collected.
        evaluation: episodes of the evaluation, from start seeds `eval_seed` on.
        eval_seed: of the first episode.
        interrupted: whether the run was stopped before its end.
        seconds: that the run took.
        model: for the fan charts.
    """
    table = [
        {"seed": eval_seed + e.env, "return": e.return_, "length": len(e), "terminated": e.terminated}
        for e in evaluation
    ]
    mean = float(np.mean([e.return_ for e in evaluation])) if evaluation else None
    result = {
        "arguments": json.loads(json.dumps(asdict(args), default=str)),
        "versions": versions(),
        "seconds": round(seconds, 1),
        "interrupted": interrupted,
        "training": [{"step": step, "return": e.return_, "length": len(e)} for step, e in training],
        "evaluation": table,
        "evaluation_return_mean": mean,
    }
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    if training:
        _draw(training, evaluation, model).savefig(folder / "result.png", dpi=120)
    if mean is not None:
        _print_table(table, mean)
    print(f"\n{seconds:.0f} s. Result, picture, checkpoint and TensorBoard log: {folder}")


def _print_table(table: Sequence[dict[str, Any]], mean: float) -> None:
    print(f"\n{'start seed':>10} {'return':>10} {'length':>7}")
    for row in table:
        print(f"{row['seed']:>10} {row['return']:>10.1f} {row['length']:>7}")
    print(f"{'mean':>10} {mean:>10.1f}")


def versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("layeredrl", "gymnasium", "numpy")}
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,  # says for which GPUs it was built
        **packages,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _draw(training: Sequence[tuple[int, Episode]], evaluation: Sequence[Episode], model: Model) -> Figure:
    """The learning curve, and what the model foretells of the latest episode."""
    latest = evaluation[0] if evaluation else training[-1][1]
    seen = forecast(model, latest, horizon=FORECAST_HORIZON)
    n_dims = latest.state.shape[1]
    figure = Figure(figsize=(11, max(4.0, 1.5 * n_dims)), layout="constrained")
    sides = figure.subfigures(1, 2, squeeze=False)[0]

    curve = sides[0].subplots()
    steps = [step for step, _ in training]
    curve.plot(steps, [e.return_ for _, e in training], "o-", color="tab:blue", ms=4, label="training episodes")
    if evaluation:
        returns = [e.return_ for e in evaluation]
        curve.plot([steps[-1]] * len(returns), returns, "_", color="tab:orange", ms=12, label="evaluation episodes")
        curve.plot(steps[-1], np.mean(returns), "D", color="tab:orange", label="their mean")
    curve.set(title="Return", xlabel="environment steps")
    curve.legend()

    fans = sides[1].subplots(n_dims, sharex=True, squeeze=False)[:, 0]
    for dim, axes in enumerate(fans):
        draw_forecast(axes, seen, dim)
    fans[0].set_title("Foretold open loop from the start of an episode")
    fans[-1].set_xlabel("steps ahead")
    sides[1].legend(*fans[0].get_legend_handles_labels(), ncols=2, fontsize="small", loc="outside lower center")
    return figure
