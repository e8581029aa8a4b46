"""How long a study will take, from a few real steps.

How long a study will take and how much disk it will fill, before trial 0: a range, from folds that were measured.

Each backbone that the study may draw is measured twice where its settings allow a cheap and a dear trial: once with
everything that is trained with (augmentation, epochs, frozen stages, ...) at its cheap end, once at its dear end.
Numbers are in docs/searching.md ("How long will it take?"), how good they were in benchmarks/results/estimate.json.

How long a fold takes here, from a few real epochs on a slice of fold 0: before trial 0 nothing else is known.

The slice goes through the very training of the study (augmentation, optimiser, scoring), and what came of it is thrown
away: no score of it is looked at, nothing of it is kept.
"""

import gc
import math
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from harness.config.load import Study
from harness.config.space import Choice, Range, Value, extremes
from harness.config.spec import Spec
from harness.data.prepare import Prepared
from harness.search.driver import disk_needed
from harness.train.checkpoint import ResumeState
from harness.train.cross_validation import Part, part_data
from harness.train.loop import fit_fold
from harness.train.precision import Precision, parse_precision, threads_of
from harness.types import EpochReport, Estimate, Listener, Notice, Working

PRUNED_SHARE = {"race": 0.4, "wilcoxon": 0.6, "median": 0.5, "none": 1.0}
"""of the fold trainings of a study, how many are trained at least; measured: .48, .71, .63 (docs/searching.md)"""
TRIAL_SECONDS = 1.1
"""what a trial takes beside its folds (benchmarks/trial_overhead)"""
MARGIN = 1.25
"""how much the machine's own pace varies: what else runs, how warm it is"""
CHEAPER_WHEN_LARGE = ("train.freeze", "train.batch_size")
SPEEDS = ("train.", "augment.", "model.")
"""the keys that make a training longer; those of the optimiser hardly do"""


def estimate_study(
    study: Study,
    data: Prepared,
    precisions: dict[str, str],
    parameters: dict[str, int],
    device: str,
    jobs: int,
    trials: int,
    listener: Listener,
) -> Estimate | None:
    """For the `trials` that are left. None, with a notice, where a probe failed: an estimate never stops a study."""
    k, pruner = data.folds.k, study.spec.search.pruner
    trial_seconds: dict[str, tuple[float, float]] = {}
    asked = [(backbone, *ends(study, backbone)) for backbone in precisions]
    try:
        for number, (backbone, cheap, dear) in enumerate(asked):
            listener(Working("time estimate: networks probed", number, len(asked)))
            way = replace(parse_precision(precisions[backbone]), compiled=False)  # compiling takes longer than it tells
            if not number:
                warm_up(cheap, data, device, way)
            low = k * fold_seconds(cheap, data, device, way)
            high = low if cheap == dear else k * fold_seconds(dear, data, device, way)
            trial_seconds[backbone] = (min(low, high), max(low, high))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        listener(Notice(f"no estimate of the time: {reason}"))
        return None
    finally:
        listener(Working("time estimate: networks probed", len(asked), len(asked)))
    shared = device.startswith("cuda")  # trials on one card may gain nothing from each other
    low, high = total_seconds(list(trial_seconds.values()), trials, jobs, PRUNED_SHARE[pruner], shared)
    if study.spec.search.timeout_minutes is not None:
        most = 60 * study.spec.search.timeout_minutes
        low, high = min(low, most), min(high, most + max(end for _, end in trial_seconds.values()))
    sizes = list(parameters.values())
    return Estimate(
        low,
        high,
        trials,
        jobs,
        {name: sum(both) / 2 for name, both in trial_seconds.items()},
        int(4 * np.mean(sizes) * k * trials * PRUNED_SHARE[pruner]),
        disk_needed(max(sizes), k, trials),
    )


def total_seconds(
    each: list[tuple[float, float]], trials: int, jobs: int, share: float, shared: bool
) -> tuple[float, float]:
    """Seconds of the whole study, at least and at most: pure arithmetic.

    each: what a trial of a backbone takes when it is trained in full, (cheap, dear). A trial's backbone is any of them,
    its settings anywhere between: n trials take n times the mean, give or take two standard deviations of such a sum.
    """
    low, high = np.array(each).T
    middle = (low + high) / 2
    mean = float(middle.mean())
    spread = math.sqrt(float(middle.var()) + float(np.mean((high - low) ** 2)) / 12)
    swing = min(2 * spread / math.sqrt(trials), mean - float(low.min()) + 1e-9) if trials else 0.0
    at_once = min(jobs, max(trials, 1))
    rounds = math.ceil(trials / at_once) * at_once  # the last round may be half empty
    share = (1 + share * (trials - 1)) / trials if trials else 1.0  # the first trial is never stopped
    least = trials * (share * (mean - swing) + TRIAL_SECONDS) / at_once / MARGIN
    most = rounds * (mean + 2 * spread / math.sqrt(max(trials, 1)) + TRIAL_SECONDS) / (1 if shared else at_once)
    return least, most * MARGIN


def ends(study: Study, backbone: str) -> tuple[Spec, Spec]:
    """The spec of a cheap trial with this backbone, and of a dear one."""
    points = []
    for dear in (False, True):
        point = {name: _end(name, range_, dear) for name, range_ in study.space.items()}
        if "model.backbone" in point:
            point["model.backbone"] = backbone
        points.append(_without_start(study.draw(point)))
    return points[0], points[1]


def _without_start(spec: Spec) -> Spec:
    """Where the weights start from changes no speed."""
    return spec.model_copy(update={"model": spec.model.model_copy(update={"weights": "none"})})


def _end(name: str, range_: Range, dear: bool) -> Value:
    values = extremes(range_)
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(numbers) < len(values) or not name.startswith(SPEEDS):
        options = range_.options if isinstance(range_, Choice) else values
        return options[-1 if dear and name.startswith(SPEEDS) else 0]
    return max(numbers) if dear != (name in CHEAPER_WHEN_LARGE) else min(numbers)


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
