"""The driver of a study: have its points trained, remember everything, decide what goes on and what stops.

Order of writing at the end of a trial: artifacts with DONE, the ledger, the source of points (Optuna), MLflow. Each
later one can be made again from the earlier ones, so that a crash between any two is mended by the next run of the
same command. An engine trains: in this process, in others, on other machines. Only the driver writes ledger and stores.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.data.prepare import Prepared
from harness.errors import HarnessError
from harness.events import EpochDone, FoldDone, Listener, StudyEnded, StudyStarted, TrialEnded, TrialStarted
from harness.home import Home, is_done
from harness.ledger import StudyRecord, audit_tags, is_optimistic, read_trials, write_study, write_trial
from harness.metrics import METRICS
from harness.records import ENDED, TrialRecord, TrialResult
from harness.search.best import best_trial
from harness.search.objective import Boss, Outcome, Task
from harness.search.points import Point, Source
from harness.search.pruning import should_stop
from harness.search.start import start_files
from harness.stats.optimism import best_corrected
from harness.study.load import Study
from harness.study.space import flatten
from harness.train.crossval import pooled_predictions

if TYPE_CHECKING:
    pass

NextTask = Callable[[], Task | None]
OnOutcome = Callable[[Outcome], None]
Engine = Callable[[NextTask, Boss, OnOutcome], None]
"""engine(next_task, boss, on_outcome): trains tasks until there is no next one, reports to the boss while they run, and
says how each ended. `next_task` may have one again after an outcome: the engine asks then, too."""

MAX_DEATHS = 3
"""a trial whose worker dies this many times without finishing an epoch in between is failed"""


class Driver:
    """One run of a study. Holds the open stores and what is known of the trials; also the boss of running trials."""

    def __init__(
        self, study: Study, home: Home, data: Prepared, record: StudyRecord, source: Source, listener: Listener
    ) -> None:
        from harness.track.mlflow_runs import Tracking, commit
        from harness.track.views import study_tags

        self.study, self.home, self.data, self.listener = study, home, data, listener
        self.record, self.source = record, source
        self.search = study.spec.search
        self.higher = METRICS[self.search.metric].higher_is_better
        self.records = {record.number: record for record in read_trials(home, study.name)}
        self.tracking: Tracking = Tracking(home, study.name, study.spec.description)
        self.tracking.tag_study(study_tags(self.search.metric, list(study.space), is_optimistic(study.tree)))
        self.points: dict[int, Point] = {}
        """of the trials that have begun and not ended"""
        self.waiting: list[Point] = []
        """those of them that no worker trains"""
        self.folds: dict[int, list[float]] = {}
        self.seconds: dict[int, float] = {}
        self.deaths: dict[int, int] = {}
        self.trained = 0
        self.failures = 0
        self.deadline = time.monotonic() + 60 * (self.search.timeout_minutes or float("inf"))
        self.commit = commit()

    def run(self, engine: Engine, devices: list[str], jobs: int) -> StudyRecord:
        """Have everything trained that is missing. Raises HarnessError when too many trials fail."""
        write_study(self.home, self.record)
        self._mend()
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
            )
        )
        try:
            engine(self._next, self, self._ended)
        except KeyboardInterrupt:
            self._close("interrupted")
            raise
        except BaseException:
            self._close("failed")
            raise
        left = self.source.total - self._count_ended()
        complete = any(record.state == "complete" for record in self.records.values())
        broken = self.failures >= self.search.max_failures or not (left or complete)
        state = "failed" if broken else "interrupted" if left else "complete"
        self._close(state, self._corrected() if complete else None)
        if broken:
            reasons = "\n  ".join(f"trial {r.number}: {r.reason}" for r in self.records.values() if r.state == "failed")
            raise HarnessError(
                f"study {self.study.name!r} stopped: {self.failures} trials in a row failed.\n  {reasons}\n"
                f"Mend the cause and go on with: harness study resume {self.study.name}"
            )
        return self.record

    def epoch(self, event: EpochDone) -> bool:
        self.tracking.log_epoch(self.records[event.trial].run_id, event.report, self.search.metric)
        self.seconds[event.trial] += event.report.seconds
        self.deaths[event.trial] = 0
        self.listener(event)
        return True

    def fold(self, event: FoldDone) -> bool:
        values = self.folds[event.trial]
        values.append(event.value)
        self.source.fold(event.trial, event.fold, event.value)
        self.listener(event)
        complete = [record for record in self.records.values() if record.state == "complete"]
        return not should_stop(self.search, values, self.data.folds.k, complete, self.higher)

    def _count_ended(self) -> int:
        return sum(record.state in ENDED for record in self.records.values())

    def _mend(self) -> None:
        """Bring the stores up to what the ledger knows, and line up the trials that were cut off."""
        unfinished = self.tracking.unfinished()
        for record in self.records.values():
            if record.state in ENDED and record.run_id in unfinished:
                self.tracking.finish_trial(record.run_id, record.state, record.reason, _scores(record))
        self.waiting = self.source.begun(self.records)
        self.points = {point.number: point for point in self.waiting}

    def _next(self) -> Task | None:
        """The next trial to train: one that was cut off first, then a new one, or None."""
        if self.waiting:
            return self._task(self.waiting.pop(0))
        if time.monotonic() > self.deadline or self.failures >= self.search.max_failures:
            return None
        point = self.source.next()
        if point is None:
            return None
        self.points[point.number] = point
        return self._task(point)

    def _task(self, point: Point) -> Task:
        number, tree = point.number, point.tree
        weights = self.record.starts.get(tree["model"]["weights"], tree["model"]["weights"])
        start = start_files(weights, self.home, self.data)
        precision = self.record.precision[tree["model"]["backbone"]]
        record = self.records.get(number)
        if record is None:
            tags = {
                "harness.state": "running",
                "harness.spec_hash": self.record.spec_hash,
                "harness.data_hash": self.record.data_hash,
                "harness.folds_hash": self.record.folds_hash,
                "harness.commit": self.commit,
                "harness.precision": precision,
                **audit_tags(self.record),
            }
            optimistic = is_optimistic(tree)
            tags |= {"harness.optimistic": "true"} if optimistic else {}
            tags |= {"harness.start": weights} if start else {}
            run_id = self.tracking.start_trial(number, tags, flatten(tree))
            record = TrialRecord(number, "running", point.params, run_id, optimistic=optimistic)
            write_trial(self.home, self.study.name, record)
        self.records[number], self.folds[number], self.seconds[number] = record, [], 0.0
        artifacts = self.home.run_artifacts(self.study.name, record.run_id)
        artifacts.mkdir(parents=True, exist_ok=True)
        finished = [fold for fold in range(self.data.folds.k) if is_done(artifacts / f"fold_{fold}")]
        self.listener(TrialStarted(number, point.params, len(finished)))
        running = self.home.trial_state(self.study.name, number)
        return Task(number, tree, self.study.name, artifacts, running, precision, self.search.metric, start)

    def _ended(self, outcome: Outcome) -> None:
        """Write down how a trial ended: artifacts, ledger, source of points, MLflow, in this order."""
        number, state = outcome.number, outcome.state
        if state == "died":
            self.deaths[number] = self.deaths.get(number, 0) + 1
            if self.deaths[number] < MAX_DEATHS:
                self.waiting.append(self.points[number])
                return
            state = "failed"
        record = replace(
            self.records[number],
            state=state,
            reason=outcome.reason,
            fold_values=self.folds.pop(number),
            seconds=self.seconds.pop(number),
        )
        result = outcome.result
        if result is not None:
            record = replace(record, cv=result.cv, cv_se=result.cv_se, oof=result.oof, seconds=result.seconds)
            done = self.home.run_artifacts(self.study.name, record.run_id) / "DONE"
            done.touch()
        write_trial(self.home, self.study.name, record)
        self.records[number] = record
        self.source.ended(record)
        self.tracking.finish_trial(record.run_id, record.state, record.reason, result)
        del self.points[number]
        self.trained += 1
        self.failures = self.failures + 1 if record.state == "failed" else 0
        self.listener(TrialEnded(record, best_trial(list(self.records.values()), self.search.metric)))

    def _close(self, state: str, corrected: dict[str, float | None] | None = None) -> None:
        self.record = replace(self.record, state=state, finished=time.time(), corrected=corrected)
        write_study(self.home, self.record)
        self.listener(StudyEnded(self.study.name, state, self.trained))

    def _corrected(self) -> dict[str, float | None]:
        """The best trial's score, corrected for having been chosen among the complete ones."""
        complete = [record for record in self.records.values() if record.state == "complete"]
        folders = [self.home.run_artifacts(self.study.name, record.run_id) for record in complete]
        rows, p = pooled_predictions(folders, self.data)
        dataset = self.data.dataset
        return vars(best_corrected(self.search.metric, dataset.y[rows], p, dataset.groups[rows], self.study.spec.seed))


def _scores(record: TrialRecord) -> TrialResult | None:
    if record.state != "complete":
        return None
    return TrialResult([], record.cv, record.cv_se, record.oof, record.seconds)
