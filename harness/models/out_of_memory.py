"""Out of memory: how it looks on each device."""

import torch

SAID = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "could not create a")
"""what torch, its CPU allocator and oneDNN (could not create a primitive, a memory object) say; only CUDA has an
exception of its own"""


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error).lower() for words in SAID)
    )
