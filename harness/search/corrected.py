"""The best trial's value corrected for having been chosen (stats.optimism), with everything that competed for it.

Its rivals are all trials of its study that have a finished fold, those that were stopped included, and, where it
started from an earlier study on the same rows and folds (model.weights: study:NAME), that study's trials too, and so on
back through the chain: choosing the best of a hundred and training it on for one more epoch is still choosing among a
hundred. Reads records and predictions, never a model, never the test split.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.config.load import check_study
from harness.config.space import Choice, Range, Space, fill, flatten
from harness.metrics import probabilities
from harness.models.weights import kind_of
from harness.search.warm_start import PREFIX, pinned
from harness.stats.optimism import Search, best_corrected
from harness.store.files import is_done
from harness.store.home import Home
from harness.store.predictions import from_column
from harness.store.records import StudyRecord, ranked, read_study, read_trials
from harness.types import Interval, TrialRecord

Floats = NDArray[np.float64]


class Unknown(Exception):
    """Why there is no corrected value: a reason code."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Competitor:
    """A trial that has predicted at least one fold."""

    study: StudyRecord
    trial: TrialRecord
    tree: dict[str, Any]
    """its spec, whole, by dotted name"""
    start: tuple[str, int] | None
    """study and number of the trial that its folds started from, on the same rows"""


@dataclass(frozen=True)
class Competition:
    """Everything that the best trial of a study was chosen among, on the same rows, sorted by id."""

    ids: NDArray[np.str_]
    y: NDArray[np.int64]
    groups: NDArray[np.str_]
    fold: NDArray[np.int64]
    search: Search
    number: int
    """trials in it"""
    studies: tuple[str, ...]
    """that they are of, the earliest first"""


def corrected_best(home: Home, record: StudyRecord) -> dict[str, Any]:
    """The mean over folds of the search metric of the study's best trial, corrected for the choice: a records.Interval
    as plain data, with `among`, the trials that it was chosen among, and `studies`, those that they are of, the
    earliest first. NaN with a reason where it cannot be said: besides those of `best_corrected` `predictions-gone`, and
    of the studies that it started from `start-study-gone`, `start-trial-gone`, `start-predictions-gone` and
    `start-folds-differ`."""
    try:
        found = competition(home, record)
    except Unknown as why:
        nothing = float("nan")
        return {**vars(Interval(nothing, nothing, nothing, reason=why.reason)), "among": 0, "studies": []}
    value = best_corrected(record.tree["search"]["metric"], found.y, found.fold, found.groups, found.search)
    return {**vars(value), "among": found.number, "studies": list(found.studies)}


def competition(home: Home, record: StudyRecord, only: int | None = None) -> Competition:
    """What the best trial of a study was chosen among. only: a trial that was asked for by its number, so that it was
    not chosen in its own study; what it started from may have been in an earlier one. Raises Unknown."""
    everyone = list(_competitors(home, record, only, set()))
    numbers = {trial.number for trial in ranked(read_trials(home, record.name), record.tree["search"]["metric"])}
    tables = [_predictions(home, one, own=one.study.name == record.name) for one in everyone]
    names = [(one.study.name, one.trial.number) for one in everyone]
    may = [name == record.name and (number in numbers or number == only) for name, number in names]
    if not any(may):
        raise Unknown("no-complete-trial")
    whole = tables[may.index(True)]
    order = np.argsort(whole.ids)
    ids, fold = whole.ids[order], whole.fold[order]
    logits = np.full((len(everyone), len(ids), whole.logits.shape[1]), np.nan)
    for place, table in enumerate(tables):
        rows = np.minimum(np.searchsorted(ids, table.ids), len(ids) - 1)
        if not (np.array_equal(ids[rows], table.ids) and np.array_equal(fold[rows], table.fold)):
            raise Unknown("predictions-gone" if names[place][0] == record.name else "start-folds-differ")
        logits[place, rows] = table.logits
    search = Search(
        probabilities(logits, not isinstance(record.tree["data"]["label"], str)),
        candidates=np.array(may),
        points=_points(everyone),
        parents=np.array([names.index(one.start) if one.start in names else -1 for one in everyone]),
    )
    studies = tuple(dict.fromkeys(name for name, _ in names))
    return Competition(ids, whole.y[order], whole.groups[order], fold, search, len(everyone), studies)


def _own(home: Home, record: StudyRecord) -> Iterator[Competitor]:
    """The trials of one study that were trained for at least one fold, by number."""
    for trial in read_trials(home, record.name):
        trained = trial.state in ("complete", "pruned") and trial.same_as is None and bool(trial.fold_values)
        if trained and is_done(home.fold(record.name, trial.run_id, 0)):
            tree = flatten(fill(record.tree, trial.params))
            yield Competitor(record, trial, tree, None)
        elif trained:
            raise Unknown("predictions-gone")


def _competitors(home: Home, record: StudyRecord, only: int | None, known: set[str]) -> Iterator[Competitor]:
    """The trials of a study, or one of them, after those of the studies that they started from."""
    known.add(record.name)
    own, starts = [one for one in _own(home, record) if only is None or one.trial.number == only], []
    for one in own:
        weights = pinned(str(_value(one, record, "model.weights")), str(_value(one, record, "model.backbone")), record)
        start = _start(home, record, weights) if kind_of(weights) == "study" else None
        starts.append(start)
        if start is not None and start[0] not in known:
            earlier = read_study(home, start[0])
            assert earlier is not None
            try:
                yield from _competitors(home, earlier, None, known)
            except Unknown as why:
                raise Unknown("start-predictions-gone" if why.reason == "predictions-gone" else why.reason) from None
    for one, start in zip(own, starts, strict=True):
        yield Competitor(record, one.trial, one.tree, start)


def _value(one: Competitor, record: StudyRecord, key: str) -> Any:
    """A key's value in a trial; the study's default where the trial does not have the range."""
    value = one.tree.get(key)
    if value is None:
        value = flatten(check_study(record.tree, record.name).fill(one.trial.params))[key]
    return value


def _start(home: Home, record: StudyRecord, weights: str) -> tuple[str, int] | None:
    """The trial of an earlier study that `weights` (study:NAME/7) names; None where that study had other patients, so
    that choosing its best did not look at these. Raises Unknown."""
    name, _, number = weights.removeprefix(PREFIX).partition("/")
    earlier = read_study(home, name)
    if earlier is None:
        raise Unknown("start-study-gone")
    if earlier.data_hash != record.data_hash:
        return None  # search.start let it begin only where no image and no group is in both
    if earlier.folds_hash != record.folds_hash:
        raise Unknown("start-folds-differ")
    if not number or int(number) not in [trial.number for trial in read_trials(home, name)]:
        raise Unknown("start-trial-gone")
    return name, int(number)


@dataclass(frozen=True)
class Table:
    """What a trial predicted on the rows of its finished folds."""

    ids: NDArray[np.str_]
    groups: NDArray[np.str_]
    fold: NDArray[np.int64]
    y: NDArray[np.int64]
    logits: Floats


def _predictions(home: Home, one: Competitor, own: bool) -> Table:
    """Raises Unknown where a file is gone."""
    gone = Unknown("predictions-gone" if own else "start-predictions-gone")
    k = one.study.tree["data"]["folds"]
    tables, folds, labels, logits = [], [], [], []
    for fold in range(k if one.trial.state == "complete" else min(k, len(one.trial.fold_values))):
        try:
            tables.append(pq.read_table(home.fold(one.study.name, one.trial.run_id, fold) / "predictions.parquet"))
        except OSError:
            raise gone from None
        y, predicted = from_column(tables[-1]["y"]), from_column(tables[-1]["logits"])
        if y is None or predicted is None:
            raise gone
        folds.append(np.full(len(y), fold, np.int64))
        labels.append(y)
        logits.append(predicted)
    ids, groups = [
        np.concatenate([np.asarray(table[name].to_pylist(), np.str_) for table in tables]) for name in ("id", "group")
    ]
    y = np.concatenate(labels).astype(np.int64)
    return Table(ids, groups, np.concatenate(folds), y, np.concatenate(logits))


def _points(everyone: list[Competitor]) -> Floats:
    """(M, D) where trials lie in the unit cube of all keys that one of their studies searched: numbers between the ends
    of their range (on the logarithm where it says so), options of a choice at distance 1 from each other."""
    space: Space = {}
    for one in {competitor.study.name: competitor for competitor in everyone}.values():
        space |= check_study(one.study.tree, one.study.name).space
    columns: list[list[float]] = []
    for name, range_ in space.items():
        if name == "model.weights":
            continue  # what a trial started from is known from its start
        values = [one.tree.get(name) if not isinstance(one.tree.get(name), list) else None for one in everyone]
        values = [one.trial.params.get(name, value) for one, value in zip(everyone, values, strict=True)]
        columns += _columns(range_, values)
    return np.array(columns).T if columns else np.zeros((len(everyone), 1))


def _columns(range_: Range, values: list[Any]) -> list[list[float]]:
    if isinstance(range_, Choice):
        side = float(np.sqrt(0.5))
        return [[side * (value == option) for value in values] for option in range_.options]
    ends = np.array([range_.low, range_.high], np.float64)
    numbers = [float(value) if isinstance(value, int | float) else float("nan") for value in values]
    placed = np.array(numbers)
    if range_.log:
        ends, placed = np.log(ends), np.log(np.maximum(placed, range_.low))
    width = float(ends[1] - ends[0])
    return [np.clip((placed - ends[0]) / width if width else placed * 0, 0.0, 1.0).tolist()]
