"""The tracking of a study in a real SQLite store, and many processes that open one for the first time together."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from harness.errors import HarnessError
from harness.store.home import Home
from harness.store.records import LoggedEpoch
from harness.track.mlflow_store import LONGEST_PARAM, Tracking, experiment_id, log_run
from harness.types import EpochReport, Interval, TrialRecord

PROCESSES = 8
NAN = math.nan


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """One store for all tests: making its tables takes seconds. Each test has a study of its own."""
    return Home(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def no_other_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def read(home: Home, run_id: str) -> Run:
    return MlflowClient(tracking_uri=home.mlflow_uri).get_run(run_id)


def logged(fold: int, epoch: int, value: float, at: float = 1000.5) -> LoggedEpoch:
    return LoggedEpoch(at, EpochReport(fold, epoch, 3, 0.5 / (epoch + 1), 0.6, {"auroc": value}, 1e-3, 1.0, 100))


def ended(state: str, number: int = 0, **values: object) -> TrialRecord:
    return TrialRecord(number, state, {}, "", ended=2000.25, **values)  # type: ignore[arg-type]


def test_params_may_be_named_after_any_column(home: Home) -> None:
    run_id = Tracking(home, "odd").start_trial(
        0, {}, {"data.where.age (years) #größe@%": [40, 50], "data.where.a:b": 1}
    )
    assert read(home, run_id).data.params == {"data.where.age _years_ _größe__": "[40, 50]", "data.where.a:b": "1"}


def test_a_trial_from_start_to_end(home: Home) -> None:
    tracking = Tracking(home, "whole", "What it is about.")
    run_id = tracking.start_trial(
        7, {"harness.state": "running"}, {"optim.lr": 0.01, "data.folds": 2, "data.split": None}
    )
    for fold in range(2):
        for epoch in range(3):
            tracking.log_epochs(run_id, [logged(fold, epoch, 0.5 + 0.1 * epoch + 0.01 * fold)], "auroc")
    oof = {"auroc": Interval(0.71, 0.6, 0.8)}
    record = ended("complete", 7, cv={"auroc": 0.7}, cv_se={"auroc": 0.01}, oof=oof, seconds=12.5, notes=["fold-scale"])
    tracking.finish_trial(run_id, record, images=500)

    run = read(home, run_id)
    assert run.info.run_name == "trial-0007" and run.info.status == "FINISHED"
    assert run.data.params == {"optim.lr": "0.01", "data.folds": "2", "data.split": "None"}
    assert run.data.tags["harness.kind"] == "trial" and run.data.tags["harness.trial"] == "7"
    assert run.data.tags["harness.state"] == "complete"
    scores = {"cv/auroc": 0.7, "cv/auroc_se": 0.01, "oof/auroc": 0.71, "oof/auroc_lo": 0.6, "oof/auroc_hi": 0.8}
    assert scores.items() <= run.data.metrics.items()
    assert run.data.tags["harness.cv/auroc"] == "0.700 ± 0.010" and run.data.tags["harness.notes"] == "fold-scale"
    assert run.data.metrics["cost/seconds"] == 12.5 and run.data.metrics["cost/images_per_second"] == 40.0
    client = MlflowClient(tracking_uri=home.mlflow_uri)
    curve = client.get_metric_history(run_id, "fold_1/val_auroc")
    assert [(point.step, point.value) for point in curve] == [(0, 0.51), (1, 0.61), (2, 0.71)]
    assert {point.timestamp for point in curve} == {1000500} and run.info.end_time == 2000250
    experiment = client.get_experiment_by_name("whole")
    assert experiment.tags["mlflow.note.content"] == "What it is about."
    assert run.info.artifact_uri == home.run_artifacts("whole", run_id).as_uri()
    assert experiment_id(home, "whole") == experiment.experiment_id


def test_numbers_that_are_none_are_left_out(home: Home) -> None:
    tracking = Tracking(home, "holes")
    run_id = tracking.start_trial(0, {}, {})
    tracking.log_epochs(run_id, [logged(0, 0, NAN), logged(0, 2, 0.75)], "auroc")
    nothing = Interval(NAN, NAN, NAN)
    scores = {"auroc": nothing, "brier": Interval(0.2, -math.inf, math.inf)}
    record = ended("complete", cv={"auroc": NAN, "brier": 0.2}, cv_se={"auroc": NAN}, oof=scores)
    tracking.finish_trial(run_id, record, images=0)

    metrics = read(home, run_id).data.metrics
    assert {name for name in metrics if not name.startswith(("fold_", "cost/"))} == {"cv/brier", "oof/brier"}
    assert all(math.isfinite(value) and abs(value) < 1e6 for value in metrics.values())
    history = MlflowClient(tracking_uri=home.mlflow_uri).get_metric_history(run_id, "fold_0/val_auroc")
    assert [(point.step, point.value) for point in history] == [(2, 0.75)]


def test_what_is_sent_again_is_there_once(home: Home) -> None:
    first = Tracking(home, "resumed")
    run_id = first.start_trial(0, {"harness.state": "running"}, {"optim.lr": 0.1})
    first.log_epochs(run_id, [logged(0, 0, 0.5), logged(0, 1, 0.6)], "auroc")
    second = Tracking(home, "resumed")  # another process, after a crash
    assert second.find_trial(0) == run_id and second.find_trial(1) is None
    record = ended("complete", cv={"auroc": 0.65}, cv_se={"auroc": 0.05}, seconds=3.0)
    for _ in range(2):
        second.log_params(run_id, {"optim.lr": 0.1})
        second.log_epochs(run_id, [logged(0, 0, 0.5), logged(0, 1, 0.6), logged(1, 0, 0.7)], "auroc")
        second.finish_trial(run_id, record, images=300)

    run, client = read(home, run_id), MlflowClient(tracking_uri=home.mlflow_uri)
    assert run.data.params == {"optim.lr": "0.1"}
    assert [p.value for p in client.get_metric_history(run_id, "fold_0/val_auroc")] == [0.5, 0.6]
    assert [p.value for p in client.get_metric_history(run_id, "fold_1/val_auroc")] == [0.7]
    assert [p.value for p in client.get_metric_history(run_id, "cv/auroc")] == [0.65]
    assert run.data.metrics["cost/images_per_second"] == 100.0 and run.info.status == "FINISHED"


def test_more_points_and_parameters_than_one_request_takes(home: Home) -> None:
    tracking = Tracking(home, "long")
    run_id = tracking.start_trial(0, {}, {f"data.where.column{n}": n for n in range(230)})
    tracking.log_epochs(run_id, [logged(0, epoch, 0.5) for epoch in range(600)], "auroc")  # 2,400 points
    assert len(read(home, run_id).data.params) == 230
    history = MlflowClient(tracking_uri=home.mlflow_uri).get_metric_history(run_id, "fold_0/lr")
    assert [point.step for point in history] == list(range(600))


def test_states_of_ended_trials(home: Home) -> None:
    tracking = Tracking(home, "left")
    runs = {state: tracking.start_trial(n, {}, {}) for n, state in enumerate(("pruned", "failed"))}
    tracking.finish_trial(runs["pruned"], ended("pruned", reason="not among the best"), images=1)
    tracking.finish_trial(runs["failed"], ended("failed", reason="x" * (LONGEST_PARAM + 1000)), images=1)
    pruned, failed = read(home, runs["pruned"]), read(home, runs["failed"])
    assert pruned.info.status == "FINISHED" and pruned.data.tags["harness.reason"] == "not among the best"
    assert failed.info.status == "FAILED" and failed.data.tags["harness.state"] == "failed"
    assert pruned.data.metrics == {}


def test_a_whole_run_with_files(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    file.write_text("{}")
    scores = {"test/auroc": 0.8, "test/brier": NAN}
    params = {"ensemble.members": "x" * (LONGEST_PARAM + 1)}
    run_id = log_run(home, "files", "mean-top3", {"harness.kind": "ensemble"}, params, scores, {"bundle": file}, "Why.")
    run = read(home, run_id)
    assert run.info.run_name == "mean-top3" and run.info.status == "FINISHED"
    assert run.data.metrics == {"test/auroc": 0.8}
    assert run.data.tags["mlflow.note.content"] == "Why."
    assert len(run.data.params["ensemble.members"]) == LONGEST_PARAM
    assert (home.run_artifacts("files", run_id) / "bundle" / "bundle.json").read_text() == "{}"


def test_a_deleted_experiment_is_refused_with_the_way_out(home: Home) -> None:
    Tracking(home, "gone")
    client = MlflowClient(tracking_uri=home.mlflow_uri)
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)
    with pytest.raises(HarnessError, match="--as NEWNAME"):
        Tracking(home, "gone")


START = """
import multiprocessing, sys
from pathlib import Path
import mlflow.tracking  # imported once for all: the store is what is opened for the first time
from harness.store.home import Home
from harness.track.mlflow_store import Tracking

def work(number, barrier):
    barrier.wait()
    tracking = Tracking(Home(Path(sys.argv[1])), "one study")
    print(tracking.start_trial(number, {}, {"optim.lr": number}), flush=True)

context = multiprocessing.get_context("fork")
barrier = context.Barrier(int(sys.argv[2]))
processes = [context.Process(target=work, args=(number, barrier)) for number in range(int(sys.argv[2]))]
for process in processes:
    process.start()
for process in processes:
    process.join()
sys.exit(sum(process.exitcode != 0 for process in processes))
"""


def test_processes_may_open_a_new_store_together(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", START, str(home.root), str(PROCESSES)]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, f"{done.returncode} of {PROCESSES} processes failed: {done.stderr[-3000:]}"
    runs = set(done.stdout.split())
    client = MlflowClient(tracking_uri=home.mlflow_uri)
    found = client.search_runs([client.get_experiment_by_name("one study").experiment_id])
    assert len(runs) == PROCESSES and runs == {run.info.run_id for run in found}
    assert len(client.search_experiments()) == 2, "this one and MLflow's own"
