"""The built-in data set: the same files everywhere, what the documentation promises, and no shortcut in the file."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from harness.config.data import Decode
from harness.data import phantom
from harness.errors import RequestError
from harness.images.decode import decode
from harness.images.headers import read_header
from harness.store.home import Home


def quiet(what: str, done: int, total: int) -> None:
    """A progress that says nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return phantom.ensure_phantom(Home(tmp_path_factory.mktemp("phantom")), quiet)


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "labels.csv") as file:
        return list(csv.DictReader(file))


def test_has_what_is_promised(folder: Path, rows: list[dict[str, str]]) -> None:
    assert len(rows) >= 240
    slices = Counter(row["patient"] for row in rows)
    assert len(slices) >= 120 and set(slices.values()) == {1, 2, 3}
    share = np.mean([row["label"] == "bleed" for row in rows])
    assert 0.4 < share < 0.6
    facts = [read_header(folder / row["file"], str) for row in rows]
    assert {fact.format for fact in facts} == {"PNG", "DICOM"}
    assert {fact.mode for fact in facts} == {"L", "RGB", "RGBA", "I;16", "MONOCHROME1", "MONOCHROME2"}
    assert len({(fact.width, fact.height) for fact in facts}) > 100
    assert all(85 <= side <= 205 for fact in facts for side in (fact.width, fact.height))
    assert sorted(str(path.relative_to(folder)) for path in (folder / "images").iterdir()) == sorted(
        row["file"] for row in rows
    )


def test_labels_of_one_patient_hang_together(rows: list[dict[str, str]]) -> None:
    labels = defaultdict(list)
    for row in rows:
        labels[row["patient"]].append(row["label"] == "bleed")
    several = [np.mean(of_one) for of_one in labels.values() if len(of_one) > 1]
    assert np.mean([share in (0, 1) for share in several]) > 0.6
    assert any(0 < share < 1 for share in several)


def test_the_kind_of_file_does_not_tell_the_label(folder: Path, rows: list[dict[str, str]]) -> None:
    bleed = np.array([row["label"] == "bleed" for row in rows])
    facts = [read_header(folder / row["file"], str) for row in rows]
    for mode in phantom.KINDS:
        of_mode = np.array([fact.mode == mode for fact in facts])
        error = np.sqrt(0.25 / of_mode.sum())
        assert abs(bleed[of_mode].mean() - bleed.mean()) < 3 * error
    sizes = np.array([fact.width * fact.height for fact in facts], float)
    assert abs(np.corrcoef(sizes, bleed)[0, 1]) < 0.2


def test_the_box_holds_the_bleed(rows: list[dict[str, str]]) -> None:
    for row in rows:
        assert (row["box"] == "") == (row["label"] == "normal")
        if row["box"]:
            x0, y0, x1, y1 = map(float, row["box"].split())
            assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1


def test_each_file_shows_its_slice(folder: Path, rows: list[dict[str, str]]) -> None:
    plan = phantom._plan()
    seen = set()
    for row, (patient, position) in zip(rows, plan, strict=True):
        if seen == set(phantom.KINDS):
            break
        drawn = phantom.draw(patient, position)
        height, width = drawn.hu.shape
        if drawn.kind in seen or height != width:
            continue
        seen.add(drawn.kind)
        shown = decode(folder / row["file"], Decode(size=height))[..., 0]
        assert np.abs(shown - phantom.display(drawn) * 255).max() <= 1
    assert seen == set(phantom.KINDS)


def test_is_drawn_once_and_the_same_again(folder: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    assert phantom.ensure_phantom(Home(folder.parents[2]), quiet) == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*.png")}
    again = phantom.ensure_phantom(Home(tmp_path), quiet)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((folder / name).read_bytes() == (again / name).read_bytes() for name in files)


def test_a_phantom_of_another_size_has_the_same_patients(folder: Path, rows: list[dict[str, str]]) -> None:
    few = phantom.ensure_phantom(Home(folder.parents[2]), quiet, 3)
    with open(few / "labels.csv") as file:
        listed = list(csv.DictReader(file))
    assert listed == rows[: len(listed)] and {row["patient"] for row in listed} == {"ph000", "ph001", "ph002"}
    assert all((few / row["file"]).read_bytes() == (folder / row["file"]).read_bytes() for row in listed)


def test_the_number_of_patients_stands_behind_its_name() -> None:
    asked = [phantom.patients_of(root) for root in ("phantom", "phantom:7", "data/phantom", "phantoms:7")]
    assert asked == [phantom.PATIENTS, 7, None, None]
    for wrong in ("phantom:", "phantom:0", "phantom:-3", "phantom:1e3", "phantom:100001", "phantom:\u0663"):
        with pytest.raises(RequestError, match="phantom:1000"):
            phantom.patients_of(wrong)
