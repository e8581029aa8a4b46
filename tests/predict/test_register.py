"""A bundle in MLflow's registry: its versions, its files, and that nothing in it is executable but named code."""

import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from every_method import build_every

from harness.ensemble.results import CODE, register
from harness.errors import RequestError
from harness.predict.predict import predict
from harness.store.home import Home
from harness.track.mlflow_store import StoreAway


@pytest.fixture(scope="module")
def home(small_study, tmp_path_factory) -> Home:
    """A copy of the home with two bundles; its store has to learn where it is now."""
    found = Home(tmp_path_factory.mktemp("registry") / "home")
    shutil.copytree(small_study.home.root, found.root)
    build_every(found, [small_study.record], ["stacking", "mean"], 2, 0, "cpu")
    return found


@pytest.fixture(scope="module")
def registered(home):
    bundle = home.bundles("small") / "stacking-top2"
    return register(home, bundle), register(home, bundle)


def test_each_registration_is_a_version(home, registered) -> None:
    from mlflow import MlflowClient

    first, second = registered
    assert (first.name, first.version, second.version) == ("harness-small-stacking", "1", "2")
    client = MlflowClient(tracking_uri=home.mlflow_uri)
    versions = client.search_model_versions("name = 'harness-small-stacking'")
    assert {str(version.version) for version in versions} == {"1", "2"}
    run = client.get_run(versions[0].run_id)
    assert run.data.tags["harness.bundle"] == "bundles/small/stacking-top2"
    assert versions[0].tags["harness.method"] == "stacking"


def test_its_files_are_the_bundles_own_and_none_is_a_pickle(home, registered) -> None:
    folder = registered[0].folder
    assert folder.is_relative_to(home.artifacts / "small" / "models") and registered[0].copied == 0
    bundle = home.bundles("small") / "stacking-top2"
    own = {file.relative_to(bundle) for file in bundle.rglob("*") if file.is_file()}
    inside = folder / "artifacts" / "bundle"
    assert {file.relative_to(inside) for file in inside.rglob("*") if file.is_file()} == own and len(own) >= 10
    assert all(os.path.samefile(bundle / name, inside / name) for name in own)
    beside = {file.name for file in folder.iterdir()} - {"artifacts"}
    assert beside == {"MLmodel", "mlflow_model.py", "conda.yaml", "python_env.yaml", "requirements.txt"}
    assert (folder / "mlflow_model.py").read_bytes() == CODE.read_bytes()
    for file in folder.rglob("*"):
        assert file.suffix not in (".pkl", ".pickle", ".pt", ".joblib")
        assert (
            file.is_dir() or file.suffix in (".safetensors", ".npz", ".parquet") or b"\x80\x04" not in file.read_bytes()
        )


def test_it_says_nothing_of_this_machine(home, registered) -> None:
    folder = registered[0].folder
    said = "".join(
        (folder / name).read_text() for name in ("MLmodel", "conda.yaml", "requirements.txt", "python_env.yaml")
    )
    for place in (str(home.root), str(CODE.parent), str(Path.home())):
        assert place not in said
    assert "torch==" in said and "harness==" not in said  # whoever has that name elsewhere is not this program


def test_mlflow_loads_it_and_it_predicts_the_same(home, registered, small_study) -> None:
    """Through MLflow's own loading, in this process; with a PNG, a DICOM file and base64."""
    import mlflow
    import pandas as pd

    images = sorted(small_study.images.rglob("*.png"))[:1] + sorted(small_study.images.rglob("*.dcm"))[:2]
    expected = predict(home.bundles("small") / "stacking-top2", images, "cpu").probabilities
    model = mlflow.pyfunc.load_model(str(registered[1].folder))
    found = model.predict(pd.DataFrame({"image": [image.read_bytes() for image in images]}))
    p = np.array([list(row["probabilities"].values()) for row in found])
    assert (p == expected).all()
    assert list(found[0]["probabilities"]) == ["normal", "bleed"]


def test_a_moved_home_still_knows_its_models(home, registered, tmp_path) -> None:
    from harness.track.mlflow_store import relocate

    moved = Home(tmp_path / "elsewhere")
    shutil.copytree(home.root, moved.root)
    assert "small" in relocate(moved)
    with sqlite3.connect(moved.root / "mlflow.db") as store:
        places = store.execute("SELECT artifact_location FROM logged_models").fetchall()
        places += store.execute("SELECT storage_location FROM model_versions").fetchall()
        places += store.execute("SELECT source FROM model_versions").fetchall()
    assert len(places) == 6 and all(place.startswith(f"file://{moved.root}/") for (place,) in places)


def test_without_mlflow_it_says_so(home, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(StoreAway, match="does not answer"):
        register(home, home.bundles("small") / "mean-top2")


def test_a_name_that_mlflow_refuses(home) -> None:
    with pytest.raises(RequestError, match="is no name for a model"):
        register(home, home.bundles("small") / "mean-top2", "a/b")
