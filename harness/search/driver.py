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
from harness.search.duplicates import copy_of, trained, twins
from harness.search.objective import Boss, Outcome, Task
from harness.search.points import Point, Source
from harness.search.pruning import should_stop
from harness.search.start import start_files
from harness.stats.optimism import best_corrected
from harness.study.load import Study, spec_hash
from harness.study.search import is_infeasible
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
        self.held: list[Point] = []
        """those that mean the same configuration as a running one"""
        self.folds: dict[int, list[float]] = {}
        self.seconds: dict[int, float] = {}
        self.deaths: dict[int, int] = {}
        self.trained = 0
        self.failures = 0
        self.began, self.spent = time.monotonic(), record.spent
        self.reasons: dict[int, str] = {}
        """why a running trial was told to stop, where that is not the pruner"""
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
        limit = self.search.trial_minutes
        if limit is not None and self.seconds[event.trial] > 60 * limit:
            self.reasons[event.trial] = f"it trained for longer than search.trial_minutes: {limit:g}"
            return False
        return True

    def fold(self, event: FoldDone) -> bool:
        values = self.folds[event.trial]
        values.append(event.value)
        self.source.fold(event.trial, event.fold, event.value)
        self.listener(event)
        complete = trained(self.records.values())
        return not should_stop(self.search, values, self.data.folds.k, complete, self.higher)

    def _count_ended(self) -> int:
        return sum(record.state in ENDED for record in self.records.values())

    def _mend(self) -> None:
        """Bring the stores up to what the ledger knows, and line up the trials that were cut off."""
        unfinished = self.tracking.unfinished()
        for record in self.records.values():
            if record.state in ENDED and record.run_id in unfinished:
                self.tracking.finish_trial(record.run_id, record.state, record.reason, _scores(record), record.costs)
        self.waiting = self.source.begun(self.records)
        self.points = {point.number: point for point in self.waiting}

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
        precision = self.record.precision[tree["model"]["backbone"]]
        weights = self.record.starts.get(tree["model"]["weights"], tree["model"]["weights"])
        start = start_files(weights, self.home, self.data)
        tags = {"harness.start": weights} if start else {}
        record = self._begin(point, {"harness.precision": precision, **tags})
        self.records[number], self.folds[number], self.seconds[number] = record, [], 0.0
        artifacts = self.home.run_artifacts(self.study.name, record.run_id)
        artifacts.mkdir(parents=True, exist_ok=True)
        finished = [fold for fold in range(self.data.folds.k) if is_done(artifacts / f"fold_{fold}")]
        self.listener(TrialStarted(number, point.params, len(finished)))
        running = self.home.trial_state(self.study.name, number)
        return Task(number, tree, self.study.name, artifacts, running, precision, self.search.metric, start)

    def _begin(self, point: Point, tags: dict[str, str]) -> TrialRecord:
        """The trial's record, made with its MLflow run when it has none."""
        record = self.records.get(point.number)
        if record is not None:
            return record
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
        run_id = self.tracking.start_trial(point.number, tags, flatten(point.tree))
        hash_ = spec_hash(point.tree)
        record = TrialRecord(point.number, "running", point.params, run_id, optimistic=optimistic, tree_hash=hash_)
        write_trial(self.home, self.study.name, record)
        return record

    def _copy(self, point: Point, original: TrialRecord) -> None:
        """Answer a point with what an equal one came to."""
        own = self._begin(point, {"harness.same_as": str(original.number)})
        record = copy_of(original, own)
        self._settle(record, _scores(record))
        self.listener(TrialEnded(record, best_trial(list(self.records.values()), self.search.metric)))

    def _settle(self, record: TrialRecord, result: TrialResult | None) -> None:
        """Write down how a trial ended: ledger, source of points, MLflow, in this order."""
        write_trial(self.home, self.study.name, record)
        self.records[record.number] = record
        self.source.ended(record)
        self.tracking.finish_trial(record.run_id, record.state, record.reason, result, record.costs)
        del self.points[record.number]
        self.waiting, self.held = self.held + self.waiting, []
        self.record = replace(self.record, spent=self._total_spent())
        write_study(self.home, self.record)

    def _ended(self, outcome: Outcome) -> None:
        """Write down how a trial ended: artifacts with DONE, then the stores."""
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
            reason=self.reasons.pop(number, outcome.reason) if state == "pruned" else outcome.reason,
            costs=outcome.costs,
            infeasible=is_infeasible(self.search, outcome.costs),
            fold_values=self.folds.pop(number),
            seconds=self.seconds.pop(number),
        )
        result = outcome.result
        if result is not None:
            record = replace(record, cv=result.cv, cv_se=result.cv_se, oof=result.oof, seconds=result.seconds)
            done = self.home.run_artifacts(self.study.name, record.run_id) / "DONE"
            done.touch()
        self._settle(record, result)
        self.trained += 1
        self.failures = self.failures + 1 if record.state == "failed" else 0
        self.listener(TrialEnded(record, best_trial(list(self.records.values()), self.search.metric)))

    def _close(self, state: str, corrected: dict[str, float | None] | None = None) -> None:
        spent = self._total_spent()
        self.record = replace(self.record, state=state, finished=time.time(), corrected=corrected, spent=spent)
        write_study(self.home, self.record)
        self.listener(StudyEnded(self.study.name, state, self.trained))

    def _corrected(self) -> dict[str, float | None]:
        """The best trial's score, corrected for having been chosen among the complete ones."""
        complete = trained(self.records.values())
        folders = [self.home.run_artifacts(self.study.name, record.run_id) for record in complete]
        rows, p = pooled_predictions(folders, self.data)
        dataset = self.data.dataset
        return vars(best_corrected(self.search.metric, dataset.y[rows], p, dataset.groups[rows], self.study.spec.seed))


def _scores(record: TrialRecord) -> TrialResult | None:
    if record.state != "complete":
        return None
    return TrialResult([], record.cv, record.cv_se, record.oof, record.seconds)
