"""A home that was moved or copied: MLflow finds its artifacts where they are now."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient

from harness.store.home import Home
from harness.track.mlflow_store import Tracking, log_run, relocate

STUDIES = ("first", "second study")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two studies with one run each, written by the MlflowClient. Not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    home = Home(folder / "mlruns")
    home.root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        for study in STUDIES:
            (folder / "note.txt").write_text(f"of {study}")
            log_run(home, study, "trial-0000", {}, {"optim.lr": 0.1}, {"oof/auroc": 0.7}, {"f": folder / "note.txt"})
    return home


@pytest.fixture
def home(made: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home of its own, in a folder whose name needs quoting."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    home = Home(tmp_path / "old höme" / "mlruns")
    shutil.copytree(made.root, home.root)
    assert set(relocate(home)) >= set(STUDIES)
    return home


def read_back(home: Home) -> dict[str, str]:
    """Every study's artifact, listed and fetched by MLflow's own client."""
    client = MlflowClient(tracking_uri=home.mlflow_uri)
    found = {}
    for study in STUDIES:
        (run,) = client.search_runs([client.get_experiment_by_name(study).experiment_id])
        assert [entry.path for entry in client.list_artifacts(run.info.run_id)] == ["f"]
        assert [entry.path for entry in client.list_artifacts(run.info.run_id, "f")] == ["f/note.txt"]
        assert run.info.artifact_uri == home.run_artifacts(study, run.info.run_id).as_uri()
        found[study] = Path(client.download_artifacts(run.info.run_id, "f/note.txt")).read_text()
    return found


def places(home: Home) -> list[tuple[str, ...]]:
    with sqlite3.connect(home.root / "mlflow.db") as connection:
        return connection.execute(
            "SELECT artifact_location FROM experiments UNION ALL SELECT artifact_uri FROM runs"
        ).fetchall()


EXPECTED = {study: f"of {study}" for study in STUDIES}


def test_a_moved_home_shows_its_artifacts(home: Home, tmp_path: Path) -> None:
    assert read_back(home) == EXPECTED
    moved = Home(tmp_path / "new place" / "runs")
    moved.root.parent.mkdir()
    shutil.move(home.root, moved.root)
    tracking = Tracking(moved, "first")  # opening the store is enough
    assert read_back(moved) == EXPECTED
    run_id = tracking.start_trial(1, {}, {"optim.lr": 0.2})
    (tmp_path / "note.txt").write_text("new")
    tracking.log_artifact(run_id, tmp_path / "note.txt")
    assert (moved.run_artifacts("first", run_id) / "note.txt").exists()
    assert not home.root.exists()


def test_a_copied_home_writes_into_itself(home: Home, tmp_path: Path) -> None:
    copy = Home(tmp_path / "copy")
    shutil.copytree(home.root, copy.root)
    assert set(relocate(copy)) >= set(STUDIES)
    assert read_back(copy) == EXPECTED
    assert read_back(home) == EXPECTED
    assert relocate(copy) == []


def test_a_home_in_its_place_is_not_written(home: Home) -> None:
    before = places(home)
    changed = (home.root / "mlflow.db").stat().st_mtime_ns
    assert relocate(home) == []
    assert places(home) == before
    assert (home.root / "mlflow.db").stat().st_mtime_ns == changed


def test_a_link_to_a_home_is_the_home(home: Home, tmp_path: Path) -> None:
    link = tmp_path / "link"
    os.symlink(home.root, link)
    assert relocate(Home(link)) == []


def test_places_elsewhere_stay(home: Home, tmp_path: Path) -> None:
    client = MlflowClient(tracking_uri=home.mlflow_uri)
    elsewhere = tmp_path / "artifacts" / "elsewhere"
    elsewhere.mkdir(parents=True)
    kept = [(tmp_path / "other").as_uri(), "s3://bucket/artifacts/first", elsewhere.as_uri()]
    for number, location in enumerate(kept):
        client.create_experiment(f"kept {number}", artifact_location=location)
    moved = Home(tmp_path / "moved")
    shutil.move(home.root, moved.root)
    assert not any(name.startswith("kept") for name in relocate(moved))
    client = MlflowClient(tracking_uri=moved.mlflow_uri)
    assert [client.get_experiment_by_name(f"kept {n}").artifact_location for n in range(len(kept))] == kept
    assert read_back(moved) == EXPECTED


def test_a_store_of_others_is_left_alone(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Home(tmp_path / "copy")
    shutil.copytree(home.root, copy.root)
    before = places(copy)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'theirs.db'}")
    assert relocate(copy) == []
    assert places(copy) == before


def test_an_empty_home_has_nothing_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert relocate(Home(tmp_path)) == []
    (tmp_path / "mlflow.db").touch()  # as a server leaves it that was ended before it made its tables
    assert relocate(Home(tmp_path)) == []
