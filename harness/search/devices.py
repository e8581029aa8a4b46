"""Which card a worker gets. Pure but for asking how much is free, which a short-lived process does.

Asking a card makes a context on it that holds memory (some 500 MB) until its process ends: the driver itself must not.
"""

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor

from harness.train.memory import free_memory


def choose_device(free: Mapping[str, int], workers: Mapping[str, int]) -> str:
    """The device whose free memory, divided among the study's workers there and one more, gives the most to each.

    `free`: bytes by device, in the order in which ties are decided; `workers`: how many each has. With equal cards
    they go round; a card that another program fills gets fewer.
    """
    return max(free, key=lambda device: free[device] / (workers.get(device, 0) + 1))


def free_by_device(devices: list[str]) -> dict[str, int]:
    """Bytes that are free on each device now. One device is no choice, and is not asked."""
    if len(devices) == 1:
        return {devices[0]: 1}
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as asker:
        return dict(zip(devices, asker.map(free_memory, devices), strict=True))
