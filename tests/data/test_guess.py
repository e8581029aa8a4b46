"""What a first look at a folder makes of it: tables, names of files, labels, and never a group that is not there."""

from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from small_data import film, picture

from harness.data.guess import guess
from harness.errors import RequestError
from harness.store.home import Home

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development data at {SHARED}")


def draft(root: Path, **expected: object) -> None:
    found = guess(root, Home(root / "mlruns"))
    assert {key: found.keys.get(key) for key in expected} == expected


def make(root: Path, table: str, names: list[str]) -> Path:
    for name in names:
        picture(root / name)
    (root / "t.csv").write_text(table)
    return root


REAL = {
    "head_ct": {"image": "images/{id:0>3}.png", "label": "hemorrhage", "group": "none", "classes": ["0", "1"]},
    "chest_xray": {"image": "images/{file}", "label": "label", "group": "patient", "classes": ["NORMAL", "PNEUMONIA"]},
    "chest_xray_dicom": {
        "labels": "labels.csv",
        "image": "{image_id}.dcm",
        "label": ["pneumonia", "bacterial", "viral"],
        "group": "patient_id",
        "classes": None,
    },
    "ham10000": {"labels": "metadata.csv", "image": "images/{image_id}.jpg", "label": "dx", "group": "lesion_id"},
    "slides": {"join": "case", "label": "label", "group": "case", "image": None},
    "medmnist/breastmnist.npz": {"label": "label", "group": "none", "split": "official", "labels": None},
    "medmnist/retinamnist.npz": {"label": "label", "split": "official", "classes": list("01234")},
}


@needs_shared
@pytest.mark.parametrize(("name", "expected"), REAL.items())
def test_real_data_sets(name: str, expected: dict[str, object]) -> None:
    draft(SHARED / name, **expected)


@needs_shared
def test_grey_pictures_in_colour_files_are_grey() -> None:
    channels = {name: guess(SHARED / name, Home(SHARED)).keys["decode"]["channels"] for name in ("head_ct", "ham10000")}
    assert channels == {"head_ct": 1, "ham10000": 3}


@pytest.mark.parametrize(
    ("cells", "names", "image"),
    [
        (["a.png", "b.png", "c.png"], ["a.png", "b.png", "c.png"], "{x}"),
        (["in/a.png", "in/b.png", "in/c.png"], ["in/a.png", "in/b.png", "in/c.png"], "{x}"),
        (["a.png", "b.png", "c.png"], ["in/deep/a.png", "in/deep/b.png", "in/deep/c.png"], "in/deep/{x}"),
        (["a", "b", "c"], ["in/a.jpg", "in/b.jpg", "in/c.jpg"], "in/{x}.jpg"),
        (["1", "2", "3"], ["in/0001.png", "in/0002.png", "in/0003.png"], "in/{x:0>4}.png"),
    ],
)
def test_ways_to_name_an_image(tmp_path: Path, cells: list[str], names: list[str], image: str) -> None:
    rows = "".join(f"{cell},{'ab'[n % 2]}\n" for n, cell in enumerate(cells))
    draft(make(tmp_path, "x,finding\n" + rows, names), labels="t.csv", image=image, label="finding")


def test_the_table_with_labels_wins_over_one_that_also_names_the_images(tmp_path: Path) -> None:
    root = make(tmp_path, "file,label\na.png,x\nb.png,y\nc.png,x\n", ["a.png", "b.png", "c.png"])
    (root / "sources.csv").write_text("file,page\na.png,1-a\nb.png,1-a\nc.png,1-a\n")
    (root / "broken.csv").write_text("a,b\n1\n")
    draft(root, labels="t.csv")


@pytest.mark.parametrize(
    ("header", "group"),
    [
        ("file,label,PatientID", "PatientID"),
        ("file,label,subject", "subject"),
        ("file,label,lesion_id", "lesion_id"),
        ("file,label,site", "none"),
        ("file,label,impatience", "none"),
    ],
)
def test_a_group_is_taken_by_name_or_not_at_all(tmp_path: Path, header: str, group: str) -> None:
    root = make(tmp_path, f"{header}\na.png,x,1\nb.png,y,2\nc.png,x,1\n", ["a.png", "b.png", "c.png"])
    found = guess(root, Home(tmp_path / "home"))
    assert found.keys["group"] == group
    assert ("group" in found.why and "NOTHING" in found.why["group"]) == (group == "none")
    assert any("same" in one or "No column says" in one for one in found.check)


def test_a_split_is_taken_where_rows_say_test(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "c.png"]
    draft(make(tmp_path / "a", "file,label,split\na.png,x,Test\nb.png,y,train\nc.png,x,train\n", names), split="split")
    draft(make(tmp_path / "b", "file,label,split\na.png,x,1\nb.png,y,2\nc.png,x,2\n", names), split=None)


def test_the_positive_class_is_the_last(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "c.png"]
    root = make(tmp_path, "file,label\na.png,normal\nb.png,abscess\nc.png,normal\n", names)
    draft(root, classes=["normal", "abscess"])


def test_empty_cells_among_several_labels_are_not_known(tmp_path: Path) -> None:
    root = make(tmp_path, "file,air,fluid\na.png,1,0\nb.png,0,\nc.png,0,1\n", ["a.png", "b.png", "c.png"])
    draft(root, label=["air", "fluid"], missing="ignore", classes=None)


def test_folders_are_classes_or_splits_of_classes(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / f"plain/{name}/1.png")
        for split in ("train", "test"):
            picture(tmp_path / f"split/{split}/{name}/1.png")
    draft(tmp_path / "plain", labels="folders", label="label", group="none", classes=["cat", "dog"], split=None)
    draft(tmp_path / "split", labels="folders", label="label", split="split", classes=["cat", "dog"])


def test_films_are_grouped_by_their_patients(tmp_path: Path) -> None:
    for number in range(4):
        film(tmp_path / f"{'ab'[number % 2]}/{number}.dcm", PatientID=f"p{number // 2}")
    found = guess(tmp_path, Home(tmp_path / "home"))
    assert found.keys["group"] == "dicom.PatientID"
    assert "p0" not in str(found) and "p1" not in str(found)
    film(tmp_path / "a/9.dcm", PatientID="")
    assert guess(tmp_path, Home(tmp_path / "home")).keys["group"] == "none"


def test_parts_of_names_that_may_be_people_are_not_repeated(tmp_path: Path) -> None:
    people = ["zoe", "bob", "cyd", "dan", "eve", "fay", "gus", "hal"]
    root = make(tmp_path, "case,label\nc1,x\nc2,y\n", [f"c{n % 2 + 1}_{who}.png" for n, who in enumerate(people)])
    found = guess(root, Home(tmp_path / "home"))
    assert found.keys["join"] == "case" and "part_2" in str(found.check) and "zoe" not in str(found)


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such folder"):
        guess(tmp_path / "gone", Home(tmp_path))
    with pytest.raises(RequestError, match="no image in this folder"):
        guess(tmp_path, Home(tmp_path))
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(RequestError, match=r"harness init .*a\.npz"):
        guess(tmp_path, Home(tmp_path))
    picture(tmp_path / "images/a.png")
    with pytest.raises(RequestError, match=r"no table names its images.*labels\.csv"):
        guess(tmp_path, Home(tmp_path))
    pd.DataFrame({"file": ["a.png"], "note": ["x"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(RequestError, match=r"t\.parquet: no column looks like a label.*file, note"):
        guess(tmp_path, Home(tmp_path))


def test_a_picture_that_cannot_be_decoded_does_not_stop_the_look(tmp_path: Path) -> None:
    root = make(tmp_path, "file,label\na.png,x\nb.png,y\nc.png,x\n", ["a.png", "b.png", "c.png"])
    (root / "a.png").write_bytes(b"broken")
    colours = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    for name in ("b.png", "c.png"):
        PIL.Image.fromarray(colours).save(root / name)
    draft(root, decode={"size": 32, "channels": 3})
