"""Where the points of a study come from: a proposer that learns from scores, or a list made beforehand."""

from dataclasses import dataclass
from typing import Any, Protocol

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
