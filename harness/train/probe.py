"""How long a fold takes here, from a few real epochs on a slice of fold 0: before trial 0 nothing else is known.

The slice goes through the very training of the study (augmentation, optimiser, scoring), and what came of it is thrown
away: no score of it is looked at, nothing of it is kept.
"""

import gc
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from harness.config.spec import Spec
from harness.data.prepare import Prepared
from harness.train.checkpoint import ResumeState
from harness.train.cross_validation import Part, part_data
from harness.train.loop import fit_fold
from harness.train.precision import Precision, threads_of
from harness.types import EpochReport

BATCHES = {"cpu": 4, "cuda": 64}
"""of the slice: on a card a batch takes no longer than what surrounds an epoch of a few"""
EPOCHS = 6
"""at most"""
ENOUGH_SECONDS = 1.0
"""no further epoch after this long, once two are done: the first has the set-up in it"""


class _Enough(Exception):
    pass


def warm_up(spec: Spec, data: Prepared, device: str, precision: Precision) -> None:
    """What a process does once only (imports, thread pools, kernels that are chosen), so that no fold is charged it."""
    fold_seconds(spec, data, device, precision, batches=1)


def fold_seconds(spec: Spec, data: Prepared, device: str, precision: Precision, batches: int = 0) -> float:
    """Seconds that fold 0 of this spec takes with all its epochs, from a slice of so many batches (0: of BATCHES).
    Raises what the training raises."""
    train, held_out = data.folds.train_rows(0), data.folds.held_out_rows(0)
    most = (batches or BATCHES[device.split(":")[0]]) * spec.train.batch_size * spec.train.accumulate
    share = min(1.0, most / len(train))
    seconds: list[float] = []
    began = time.perf_counter()

    def on_epoch(report: EpochReport) -> None:
        seconds.append(report.seconds)
        if len(seconds) > 1 and time.perf_counter() - began > ENOUGH_SECONDS:
            raise _Enough

    short = spec.train.model_copy(update={"epochs": max(2, min(EPOCHS, spec.train.epochs))})
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state.pt"
        y = data.dataset.y
        part = Part(0, 0, _slice(train, y, share), _slice(held_out, y, share), Path(folder), state)
        probed = spec.model_copy(update={"train": short})
        try:
            with threads_of(precision):
                fit_fold(probed, part_data(probed, data, part, device), device, precision, ResumeState(state), on_epoch)
        except _Enough:
            pass
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    epoch = float(np.median(seconds[1:] or seconds))
    return max(seconds[0] - epoch, 0.0) + spec.train.epochs * epoch / share


def _slice(rows: NDArray[np.int64], y: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """A share of the rows, spread evenly over each class, so that every class is there as in the whole."""
    key = y[rows] if y.ndim == 1 else y[rows] @ (3 ** np.arange(y.shape[1]))
    parts = [rows[key == kind] for kind in np.unique(key)]
    kept = [part[:: max(1, round(1 / share))][: max(1, round(share * len(part)))] for part in parts]
    return np.sort(np.concatenate(kept))
