"""The log of a trial's epochs: one line of JSON each, added as it ends, read while it grows.

It is what learning curves come from when MLflow was away, what `study show` looks at while a study runs, and what an
early stop may compare with. The study's driver is the only writer. A line that a crash tore off is no line: readers
leave it out and the next writer cuts it off.
"""

import json
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.home import Home, without_nan
from harness.types import EpochReport


@dataclass(frozen=True)
class LoggedEpoch:
    at: float
    """when it was first reported, seconds since 1970: the time of its points in MLflow, however often they are sent"""
    report: EpochReport


def append_epoch(home: Home, study: str, number: int, epoch: LoggedEpoch) -> None:
    """Add a line, on disk when this returns. Raises OSError, of which ENOSPC is a full disk."""
    path = home.trial_epochs(study, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(without_nan({"at": epoch.at, **asdict(epoch.report)}), allow_nan=False) + "\n"
    with open(path, "ab+") as file:
        _cut_torn_line(path, file.tell())
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read_epochs(home: Home, study: str, number: int) -> list[LoggedEpoch]:
    """The epochs of a trial by fold and number; [] where none has ended.

    An epoch that was trained again after a crash is there once: as it was trained last, at the time of the first.
    Raises HarnessError that names the file where a whole line is damaged.
    """
    found: dict[tuple[int, int], LoggedEpoch] = {}
    for line in read_all_epochs(home, study, number):
        key = (line.report.fold, line.report.epoch)
        found[key] = replace(line, at=found[key].at) if key in found else line
    return [found[key] for key in sorted(found)]


def read_all_epochs(home: Home, study: str, number: int) -> list[LoggedEpoch]:
    """Every line in the order of writing: an epoch as often as it was trained."""
    path = home.trial_epochs(study, number)
    if not path.exists():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [_parse(path, row, line) for row, line in enumerate(whole.split(b"\n"), 1) if line]


def parse_report(data: dict[str, Any]) -> EpochReport:
    """An epoch as JSON has it, with its nulls as what they stand for. Raises TypeError or KeyError."""
    data = dict(data)
    for name in ("val", "inner"):
        if data[name] is not None:
            data[name] = {metric: _number(value) for metric, value in data[name].items()}
    for name in ("train_loss", "val_loss", "lr", "seconds", *(["inner_loss"] if data["inner"] is not None else [])):
        data[name] = _number(data[name])
    return EpochReport(**data)


def _parse(path: Path, row: int, line: bytes) -> LoggedEpoch:
    try:
        data: dict[str, Any] = json.loads(line)
        return LoggedEpoch(data.pop("at"), parse_report(data))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HarnessError(
            f"{path}, line {row} is damaged ({error}). It holds learning curves only, no scores: move the file away."
        ) from error


def _number(value: float | None) -> float:
    """JSON's null is NaN again."""
    return math.nan if value is None else value


def _cut_torn_line(path: Path, size: int) -> None:
    if not size:
        return
    with open(path, "rb+") as file:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
