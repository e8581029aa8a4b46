"""What was typed, as images: lists, standard input, DICOM series in the order of the body."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from harness.errors import RequestError
from harness.images.dicom import write_dicom
from harness.predict.inputs import find_images, with_series

ONE, OTHER = "1.2.826.0.1.3680043.8.498.111", "1.2.826.0.1.3680043.8.498.222"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("b.png", "a.png"):
        Image.new("L", (16, 16)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("column", ["file", "Path", "IMAGE", "image_path"])
def test_a_list_names_paths_from_its_own_folder(images, column):
    (images / "list.csv").write_text(f"number,{column}\n007,b.png\n8,{images}/a.png\n9,gone.png\n")
    assert find_images([images / "list.csv"]) == [images / "b.png", images / "a.png", images / "gone.png"]


def test_a_list_without_such_a_column_says_what_to_call_it(images):
    (images / "list.csv").write_text("number,fiel\n1,b.png\n")
    with pytest.raises(
        RequestError, match=r"list\.csv: no column.*number, fiel.*Did you mean file.*Call that column `file`"
    ):
        find_images([images / "list.csv"])
    (images / "empty.csv").write_text("file\n")
    with pytest.raises(RequestError, match=r"empty\.csv: the column 'file' of this list is empty"):
        find_images([images / "empty.csv"])


def test_standard_input_and_files_together(images):
    lines = [f"{images}/b.png\n", "\n", f"{images}/with space.png\n"]
    found = find_images([images / "a.png", Path("-")], lines)
    assert found == [images / "a.png", images / "b.png", images / "with space.png"]


def series(folder: Path, name: str, uid: str | None, z: float | None, number: int | None, side: float = 1.0) -> Path:
    write_dicom(folder / name, np.full((8, 8), 100, np.uint16), window=(100, 200))
    dataset = pydicom.dcmread(folder / name)
    dataset.PatientName = "ZEBRASECRET"
    if uid is not None:
        dataset.SeriesInstanceUID = uid
    if z is not None:
        dataset.ImagePositionPatient = [0, 0, z]
        dataset.ImageOrientationPatient = [side, 0, 0, 0, 1, 0]
    if number is not None:
        dataset.InstanceNumber = number
    dataset.save_as(folder / name)
    return folder / name


def test_slices_come_in_the_order_of_the_body_whatever_their_names(tmp_path):
    heights = [20.0, -5.0, 7.5]
    names = [series(tmp_path, f"s{n}.dcm", ONE, z, 10 - n) for n, z in enumerate(heights)]
    numbered = [series(tmp_path, f"t{n}.dcm", OTHER, None, number) for n, number in enumerate((2, 1))]
    png = tmp_path / "x.png"
    Image.new("L", (8, 8)).save(png)
    given = [numbered[0], names[0], png, *names[1:], numbered[1]]
    found = with_series(given)
    assert [one.path for one in found] == [numbered[1], numbered[0], names[1], names[2], names[0], png]
    assert [one.series for one in found] == [1, 1, 2, 2, 2, None]
    assert ONE not in repr(found) and "ZEBRA" not in repr(found)


def test_the_order_follows_the_normal_of_the_slices(tmp_path):
    """Turned about, the same positions run the other way along the normal."""
    turned = [series(tmp_path, f"{n}.dcm", ONE, z, None, side=-1.0) for n, z in enumerate((1.0, 2.0))]
    assert [one.path for one in with_series(turned)] == turned[::-1]


def test_headers_that_say_nothing_useful_do_not_stop_it(tmp_path):
    good = series(tmp_path, "good.dcm", ONE, 1.0, None)
    alone = series(tmp_path, "alone.dcm", None, None, None)
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    gone = tmp_path / "gone.dcm"
    found = with_series([alone, broken, gone, good])
    assert [(one.path, one.series) for one in found] == [(alone, None), (broken, None), (gone, None), (good, 1)]
    with pytest.raises(RequestError, match=r"--per series: none of the 2 files.*Leave --per away"):
        with_series([alone, gone])
