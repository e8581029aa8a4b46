"""One-way export to MLflow while a study runs.

MLflow shows what the ledger and the epoch logs say; a thread keeps it up to date, and nobody ever waits for it.

What was not sent yet stays in memory, and on disk anyway. While the store does not answer it is asked again now and
then; points carry the time of their epoch, so that sending twice changes nothing. Only this thread talks to the store.

What a driver writes about its trials as they go: ledger and epoch logs at once, MLflow whenever that answers.

A trial that starts while MLflow is away works in a folder `pending-0007` and is adopted once it has ended and its run
is complete: first the ledger gets the run's id, then the folder gets its name. A crash between any two steps is mended
by the next start.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
from harness.track.mlflow_store import StoreAway, Tracking, is_refusal, study_tags
from harness.types import ENDED, EpochReport, Listener, Notice, TrialRecord

FLUSH_SECONDS = 5.0
"""learning curves reach the store after this time, ends of trials at once"""
START_SECONDS = 5.0
"""how long the start of a trial waits for the id of its run before it begins without one"""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""seconds before a store that did not answer is asked again: the double each time, up to the longest"""


@dataclass
class _Trial:
    number: int
    run_id: str | None
    tags: dict[str, str]
    params: dict[str, Any]
    fresh: bool
    """whether the store cannot have a run of it yet"""
    epochs: list[LoggedEpoch] = field(default_factory=list)
    """as trained: one that was trained again after a crash is there twice, with one time"""
    sent: int = 0
    awaited: bool = False
    """whether somebody waits for the run's id"""
    record: TrialRecord | None = None
    """how it ended"""

    @property
    def images(self) -> int:
        """Training images seen, each epoch counted once."""
        return sum({(one.report.fold, one.report.epoch): one.report.images for one in self.epochs}.values())

    @property
    def behind(self) -> bool:
        return self.run_id is None or self.sent < len(self.epochs) or self.record is not None


class Mirror:
    """The trials of one study that MLflow does not have all of yet.

    `connect` opens the store and raises where that does not answer. `tracking`: the open store, or None where it was
    away already. Call everything from one thread.
    """

    def __init__(self, connect: Callable[[], Tracking], tracking: Tracking | None, metric: str) -> None:
        self._connect, self._tracking, self._metric = connect, tracking, metric
        self._trials: dict[int, _Trial] = {}
        self._news: list[str] = []
        self._done: list[tuple[int, str]] = []
        self._changed = threading.Condition()
        self._urgent = self._closing = False
        self._away = 0.0
        """since when the store has not answered, by the monotonic clock; 0: it does"""
        if tracking is None:
            self._gone("it did not answer when the study started")
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def begin(self, number: int, tags: dict[str, str], params: dict[str, Any], fresh: bool) -> str | None:
        """The id of the run of a trial that starts; None where the store gives none soon: it gets one later.

        `fresh`: nobody can have made a run for it yet.
        """
        trial = _Trial(number, None, tags, params, fresh, awaited=True)
        end = time.monotonic() + START_SECONDS
        with self._changed:
            self._trials[number] = trial
            self._urgent = True
            self._changed.notify_all()
            while trial.run_id is None and not self._away and number in self._trials:
                left = end - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            trial.awaited = False
            return trial.run_id

    def follow(
        self,
        number: int,
        run_id: str | None,
        tags: dict[str, str],
        params: dict[str, Any],
        epochs: Sequence[LoggedEpoch],
        record: TrialRecord | None = None,
    ) -> None:
        """A trial of an earlier process: one that goes on, or one that ended (`record`) and was not sent whole."""
        with self._changed:
            self._trials[number] = _Trial(number, run_id, tags, params, False, list(epochs), record=record)
            self._urgent |= record is not None
            self._changed.notify_all()

    def epoch(self, number: int, epoch: LoggedEpoch) -> None:
        with self._changed:
            if number in self._trials:  # else the store refused it
                self._trials[number].epochs.append(epoch)

    def ended(self, record: TrialRecord) -> None:
        with self._changed:
            if record.number in self._trials:
                self._trials[record.number].record = record
                self._urgent = True
                self._changed.notify_all()

    def news(self) -> list[str]:
        """Lines that a person should read since the last call: the store went away, or is back."""
        with self._changed:
            found, self._news = self._news, []
            return found

    def done(self) -> list[tuple[int, str]]:
        """Numbers and run ids of ended trials that the store has all of since the last call."""
        with self._changed:
            found, self._done = self._done, []
            return found

    def close(self, seconds: float) -> None:
        """Send what is left, for so long at most; a store that is away is asked once more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(seconds)

    def _work(self) -> None:
        wait = FIRST_WAIT
        while True:
            with self._changed:
                pause = wait if self._away else FLUSH_SECONDS
                self._changed.wait_for(
                    lambda: self._closing or (self._urgent and not self._away),
                    pause,
                )
                last, self._urgent = self._closing, False
            answered = self._send_all()
            wait = FIRST_WAIT if answered else min(2 * wait, LONGEST_WAIT)
            if last and (not answered or not self._left()):
                return

    def _left(self) -> bool:
        with self._changed:
            return any(trial.record is not None for trial in self._trials.values())

    def _send_all(self) -> bool:
        """One round over all trials that the store lacks something of. False: it did not answer."""
        tried: set[int] = set()
        while (trial := self._next(tried)) is not None:
            tried.add(trial.number)
            try:
                self._tracking = self._tracking or self._connect()
                self._send(self._tracking, trial)
            except Exception as error:  # whatever a store, its driver or the network may raise: training goes on
                if not is_refusal(error):
                    self._gone(_first_line(error))
                    return False
                self._drop(trial, f"MLflow refused trial {trial.number}: {_first_line(error)}. Its record is on disk.")
            else:
                self._back()
        return True

    def _next(self, tried: set[int]) -> _Trial | None:
        """A trial that somebody waits for comes first."""
        with self._changed:
            behind = [trial for trial in self._trials.values() if trial.behind and trial.number not in tried]
            return min(behind, key=lambda trial: (not trial.awaited, trial.number), default=None)

    def _send(self, tracking: Tracking, trial: _Trial) -> None:
        if trial.run_id is None:
            fresh, trial.fresh = trial.fresh, False
            found = None if fresh else tracking.find_trial(trial.number)
            if found is None:
                found = tracking.start_trial(trial.number, trial.tags, trial.params)
            elif trial.params:  # the crash may have come before them; the same values may be written again
                tracking.log_params(found, trial.params)
            with self._changed:
                trial.run_id = found
                self._changed.notify_all()
        with self._changed:
            epochs, record = trial.epochs[trial.sent :], trial.record
        if epochs:
            tracking.log_epochs(trial.run_id, epochs, self._metric)
            trial.sent += len(epochs)
        if record is not None:
            tracking.finish_trial(trial.run_id, record, trial.images)
            with self._changed:
                del self._trials[trial.number]
                self._done.append((trial.number, trial.run_id))

    def _drop(self, trial: _Trial, why: str) -> None:
        with self._changed:
            del self._trials[trial.number]
            self._news.append(why)
            self._changed.notify_all()

    def _gone(self, why: str) -> None:
        with self._changed:
            if not self._away:
                self._away = time.monotonic()
                self._news.append(
                    f"MLflow is away ({why}). Training goes on; everything is kept on disk and sent when it is back."
                )
            self._changed.notify_all()

    def _back(self) -> None:
        with self._changed:
            if self._away:
                seconds = time.monotonic() - self._away
                self._away = 0.0
                self._news.append(f"MLflow is back after {seconds:.0f} s; what it missed is being sent.")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


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
