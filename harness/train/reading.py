"""Numbers that a device is still computing, copied to main memory without anybody waiting for them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def fetch(tensors: Sequence[Tensor]) -> Callable[[], list[NDArray[np.floating]]]:
    """Start copying tensors to main memory; the function that is returned waits until they are there.

    On a card the copies queue up behind what computes the tensors, into pinned memory, and the card goes on with
    whatever comes next. The function may be called in another thread.
    """
    there = [tensor.detach().to("cpu", non_blocking=True) for tensor in tensors]
    arrived = mark(tensors[0].device)

    def read() -> list[NDArray[np.floating]]:
        if arrived is not None:
            arrived.synchronize()
        return [tensor.numpy() for tensor in there]

    return read


def mark(device: torch.device) -> torch.cuda.Event | None:
    """A mark behind all that a card has been given so far; None on a CPU, which is never behind."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
