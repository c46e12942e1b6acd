"""How fast the hot paths are, as ratios within one run.

Absolute seconds depend on the machine and on who else uses it; ratios of medians taken in turn don't, much.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from experiments.benchmark_model import measure_rollout, measure_train
from experiments.benchmark_peers import measure_plan
from experiments.benchmark_planning import draw_envs, measure_envs, measure_pendulum
from experiments.measuring import Row


@dataclass(frozen=True)
class Args:
    """Measure speed."""

    only: tuple[str, ...] = ()
    """Names of measurements; none: all. They are rollout, train, plan, pendulum, envs and policy."""
    threads: int | None = None
    """CPU threads; none: torch's own choice."""
    repeats: int = 5
    """Runs that medians are taken of, after one warm-up."""
    json: Path | None = None
    """Where to write the figures."""
    picture: Path | None = None
    """Where to draw the time per environment over the number of environments."""


def measure_policy(repeats: int) -> list[Row]:
    """One step of each kind of policy for 4,096 observations, against skrl's."""
    from experiments.benchmark_policy import policy_rows  # needs skrl, from the extra `dev`

    rows = policy_rows(n_repetitions=60 * repeats)
    return [Row(f"policy step, {row.mixin}", row.ours, "skrl's", row.skrl) for row in rows]


MEASUREMENTS = {
    "rollout": measure_rollout,
    "train": measure_train,
    "plan": measure_plan,
    "pendulum": measure_pendulum,
    "envs": measure_envs,
    "policy": measure_policy,
}


def main(args: Args) -> None:
    names = args.only or tuple(MEASUREMENTS)
    unknown = set(names) - MEASUREMENTS.keys()
    if unknown:
        raise SystemExit(f"--only: got {', '.join(sorted(unknown))}, expected some of {', '.join(MEASUREMENTS)}")
    if args.picture is not None and "envs" not in names:
        raise SystemExit(f"--picture: got {args.picture}, expected none unless envs is measured")
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    measured = {name: MEASUREMENTS[name](args.repeats) for name in names}
    rows = [row for own in measured.values() for row in own]
    print_table(rows)
    if args.json is not None:
        figures = [{"name": r.name, "seconds": r.ours, "against": r.other_name, "ratio": r.ratio} for r in rows]
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    if args.picture is not None:
        draw_envs(measured["envs"], args.picture)


def print_table(rows: Iterable[Row]) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    print(f"{'measured':<38} {'ms':>9}   {'against':<26} {'ms':>9} {'ratio':>7}")
    for row in rows:
        ours, other = 1e3 * row.ours, 1e3 * row.other
        print(f"{row.name:<38} {ours:>9.2f}   {row.other_name:<26} {other:>9.2f} {row.ratio:>7.2f}")


if __name__ == "__main__":
    main(tyro.cli(Args))
