"""Memory that was freed serves the next tensor, as page faults tell."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from layeredrl.nets.memory import keep_freed_memory
if {kept}:
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def fill():
    tensors = [torch.ones(2**20) for _ in range(20)]
fill()
before = faults()
fill()
print(faults() - before)
"""


def count_page_faults(*, kept: bool) -> int:
    """Of filling 80 MiB a second time, in a fresh process."""
    program = [sys.executable, "-c", PROGRAM.format(kept=kept)]
    return int(subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told to keep memory")
def test_freed_memory_is_used_again():
    # Not all of it: where blocks lie side by side, some are handed back together.
    assert count_page_faults(kept=True) < 0.8 * count_page_faults(kept=False)
