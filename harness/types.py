"""Plain data between rooms: data set, folds, intervals, results of folds and trials, events of a running study.

What the stages hand each other, and what a running study tells whoever listens: sent from the driver, rendered by the
command line. No imports from other rooms.

N: rows, C: classes, K: folds, M: members, D: embedding size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[str, int, int], None]
"""progress(what, done, total): called often, must be cheap."""

TEST = -1
"""The fold number of rows in the held-out test split."""

ENDED = ("complete", "pruned", "failed")
"""The states of a trial that will not change again."""


@dataclass(frozen=True)
class Dataset:
    """The rows of a study, in manifest order."""

    ids: NDArray[np.str_]
    """(N,) unique; the file's path relative to the root, with forward slashes"""
    files: tuple[str, ...]
    """(N,) absolute paths"""
    y: NDArray[np.int64]
    """(N,) index into `classes`; in a multi-label task (N, C): 1 yes, 0 no, -1 not known"""
    groups: NDArray[np.str_]
    """(N,) who belongs together: patients (lesions, cases), or rows where the study says `group: none`, numbered in the
    order in which they first appear (g000000, g000001, ...), so the same in every home"""
    classes: tuple[str, ...]
    """C class names; in a binary task the last one is the positive class"""
    data_hash: str
    """over ids, contents, labels and groups"""
    identities: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, dtype=np.str_))
    """(N,) salted hash of each row's patient, or the row's id where the study says `group: none`; empty where nobody
    asks. Other in every home: to know the same patient in another data set of this home, never to draw or sort by"""

    @property
    def multilabel(self) -> bool:
        """Whether every class is a question of its own, answered by yes or no."""
        return self.y.ndim == 2

    def counts(self, rows: NDArray[np.int64] | slice = slice(None)) -> list[int]:
        """(C,) how many of the given rows are of each class."""
        y = self.y[rows]
        found = (y == 1).sum(axis=0) if self.multilabel else np.bincount(y, minlength=len(self.classes))
        return [int(count) for count in found]


@dataclass(frozen=True)
class Folds:
    """Which part each row belongs to."""

    fold: NDArray[np.int64]
    """(N,) 0..K-1 for development rows, TEST for the held-out test split"""
    k: int
    folds_hash: str

    def train_rows(self, fold: int) -> NDArray[np.int64]:
        """(n,) rows that fold model `fold` trains on."""
        return np.flatnonzero((self.fold != fold) & (self.fold != TEST))

    def held_out_rows(self, fold: int) -> NDArray[np.int64]:
        """(n,) development rows that fold model `fold` never sees."""
        return np.flatnonzero(self.fold == fold)

    def development_rows(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.fold != TEST)

    def test_rows(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.fold == TEST)


@dataclass(frozen=True)
class Interval:
    """A metric's value with its 95% interval; NaN where it is not defined."""

    value: float
    lo: float
    hi: float
    coverage: float | None = None
    """how often intervals of this kind contained the truth in simulation (benchmarks/coverage.py), where that was less
    than .93; None otherwise"""
    reason: str = ""
    """code of why there is no interval, such as `too-few-groups`; '' where there is one"""


@dataclass(frozen=True)
class Difference:
    """A paired difference with its 95% interval and two-sided p-value."""

    value: float
    lo: float
    hi: float
    p: float
    coverage: float | None = None
    """as in Interval"""
    reason: str = ""
    """code of why there is no interval or no p-value, such as `too-few-groups`; '' where there are both"""


@dataclass(frozen=True)
class Estimate:
    """What a study is thought to take, before it has taken anything (search.estimate)."""

    low: float
    """seconds of its trials, at least"""
    high: float
    """and at most"""
    trials: int
    """how many of them"""
    jobs: int
    """at a time"""
    trial_seconds: dict[str, float]
    """of one trial that is trained in full, by backbone"""
    disk_low: int
    """bytes of checkpoints"""
    disk_high: int


@dataclass(frozen=True)
class EpochReport:
    """What the training loop says after each epoch (step = epoch, from 0)."""

    fold: int
    epoch: int
    epochs: int
    train_loss: float
    val_loss: float
    val: dict[str, float]
    lr: float
    seconds: float
    images: int
    inner_loss: float | None = None
    """on the inner part of the training rows, where one chooses the epoch"""
    inner: dict[str, float] | None = None
    parts: int = 1
    """pieces that a batch is computed in; more than one where memory did not suffice"""


@dataclass(frozen=True)
class FoldResult:
    """One finished fold of one trial."""

    fold: int
    rows: NDArray[np.int64]
    """(n,) the held-out rows"""
    logits: NDArray[np.float32]
    """(n, C)"""
    metrics: dict[str, float]
    history: list[dict[str, Any]]
    seconds: float
    images: int
    """training images seen over all epochs"""


@dataclass
class TrialResult:
    """One trial: its folds and what they add up to."""

    folds: list[FoldResult]
    cv: dict[str, float] = field(default_factory=dict)
    """mean over folds"""
    cv_se: dict[str, float] = field(default_factory=dict)
    oof: dict[str, Interval] = field(default_factory=dict)
    """pooled over the rows of all folds; intervals count groups, and that folds share training rows"""
    seconds: float = 0.0
    images_per_second: float = 0.0
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each fold's checkpoint and predictions, by place in the trial's artifacts"""
    undefined: dict[str, str] = field(default_factory=dict)
    """why a metric has no mean over folds, by its name"""
    notes: list[str] = field(default_factory=list)
    """codes, as in TrialRecord"""


@dataclass(frozen=True)
class TrialRecord:
    """What is on disk about one trial: the source of truth for stage 2 and for tables."""

    number: int
    state: str
    """running, complete, pruned, failed"""
    params: dict[str, Any]
    """the searched values only, by dotted name"""
    run_id: str
    """the MLflow run, and the folder of the trial's artifacts"""
    cv: dict[str, float] = field(default_factory=dict)
    """mean over folds: that of the search metric ranks the trials; NaN where a fold has no value"""
    cv_se: dict[str, float] = field(default_factory=dict)
    oof: dict[str, Interval] = field(default_factory=dict)
    """pooled over the rows of all folds: the estimate that is reported, with its interval"""
    fold_values: list[float] = field(default_factory=list)
    """the search metric of each finished fold, in fold order"""
    reason: str = ""
    """why it was stopped or failed; of a complete trial, why it is not ranked"""
    seconds: float = 0.0
    optimistic: bool = False
    """whether each fold's epoch was picked on the very rows that it is scored on (train.select: scored_fold)"""
    ended: float = 0.0
    """seconds since 1970"""
    deaths: int = 0
    """how often a process that trained it died"""
    logged: bool = True
    """whether MLflow has all of it; what an ended trial still lacks there is sent again by the study's next run"""
    costs: dict[str, float] = field(default_factory=dict)
    """latency_ms, megabytes, parameters, where the study asks for them"""
    infeasible: bool = False
    """whether its costs break a constraint of the study: never the best, never on the front"""
    tree_hash: str = ""
    """of the trial's whole spec: what has the same one is the same configuration"""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each fold's checkpoint and predictions when training ended, by place in the trial's artifacts; empty
    for a trial of an earlier version"""
    same_as: int | None = None
    """the ended trial with the very same configuration whose scores these are; this one was not trained"""
    notes: list[str] = field(default_factory=list)
    """codes of what is to be known of its scores: `fold-scale`, its fold models disagree on the scale of their scores
    (stats.fold_scale)"""


@dataclass(frozen=True)
class Working:
    """Progress of a step before or between trainings."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class Notice:
    """Something a person should know that is no result: a worker died, a server went away."""

    line: str


@dataclass(frozen=True)
class DataReady:
    rows: int
    development: int
    test: int
    groups: int
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    """rows of each class"""
    k: int
    warnings: tuple[str, ...]
    """findings of the audit that do not block, and what was left out"""


@dataclass(frozen=True)
class PrecisionChosen:
    line: str
    """in which number format a backbone trains"""


@dataclass(frozen=True)
class Estimated:
    """What the trials that are left will take, before any of them began."""

    estimate: Estimate
    free: int
    """bytes on the disk"""


@dataclass(frozen=True)
class StudyStarted:
    name: str
    trials_total: int
    trials_done: int
    resumed: tuple[int, ...]
    """numbers of interrupted trials that go on now"""
    metric: str
    device: str
    jobs: int
    precision: dict[str, str]
    """what train.precision came to, by backbone"""
    past: tuple[TrialRecord, ...]
    """the trials that ended in earlier runs"""
    best: TrialRecord | None
    """of them"""


@dataclass(frozen=True)
class TrialStarted:
    number: int
    params: dict[str, Any]
    first_fold: int
    """0, or the first unfinished fold of a resumed trial"""


@dataclass(frozen=True)
class EpochDone:
    trial: int
    report: EpochReport


@dataclass(frozen=True)
class FoldDone:
    trial: int
    fold: int
    value: float
    """the search metric on the held-out fold"""


@dataclass(frozen=True)
class TrialEnded:
    record: TrialRecord
    best: TrialRecord | None


@dataclass(frozen=True)
class StudyEnded:
    name: str
    state: str
    trained: int
    """trials that this run finished; 0 when there was nothing left to do"""
    seconds: float = 0.0
    """of all its runs"""
    estimate: Estimate | None = None
    """where all its trials were estimated together"""


Event = (
    Working
    | Notice
    | DataReady
    | PrecisionChosen
    | Estimated
    | StudyStarted
    | TrialStarted
    | EpochDone
    | FoldDone
    | TrialEnded
    | StudyEnded
)
Listener = Callable[[Event], None]


def silent(what: str, done: int, total: int) -> None:
    """A Progress that says nothing."""


def rank_value(trial: TrialRecord, metric: str) -> float:
    """What trials are ranked by, everywhere: the mean over the folds of `metric`. NaN, which is not ranked, unless the
    trial is complete and the metric is defined in every fold; then `reason` of the trial says why."""
    value = trial.cv.get(metric, math.nan) if trial.state == "complete" else math.nan
    defined = [fold for fold in trial.fold_values if math.isfinite(fold)]
    if 0 < len(defined) < len(trial.fold_values) and math.isclose(value, sum(defined) / len(defined), rel_tol=1e-9):
        return math.nan  # an earlier version left undefined folds out of the mean
    return value if math.isfinite(value) else math.nan


def not_ranked(trial: TrialRecord, metric: str) -> str:
    """Why a complete trial takes no part in the ranking, in words; '' where it does."""
    if trial.state != "complete" or trial.same_as is not None:
        return ""
    if trial.infeasible:
        return trial.reason or "it breaks a constraint of the study"
    undefined = math.isnan(rank_value(trial, metric))
    return (trial.reason or f"{metric} is not defined in every fold") if undefined else ""
