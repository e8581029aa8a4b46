"""Trials in a real PostgreSQL server: the same points as in the journal, whatever happens to the connection."""

import os
import subprocess
import sys
import threading
import time

import optuna
import pytest
from proposing import make, run
from test_run import tiny

from benchmarks._servers import mlflow_server, postgres, postgres_programs
from harness.errors import HarnessError, RequestError
from harness.search import database
from harness.search.database import open_database
from harness.search.run import run_study
from harness.search.storage import open_optuna
from harness.store.home import Home
from harness.store.records import read_trials

pytestmark = pytest.mark.skipif(
    postgres_programs() is None and not os.environ.get("HARNESS_REQUIRE_SERVERS"),
    reason="PostgreSQL is not installed: apt-get install postgresql",
)


@pytest.fixture(scope="module")
def server():
    with postgres() as running:
        yield running


@pytest.fixture
def storage(server, monkeypatch):
    """The URL of an empty database of its own for the trials."""
    name = f"trials_{time.monotonic_ns()}"
    server.query("postgres", f"CREATE DATABASE {name}")
    monkeypatch.setenv("HARNESS_STORAGE", server.url(name))
    return server.url(name)


def test_points_are_those_of_the_journal_and_a_second_program_goes_on(storage, monkeypatch, tmp_path):
    search = make(sampler="tpe", startup=3)
    first = run(Home(tmp_path), 4, search)
    both = run(Home(tmp_path), 7, search)  # opened anew
    monkeypatch.delenv("HARNESS_STORAGE")
    assert (first, both) == (run(Home(tmp_path), 4, search), run(Home(tmp_path), 7, search))


def test_a_restart_of_the_server_in_the_middle_costs_time_only(server, storage, monkeypatch, tmp_path):
    home, search, away = Home(tmp_path), make(sampler="random", trials=5000), threading.Event()
    whole = 40

    def restart():
        for _ in range(3):
            time.sleep(0.3)
            server.stop()
            away.set()
            time.sleep(0.5)
            server.start()

    again = threading.Thread(target=restart)
    again.start()
    try:
        told = run(home, whole, search)
        while again.is_alive():  # every call meets a server that comes and goes
            told = run(home, whole := whole + 1, search)
    finally:
        again.join()
    assert away.is_set()
    study = open_optuna(home, "s", search.spec.search)
    assert [trial.params for trial in study.get_trials()] == told
    assert [trial.number for trial in study.get_trials()] == list(range(len(told)))
    ended = [trial for trial in study.get_trials() if trial.state is not optuna.trial.TrialState.RUNNING]
    assert len(ended) >= whole  # a trial whose making was not confirmed may be there and go on later


def test_four_programs_open_a_new_database_at_once(storage, tmp_path):
    code = (
        "from harness.store.home import Home; from harness.search.storage import open_optuna;"
        "from harness.config.spec import Search; from pathlib import Path;"
        "study = open_optuna(Home(Path('.')), 's', Search()); print(study.ask().number)"
    )
    programs = [
        subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    assert sorted(program.communicate(timeout=200)[0].strip() for program in programs) == ["0", "1", "2", "3"]


def test_a_server_that_stays_away_is_named_without_its_password(server, storage, monkeypatch):
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(database, "OPEN_SECONDS", 0.3)
    opened = open_database(storage.replace("harness@", "harness:secret@"))
    server.stop()
    try:
        with pytest.raises(HarnessError, match=r"(?s)harness:\*\*\*@.*has not answered.*harness study resume") as error:
            opened.get_all_studies()
        assert "secret" not in str(error.value)
        with pytest.raises(HarnessError, match="does not answer"):
            open_database(storage)
    finally:
        server.start()
    assert opened.get_all_studies() == []


def test_a_wrong_url_is_refused():
    with pytest.raises(RequestError, match=r"no database URL. Write postgresql\+psycopg://"):
        open_database("localhost/optuna")


def test_a_study_over_database_and_mlflow_server_goes_on_and_the_server_lists_its_files(
    server, storage, tmp_path, monkeypatch
):
    home = Home(tmp_path / "home")
    with mlflow_server(server.url("mlflow"), home.artifacts, tmp_path / "mlflow.log") as mlflow:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.address)
        for trials in (1, 2):
            study = tiny(data__folds=2, train__epochs=1, search__trials=trials)
            assert run_study(study, home, 1, "cpu", lambda event: None).state == "complete"
        for trial in read_trials(home, "tiny"):
            assert mlflow.artifact_names(trial.run_id) == {"DONE", "fold_0", "fold_1", "spec.yaml"}
            assert "weights.safetensors" in mlflow.artifact_names(trial.run_id, "fold_1")
    assert server.query(storage.rpartition("/")[2], "SELECT number, state FROM trials ORDER BY number").split() == [
        "0|COMPLETE",
        "1|COMPLETE",
    ]
    assert not home.optuna_journal.exists()
