"""Memory that a training step frees stays with the process, because the next step wants it again.

glibc hands large freed blocks back to the kernel and asks for them anew a moment later. Each time the kernel fills them
with zeros, page by page: of a ResNet-18's epoch on a CPU that was a tenth (docs/lab-notes.md). Other C libraries and
cards are left alone.
"""

import ctypes
import gc
import platform
from functools import cache

import torch

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""mallopt's numbers of these settings (malloc.h)"""
KEEP = 2**31 - 1
"""bytes at the end of the heap that are not given back by themselves; the largest that mallopt takes"""
ON_HEAP = 2**30
"""blocks up to this many bytes come from the heap"""
GROW = 64 * 2**20
"""bytes by which the heap grows at least"""


@cache
def keep_freed_memory() -> bool:
    """Have this process keep what it frees. Says whether that is so; once is enough."""
    libc = _glibc()
    if libc is None:
        return False
    settings = ((M_MMAP_THRESHOLD, ON_HEAP), (M_TRIM_THRESHOLD, KEEP), (M_TOP_PAD, GROW))
    return all(libc.mallopt(name, value) == 1 for name, value in settings)


def give_back() -> None:
    """Return to the kernel, and to other processes on a card, what is free now: between trainings."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)
