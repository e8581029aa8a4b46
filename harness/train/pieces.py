"""Going on with smaller pieces where memory did not suffice."""

import gc
import itertools
from collections.abc import Callable
from typing import TypeVar

import torch

from harness.hardware import is_out_of_memory

T = TypeVar("T")


def in_fitting_batches(run: Callable[[int], T], batch_size: int, device: str) -> T:
    """What run(batch size) returns. While the memory of the device does not suffice, it is run again, from its
    beginning, with half the batch; where one image does not fit, that error is raised."""
    while True:
        try:
            return run(batch_size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or batch_size == 1:
                raise
        # outside the except block: the exception holds on to the tensors of the attempt
        release(device)
        batch_size //= 2


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
