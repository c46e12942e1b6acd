"""Memory of the process, which fresh tensors get faster from itself than from the system."""

import ctypes
import sys
import weakref
from collections import defaultdict

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

# Of glibc's malloc.h: blocks from the one size on are handed back when they are freed; so is what lies free at the
# end of the heap from the other size on.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
LARGEST_KEPT_BLOCK, MOST_KEPT_AT_THE_END = 32 * 2**20, 256 * 2**20


def keep_freed_memory() -> None:
    """Let the process keep the memory that tensors of up to 32 MiB free, for the tensors that come after them.

    By default, glibc hands it back, and the system fills every page with zeros when it is asked for it anew, which
    takes longer than most operations on it. Other allocators are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK)
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT_AT_THE_END)


class Reserve:
    """Memory for large tensors of a few sizes that come and go.

    In the heap, small tensors that stay take a piece of the gap that a large one has left, so that the next doesn't
    fit: the heap grows with every step of a training that keeps its losses, and the system has to fill its pages.

    Args:
        most_bytes: that may lie here unused; where it becomes more, all of it is freed.
    """

    def __init__(self, most_bytes: int = MOST_KEPT_AT_THE_END):
        self._most_bytes = most_bytes
        self._unused: defaultdict[int, list[np.ndarray]] = defaultdict(list)  # by their length

    def empty(self, n: int) -> Float[Tensor, " n"]:
        """Any n numbers of float32, on the CPU. Their memory comes back once no tensor uses it any more."""
        try:  # not asked before whether there is one, as threads may take the last
            block = self._unused[n].pop()
        except IndexError:
            block = torch.empty(n, dtype=torch.float32, device="cpu").numpy()
        lent = block[:]  # which lives as long as the memory of the tensor made of it
        weakref.finalize(lent, self._take_back, block).atexit = False
        return torch.from_numpy(lent)

    def _take_back(self, block: np.ndarray) -> None:
        self._unused[len(block)].append(block)
        if sum(block.nbytes for blocks in list(self._unused.values()) for block in blocks) > self._most_bytes:
            self._unused.clear()
