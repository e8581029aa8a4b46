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
from harness.home import Home
from harness.records import EpochReport, Interval, TrialResult
from harness.track.mlflow_runs import LONGEST_PARAM, Tracking, experiment_id, log_run

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


def report(fold: int, epoch: int, value: float, epochs: int = 3) -> EpochReport:
    return EpochReport(fold, epoch, epochs, 0.5 / (epoch + 1), 0.6, {"auroc": value}, 1e-3, 1.0, 100)


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
            tracking.log_epoch(run_id, report(fold, epoch, 0.5 + 0.1 * epoch + 0.01 * fold), "auroc")
    result = TrialResult([], {"auroc": 0.7}, {"auroc": 0.01}, {"auroc": Interval(0.71, 0.6, 0.8)}, 12.5, 40.0)
    tracking.finish_trial(run_id, "complete", "", result)

    run = read(home, run_id)
    assert run.info.run_name == "trial-0007" and run.info.status == "FINISHED"
    assert run.data.params == {"optim.lr": "0.01", "data.folds": "2", "data.split": "None"}
    assert run.data.tags["harness.kind"] == "trial" and run.data.tags["harness.trial"] == "7"
    assert run.data.tags["harness.state"] == "complete"
    scores = {"cv/auroc": 0.7, "cv/auroc_se": 0.01, "oof/auroc": 0.71, "oof/auroc_lo": 0.6, "oof/auroc_hi": 0.8}
    assert scores.items() <= run.data.metrics.items()
    assert run.data.metrics["cost/seconds"] == 12.5 and run.data.metrics["cost/images_per_second"] == 40.0
    client = MlflowClient(tracking_uri=home.mlflow_uri)
    curve = client.get_metric_history(run_id, "fold_1/val_auroc")
    assert [(point.step, point.value) for point in curve] == [(0, 0.51), (1, 0.61), (2, 0.71)]
    experiment = client.get_experiment_by_name("whole")
    assert experiment.tags["mlflow.note.content"] == "What it is about."
    assert run.info.artifact_uri == home.run_artifacts("whole", run_id).as_uri()
    assert experiment_id(home, "whole") == experiment.experiment_id


def test_numbers_that_are_none_are_left_out(home: Home) -> None:
    tracking = Tracking(home, "holes")
    run_id = tracking.start_trial(0, {}, {})
    tracking.log_epoch(run_id, report(0, 0, NAN), "auroc")
    tracking.log_epoch(run_id, report(0, 2, 0.75), "auroc")
    nothing = Interval(NAN, NAN, NAN)
    scores = {"auroc": nothing, "brier": Interval(0.2, -math.inf, math.inf)}
    tracking.finish_trial(run_id, "complete", "", TrialResult([], {"auroc": NAN, "brier": 0.2}, {"auroc": NAN}, scores))

    metrics = read(home, run_id).data.metrics
    assert {name for name in metrics if not name.startswith(("fold_", "cost/"))} == {"cv/brier", "oof/brier"}
    assert all(math.isfinite(value) and abs(value) < 1e6 for value in metrics.values())
    history = MlflowClient(tracking_uri=home.mlflow_uri).get_metric_history(run_id, "fold_0/val_auroc")
    assert [(point.step, point.value) for point in history] == [(2, 0.75)]


def test_a_resumed_run_goes_on_and_keeps_its_parameters(home: Home) -> None:
    first = Tracking(home, "resumed")
    run_id = first.start_trial(0, {"harness.state": "running"}, {"optim.lr": 0.1})
    first.log_epoch(run_id, report(0, 2, 0.6), "auroc")
    second = Tracking(home, "resumed")  # another process, after a crash
    assert second.unfinished() == {run_id}
    second.log_epoch(run_id, report(1, 2, 0.7), "auroc")
    result = TrialResult([], {"auroc": 0.65}, {"auroc": 0.05}, {}, 3.0)
    for _ in range(2):  # a crash between MLflow's end and ours says it again
        second.finish_trial(run_id, "complete", "", result)

    run = read(home, run_id)
    assert run.data.params == {"optim.lr": "0.1"}
    assert run.data.metrics["fold_0/val_auroc"] == 0.6 and run.data.metrics["fold_1/val_auroc"] == 0.7
    assert run.data.metrics["cv/auroc"] == 0.65 and run.info.status == "FINISHED"
    assert second.unfinished() == set()


def test_unfinished_runs_are_those_of_this_study_that_still_run(home: Home) -> None:
    tracking, other = Tracking(home, "left"), Tracking(home, "left too")
    runs = {state: tracking.start_trial(n, {}, {}) for n, state in enumerate(("running", "pruned", "failed"))}
    other.start_trial(0, {}, {})
    tracking.finish_trial(runs["pruned"], "pruned", "not among the best", None)
    tracking.finish_trial(runs["failed"], "failed", "x" * (LONGEST_PARAM + 1000), None)
    assert tracking.unfinished() == {runs["running"]}
    pruned, failed = read(home, runs["pruned"]), read(home, runs["failed"])
    assert pruned.info.status == "FINISHED" and pruned.data.tags["harness.reason"] == "not among the best"
    assert failed.info.status == "FAILED" and failed.data.tags["harness.state"] == "failed"


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
from harness.home import Home
from harness.track.mlflow_runs import Tracking

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
    assert len(runs) == PROCESSES and runs == Tracking(home, "one study").unfinished()
    assert len(MlflowClient(tracking_uri=home.mlflow_uri).search_experiments()) == 2, "this one and MLflow's own"
