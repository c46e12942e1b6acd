"""What the benchmark prints and writes."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import groupby
from typing import Any

from experiments.measuring import Row, Timing

# Processors that others may keep busy before the figures suffer.
UNDISTURBED = 0.1


def print_disturbance(others: float | None) -> None:
    """Say so where figures were taken beside other work."""
    if others is not None and others > UNDISTURBED:
        print(f"  Others kept {others:.1f} processors busy meanwhile; better measure again when they don't.")


def print_table(machine: Mapping[str, Any], rows: Iterable[Row]) -> None:
    """Ours once for each thing that was measured, then every rival with its time and the ratio ours / rival's."""
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"\n{'':<44} {'ms':>10}   {'middle half':<21} {'ours / it':>9}")
    for (name, ours), group in groupby(rows, key=lambda row: (row.name, row.ours)):
        print(f"{name}\n{_line('ours', ours)}")
        for row in group:
            print(f"{_line(row.other_name, row.other)} {row.ratio:>9.2f}")


def _line(name: str, timing: Timing) -> str:
    spread = f"{1e3 * timing.low:.2f} … {1e3 * timing.high:.2f}" if timing.low < timing.high else ""
    return f"  {name:<42} {1e3 * timing.median:>10.2f}   {spread:<21}"


def figures(
    machine: Mapping[str, Any], measured: Mapping[str, Iterable[Row]], others: Mapping[str, float | None]
) -> dict[str, Any]:
    """Everything, ready for JSON. Times are in seconds; `others` kept so many processors busy meanwhile."""
    return {
        "machine": dict(machine),
        "busy_with_others": dict(others),
        "rows": [
            {
                "measurement": measurement,
                "name": row.name,
                "ours": asdict(row.ours),
                "against": row.other_name,
                "other": asdict(row.other),
                "ratio": row.ratio,
            }
            for measurement, rows in measured.items()
            for row in rows
        ],
    }
