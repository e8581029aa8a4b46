"""Where the points of a study come from: a proposer that learns from scores, or a list made beforehand.

Configurations that a study meets again are answered with what they came to, not trained a second time. Same
configuration means the same spec of the trial, whole, with defaults where ranges do not stand. A failed trial answers
nothing: the same point is tried again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from harness.config.load import spec_hash
from harness.types import TrialRecord


@dataclass(frozen=True)
class Point:
    """One configuration to evaluate."""

    number: int
    """of the trial; counts from 0"""
    params: dict[str, Any]
    """the varied values only, by dotted name"""
    tree: dict[str, Any]
    """the trial's spec, whole"""


class Source(Protocol):
    """Gives points to a driver and learns how they ended. Only the driver calls it, from one thread."""

    @property
    def total(self) -> int:
        """How many trials the study has in the end."""
        ...

    def begun(self, records: dict[int, TrialRecord]) -> list[Point]:
        """Settle its own books with the ledger, which knows better. Returns what began and has not ended."""
        ...

    def next(self) -> Point | None:
        """A new point; None when all have been given."""
        ...

    def fold(self, number: int, fold: int, value: float) -> None:
        """A fold of a trial has been scored. Harmless when repeated after a crash."""
        ...

    def ended(self, record: TrialRecord) -> None:
        """A trial has ended, and the ledger knows it."""
        ...


def twins(
    point: Point, records: Iterable[TrialRecord], unfinished: Iterable[Point]
) -> tuple[TrialRecord | None, Point | None]:
    """(the ended trial, the unfinished earlier point) with this point's configuration."""
    own = spec_hash(point.tree)
    for record in records:
        answers = record.state in ("complete", "pruned") and record.same_as is None
        if answers and record.tree_hash == own and record.number != point.number:
            return record, None
    earlier = (other for other in unfinished if other.number < point.number and spec_hash(other.tree) == own)
    return None, next(earlier, None)


def copy_of(original: TrialRecord, own: TrialRecord) -> TrialRecord:
    """The record of a trial that was not trained: the original's scores under its own number and run. No artifacts."""
    return replace(
        original,
        number=own.number,
        run_id=own.run_id,
        params=own.params,
        same_as=original.number,
        seconds=0.0,
        deaths=0,
        logged=own.logged,
        files={},
        reason=f"the same configuration as trial {original.number}",
    )
