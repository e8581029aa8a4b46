"""One trial: fit each fold, keep its files, pool the out-of-fold predictions.

The same function serves a single run, a trial of a search and a resumed trial. It knows neither Optuna nor MLflow:
`on_epoch` and `on_fold` report, and may raise to stop.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness import metrics
from harness.augment.drawn_lesions import draw_lesions
from harness.augment.synthetic import fit_and_sample
from harness.config.spec import Spec
from harness.data.folds import draw_part
from harness.data.prepare import Prepared
from harness.images.pixels import Ragged, Subset, select
from harness.seeds import derive_seed
from harness.stats.fold_scale import scales_disagree
from harness.stats.intervals import How, all_intervals
from harness.store.files import is_done, new_folder, read_json, trial_fingerprints, write_json
from harness.store.predictions import to_column
from harness.train.checkpoint import FoldMeta, ResumeState, digest, save_weights
from harness.train.inference import infer
from harness.train.loop import FoldData, OnEpoch, fit_fold
from harness.train.precision import Precision
from harness.types import Dataset, FoldResult, TrialResult


@dataclass(frozen=True)
class Place:
    """Where a trial's files go and what they are called."""

    study: str
    trial: int
    artifacts: Path
    """finished folds: fold_0/, fold_1/, ..."""
    running: Path
    """the resume state of the running fold; removed at the end"""
    start: tuple[Path, ...] = ()
    """for each fold the checkpoint of an earlier study that it starts from; none where weights are not a study's"""


@dataclass(frozen=True)
class Part:
    """One network to train: on which rows, scored on which, where its files go."""

    number: int
    """what its random draws are named by: the fold's number, or one that no fold has"""
    fold: int
    """what its checkpoint says that it held out: a fold, or NO_FOLD"""
    train: NDArray[np.int64]
    """rows, which may be repeated"""
    held_out: NDArray[np.int64]
    folder: Path
    """of the checkpoint, its history and its predictions of the held-out rows"""
    state: Path
    """the resume state while it trains"""
    start: Path | None = None
    """the checkpoint that it starts from"""


def cross_validate(
    spec: Spec,
    data: Prepared,
    place: Place,
    device: str,
    precision: Precision,
    on_epoch: OnEpoch,
    on_fold: Callable[[FoldResult], None],
) -> TrialResult:
    """Train and score the K fold models of one trial, skipping folds that are already on disk.

    The pooled out-of-fold intervals are 95% (harness.stats.intervals).
    """
    results = []
    for fold in range(data.folds.k):
        folder = place.artifacts / f"fold_{fold}"
        if is_done(folder):
            done = read_fold(folder, fold, data)
        else:
            part = Part(
                fold,
                fold,
                data.folds.train_rows(fold),
                data.folds.held_out_rows(fold),
                folder,
                place.running / f"fold_{fold}.pt",
                place.start[fold] if place.start else None,
            )
            done = train_part(spec, data, part, place.study, place.trial, device, precision, on_epoch)
        on_fold(done)
        results.append(done)
    shutil.rmtree(place.running, ignore_errors=True)
    trial = summarize(results, data, spec.seed, spec.data.per_group)
    trial.files = trial_fingerprints(place.artifacts, data.folds.k)
    return trial


def summarize(results: list[FoldResult], data: Prepared, seed: int, per_group: How) -> TrialResult:
    """Means over the folds with their standard errors, NaN for a metric that is not defined in one of them, and pooled
    out-of-fold intervals."""
    names = list(metrics.METRICS)
    table = np.array([[result.metrics[name] for name in names] for result in results])
    mean = table.mean(axis=0)
    error = table.std(axis=0, ddof=1) / np.sqrt(len(table)) if len(table) > 1 else np.full(len(names), np.nan)
    rows = np.concatenate([result.rows for result in results])
    p = metrics.probabilities(np.concatenate([result.logits for result in results]), data.dataset.multilabel)
    y, groups = data.dataset.y[rows], data.dataset.groups[rows]
    fold = np.repeat([result.fold for result in results], [len(result.rows) for result in results])
    seconds = sum(result.seconds for result in results)
    return TrialResult(
        folds=results,
        cv=dict(zip(names, mean.tolist(), strict=True)),
        cv_se=dict(zip(names, error.tolist(), strict=True)),
        oof=all_intervals(y, p, groups, seed, per_group, fold),
        seconds=seconds,
        images_per_second=sum(result.images for result in results) / max(seconds, 1e-9),
        undefined={name: why for name in names if (why := why_undefined(name, results, data.dataset))},
        notes=["fold-scale"] if scales_disagree(y, p, groups, fold, seed) else [],
    )


def why_undefined(metric: str, results: list[FoldResult], dataset: Dataset) -> str:
    """The first fold in which a metric has no value, and why, in words; '' where it has one in every fold."""
    first = next((result for result in results if not np.isfinite(result.metrics[metric])), None)
    return f"{metric} is not defined in fold {first.fold}: {_lacking(first, dataset)}" if first else ""


def _lacking(result: FoldResult, dataset: Dataset) -> str:
    y, names = dataset.y[result.rows], dataset.classes
    if not len(y):
        return "it has no rows"
    if not np.isfinite(result.logits).all():
        return "a prediction is not a finite number"
    if dataset.multilabel:
        one = [name for c, name in enumerate(names) if len(np.unique(y[y[:, c] != metrics.UNKNOWN, c])) < 2]
        return f"its rows do not have both answers for {', '.join(one)}"
    absent = [name for c, name in enumerate(names) if not (y == c).any()]
    return "its rows have one class" if len(names) == 2 else f"its rows have no {', '.join(absent)}"


def train_part(
    spec: Spec,
    data: Prepared,
    part: Part,
    study: str,
    trial: int,
    device: str,
    precision: Precision,
    on_epoch: OnEpoch,
) -> FoldResult:
    """Train one network, or go on with it, and leave its files in part.folder, whole. Raises as fit_fold does."""
    dataset = data.dataset
    fold_data = part_data(spec, data, part, device)
    resume = ResumeState(part.state)
    fitted = fit_fold(spec, fold_data, device, precision, resume, on_epoch, part.start)
    meta = FoldMeta(
        study=study,
        trial=trial,
        fold=part.fold,
        model=spec.model.model_dump(mode="json"),
        decode=spec.data.decode.model_dump(mode="json"),
        classes=dataset.classes,
        mean=fitted.mean,
        std=fitted.std,
        encoder_id=digest(fitted.network),
        data_hash=dataset.data_hash,
        folds_hash=data.folds.folds_hash,
        multilabel=dataset.multilabel,
        start_id=fitted.start_id,
    )
    logits, _ = infer(fitted.network, meta, fold_data.x_val, device)
    scores = metrics.score(fold_data.y_val, metrics.probabilities(logits, data.dataset.multilabel))
    summary = {"fold": part.number, "seconds": fitted.seconds, "images": fitted.images, "epoch": fitted.epoch}
    with new_folder(part.folder) as folder:
        save_weights(folder / "weights.safetensors", fitted.network, meta)
        _write_predictions(folder / "predictions.parquet", data, part.held_out, logits)
        write_json(folder / "history.json", {**summary, "metrics": scores, "epochs": fitted.history})
    resume.path.unlink(missing_ok=True)
    return FoldResult(part.number, part.held_out, logits, scores, fitted.history, fitted.seconds, fitted.images)


def part_data(spec: Spec, data: Prepared, part: Part, device: str) -> FoldData:
    """The arrays of a part. With train.select: inner a part of its training rows, whole groups, is kept aside; images
    are generated from what is left."""
    dataset = data.dataset
    train, inner = part.train, None
    if spec.train.select == "inner":
        seed = derive_seed(spec.seed, "fold", part.number, "inner")
        drawn = draw_part(dataset.y[train], dataset.groups[train], spec.train.inner, seed, dataset.classes)
        inner, train = train[drawn], train[~drawn]
    x_train, y_train = select(data.pixels, train), dataset.y[train]
    if not isinstance(x_train, Ragged):
        x_train, y_train = _with_generated(x_train, y_train, spec, part, len(dataset.classes), device)
    return FoldData(
        fold=part.number,
        x_train=x_train,
        y_train=y_train,
        x_val=select(data.pixels, part.held_out),
        y_val=dataset.y[part.held_out],
        classes=len(dataset.classes),
        class_names=dataset.classes,
        x_inner=None if inner is None else select(data.pixels, inner),
        y_inner=None if inner is None else dataset.y[inner],
    )


def _with_generated(
    x: NDArray[np.uint8] | Subset, y: NDArray[np.int64], spec: Spec, part: Part, classes: int, device: str
) -> tuple[NDArray[np.uint8] | Subset, NDArray[np.int64]]:
    """The training rows of a part and, behind them, what is generated from these alone."""
    made, share = [], spec.augment
    if share.synthetic:
        seed = derive_seed(spec.seed, "fold", part.number, "synthetic")
        made.append(fit_and_sample(x, y, classes, share.synthetic, seed, device))
    if share.drawn_lesions:
        made.append(draw_lesions(x, y, share.drawn_lesions, derive_seed(spec.seed, "fold", part.number, "lesions")))
    if not made:
        return x, y
    real = x.gather(np.arange(len(x))) if isinstance(x, Subset) else x
    images, labels = zip((real, y), *made, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _write_predictions(path: Path, data: Prepared, rows: np.ndarray, logits: np.ndarray) -> None:
    table = pa.table(
        {
            "id": pa.array(data.dataset.ids[rows].tolist(), pa.string()),
            "group": pa.array(data.dataset.groups[rows].tolist(), pa.string()),
            "y": to_column(data.dataset.y[rows]),
            "logits": to_column(logits),
        }
    )
    pq.write_table(table, path)


def read_fold(folder: Path, fold: int, data: Prepared) -> FoldResult:
    """A finished fold from its files, its rows matched to the data set by id."""
    table = pq.read_table(folder / "predictions.parquet")
    position = {name: row for row, name in enumerate(data.dataset.ids.tolist())}
    rows = np.array([position[name] for name in table["id"].to_pylist()], np.int64)
    logits = np.array(table["logits"].to_pylist(), np.float32).reshape(len(rows), -1)
    history = read_json(folder / "history.json")
    scores = metrics.score(data.dataset.y[rows], metrics.probabilities(logits, data.dataset.multilabel))
    return FoldResult(fold, rows, logits, scores, history["epochs"], history["seconds"], history["images"])


def pooled_predictions(trials: list[Path], data: Prepared) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Development rows (n,) and the out-of-fold probabilities of M trials for them (M, n, C), from their artifacts."""
    rows = data.folds.development_rows()
    p = np.full((len(trials), len(data.dataset.y), len(data.dataset.classes)), np.nan)
    for trial, folder in enumerate(trials):
        for fold in range(data.folds.k):
            result = read_fold(folder / f"fold_{fold}", fold, data)
            p[trial, result.rows] = metrics.probabilities(result.logits, data.dataset.multilabel)
    return rows, p[:, rows]
