"""Configurations that a study meets again: answered with what they came to, not trained a second time.

Same configuration means the same spec of the trial, whole, with defaults where ranges do not stand. A failed trial
answers nothing: the same point is tried again.
"""

from collections.abc import Iterable
from dataclasses import replace

from harness.search.points import Point
from harness.study.load import spec_hash
from harness.types import TrialRecord


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


def original_of(record: TrialRecord, records: Iterable[TrialRecord]) -> TrialRecord:
    """The trial that has the artifacts of this one: itself, unless it is a copy."""
    return next((one for one in records if one.number == record.same_as), record)


def trained(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The complete trials that have checkpoints of their own."""
    return [record for record in records if record.state == "complete" and record.same_as is None]
