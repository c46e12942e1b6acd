"""How long it takes to import what the README's example imports, beside torch and gymnasium themselves."""

import os
import re
import subprocess
import sys
from pathlib import Path

from experiments.benchmark_contest import Bench
from experiments.measuring import Row, Timing

ROOT = Path(__file__).parent.parent
IMPORT_BAR = 0.15
# Prints the seconds of both parts. The first is subtracted, as the second finds its modules there already.
PROGRAM = """
from time import perf_counter
start = perf_counter()
import torch, gymnasium
middle = perf_counter()
import {ours}
print(middle - start, perf_counter() - middle)
"""


def measure_import(bench: Bench) -> list[Row]:
    """In a fresh process each time."""
    _import_seconds()  # warms up the system's cache of files
    theirs, ours = zip(*(_import_seconds() for _ in range(bench.repeats)), strict=True)
    name = "import, beyond torch's and gymnasium's own"
    return [
        Row(name, Timing.of(ours), "the bar", Timing.exactly(IMPORT_BAR)),
        Row(name, Timing.of(ours), "import torch, gymnasium", Timing.of(theirs)),
    ]


def imported_modules() -> list[str]:
    """The modules of this package that the README's example imports."""
    return re.findall(r"^from (layeredrl\S*) import", (ROOT / "README.md").read_text(), flags=re.MULTILINE)


def _import_seconds() -> tuple[float, float]:
    program = PROGRAM.format(ours=", ".join(imported_modules()))
    # With the bytecode that installing writes, like that of torch, even where Python is told to write none.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    theirs, ours = process.stdout.split()
    return float(theirs), float(ours)
