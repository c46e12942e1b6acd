"""How fast the hot paths are, as ratios within one run.

Absolute seconds depend on the machine and on who else uses it; ratios of medians taken in turn don't, much.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from experiments.benchmark_contest import Bench
from experiments.benchmark_import import measure_import
from experiments.benchmark_machine import ProcessorTime, describe_machine
from experiments.benchmark_peers import MBRL, PYTORCH_MPPI, SKRL, TORCHRL, Peer
from experiments.benchmark_planning import draw_envs, measure_envs, measure_pendulum, measure_plan
from experiments.benchmark_policy import measure_policy
from experiments.benchmark_report import figures, print_disturbance, print_table
from experiments.benchmark_rollout import measure_predict, measure_rollout
from experiments.benchmark_scaling import draw_scaling, measure_scaling
from experiments.benchmark_sizes import SIZES, Sizes
from experiments.benchmark_training import measure_fit, measure_train
from experiments.measuring import Row


@dataclass(frozen=True)
class Args:
    """Measure speed, against other libraries where they are installed."""

    only: tuple[str, ...] = ()
    """Names of measurements, with commas or blanks between; none: all. They are rollout, predict, train, fit, plan,
    pendulum, envs, scaling, policy and import."""
    threads: int | None = None
    """CPU threads; none: torch's own choice."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where models and data lie."""
    repeats: int = 10
    """Turns that medians are taken of, after one to warm up; `fit` takes long and has one turn."""
    json: Path | None = None
    """Where to write the figures."""
    pictures: Path | None = None
    """The folder for pictures of `envs` and `scaling`."""


@dataclass(frozen=True)
class Measurement:
    """What can be measured.

    Attributes:
        measure: does it.
        peers: libraries that it compares with.
        picture: name of a file, and what draws it.
    """

    measure: Callable[[Bench], list[Row]]
    peers: tuple[Peer, ...] = ()
    picture: tuple[str, Callable[[Bench, Sequence[Row], Path], None]] | None = None


MEASUREMENTS = {
    "rollout": Measurement(measure_rollout, peers=(MBRL,)),
    "predict": Measurement(measure_predict),
    "train": Measurement(measure_train, peers=(MBRL,)),
    "fit": Measurement(measure_fit, peers=(MBRL,)),
    "plan": Measurement(measure_plan, peers=(MBRL, TORCHRL, PYTORCH_MPPI)),
    "pendulum": Measurement(measure_pendulum),
    "envs": Measurement(measure_envs, picture=("environments.png", draw_envs)),
    "scaling": Measurement(measure_scaling, picture=("scaling.png", draw_scaling)),
    "policy": Measurement(measure_policy, peers=(SKRL,)),
    "import": Measurement(measure_import),
}


def main(args: Args, sizes: Sizes = SIZES) -> None:
    chosen = {name: MEASUREMENTS[name] for name in _check(args)}
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    peers = _present({peer: None for measurement in chosen.values() for peer in measurement.peers})
    bench = Bench(torch.device(args.device), args.repeats, peers, sizes)
    machine = describe_machine(bench.device)

    measured, others = {}, {}
    for name, measurement in chosen.items():
        print(f"Measuring {name} ...", flush=True)
        start = ProcessorTime.now()
        measured[name] = measurement.measure(bench)
        others[name] = ProcessorTime.now().others_since(start)
        print_disturbance(others[name])

    print_table(machine, [row for rows in measured.values() for row in rows])
    if args.json is not None:
        args.json.write_text(json.dumps(figures(machine, measured, others), indent=2) + "\n")
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
        for name, measurement in chosen.items():
            if measurement.picture is not None:
                file_name, draw = measurement.picture
                draw(bench, measured[name], args.pictures / file_name)


def _check(args: Args) -> tuple[str, ...]:
    """Refuse, before anything is measured, what can't be done. Returns the names of the measurements."""
    only = tuple(name for names in args.only for name in names.split(","))
    unknown = set(only) - MEASUREMENTS.keys()
    if unknown:
        raise SystemExit(f"--only: got {', '.join(sorted(unknown))}, expected some of {', '.join(MEASUREMENTS)}")
    for name, number in (("--threads", args.threads), ("--repeats", args.repeats)):
        if number is not None and number < 1:
            raise SystemExit(f"{name}: got {number}, expected at least 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device: got cuda, expected cpu, as torch finds no CUDA device here")
    if args.json is not None and (args.json.is_dir() or not args.json.parent.is_dir()):
        raise SystemExit(f"--json: got {args.json}, expected a file in a folder that exists")
    if args.pictures is not None and args.pictures.is_file():
        raise SystemExit(f"--pictures: got the file {args.pictures}, expected a folder")
    names = only or tuple(MEASUREMENTS)
    drawn = [name for name, measurement in MEASUREMENTS.items() if measurement.picture is not None]
    if args.pictures is not None and not set(drawn) & set(names):
        raise SystemExit(f"--pictures: got {args.pictures}, expected none unless {' or '.join(drawn)} is measured")
    return names


def _present(peers: Iterable[Peer]) -> frozenset[Peer]:
    """Those that can be compared with; says of each other why it can't."""
    reasons = {peer: peer.why_not() for peer in peers}
    for reason in reasons.values():
        if reason is not None:
            print(reason)
    return frozenset(peer for peer, reason in reasons.items() if reason is None)


if __name__ == "__main__":
    main(tyro.cli(Args))
