"""MLflow as the mirror of what is on disk: a real server is stopped, hangs, is killed and comes back."""

import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient

from benchmarks._servers import Mlflow
from harness.store.home import Home
from harness.store.records import LoggedEpoch
from harness.track import mlflow_sync as mirror_module
from harness.track.mlflow_store import StoreAway, Tracking
from harness.track.mlflow_sync import Mirror
from harness.types import EpochReport, Interval, TrialRecord


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    folder = tmp_path_factory.mktemp("server")
    server = Mlflow(f"sqlite:///{folder / 'server.db'}", folder / "unused", folder / "log")
    yield server
    server.kill()


@pytest.fixture
def home(server: Mlflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(mirror_module, "LONGEST_WAIT", 1.0)
    if not server.answers():
        server.start()
    return Home(tmp_path)


def logged(epoch: int) -> LoggedEpoch:
    return LoggedEpoch(1000.0 + epoch, EpochReport(0, epoch, 3, 0.5, 0.6, {"auroc": 0.5 + epoch / 10}, 1e-3, 1.0, 100))


def record(number: int, run_id: str) -> TrialRecord:
    scores = {"oof": {"auroc": Interval(0.7, 0.6, 0.8)}, "cv": {"auroc": 0.7}, "cv_se": {"auroc": 0.1}}
    return TrialRecord(number, "complete", {}, run_id, **scores, seconds=3.0, ended=2000.0, logged=False)


def wait_until(condition, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "what was waited for did not come"
        time.sleep(0.05)


def collected(calls, wanted: int) -> list:
    found: list = []

    def enough() -> bool:
        found.extend(calls())
        return len(found) >= wanted

    wait_until(enough)
    return found


def check_whole(study: str, server: Mlflow, numbers: list[int]) -> dict[int, str]:
    """Every trial has one finished run with its parameters, its curve and its scores. Their ids."""
    client = MlflowClient(server.address)
    runs = client.search_runs([client.get_experiment_by_name(study).experiment_id])
    found = {int(run.data.tags["harness.trial"]): run for run in runs}
    assert len(runs) == len(numbers) and sorted(found) == numbers
    for number, run in found.items():
        assert run.info.status == "FINISHED" and run.data.tags["harness.state"] == "complete"
        assert run.data.params == {"optim.lr": str(number)} and run.data.metrics["oof/auroc"] == 0.7
        curve = client.get_metric_history(run.info.run_id, "fold_0/val_auroc")
        assert [(p.step, p.value, p.timestamp) for p in curve] == [
            (epoch, 0.5 + epoch / 10, 1000000 + 1000 * epoch) for epoch in range(3)
        ]
    return {number: run.info.run_id for number, run in found.items()}


def test_a_server_killed_in_the_middle_gets_all_of_it_later(server: Mlflow, home: Home) -> None:
    connect = partial(Tracking, home, "killed")
    mirror = Mirror(connect, connect(), "auroc")
    first = mirror.begin(0, {"harness.state": "running"}, {"optim.lr": 0}, fresh=True)
    assert first is not None and mirror.news() == []
    mirror.epoch(0, logged(0))
    server.kill()
    mirror.epoch(0, logged(1))
    for _ in range(100):
        mirror.epoch(0, logged(1))  # as trained again: nobody waits for a server
    mirror.epoch(0, logged(2))
    mirror.ended(record(0, first))
    (line,) = collected(mirror.news, 1)
    assert line.startswith("MLflow is away (") and "Training goes on" in line
    assert mirror.begin(1, {"harness.state": "running"}, {"optim.lr": 1}, fresh=True) is None
    for epoch in range(3):
        mirror.epoch(1, logged(epoch))
    mirror.ended(record(1, "pending-0001"))
    server.start()
    done = dict(collected(mirror.done, 2))
    (line,) = mirror.news()
    assert line.startswith("MLflow is back after ")
    mirror.close(30)
    assert check_whole("killed", server, [0, 1]) == done and done[0] == first


def test_a_server_that_hangs_holds_nobody_up(server: Mlflow, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = partial(Tracking, home, "hangs")
    mirror = Mirror(connect, connect(), "auroc")
    server.signal(signal.SIGSTOP)
    try:
        assert mirror.begin(0, {}, {"optim.lr": 0}, fresh=True) is None  # after seconds, once
        (line,) = collected(mirror.news, 1)
        assert "MLflow is away" in line
        monkeypatch.setattr(mirror_module, "START_SECONDS", 3600)  # a store known to be away is not waited for at all
        assert mirror.begin(1, {}, {"optim.lr": 1}, fresh=True) is None
    finally:
        server.signal(signal.SIGCONT)
    for number in (0, 1):
        for epoch in range(3):
            mirror.epoch(number, logged(epoch))
        mirror.ended(record(number, f"pending-000{number}"))
    collected(mirror.done, 2)
    mirror.close(30)
    # the request that hung was carried out when the server woke up, and its run was found again
    check_whole("hangs", server, [0, 1])


def test_what_an_earlier_process_left_is_sent_again_without_doubles(server: Mlflow, home: Home) -> None:
    connect = partial(Tracking, home, "again")
    run_id = connect().start_trial(0, {}, {"optim.lr": 0})  # and then that process was killed: nobody knows of the run
    mirror = Mirror(connect, connect(), "auroc")
    assert mirror.begin(0, {}, {"optim.lr": 0}, fresh=False) == run_id
    epochs = [logged(epoch) for epoch in range(3)]
    for epoch in epochs:
        mirror.epoch(0, epoch)
    mirror.close(30)  # killed before the end of the trial was told
    mirror = Mirror(connect, connect(), "auroc")
    mirror.follow(0, run_id, {}, {}, epochs, record(0, run_id))
    assert collected(mirror.done, 1) == [(0, run_id)]
    mirror.close(30)
    check_whole("again", server, [0])


def test_a_run_that_was_deleted_is_refused_and_said_so(server: Mlflow, home: Home) -> None:
    connect = partial(Tracking, home, "deleted")
    mirror = Mirror(connect, connect(), "auroc")
    run_id = mirror.begin(0, {}, {"optim.lr": 0}, fresh=True)
    assert run_id is not None
    MlflowClient(server.address).delete_run(run_id)
    mirror.epoch(0, logged(0))
    mirror.ended(record(0, run_id))
    (line,) = collected(mirror.news, 1)
    assert line.startswith("MLflow refused trial 0: ")
    mirror.close(3600)  # nothing is left to wait for
    assert mirror.done() == []


def test_a_store_that_is_away_from_the_start(server: Mlflow, home: Home) -> None:
    server.kill()
    connect = partial(Tracking, home, "late")
    with pytest.raises(StoreAway, match=r"does not answer.*Start it, or unset MLFLOW_TRACKING_URI"):
        connect()
    mirror = Mirror(connect, None, "auroc")
    (line,) = mirror.news()
    assert "did not answer when the study started" in line
    mirror.follow(0, None, {"harness.state": "running"}, {"optim.lr": 0}, [logged(e) for e in range(3)], record(0, "x"))
    server.start()
    collected(mirror.done, 1)
    mirror.close(30)
    check_whole("late", server, [0])
