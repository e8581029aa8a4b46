"""What a running study tells whoever listens: plain data, sent from the driver, rendered by the command line."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.records import EpochReport, Estimate, TrialRecord


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
