"""Memory that was freed serves the next tensor, as page faults tell."""

import subprocess
import sys

import pytest
import torch

from layeredrl.nets.memory import Reserve

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


def test_memory_comes_back_once_no_tensor_uses_it():
    reserve = Reserve()
    first, second = reserve.empty(100), reserve.empty(100)
    places = first.data_ptr(), second.data_ptr()
    assert abs(places[0] - places[1]) >= 400  # bytes
    view = first.view(10, 10)[3:].fill_(7.0)
    del first
    third = reserve.empty(100)
    assert third.data_ptr() not in places  # as the view is still there
    assert bool((view == 7.0).all())
    del view
    assert reserve.empty(100).data_ptr() == places[0]


def test_a_graph_holds_on_to_its_memory():
    reserve, x = Reserve(), torch.ones(50, requires_grad=True)
    factor = reserve.empty(50).fill_(3.0)
    place, product = factor.data_ptr(), x * factor
    del factor
    other = reserve.empty(50).fill_(5.0)
    assert other.data_ptr() != place
    assert torch.autograd.grad(product.sum(), x)[0].tolist() == [3.0] * 50
    del product
    assert reserve.empty(50).data_ptr() == place


def test_what_lies_unused_is_limited():
    reserve = Reserve(most_bytes=1000)
    small, large = reserve.empty(100), reserve.empty(200)
    places = small.data_ptr(), large.data_ptr()
    del small
    kept = reserve.empty(100)
    assert kept.data_ptr() == places[0]
    del kept, large  # together 1,200 bytes
    assert not any(reserve._unused.values())


def test_its_numbers_are_float32_whatever_the_default_is():
    torch.set_default_dtype(torch.float64)
    try:
        assert Reserve().empty(3).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
