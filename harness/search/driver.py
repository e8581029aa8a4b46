"""Hands out the trials of a study, writes down what they give, stops or goes on.

The driver of a study: have its points trained, remember everything, decide what goes on and what stops.

Order of writing at the end of a trial: artifacts with DONE, the ledger, the source of points (Optuna), MLflow. Each
later one can be made again from the earlier ones, so that a crash between any two is mended by the next run of the
same command. An engine trains: in this process, in others, on other machines. Only the driver writes ledger and stores.

Where the points of a study come from: a proposer that learns from scores, or a list made beforehand.

Configurations that a study meets again are answered with what they came to, not trained a second time. Same
configuration means the same spec of the trial, whole, with defaults where ranges do not stand. A failed trial answers
nothing: the same point is tried again.

What a study says when there is no room left to write: what is full, how much is needed, how to go on.
"""

import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from harness.config.load import Study, spec_hash
from harness.config.space import flatten
from harness.config.spec import is_infeasible
from harness.data.prepare import Prepared
from harness.errors import DiskFull, HarnessError
from harness.search.corrected import corrected_best
from harness.search.pruners import Referee
from harness.search.status import beating
from harness.search.trial import Boss, Outcome, Task
from harness.search.warm_start import pinned, start_files
from harness.store.files import is_disk_full, is_done, sweep
from harness.store.home import Home
from harness.store.records import (
    StudyRecord,
    audit_tags,
    best_trial,
    is_optimistic,
    read_study,
    read_trials,
    write_study,
)
from harness.track.mlflow_sync import Tracked, open_tracking
from harness.types import (
    ENDED,
    EpochDone,
    Estimate,
    FoldDone,
    Listener,
    Notice,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialRecord,
    TrialStarted,
)


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


NextTask = Callable[[], Task | None]
OnOutcome = Callable[[Outcome], None]
Engine = Callable[[NextTask, Boss, OnOutcome], None]
"""engine(next_task, boss, on_outcome): trains tasks until there is no next one, reports to the boss while they run, and
says how each ended. `next_task` may have one again after an outcome: the engine asks then, too."""

MAX_DEATHS = 3
"""a trial whose worker dies this many times without finishing an epoch in between is failed"""
TOO_MUCH = "Too little memory is the usual cause: fewer --jobs, a smaller train.batch_size or data.decode.size."
CLOSE_SECONDS, INTERRUPTED_SECONDS = 30.0, 5.0
"""how long the end of a study waits for MLflow to take what is left"""


class TooManyFailures(HarnessError):
    """Trials failed one after the other; the study's record says so."""


class Driver:
    """One run of a study. Holds the open stores and what is known of the trials; also the boss of running trials."""

    def __init__(
        self, study: Study, home: Home, data: Prepared, record: StudyRecord, source: Source, listener: Listener
    ) -> None:
        from harness.hardware import commit

        self.study, self.home, self.data, self.listener = study, home, data, listener
        self.record, self.source = record, source
        self.search = study.spec.search
        self.records = {record.number: record for record in read_trials(home, study.name)}
        new = read_study(home, study.name) is None
        connect = partial(open_tracking, home, study)
        self.tracked = Tracked(home, study.name, self.search.metric, connect, self.records, listener, needed=new)
        self.points: dict[int, Point] = {}
        """of the trials that have begun and not ended"""
        self.waiting: list[Point] = []
        """those of them that no worker trains"""
        self.cut_off: frozenset[int] = frozenset()
        """numbers of trials that an earlier process began"""
        self.held: list[Point] = []
        """those that mean the same configuration as a running one"""
        self.folds: dict[int, list[float]] = {}
        self.seconds: dict[int, float] = {}
        self.deaths: dict[int, int] = {}
        ended = [record for record in self.records.values() if record.state in ENDED]
        self.referee = Referee(home, study.name, self.search, data.folds.k, ended)
        self.trained = 0
        self.failures = 0
        self.began, self.spent = time.monotonic(), record.spent
        self.reasons: dict[int, str] = {}
        """why a running trial was told to stop"""
        self.commit = commit()

    def run(self, engine: Engine, devices: list[str], jobs: int) -> StudyRecord:
        """Have everything trained that is missing. Raises HarnessError when too many trials fail, DiskFull."""
        with beating(self.home, self.study.name, jobs):
            try:
                write_study(self.home, self.record)
                self.waiting = self.source.begun(self.records)
                self.points = {point.number: point for point in self.waiting}
                self.cut_off = frozenset(self.points)
                self._announce(devices, jobs)
                engine(self._next, self, self._ended)
                return self._finish()
            except KeyboardInterrupt:
                self._close("interrupted", wait=INTERRUPTED_SECONDS)
                raise
            except TooManyFailures:
                raise
            except BaseException as error:
                if not is_disk_full(error):
                    self._close("failed")
                    raise
                with suppress(OSError):  # what cannot be written now is made again from the rest
                    self._close("interrupted", wait=0)
                raise full_disk(self.home, self.study.name, len(self.points) or 1) from error

    def _finish(self) -> StudyRecord:
        left = self.source.total - self._count_ended()
        complete = any(record.state == "complete" for record in self.records.values())
        broken = self.failures >= self.search.max_failures or not (left or complete)
        state = "failed" if broken else "interrupted" if left else "complete"
        self._close(state, self._corrected() if complete and not self.record.ablates else None)
        if broken:
            reasons = "\n  ".join(f"trial {r.number}: {r.reason}" for r in self.records.values() if r.reason)
            what = f"{self.failures} trials in a row failed" if self.failures else "no trial was completed"
            raise TooManyFailures(
                f"study {self.study.name!r} stopped: {what}.\n  {reasons}\n"
                f"Mend the cause and go on with: harness study resume {self.study.name}"
            )
        return self.record

    def _announce(self, devices: list[str], jobs: int) -> None:
        self.listener(
            StudyStarted(
                self.study.name,
                self.source.total,
                self._count_ended(),
                tuple(point.number for point in self.waiting),
                self.search.metric,
                ",".join(devices),
                jobs,
                self.record.precision,
                tuple(record for record in self.records.values() if record.state in ENDED),
                best_trial(list(self.records.values()), self.search.metric),
            )
        )

    def epoch(self, event: EpochDone) -> bool:
        self.tracked.epoch(event.trial, event.report)
        self.seconds[event.trial] += event.report.seconds
        self.deaths[event.trial] = 0
        self.listener(event)
        limit = self.search.trial_minutes
        if limit is not None and self.seconds[event.trial] > 60 * limit:
            return self._goes_on(event.trial, f"it trained for longer than search.trial_minutes: {limit:g}")
        return self._goes_on(event.trial, self.referee.after_epoch(event.report))

    def fold(self, event: FoldDone) -> bool:
        self.tracked.fold(event.trial, event.fold)
        values = self.folds[event.trial]
        values.append(event.value)
        self.source.fold(event.trial, event.fold, event.value)
        self.listener(event)
        return self._goes_on(event.trial, self.referee.after_fold(values))

    def _goes_on(self, trial: int, why_not: str) -> bool:
        if why_not:
            self.reasons[trial] = why_not
        return not why_not

    def _count_ended(self) -> int:
        return sum(record.state in ENDED for record in self.records.values())

    def _next(self) -> Task | None:
        """The next trial to train: one that was cut off first, then a new one, or None. A configuration that has
        ended before is answered from the ledger; one that runs right now waits for that."""
        while (point := self._next_point()) is not None:
            ended, running = twins(point, self.records.values(), self.points.values())
            if ended is not None:
                self._copy(point, ended)
            elif running is not None:
                self.held.append(point)
            else:
                return self._task(point)
        return None

    def _next_point(self) -> Point | None:
        if self.waiting:
            return self.waiting.pop(0)
        late = self._total_spent() > 60 * (self.search.timeout_minutes or float("inf"))
        if late or self.failures >= self.search.max_failures:
            return None
        point = self.source.next()
        if point is not None:
            self.points[point.number] = point
        return point

    def _total_spent(self) -> float:
        """Seconds over all runs of the study."""
        return self.spent + time.monotonic() - self.began

    def _task(self, point: Point) -> Task:
        number, tree = point.number, point.tree
        backbone = tree["model"]["backbone"]
        precision = self.record.precision[backbone]
        weights = pinned(tree["model"]["weights"], backbone, self.record)
        start = start_files(weights, backbone, self.home, self.data)
        tags = {"harness.start": weights} if start else {}
        record = self._begin(point, {"harness.precision": precision, **tags})
        self.folds[number], self.seconds[number] = [], 0.0
        artifacts = self.home.run_artifacts(self.study.name, record.run_id)
        artifacts.mkdir(parents=True, exist_ok=True)
        sweep(artifacts)
        finished = [fold for fold in range(self.data.folds.k) if is_done(artifacts / f"fold_{fold}")]
        self.listener(TrialStarted(number, point.params, len(finished)))
        running = self.home.trial_state(self.study.name, number)
        return Task(number, tree, self.study.name, artifacts, running, precision, self.search.metric, start)

    def _begin(self, point: Point, tags: dict[str, str]) -> TrialRecord:
        """The trial's record, made with its MLflow run when it has none."""
        number = point.number
        if number in self.records:
            self.tracked.go_on(number)
            return self.records[number]
        optimistic = is_optimistic(point.tree)
        tags = {
            "harness.state": "running",
            "harness.spec_hash": self.record.spec_hash,
            "harness.data_hash": self.record.data_hash,
            "harness.folds_hash": self.record.folds_hash,
            "harness.commit": self.commit,
            **audit_tags(self.record),
            **({"harness.optimistic": "true"} if optimistic else {}),
            **tags,
        }
        record = TrialRecord(
            number, "running", point.params, "", optimistic=optimistic, tree_hash=spec_hash(point.tree)
        )
        return self.tracked.begin(record, tags, flatten(point.tree), fresh=number not in self.cut_off)

    def _copy(self, point: Point, original: TrialRecord) -> None:
        """Answer a point with what an equal one came to."""
        own = self._begin(point, {"harness.same_as": str(original.number)})
        record = replace(copy_of(original, own), ended=time.time())
        self._settle(record)
        self.listener(TrialEnded(record, best_trial(list(self.records.values()), self.search.metric)))

    def _settle(self, record: TrialRecord) -> None:
        """Write down how a trial ended: ledger, source of points, MLflow, in this order."""
        self.tracked.write(record)
        self.source.ended(record)
        self.tracked.ended(record)
        shutil.rmtree(self.home.trial_state(self.study.name, record.number), ignore_errors=True)
        del self.points[record.number]
        self.waiting, self.held = self.held + self.waiting, []
        self.record = replace(self.record, spent=self._total_spent())
        write_study(self.home, self.record)

    def _ended(self, outcome: Outcome) -> None:
        """Write down how a trial ended: artifacts with DONE, then the stores."""
        number, state, reason = outcome.number, outcome.state, outcome.reason
        if state == "died":
            if not self._is_given_up(outcome):
                self.waiting.append(self.points[number])
                return
            state, reason = "failed", f"{reason}, {MAX_DEATHS} times without finishing an epoch in between. {TOO_MUCH}"
        record = replace(
            self.records[number],
            state=state,
            reason=self.reasons.pop(number, reason) if state == "pruned" else reason,
            costs=outcome.costs,
            infeasible=is_infeasible(self.search, outcome.costs),
            fold_values=self.folds.pop(number),
            seconds=self.seconds.pop(number),
            ended=time.time(),
        )
        result = outcome.result
        if result is not None:
            record = replace(record, cv=result.cv, cv_se=result.cv_se, oof=result.oof, seconds=result.seconds)
            record = replace(record, files=result.files, notes=result.notes)
            record = replace(record, reason=result.undefined.get(self.search.metric, record.reason))
            done = self.home.run_artifacts(self.study.name, record.run_id) / "DONE"
            done.touch()
        self._settle(record)
        self.referee.ended(record)
        self.home.trial_state(self.study.name, number).with_suffix(".lock").unlink(missing_ok=True)
        self.trained += 1
        self.failures = self.failures + 1 if record.state == "failed" else 0
        self.listener(TrialEnded(record, best_trial(list(self.records.values()), self.search.metric)))

    def _is_given_up(self, outcome: Outcome) -> bool:
        """Count a death of what trained a trial, and tell. Whether there have been too many in a row."""
        number = outcome.number
        self.deaths[number] = self.deaths.get(number, 0) + 1
        self.tracked.write(replace(self.records[number], deaths=self.records[number].deaths + 1))
        again = self.deaths[number] < MAX_DEATHS
        how = "goes on at its last finished epoch" if again else "is given up"
        self.listener(Notice(f"trial {number}: {outcome.reason}; it {how}"))
        return not again

    def _close(self, state: str, corrected: dict[str, Any] | None = None, wait: float = CLOSE_SECONDS) -> None:
        spent = self._total_spent()
        self.record = replace(self.record, state=state, finished=time.time(), corrected=corrected, spent=spent)
        try:
            write_study(self.home, self.record)
        finally:
            self.tracked.close(wait)
        self.listener(StudyEnded(self.study.name, state, self.trained, spent, self._estimate()))

    def _estimate(self) -> Estimate | None:
        """What was estimated for just these trials, to be held against what they took."""
        found = self.record.estimate
        return Estimate(**found) if found and found["trials"] == self.source.total else None

    def _corrected(self) -> dict[str, Any]:
        """The best trial's score, corrected for having been chosen among all that competed."""
        return corrected_best(self.home, self.record)


def full_disk(home: Home, study: str, running: int) -> DiskFull:
    """`running`: trials that were cut off, each of which wants as much room as the largest trial so far."""
    free = shutil.disk_usage(home.root).free
    trials = home.study_artifacts(study).glob("*/artifacts")
    states = (home.work(study) / "running").glob("trial-*")
    trial = max((_size(folder) for folder in trials), default=0)
    state = max((_size(folder) for folder in states if folder.is_dir()), default=0)
    need = running * (trial + 2 * state)  # a state is written beside the one that it replaces
    wanted = f" The trials that were cut off need about {_megabytes(need)} more, each further one {_megabytes(trial)}."
    return DiskFull(
        f"no room is left to write in {home.root} ({_megabytes(free)} free): study {study!r} stopped. "
        f"What was finished is kept, to the last epoch that was written.{wanted if need else ''} "
        f"Free some space and type: harness study resume {study}"
    )


def disk_needed(parameters: int, k: int, trials: int) -> int:
    """Bytes for the checkpoints of trials with k folds, and for one resume state with the optimiser."""
    return 4 * parameters * (k * trials + 4)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"
