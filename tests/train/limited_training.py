"""A training, and the same one in a process of limited memory: python limited_training.py FOLDER."""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import torch

from harness.config.load import build_spec
from harness.train.checkpoint import ResumeState
from harness.train.loop import FoldData, fit_fold
from harness.train.precision import Precision
from harness.types import EpochReport

BATCH = 64


def train(folder: Path, rows: int, size: int = 96, swa: float = 0.0) -> EpochReport:
    """One epoch of one batch of `rows` images."""
    tree = {
        "name": "memory",
        "data": {"root": "-", "group": "none", "decode": {"size": size}},
        "model": {"backbone": "resnet10t"},
        "optim": {"name": "sgd", "lr": 0.01},
        "train": {"epochs": 1, "batch_size": BATCH, "swa": swa},
    }
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 255, (rows + 4, size, size, 1), dtype=np.uint8), np.arange(rows + 4) % 2
    data, reports = FoldData(0, x[:rows], y[:rows], x[-4:], y[-4:], 2), []
    precision = Precision("fp32", channels_last=True)
    fit_fold(build_spec(tree, "memory"), data, "cpu", precision, ResumeState(folder / "s.pt"), reports.append)
    return reports[0]


def limit(megabytes: int) -> None:
    """What the process may take from now on."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    train(folder, 4)
    limit(150)
    tight = train(folder, BATCH)
    print(json.dumps({"parts": tight.parts, "loss": tight.train_loss}))


if __name__ == "__main__":
    main()
