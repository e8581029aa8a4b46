"""A bundle on a machine with neither the study nor its data says the same numbers."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from harness.predict.predict import predict

SCRIPT = Path(__file__).with_name("predict_alone.py")
METHODS = ("stacking", "boosting", "bagging")
"""one that works on logits, one with trees, one with arrays on embeddings"""


@pytest.fixture(scope="module")
def images(small_study, tmp_path_factory) -> list[Path]:
    """A PNG and a DICOM file, far from the data set."""
    folder = tmp_path_factory.mktemp("images")
    found = [sorted(small_study.images.rglob(kind))[0] for kind in ("*.png", "*.dcm")]
    return [Path(shutil.copy(path, folder)) for path in found]


def alone(small_study, bundle: Path, images: list[Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """In a process with an empty home and empty caches, in a folder of its own."""
    empty = {name: str(folder / name) for name in ("HARNESS_HOME", "HF_HOME", "TORCH_HOME", "XDG_CACHE_HOME", "HOME")}
    for path in empty.values():
        Path(path).mkdir()
    settings = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "HF_", "HARNESS"))}
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(small_study.home.root), str(bundle), *map(str, images)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=settings | empty,
        timeout=500,
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", ["copy", "tar"])
def test_a_moved_bundle_predicts_the_same_numbers(built, small_study, images, tmp_path, method, way) -> None:
    if (method, way) in (("boosting", "tar"), ("bagging", "tar")):
        pytest.skip("one method tells about tar")
    source = built[method].bundle
    expected = predict(source, images, "cpu").probabilities
    moved = tmp_path / "elsewhere" / "a bundle"
    moved.parent.mkdir()
    if way == "copy":
        subprocess.run(["cp", "-r", str(source), str(moved)], check=True)
    else:
        with tarfile.open(tmp_path / "b.tar", "w") as archive:
            archive.add(source, "a bundle")
        with tarfile.open(tmp_path / "b.tar") as archive:
            archive.extractall(moved.parent, filter="data")
    folder = tmp_path / "work"
    folder.mkdir()
    done = alone(small_study, moved, images, folder)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(done.stdout)
    found = np.array([[row["probabilities"][name] for name in ("normal", "bleed")] for row in rows])
    assert (found == expected).all()


def test_the_watch_sees_what_it_must(built, small_study, images, tmp_path) -> None:
    """The same process with the bundle where it was built: refused for opening it."""
    done = alone(small_study, built["mean"].bundle, images, tmp_path)
    assert done.returncode != 0 and "it opened" in done.stderr


@pytest.mark.parametrize("method", METHODS)
def test_it_says_what_it_was_made_of(built, method) -> None:
    about = json.loads((built[method].bundle / "bundle.json").read_text())
    for key in ("data_hash", "folds_hash", "spec_hash", "commit", "versions", "scores", "classes", "decodes", "metric"):
        assert about[key], key
    assert about["versions"]["torch"] and about["versions"]["python"]
    assert {"calibration", "decisions", "reference"} <= set(about)


@pytest.mark.parametrize("method", METHODS)
def test_a_bundle_names_no_file_of_the_data(built, small_study, method) -> None:
    """Names of files tell who somebody is as often as not; the phantom's are looked for in every file."""
    names = [
        path.relative_to(small_study.images).as_posix() for path in small_study.images.rglob("*") if path.is_file()
    ]
    names = [name for name in names if not name.endswith(".csv")]
    assert len(names) > 50
    import pandas as pd

    bundle = built[method].bundle
    text = b"".join(path.read_bytes() for path in bundle.rglob("*") if path.suffix in (".json", ".npz", ".parquet"))
    text += pd.read_parquet(bundle / "predictions.parquet").to_csv().encode()
    assert text and not [name for name in names if name.encode() in text or Path(name).name.encode() in text]
