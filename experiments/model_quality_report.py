"""How good models are, as tables in Markdown and as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from experiments.model_quality_judging import LEVEL, Exam, Judgement
from experiments.model_quality_plots import doubts_figure, fan_figure
from experiments.report import versions
from layeredrl.models.model import Model
from layeredrl.training.plots import calibration_chart, horizon_chart

# Steps ahead that tables show, where the windows are that long.
HORIZONS = (1, 10, 20, 30)

MODELS_NOTE = """\
NLL is that of the whole next state under the mixture of all members, in nats. RMSE is that of its mean, relative to
the standard deviation of what changes within as many steps, as root mean square over coordinates: whoever foretells
the mean change gets 1. ECE, the expected calibration error, and the share of what happened within the central 90 %
intervals are means over coordinates. AUROC says how well epistemic information, which is ½ Σ log(1 + epistemic /
aleatoric variance), tells shifted transitions from those of the test set. Seconds are those of the processor, to
learn."""
HORIZON_NOTE = "Open loop with TS∞, RMSE as above; standard deviations are relative like it."
COORDINATES_NOTE = "One step ahead, NLL of each coordinate alone; standard deviations are relative like the RMSE."


def write_report(
    folder: Path,
    args: Any,
    exam: Exam,
    judgements: Mapping[str, Judgement],
    model: Model,
    remarks: Sequence[str],
    generator: torch.Generator,
) -> None:
    """Write report.md, result.json and pictures, and print the tables.

    Args:
        folder: where to write.
        args: dataclass of the run's arguments.
        exam: what was judged by.
        judgements: of each model; details are told of the first.
        model: of the fan charts.
        remarks: what a reader must know.
        generator: source of the noise in the fan charts.
    """
    judgement = next(iter(judgements.values()))
    tables = {
        "Models": f"{models_table(judgements, exam.varies)}\n\n{MODELS_NOTE}",
        "Over the horizon": f"{horizon_table(judgement, exam.varies)}\n\n{HORIZON_NOTE}",
        "Coordinates of the state": f"{coordinates_table(judgement, exam.varies)}\n\n{COORDINATES_NOTE}",
    }
    pictures = {
        "calibration": calibration_chart({n: j.one_step.ensemble for n, j in judgements.items()}, exam.varies),
        "open_loop": horizon_chart({n: j.open_loop for n, j in judgements.items()}, judgement.open_loop_unit),
        "fans": fan_figure(model, exam.segments, judgement, exam.varies, generator),
    }
    if judgement.n_members > 1:
        pictures["doubts"] = doubts_figure(judgement)
    text = "\n\n".join([*remarks, *(f"## {title}\n\n{table}" for title, table in tables.items())])
    shown = "\n\n".join(f"![{name}]({name}.png)" for name in pictures)
    (folder / "report.md").write_text(f"# Model quality\n\n{text}\n\n{shown}\n")
    for name, picture in pictures.items():
        picture.savefig(folder / f"{name}.png", dpi=120)
    result = {
        "arguments": json.loads(json.dumps(asdict(args), default=str)),
        "versions": versions(),
        "remarks": list(remarks),
        "models": {name: figures(judgement) for name, judgement in judgements.items()},
    }
    (folder / "result.json").write_text(json.dumps(result, allow_nan=False) + "\n")
    print(f"\n{text}\n\nReport, pictures and all figures: {folder}")


def models_table(judgements: Mapping[str, Judgement], varies: Bool[Tensor, " S"]) -> str:
    """A model a row."""
    horizons = [h for h in _horizons(next(iter(judgements.values()))) if h > 1]
    head = ["", "NLL", "RMSE", "ECE", "in 90 %", *(f"RMSE, {h} steps" for h in horizons), "AUROC", "seconds"]
    rows = []
    for name, judgement in judgements.items():
        ensemble = judgement.one_step.ensemble
        relative = root_mean_square(judgement.relative_open_loop[:, varies])
        rows.append(
            [
                name,
                f"{float(ensemble.nll):.2f}",
                f"{float(root_mean_square(judgement.relative_rmse[varies])):.4f}",
                f"{float(ensemble.calibration_error[varies].mean()):.4f}",
                f"{float(ensemble.coverage[varies, LEVEL].mean()):.1%}",
                *(f"{float(relative[h - 1]):.3f}" for h in horizons),
                "none" if judgement.auroc is None else f"{judgement.auroc:.3f}",
                f"{judgement.seconds:.0f}",
            ]
        )
    return _table(head, rows)


def horizon_table(judgement: Judgement, varies: Bool[Tensor, " S"]) -> str:
    """A number of steps ahead a row."""
    quality, ensemble = judgement.open_loop, judgement.open_loop.ensemble
    rmse, std, epistemic_std = (
        root_mean_square((value / judgement.open_loop_unit)[:, varies])
        for value in (ensemble.rmse, ensemble.sharpness, quality.epistemic_std)
    )
    rows = [
        [
            str(h),
            f"{float(rmse[h - 1]):.3f}",
            f"{float(std[h - 1]):.3f}",
            f"{float(epistemic_std[h - 1]):.3f}",
            f"{float(ensemble.calibration_error[h - 1, varies].mean()):.4f}",
            f"{float(ensemble.coverage[h - 1, varies, LEVEL].mean()):.1%}",
        ]
        for h in _horizons(judgement)
    ]
    return _table(["steps", "RMSE", "std", "epistemic std", "ECE", "in 90 %"], rows)


def coordinates_table(judgement: Judgement, varies: Bool[Tensor, " S"]) -> str:
    """A coordinate of the state a row."""
    quality, ensemble = judgement.one_step, judgement.one_step.ensemble
    rmse, epistemic_std, aleatoric_std = (
        value / judgement.unit for value in (ensemble.rmse, quality.epistemic_std, quality.aleatoric_std)
    )
    rows = [
        [
            str(s) if bool(varies[s]) else f"{s} (constant)",
            f"{float(ensemble.marginal_nll[s]):.3f}",
            f"{float(rmse[s]):.4f}",
            f"{float(epistemic_std[s]):.4f}",
            f"{float(aleatoric_std[s]):.4f}",
            f"{float(ensemble.calibration_error[s]):.4f}",
            f"{float(ensemble.coverage[s, LEVEL]):.1%}",
        ]
        for s in range(len(varies))
    ]
    return _table(["coordinate", "NLL", "RMSE", "epistemic std", "aleatoric std", "ECE", "in 90 %"], rows)


def figures(judgement: Judgement) -> dict[str, Any]:
    """All that JSON shall hold of a judgement. Members are judged one step ahead alone."""
    open_loop = judgement.open_loop.to_json()
    del open_loop["members"]
    return {
        "seconds": judgement.seconds,
        "auroc": judgement.auroc,
        "unit": judgement.unit.tolist(),
        "open_loop_unit": judgement.open_loop_unit.tolist(),
        "one_step": judgement.one_step.to_json(),
        "open_loop": open_loop,
    }


def root_mean_square(value: Float[Tensor, "*batch S"]) -> Float[Tensor, "*batch"]:
    return value.square().mean(dim=-1).sqrt()


def _horizons(judgement: Judgement) -> list[int]:
    n_steps = len(judgement.open_loop_unit)
    return [h for h in HORIZONS if h < n_steps] + [n_steps]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown, aligned for those who read it as it is."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
