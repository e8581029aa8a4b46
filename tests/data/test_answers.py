"""Several label columns: what a cell may say, what an empty one means, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_scan import data, make, quiet

from harness.data.manifest import EMPTY_LABEL, scan_data
from harness.data.prepare import findings, prepare
from harness.errors import RequestError
from harness.store.home import Home

TABLE = "file,fluid,air,patient\na.png,1,no,p\nb.png,0,YES,q\nc.png,1.0,-1,r\nd.png,,,s\ne.png,true,0,t\n"
IMAGES = ["a.png", "b.png", "c.png", "d.png", "e.png"]


def test_answers_are_read_with_their_gaps(tmp_path: Path) -> None:
    root = make(tmp_path / "root", TABLE, IMAGES)
    for missing, third in (("ignore", "1?"), ("negative", "10")):
        asked = data(root, label=["fluid", "air"], missing=missing)
        scan = scan_data(asked, Home(tmp_path / "home"), quiet)
        assert list(scan.manifest["label"]) == ["10", "01", third, "", "10"] and scan.classes == ("fluid", "air")


def test_a_row_without_any_answer_is_an_image_without_label(tmp_path: Path) -> None:
    root = make(tmp_path / "root", TABLE, IMAGES)
    scan = scan_data(data(root, label=["fluid", "air"], missing="ignore"), Home(tmp_path / "home"), quiet)
    assert list(scan.manifest["problem"]) == ["", "", "", EMPTY_LABEL, ""]


@pytest.mark.parametrize(
    ("text", "changes", "said"),
    [
        (TABLE, {}, ["line 4", "'air'", "data.missing=ignore"]),
        (TABLE.replace("YES", "maybe"), {}, ["line 3", "'air'", "'maybe'", "neither yes nor no"]),
        (TABLE, {"label": ["fluid", "airr"]}, ["'airr'", "air"]),
        (TABLE, {"classes": ["x", "y"], "missing": "ignore"}, ["data.classes"]),
        (TABLE.replace("0,YES", "1,YES"), {"missing": "ignore"}, ["0 (no)", "'fluid'"]),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, changes: dict[str, object], said: list[str]) -> None:
    root = make(tmp_path / "root", text, IMAGES)
    with pytest.raises(RequestError) as refused:
        scan_data(data(root, **({"label": ["fluid", "air"]} | changes)), Home(tmp_path / "home"), quiet)
    assert all(word in str(refused.value) for word in said), refused.value


def test_a_data_set_with_several_labels_is_divided_and_audited(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["file,fluid,air,patient"]
    names = [f"i{number:03d}.png" for number in range(60)]
    for number, name in enumerate(names):
        fluid, air = rng.integers(0, 2, 2)
        lines.append(f"{name},{fluid},{air if number % 5 else ''},p{number // 2}")
    root = make(tmp_path / "root", "\n".join(lines) + "\n", [])
    for name in names:
        Image.fromarray(rng.integers(0, 255, (9, 9), dtype=np.uint8)).save(root / name)
    found = data(root, label=["fluid", "air"], missing="ignore", folds=3, decode={"size": 8})
    prepared = prepare(found, 0, Home(tmp_path / "home"), quiet)
    dataset, folds = prepared.dataset, prepared.folds
    assert dataset.multilabel and dataset.y.shape == (60, 2) and (dataset.y[::5, 1] == -1).all()
    assert dataset.counts() == [int((dataset.y[:, 0] == 1).sum()), int((dataset.y[:, 1] == 1).sum())]
    for rows in (folds.held_out_rows(0), folds.held_out_rows(2), folds.test_rows()):
        assert {0, 1} <= set(dataset.y[rows, 0].tolist()) and {0, 1} <= set(dataset.y[rows, 1].tolist())
    assert prepared.findings == []


def test_equal_images_with_contradicting_answers_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["file,fluid,air"] + [f"{n}.png,{n % 2},{n // 2 % 2}" for n in range(24)]
    root = make(tmp_path / "root", "\n".join(lines) + "\n", [])
    for n in range(24):
        Image.fromarray(rng.integers(0, 255, (9, 9), dtype=np.uint8)).save(root / f"{n}.png")
    (root / "1.png").write_bytes((root / "0.png").read_bytes())
    found = data(root, label=["fluid", "air"], group="none", folds=2, decode={"size": 8})
    kinds = {finding.kind: finding.images for finding in findings(found, 0, Home(tmp_path / "home"), quiet)}
    assert sorted(kinds["conflicting_labels"]) == ["0.png", "1.png"]
