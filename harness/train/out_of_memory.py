"""Out of memory: how it looks on each device, and going on with smaller pieces."""

import gc
import itertools

import torch

SAID = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "could not create a")
"""what torch, its CPU allocator and oneDNN (could not create a primitive, a memory object) say; only CUDA has an
exception of its own"""


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in SAID)
    )


def release(device: str) -> None:
    """Give back what nothing refers to any more, so that the next attempt has it."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def pieces(rows: int, parts: int) -> list[slice]:
    """`rows` in `parts` nearly equal slices, but none of a single row, from which batch norm learns nothing."""
    parts = max(1, min(parts, rows // 2))
    cuts = [rows * part // parts for part in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]
