"""Who tells running trials to stop: what pruning needs to know of earlier trials, kept ready for it.

It knows only what is on disk of trials that have ended, so that a study that was killed and resumed decides the same.
"""

from collections.abc import Iterable, Sequence

from harness.config.spec import Search
from harness.metrics import METRICS
from harness.search.pruning import stop_after_epoch, stop_after_folds
from harness.search.racing import Field, Runner, make_field
from harness.store.home import Home
from harness.store.records import read_epochs
from harness.types import EpochReport, TrialRecord, rank_value


class Referee:
    """Of one study with K folds. Trials that failed, and copies, say nothing about others."""

    def __init__(self, home: Home, study: str, search: Search, k: int, ended: Iterable[TrialRecord]) -> None:
        self._home, self._study, self._search, self._k = home, study, search, k
        self._sign = 1.0 if METRICS[search.metric].higher_is_better else -1.0
        self._past: list[Runner] = []
        self._field: Field | None = None
        for record in ended:
            self._add(record)
        self._field = make_field(self._past, k)

    def ended(self, record: TrialRecord) -> None:
        """A trial has ended: later ones are judged by it, too."""
        self._add(record)
        self._field = make_field(self._past, self._k)

    def after_epoch(self, report: EpochReport) -> str:
        """Why the trial stops; '' when it goes on."""
        if report.fold > 0:
            return ""
        value = self._sign * report.val[self._search.metric]
        return stop_after_epoch(self._search, value, report.epoch, report.epochs, self._field)

    def after_fold(self, values: Sequence[float]) -> str:
        """Why the trial stops after the folds with these scores; '' when it goes on."""
        return stop_after_folds(self._search, [self._sign * value for value in values], self._field)

    def _add(self, record: TrialRecord) -> None:
        says = record.state in ("complete", "pruned") and record.same_as is None and record.fold_values
        if self._search.pruner == "none" or not says:
            return
        metric, sign = self._search.metric, self._sign
        first = []
        if self._search.pruner == "race":
            epochs = read_epochs(self._home, self._study, record.number)
            first = [logged.report for logged in epochs if logged.report.fold == 0]
        self._past.append(
            Runner(
                record.number,
                folds=tuple(sign * value for value in record.fold_values),
                score=sign * rank_value(record, metric),
                curve=tuple(sign * report.val[metric] for report in first),
                epochs=first[-1].epochs if first else 0,
            )
        )
