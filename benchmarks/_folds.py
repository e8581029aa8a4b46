"""A fold to train on and its epochs, timed: what the benchmarks of the training loop share."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.config.load import build_spec
from harness.config.spec import Spec
from harness.train.checkpoint import ResumeState
from harness.train.loop import FoldData, fit_fold
from harness.train.precision import Precision


def spec_of(backbone: str, size: int, channels: int, batch: int, epochs: int, **blocks: dict[str, Any]) -> Spec:
    tree = {
        "name": "benchmark",
        "data": {"root": "-", "group": "none", "decode": {"size": size, "channels": channels}},
        "model": {"backbone": backbone},
        "train": {"epochs": epochs, "batch_size": batch},
        **blocks,
    }
    return build_spec(tree, "benchmark")


def random_fold(rows: int, size: int, channels: int) -> FoldData:
    """Noise with two classes: `rows` to train on, a quarter as many held out."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (rows * 5 // 4, size, size, channels), dtype=np.uint8)
    y = rng.integers(0, 2, len(x))
    return FoldData(0, x[:rows], y[:rows], x[rows:], y[rows:], 2)


def harness_epoch(spec: Spec, data: FoldData, device: str, precision: Precision) -> float:
    """Seconds of an epoch, from the first report to the last, so that all that happens between epochs counts."""
    ends: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        resume = ResumeState(Path(folder) / "state.pt")
        fit_fold(spec, data, device, precision, resume, lambda report: ends.append(time.perf_counter()))
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def card_memory(device: str) -> dict[str, float]:
    """GiB at the most since the last reset: in tensors, and taken from the card."""
    if not device.startswith("cuda"):
        return {}
    peak = {"allocated": torch.cuda.max_memory_allocated(device), "reserved": torch.cuda.max_memory_reserved(device)}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return {f"{name}_gib": round(value / 2**30, 2) for name, value in peak.items()}
