"""Going on with smaller pieces where memory did not suffice."""

import gc
import itertools

import torch


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
