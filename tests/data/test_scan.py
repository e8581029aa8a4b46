"""Scan and manifest: every fault of a labels file or a folder is named; what is healthy is read once."""

import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from harness.config.data import Data
from harness.data.manifest import COLUMNS, EMPTY_LABEL, scan_data
from harness.data.sources import NO_FILE, NO_LABEL, read_table
from harness.errors import RequestError
from harness.store.home import Home


def quiet(what: str, done: int, total: int) -> None:
    """A progress that says nothing."""


class Reads:
    """Counts what was read, by what the scan says of its progress."""

    def __init__(self) -> None:
        self.files = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        self.files = max(self.files, done)


def make(root: Path, text: str, images: list[str]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "labels.csv").write_text(text)
    for number, name in enumerate(images):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        grey = np.full((10 + number, 12), 10 * number, np.uint8)
        PIL.Image.fromarray(grey).save(root / name)
    return root


PLAIN = "file,label,patient\na.png,cat,007\nb.png,dog,8\nc.png,cat,007\n"


def data(root: Path, **changes: object) -> Data:
    return Data.model_validate({"root": str(root), "group": "patient"} | changes)


def test_manifest_of_a_healthy_folder(tmp_path: Path) -> None:
    root = make(tmp_path / "root", PLAIN, ["a.png", "b.png", "c.png"])
    scan = scan_data(data(root), Home(tmp_path / "home"), quiet)
    table = scan.manifest
    assert tuple(table.columns) == COLUMNS and scan.classes == ("cat", "dog")
    assert list(table["id"]) == ["a.png", "b.png", "c.png"] and list(table["problem"]) == ["", "", ""]
    assert list(table["height"]) == [10, 11, 12] and set(table["width"]) == {12}
    assert set(table["mode"]) == {"L"} and set(table["format"]) == {"PNG"}
    assert table["group"][0] == table["group"][2] != table["group"][1] and "007" not in set(table["group"])


def test_ids_are_padded_and_headers_stripped(tmp_path: Path) -> None:
    root = make(tmp_path / "root", "id, bleed\n0,1\n1,0\n", ["images/000.png", "images/001.png"])
    asked = data(root, image="images/{id:0>3}.png", label="bleed", group="none")
    table = scan_data(asked, Home(tmp_path / "home"), quiet).manifest
    assert list(table["id"]) == list(table["group"]) == ["images/000.png", "images/001.png"]
    assert list(table["problem"]) == ["", ""]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_tables_of_other_habits(tmp_path: Path, delimiter: str, encoding: str) -> None:
    path = tmp_path / "labels.csv"
    cells = [[" größe ", "label"], ["007", "NA"], ["é ", " x y"]]
    path.write_bytes(("\r\n".join(delimiter.join(row) for row in cells) + "\r\n\r\n").encode(encoding))
    assert read_table(path) == (["größe", "label"], [["007", "NA"], ["é", "x y"]], [2, 3])


@pytest.mark.parametrize(
    ("text", "changes", "said"),
    [
        (PLAIN, {"label": "lable"}, "no column 'lable'. Did you mean label.*file, label, patient"),
        (PLAIN, {"group": "lesion"}, "data.group.*'lesion'.*none"),
        (PLAIN, {"split": "fold"}, "data.split"),
        (PLAIN, {"image": "{path}"}, "data.image.*'path'"),
        (PLAIN, {"image": "a.png"}, "data.image.*braces"),
        (PLAIN, {"image": "{file.x}"}, "data.image.*braces"),
        (PLAIN, {"image": "{file:03d}"}, "Cells are text"),
        (PLAIN, {"labels": "other.csv"}, "other.csv.*labels.csv"),
        (PLAIN, {"classes": ["cat", "dogs"]}, "line 3.*Did you mean dogs"),
        (PLAIN, {"classes": ["cat", "dog", "eel"]}, "no row.*eel"),
        (PLAIN + "a.png,cat,007\n", {}, r"more than once.*a.png.*lines 2, 5"),
        (PLAIN + "./a.png,cat,007\n", {}, "more than once"),
        (PLAIN + "../x.png,cat,1\n", {}, "line 5.*not inside the root"),
        (PLAIN + "/etc/x.png,cat,1\n", {}, "not inside the root"),
        (PLAIN + "d.png,cat,\n", {}, "no patient.*line 5"),
        (PLAIN + "d.png,cat\n", {}, "line 5: 2 cells.*3 columns"),
        (PLAIN.replace("dog", "cat"), {}, "1 class"),
        ("file,label,patient\n", {}, "no rows"),
        ("", {}, "empty"),
        ("label,label\n", {}, "twice"),
        ("a\0,b\n", {}, "labels.csv is not a text table"),
        (PLAIN.replace(".png", ".jpg"), {}, "none of the 3.*a.jpg.*a.png"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, changes: dict[str, object], said: str) -> None:
    root = make(tmp_path / "root", text, ["a.png", "b.png", "c.png"])
    with pytest.raises(RequestError, match=f"(?s){said}"):
        scan_data(data(root, **changes), Home(tmp_path / "home"), quiet)


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"data\.root.*nowhere"):
        scan_data(data(tmp_path / "nowhere"), Home(tmp_path / "home"), quiet)


def test_rows_without_partner_both_ways_and_unreadable_files_are_listed(tmp_path: Path) -> None:
    text = PLAIN + "gone.png,cat,1\nbad.png,dog,2\nempty.png,,3\n"
    root = make(tmp_path / "root", text, ["a.png", "b.png", "c.png", "empty.png", "extra/d.png", ".hidden.png"])
    (root / "bad.png").write_bytes(b"no picture")
    table = scan_data(data(root), Home(tmp_path / "home"), quiet).manifest.set_index("id")
    problems = {name: problem for name, problem in table["problem"].items() if problem}
    assert problems == {
        "gone.png": NO_FILE,
        "bad.png": "not an image in any known format",
        "empty.png": EMPTY_LABEL,
        "extra/d.png": NO_LABEL,
    }
    assert table["size_bytes"]["gone.png"] == -1 and table["label"]["extra/d.png"] == ""


def test_only_the_images_folder_must_be_labelled(tmp_path: Path) -> None:
    names = ["in/a.png", "in/b.png", "in/c.png"]
    root = make(tmp_path / "root", PLAIN, [*names, "elsewhere/x.png"])
    assert list(scan_data(data(root, image="in/{file}"), Home(tmp_path / "home"), quiet).manifest["id"]) == names


def test_the_home_inside_the_root_is_not_scanned(tmp_path: Path) -> None:
    root = make(tmp_path / "root", PLAIN, ["a.png", "b.png", "c.png", "mlruns/pixels/x.png"])
    assert len(scan_data(data(root), Home(root / "mlruns"), quiet).manifest) == 3


def test_a_rescan_equals_a_fresh_scan_and_reads_nothing(tmp_path: Path) -> None:
    root = make(tmp_path / "root", PLAIN, ["a.png", "b.png", "c.png"])
    home = Home(tmp_path / "home")
    first = scan_data(data(root), home, quiet)
    reads = Reads()
    second = scan_data(data(root), home, reads)
    assert reads.files == 0
    assert first.manifest.equals(second.manifest)
    PIL.Image.fromarray(np.zeros((50, 50), np.uint8)).save(root / "b.png")
    third = scan_data(data(root), home, reads)
    assert reads.files == 1 and third.manifest["width"][1] == 50
    (home.root / "other").mkdir()
    (home.root / "other" / "salt").write_text(home.salt())
    fresh = scan_data(data(root), Home(home.root / "other"), quiet)
    assert third.manifest.equals(fresh.manifest)


def test_a_file_that_became_readable_is_seen(tmp_path: Path) -> None:
    root = make(tmp_path / "root", PLAIN, ["a.png", "b.png", "c.png"])
    home = Home(tmp_path / "home")
    good, facts = (root / "b.png").read_bytes(), os.stat(root / "b.png")
    (root / "b.png").write_bytes(b"x" * len(good))
    os.utime(root / "b.png", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert scan_data(data(root), home, quiet).manifest["problem"][1]
    (root / "b.png").write_bytes(good)
    os.utime(root / "b.png", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert not scan_data(data(root), home, quiet).manifest["problem"][1]


def test_number_classes_stand_in_order(tmp_path: Path) -> None:
    rows = "".join(f"{n}.png,{n},p{n}\n" for n in range(12))
    root = make(tmp_path / "root", "file,label,patient\n" + rows, [f"{n}.png" for n in range(12)])
    scan = scan_data(data(root), Home(tmp_path / "home"), quiet)
    assert scan.classes == tuple(str(n) for n in range(12))
