"""Which devices `--device` means, checked before anything runs on them, and which algorithms they may use."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from harness.errors import RequestError

WRITE = "Write auto, cpu, cuda, or cuda:0,cuda:1."


os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # read once, at the first product: deterministic ones need it


def parse_devices(text: str) -> list[str]:
    """'auto', 'cpu', 'cuda', 'cuda:0,cuda:1' -> devices that exist. Raises RequestError."""
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for name in [part.strip() for part in text.split(",")]:
        try:
            device = torch.device(name)
        except RuntimeError as error:
            raise RequestError(f"--device {name}: no such device. {WRITE}") from error
        if device.type not in ("cpu", "cuda", "mps"):
            raise RequestError(f"--device {name}: not a kind of device that is used here. {WRITE}")
        count = torch.cuda.device_count()
        if device.type == "cuda" and (device.index or 0) >= count:
            raise RequestError(f"--device {name}: this machine has {count} CUDA devices. Write --device auto or cpu.")
        found.append(str(device))
    return found


@contextmanager
def algorithms(deterministic: bool) -> Iterator[None]:
    """Inside, if that is asked for: only algorithms that give the same numbers every time."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if deterministic:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
