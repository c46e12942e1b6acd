"""Memory of the process, which fresh tensors get faster from itself than from the system."""

import ctypes
import sys

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
