"""Trials that begin and end while MLflow is away, and crashes between any two steps of their adoption."""

from dataclasses import replace
from functools import partial

import pytest
from mlflow import MlflowClient

from benchmarks._hurt_study import problems, tiny
from benchmarks._servers import free_port
from harness.errors import HarnessError
from harness.search.run import run_study
from harness.store.files import write_json
from harness.store.home import Home
from harness.store.records import read_all_epochs, read_epochs, read_trial, read_trials
from harness.track import mlflow_sync
from harness.track.mlflow_sync import Tracked, open_tracking, pending_id
from harness.types import EpochReport, Event, Interval, Notice, TrialRecord

STUDY = tiny()
SCORES = {"cv": {"auroc": 0.7}, "cv_se": {"auroc": 0.1}, "oof": {"auroc": Interval(0.7, 0.6, 0.8)}}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(mlflow_sync, "LONGEST_WAIT", 0.5)


def away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens there: the system refuses the connection."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")


def back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


def opened(home: Home, heard: list[Event] | None = None) -> Tracked:
    records = {record.number: record for record in read_trials(home, "tiny")}
    listener = (heard if heard is not None else []).append
    return Tracked(home, "tiny", "auroc", partial(open_tracking, home, STUDY), records, listener, needed=False)


def report(epoch: int) -> EpochReport:
    return EpochReport(0, epoch, 2, 0.5, 0.6, {"auroc": 0.6}, 1e-3, 1.0, 100)


def train_one(home: Home, tracked: Tracked) -> TrialRecord:
    """What a driver tells of a trial from its begin to its end, its files included."""
    record = TrialRecord(0, "running", {"optim.lr": 0.1}, "")
    record = tracked.begin(record, {"harness.state": "running"}, {"optim.lr": 0.1}, fresh=True)
    folder = home.run_artifacts("tiny", record.run_id)
    folder.mkdir(parents=True)
    for epoch in range(2):
        tracked.epoch(0, report(epoch))
    (folder / "DONE").touch()
    record = replace(record, state="complete", ended=2000.0, seconds=2.0, **SCORES)
    tracked.write(record)
    tracked.ended(record)
    return record


def check_adopted(home: Home) -> None:
    client = MlflowClient(home.mlflow_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    record = read_trial(home, "tiny", 0)
    assert record is not None and record.logged and record.run_id == run.info.run_id
    assert (home.run_artifacts("tiny", record.run_id) / "DONE").exists()
    assert run.info.artifact_uri == home.run_artifacts("tiny", record.run_id).as_uri()
    assert run.info.status == "FINISHED" and run.data.params == {"optim.lr": "0.1"}
    assert run.data.tags["harness.state"] == "complete" and run.data.metrics["oof/auroc"] == 0.7
    assert len(client.get_metric_history(run.info.run_id, "fold_0/lr")) == 2
    assert not list(home.study_artifacts("tiny").glob("pending-*")) and not home.pending_run("tiny", 0).exists()


def test_a_trial_that_ran_without_mlflow_is_adopted_by_a_later_start(tmp_path, monkeypatch):
    home, heard = Home(tmp_path), []
    away(monkeypatch)
    tracked = opened(home, heard)
    record = train_one(home, tracked)
    tracked.close(10)
    assert record.run_id == pending_id(0) and not read_trial(home, "tiny", 0).logged
    lines = [event.line for event in heard if isinstance(event, Notice)]
    assert lines[0].startswith("MLflow is away") and lines[-1].startswith(
        "MLflow lacks all or part of 1 ended trials (0)"
    )
    back(monkeypatch)
    opened(home).close(60)
    check_adopted(home)
    opened(home).close(60)  # and once more changes nothing
    check_adopted(home)


def test_a_crash_between_the_steps_of_an_adoption_is_mended(tmp_path, monkeypatch):
    home = Home(tmp_path)
    away(monkeypatch)
    tracked = opened(home)
    pending = train_one(home, tracked)
    tracked.close(10)
    back(monkeypatch)
    # 1: MLflow has all of it, and nobody has written that down
    store = open_tracking(home, STUDY)
    run_id = store.start_trial(0, {"harness.state": "running"}, {"optim.lr": 0.1})
    opened(home).close(60)
    check_adopted(home)
    assert read_trial(home, "tiny", 0).run_id == run_id
    # 2: the ledger knows the run, and the folder has not got its name yet
    folder = home.study_artifacts("tiny")
    (folder / run_id).rename(folder / pending.run_id)
    home.pending_run("tiny", 0).write_text("{}")
    opened(home).close(60)
    check_adopted(home)


def test_a_study_goes_on_without_mlflow_and_is_whole_when_that_is_back(tmp_path, monkeypatch):
    home, heard = Home(tmp_path), []
    away(monkeypatch)
    with pytest.raises(HarnessError, match=r"does not answer.*Start it, or unset MLFLOW_TRACKING_URI"):
        run_study(tiny(search__trials=1), home, 1, "cpu", heard.append)
    assert not read_trials(home, "tiny"), "a study that never ran does not begin without MLflow"
    back(monkeypatch)
    run_study(tiny(search__trials=1), home, 1, "cpu", heard.append)
    away(monkeypatch)
    record = run_study(tiny(search__trials=3), home, 1, "cpu", heard.append)
    assert record.state == "complete"
    assert [trial.logged for trial in read_trials(home, "tiny")] == [True, False, False]
    back(monkeypatch)
    run_study(tiny(search__trials=3), home, 1, "cpu", heard.append)  # nothing to train, two trials to send
    assert problems(home, 3) == []


def test_epochs_that_were_trained_and_never_told_are_made_up_for_in_their_place(tmp_path):
    """A killed driver does not hear of the epoch whose weights its worker still saved."""
    home = Home(tmp_path)
    tracked = opened(home)
    record = TrialRecord(0, "running", {"optim.lr": 0.1}, "")
    record = tracked.begin(record, {"harness.state": "running"}, {"optim.lr": 0.1}, fresh=True)
    for epoch in (0, 2):
        tracked.epoch(0, report(epoch))
    history = {"epochs": [vars(report(epoch)) for epoch in range(4)]}
    write_json(home.fold("tiny", record.run_id, 0) / "history.json", history)
    tracked.fold(0, 0)
    tracked.fold(0, 0)  # a resumed trial passes its finished folds again
    told = read_epochs(home, "tiny", 0)
    assert [one.report for one in told] == [report(epoch) for epoch in range(4)]
    assert told[0].at <= told[1].at == told[2].at <= told[3].at
    assert len(read_all_epochs(home, "tiny", 0)) == 4
    tracked.close(60)
    curve = MlflowClient(home.mlflow_uri).get_metric_history(record.run_id, "fold_0/lr")
    assert [point.step for point in curve] == [0, 1, 2, 3]
