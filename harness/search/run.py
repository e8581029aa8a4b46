"""The driver of a study: ask for points, have them trained, tell the results, remember everything.

Order of writing at the end of a trial: artifacts with DONE, the ledger, Optuna, MLflow. Each later one can be made
again from the earlier ones, so that a crash between any two is mended by the next run of the same command.
"""

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.data.audit import audit_hash, findings_to_json
from harness.data.prepare import Prepared, prepare
from harness.errors import HarnessError, RequestError
from harness.events import (
    DataReady,
    EpochDone,
    FoldDone,
    Listener,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialStarted,
    Working,
)
from harness.home import Home, is_done, lock
from harness.ledger import (
    StudyRecord,
    audit_tags,
    is_optimistic,
    read_study,
    read_trial,
    read_trials,
    write_study,
    write_trial,
)
from harness.metrics import METRICS
from harness.records import TrialRecord, TrialResult
from harness.search import checks
from harness.search.best import best_trial
from harness.search.grid import total_trials
from harness.search.objective import Outcome, Task
from harness.search.precisions import choose_precisions
from harness.search.pruning import should_stop
from harness.search.start import pin_start, start_files
from harness.search.workers import run_here, run_in_processes
from harness.stats.optimism import best_corrected
from harness.study.load import Study, spec_hash
from harness.study.space import fill, flatten
from harness.train.crossval import pooled_predictions
from harness.train.devices import parse_devices

if TYPE_CHECKING:
    import optuna


ENDED = ("complete", "pruned", "failed")


def run_study(study: Study, home: Home, jobs: int, device: str, listener: Listener) -> StudyRecord:
    """Run a study to its total number of trials, or go on with it where it stopped.

    Raises RequestError before anything is trained when the study, its data or its past do not fit, HarnessError when
    too many trials fail. On KeyboardInterrupt the running trial keeps its last finished epoch.
    """
    if jobs < 1:
        raise RequestError(f"--jobs {jobs}: write a number from 1 up.")
    chosen = parse_devices(device)
    checks.check_backbones(study, home)
    with lock(home.work(study.name) / "driver.lock", f"study {study.name}", wait_seconds=1):
        past = read_study(home, study.name)
        checks.check_same_spec(past, study)
        data = prepare(study.spec.data, study.spec.seed, home, lambda *step: listener(Working(*step)))
        checks.check_same_data(past, study, data)
        listener(_data_ready(data))
        done = sum(record.state in ENDED for record in read_trials(home, study.name))
        if past and past.state == "complete" and done >= total_trials(study.spec.search, study.space):
            past = replace(past, tree=study.tree, caches=list(data.caches))  # the same data may lie elsewhere now
            write_study(home, past)
            listener(StudyEnded(study.name, "complete", 0))
            return past
        checks.check_training(study, data.dataset.multilabel)
        parameters = checks.check_networks(study, home, data)
        checks.check_disk(study, home, parameters, total_trials(study.spec.search, study.space) - done)
        driver = Driver(study, home, data, past, jobs, chosen, listener)
        return driver.run()


def _data_ready(data: Prepared) -> DataReady:
    dataset = data.dataset
    return DataReady(
        rows=len(dataset.y),
        development=len(data.folds.development_rows()),
        test=len(data.folds.test_rows()),
        groups=len(set(dataset.groups.tolist())),
        classes=dataset.classes,
        counts=tuple(dataset.counts()),
        k=data.folds.k,
        warnings=tuple(finding.message for finding in data.findings),
    )


class Driver:
    """One run of a study. Holds the open stores and what is known of the trials; also the boss of running trials."""

    def __init__(
        self,
        study: Study,
        home: Home,
        data: Prepared,
        past: StudyRecord | None,
        jobs: int,
        devices: list[str],
        listener: Listener,
    ) -> None:
        from harness.search.storage import open_optuna
        from harness.track.mlflow_runs import Tracking, commit
        from harness.track.views import study_tags

        self.study, self.home, self.data, self.listener = study, home, data, listener
        self.search = study.spec.search
        self.jobs, self.devices = jobs, devices
        cores = os.cpu_count() or 1
        self.threads = max(1, cores // jobs) if jobs > 1 else cores
        self.total = total_trials(self.search, study.space)
        self.higher = METRICS[self.search.metric].higher_is_better
        self.records = {record.number: record for record in read_trials(home, study.name)}
        self.optuna: optuna.Study = open_optuna(home, study.name, self.search)
        self.tracking: Tracking = Tracking(home, study.name, study.spec.description)
        self.tracking.tag_study(study_tags(self.search.metric, list(study.space), is_optimistic(study.tree)))
        self.running: dict[int, optuna.Trial] = {}
        self.folds: dict[int, list[float]] = {}
        self.seconds: dict[int, float] = {}
        self.interrupted: list[int] = []
        self.trained = 0
        self.failures = 0
        self.deadline = time.monotonic() + 60 * (self.search.timeout_minutes or float("inf"))
        self.commit = commit()
        record = replace(past, state="running", tree=study.tree) if past else self._new_record()
        findings, caches = findings_to_json(data.findings), list(data.caches)
        self.record = replace(record, audit_hash=audit_hash(data.findings), findings=findings, caches=caches)

    def _new_record(self) -> StudyRecord:
        dataset, folds = self.data.dataset, self.data.folds
        precision = choose_precisions(self.study, self.total, self.data, self.devices[0], self.jobs, self.listener)
        tree = self.study.tree
        return StudyRecord(
            self.study.name,
            "running",
            tree,
            spec_hash(tree),
            dataset.data_hash,
            folds.folds_hash,
            time.time(),
            precision=precision,
            starts={weights: pin_start(weights, self.home) for weights in checks.options(self.study, "weights")},
        )

    def run(self) -> StudyRecord:
        write_study(self.home, self.record)
        self._mend()
        done = sum(record.state in ENDED for record in self.records.values())
        self.listener(
            StudyStarted(
                self.study.name,
                self.total,
                done,
                tuple(self.interrupted),
                self.search.metric,
                ",".join(self.devices),
                self.jobs,
                self.record.precision,
            )
        )
        try:
            if self.jobs == 1:
                run_here(self._next, self.data, self.devices[0], self, self._ended)
            else:
                run_in_processes(
                    self._next,
                    self.jobs,
                    self.devices,
                    self.threads,
                    self.home,
                    self.study.spec.data,
                    self.study.spec.seed,
                    self,
                    self._ended,
                )
        except KeyboardInterrupt:
            self._close("interrupted")
            raise
        except BaseException:
            self._close("failed")
            raise
        left = self.total - sum(record.state in ENDED for record in self.records.values())
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

    def _mend(self) -> None:
        """Bring Optuna and MLflow up to what the ledger knows, and line up the trials that were cut off."""
        import optuna

        unfinished = self.tracking.unfinished()
        for frozen in self.optuna.get_trials(deepcopy=False):
            record = self.records.get(frozen.number)
            if record is not None and record.state in ENDED:
                if not frozen.state.is_finished():
                    self._tell(optuna.Trial(self.optuna, frozen._trial_id), record)
                if record.run_id in unfinished:
                    self.tracking.finish_trial(record.run_id, record.state, record.reason, _scores(record))
            elif not frozen.state.is_finished():
                self.running[frozen.number] = optuna.Trial(self.optuna, frozen._trial_id)
                self.interrupted.append(frozen.number)
        self.waiting = list(self.interrupted)

    def _next(self) -> Task | None:
        """The next trial to train: an interrupted one first, then a new one, or None at the end."""
        from harness.search.storage import ask, suggest

        if self.waiting:
            number = self.waiting.pop(0)
            trial = self.running[number]
            for name, range_ in self.study.space.items():  # a crash may have come between two suggestions
                suggest(trial, name, range_)
            return self._task(trial)
        count = len(self.optuna.get_trials(deepcopy=False))
        if count >= self.total or time.monotonic() > self.deadline or self.failures >= self.search.max_failures:
            return None
        trial = ask(self.optuna, self.search, self.study.space, self.study.spec.seed)
        self.running[trial.number] = trial
        return self._task(trial)

    def _task(self, trial: "optuna.Trial") -> Task:
        number, params = trial.number, dict(trial.params)
        tree = fill(self.study.tree, params)
        backbone, weights = tree["model"]["backbone"], tree["model"]["weights"]
        weights = self.record.starts.get(weights, weights)
        start = start_files(weights, self.home, self.data)
        precision = self.record.precision[backbone]
        record = read_trial(self.home, self.study.name, number)
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
            record = TrialRecord(number, "running", params, run_id, optimistic=optimistic)
            write_trial(self.home, self.study.name, record)
        self.records[number], self.folds[number], self.seconds[number] = record, [], 0.0
        artifacts = self.home.run_artifacts(self.study.name, record.run_id)
        artifacts.mkdir(parents=True, exist_ok=True)
        finished = [fold for fold in range(self.data.folds.k) if is_done(artifacts / f"fold_{fold}")]
        self.listener(TrialStarted(number, params, len(finished)))
        running = self.home.trial_state(self.study.name, number)
        return Task(number, tree, self.study.name, artifacts, running, precision, self.search.metric, start)

    def epoch(self, event: EpochDone) -> None:
        self.tracking.log_epoch(self.records[event.trial].run_id, event.report, self.search.metric)
        self.seconds[event.trial] += event.report.seconds
        self.listener(event)

    def fold(self, event: FoldDone) -> bool:
        values = self.folds[event.trial]
        values.append(event.value)
        known = self.optuna.get_trials(deepcopy=False)[event.trial].intermediate_values
        if event.fold not in known:  # a resumed trial passes its finished folds again
            self.running[event.trial].report(event.value, step=event.fold)
        self.listener(event)
        complete = [record for record in self.records.values() if record.state == "complete"]
        return not should_stop(self.search, values, self.data.folds.k, complete, self.higher)

    def _ended(self, outcome: Outcome) -> None:
        """Write down how a trial ended: artifacts, ledger, Optuna, MLflow, in this order."""
        old = self.records[outcome.number]
        result = outcome.result
        record = replace(
            old,
            state=outcome.state,
            reason=outcome.reason,
            fold_values=self.folds.pop(outcome.number),
            seconds=self.seconds.pop(outcome.number),
        )
        if result is not None:
            record = replace(record, cv=result.cv, cv_se=result.cv_se, oof=result.oof, seconds=result.seconds)
            done = self.home.run_artifacts(self.study.name, record.run_id) / "DONE"
            done.touch()
        write_trial(self.home, self.study.name, record)
        self.records[record.number] = record
        self._tell(self.running.pop(record.number), record)
        self.tracking.finish_trial(record.run_id, record.state, record.reason, result)
        self.trained += 1
        self.failures = self.failures + 1 if record.state == "failed" else 0
        self.listener(TrialEnded(record, best_trial(list(self.records.values()), self.search.metric)))

    def _tell(self, trial: "optuna.Trial", record: TrialRecord) -> None:
        from optuna.trial import TrialState

        value = record.oof[self.search.metric].value if record.state == "complete" else None
        state = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}[record.state]
        if value is not None and value != value:  # not defined on these rows: no point to learn from
            value, state = None, TrialState.FAIL
        self.optuna.tell(trial, values=value, state=state)


def _scores(record: TrialRecord) -> TrialResult | None:
    if record.state != "complete":
        return None
    return TrialResult([], record.cv, record.cv_se, record.oof, record.seconds)
