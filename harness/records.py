"""Plain data that the stages hand each other. No behaviour, no imports from other rooms.

N: rows, C: classes, K: folds, M: members, D: embedding size.
"""

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
    """(N,) salted hash of the patient (lesion, case); the row's own id where the study says `group: none`"""
    classes: tuple[str, ...]
    """C class names; in a binary task the last one is the positive class"""
    data_hash: str
    """over ids, contents, labels and groups"""

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
    """pooled over the rows of all folds, group bootstrap"""
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
