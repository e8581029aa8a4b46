"""What a driver writes about its trials as they go: ledger and epoch logs at once, MLflow whenever that answers.

A trial that starts while MLflow is away works in a folder `pending-0007` and is adopted once it has ended and its run
is complete: first the ledger gets the run's id, then the folder gets its name. A crash between any two steps is mended
by the next start.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from harness.config.load import Study
from harness.store.files import read_json, sweep, write_json
from harness.store.home import Home
from harness.store.records import (
    LoggedEpoch,
    append_epoch,
    is_optimistic,
    parse_report,
    read_epochs,
    read_trials,
    write_trial,
)
from harness.track.mirror import Mirror
from harness.track.mlflow_runs import StoreAway, Tracking
from harness.track.views import study_tags
from harness.types import ENDED, EpochReport, Listener, Notice, TrialRecord


def pending_id(number: int) -> str:
    """Stands for a run's id until MLflow has given one."""
    return f"pending-{number:04d}"


class Tracked:
    """One study's trials on disk and in MLflow. `records` is the driver's; what is adopted here changes there."""

    def __init__(
        self,
        home: Home,
        study: str,
        metric: str,
        connect: Callable[[], Tracking],
        records: dict[int, TrialRecord],
        listener: Listener,
        needed: bool,
    ) -> None:
        """Raises HarnessError when MLflow does not answer and is `needed`: for a study that has never run."""
        self._home, self._study, self._records, self._listener = home, study, records, listener
        self._times: dict[int, dict[tuple[int, int], float]] = {}
        try:
            tracking = connect()
        except StoreAway:
            if needed:
                raise
            tracking = None
        self._mirror = Mirror(connect, tracking, metric)
        self._mend()
        self.look()

    def begin(self, record: TrialRecord, tags: dict[str, str], columns: dict[str, Any], fresh: bool) -> TrialRecord:
        """The record of a trial that starts, with its run's id. `columns`: its whole spec, flat; `fresh`: no crash has
        met it before."""
        number = record.number
        run_id = self._mirror.begin(number, tags, columns, fresh)
        if run_id is None:
            write_json(self._home.pending_run(self._study, number), {"tags": tags, "params": columns})
            run_id = pending_id(number)
        record = replace(record, run_id=run_id, logged=False)
        self._times[number] = {}
        self.write(record)
        self.look()
        return record

    def go_on(self, number: int) -> None:
        """Follow a trial of which an earlier process has trained a part."""
        if number not in self._times:
            self._follow(self._records[number])

    def epoch(self, number: int, report: EpochReport, at: float | None = None) -> None:
        """Write an epoch down. One that was trained again after a crash keeps the time of its first training."""
        at = self._times[number].setdefault((report.fold, report.epoch), time.time() if at is None else at)
        append_epoch(self._home, self._study, number, LoggedEpoch(at, report))
        self._mirror.epoch(number, LoggedEpoch(at, report))
        self.look()

    def fold(self, number: int, fold: int) -> None:
        """Epochs of a finished fold that its history has and the log has not: a crash came before they were told.

        They get the time of the next one that was, so that a curve never goes back in time.
        """
        record, times = self._records[number], self._times[number]
        history = read_json(self._home.fold(self._study, record.run_id, fold) / "history.json")
        untold: list[tuple[EpochReport, float]] = []
        later = time.time()
        for entry in reversed(history["epochs"]):
            later = times.get((fold, entry["epoch"]), later)
            if (fold, entry["epoch"]) not in times:
                untold.insert(0, (parse_report(entry), later))
        for report, at in untold:
            self.epoch(number, report, at)

    def write(self, record: TrialRecord) -> None:
        write_trial(self._home, self._study, record)
        self._records[record.number] = record

    def ended(self, record: TrialRecord) -> None:
        """The ledger knows how a trial ended: now MLflow may."""
        self._mirror.ended(record)
        self.look()

    def look(self) -> None:
        """Tell the audience about MLflow; adopt the trials that it has all of. Never waits."""
        for line in self._mirror.news():
            self._listener(Notice(line))
        for number, run_id in self._mirror.done():
            self.write(replace(self._records[number], run_id=run_id, logged=True))
            self._finish_adoption(number)

    def close(self, seconds: float) -> None:
        """Wait a little for MLflow to take what is left, and say what it lacks."""
        self._mirror.close(seconds)
        self.look()
        missing = sorted(r.number for r in self._records.values() if r.state in ENDED and not r.logged)
        if missing:
            numbers = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
            self._listener(
                Notice(
                    f"MLflow lacks all or part of {len(missing)} ended trials ({numbers}); everything is on disk. "
                    f"Once MLflow answers, type: harness study resume {self._study}"
                )
            )

    def _mend(self) -> None:
        """Finish what a crash cut off, and line up the ended trials that MLflow does not have all of."""
        sweep(self._home.work(self._study))
        sweep(self._home.work(self._study) / "trials")
        sweep(self._home.work(self._study) / "pending")
        for number, record in self._records.items():
            self._finish_adoption(number)
            if record.state in ENDED and not record.logged:
                self._follow(record)

    def _follow(self, record: TrialRecord) -> None:
        number = record.number
        epochs = read_epochs(self._home, self._study, number)
        self._times[number] = {(one.report.fold, one.report.epoch): one.at for one in epochs}
        pending = self._home.pending_run(self._study, number)
        run = read_json(pending) if pending.exists() else {"tags": {}, "params": {}}
        run_id = None if record.run_id == pending_id(number) else record.run_id
        ended = record if record.state in ENDED else None
        self._mirror.follow(number, run_id, run["tags"], run["params"], epochs, ended)

    def _finish_adoption(self, number: int) -> None:
        """Give a trial's folder the name that the ledger knows it by."""
        record = self._records[number]
        if record.run_id == pending_id(number):
            return
        folder = self._home.study_artifacts(self._study)
        if (folder / pending_id(number)).exists():
            (folder / pending_id(number)).rename(folder / record.run_id)
        self._home.pending_run(self._study, number).unlink(missing_ok=True)


def open_tracking(home: Home, study: Study) -> Tracking:
    """The study's experiment, with the views of its page. Raises StoreAway where MLflow does not answer."""
    tracking = Tracking(home, study.name, study.spec.description)
    tracking.tag_study(study_tags(study.spec.search.metric, list(study.space), is_optimistic(study.tree)))
    return tracking


def send_missing(home: Home, study: Study, listener: Listener, seconds: float) -> None:
    """Send what MLflow lacks of a finished study. Where it lacks nothing, nothing is opened."""
    records = {record.number: record for record in read_trials(home, study.name)}
    if not all(record.logged for record in records.values()):
        connect = partial(open_tracking, home, study)
        Tracked(home, study.name, study.spec.search.metric, connect, records, listener, needed=False).close(seconds)
