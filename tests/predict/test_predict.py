"""harness predict on real files of every kind the built-in data set has, and on files that are none."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from every_method import build_every
from numbered_rows import names_by_row
from PIL import Image

from harness.errors import RequestError
from harness.images.decode import decode
from harness.predict.inputs import find_images
from harness.predict.predict import Asked, predict


@pytest.fixture(scope="module")
def bundle(small_study):
    return build_every(small_study.home, [small_study.record], ["stacking"], 2, 0, "cpu")[0].bundle


@pytest.fixture(scope="module")
def expected(bundle, small_study):
    """What build said of the test split: file -> probabilities."""
    table = pd.read_parquet(bundle / "predictions.parquet")
    table = table[table["split"] == "test"]
    names = names_by_row(small_study.home, "small")
    return dict(zip(table["id"].map(names), table["probabilities"], strict=True))


def test_the_same_numbers_as_build_gave(bundle, expected, small_study):
    root = small_study.images
    files = [root / name for name in expected]
    assert {path.suffix for path in files} >= {".png", ".dcm"}
    found = predict(bundle, files, "cpu", asked=Asked(raw=True))
    assert (found.classes, found.files, found.problems) == (("normal", "bleed"), files, [])
    np.testing.assert_allclose(found.probabilities, np.stack(list(expected.values())), atol=1e-5)


def test_a_folder_is_searched_and_bad_files_do_not_stop_it(bundle, expected, small_study, tmp_path):
    root = small_study.images
    dicom = next(name for name in expected if name.endswith(".dcm"))
    png = next(name for name in expected if name.endswith(".png"))
    deep = tmp_path / "case" / "series"
    deep.mkdir(parents=True)
    shutil.copyfile(root / dicom, deep / "IM0001")  # as scanners write them: no suffix
    shutil.copyfile(root / png, tmp_path / "one.PNG")
    (tmp_path / "two.png").write_bytes((root / png).read_bytes()[:100])
    (tmp_path / "three.jpg").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("file,label\n")
    found = predict(bundle, [tmp_path], "cpu", asked=Asked(raw=True))
    assert found.files == [deep / "IM0001", tmp_path / "one.PNG"]
    np.testing.assert_allclose(found.probabilities, [expected[dicom], expected[png]], atol=1e-5)
    assert [path.name for path, _ in found.problems] == ["three.jpg", "two.png"]
    assert all(reason for _, reason in found.problems)


def test_nothing_readable_gives_an_empty_table(bundle, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found = predict(bundle, [tmp_path / "broken.png"], "cpu")
    assert found.files == [] and found.probabilities.shape == (0, 2) and len(found.problems) == 1


def test_a_file_is_read_once_however_often_it_is_meant(bundle, expected, small_study, tmp_path):
    shutil.copyfile(small_study.images / next(iter(expected)), tmp_path / "a.png")
    assert find_images([tmp_path / "a.png", tmp_path, tmp_path / "a.png"]) == [tmp_path / "a.png"]


def test_a_bundle_by_name(bundle, small_study, monkeypatch, expected):
    monkeypatch.setenv("HARNESS_HOME", str(small_study.home.root))
    file = small_study.images / next(iter(expected))
    assert predict("small/stacking-top2", [file], "cpu").files == [file]
    with pytest.raises(RequestError, match=r"no bundle 'small/staking-top2'.*Did you mean.*small/stacking-top2"):
        predict("small/staking-top2", [file], "cpu")


def test_wrong_requests(bundle, tmp_path):
    with pytest.raises(RequestError, match=r"nowhere\.png: no such file or folder"):
        predict(bundle, [Path("nowhere.png")], "cpu")
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(RequestError, match="no image in this folder"):
        predict(bundle, [tmp_path], "cpu")
    with pytest.raises(RequestError, match="no finished bundle"):
        predict(tmp_path, [tmp_path / "notes.txt"], "cpu")
    with pytest.raises(RequestError, match="no image was given"):
        predict(bundle, [], "cpu")
    with pytest.raises(RequestError, match="--device tpu9"):
        predict(bundle, [tmp_path / "notes.txt"], "tpu9")


def test_decodes_as_the_bundle_says(bundle, expected, small_study):
    """Another window or size than the bundle's would give other pixels: the decode block travels with the bundle."""
    from harness.ensemble.bundle import load_bundle, predict_bundle

    found = load_bundle(bundle)
    name = next(name for name in expected if name.endswith(".dcm"))
    pixels = decode(small_study.images / name, found.decodes[0])
    np.testing.assert_allclose(predict_bundle(found, [pixels[None]])[0], expected[name], atol=1e-5)


def test_an_image_inside_an_archive(bundle, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (1, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", test_images=image, test_labels=np.zeros(1, np.uint8))
    Image.fromarray(image[0]).save(tmp_path / "a.png")
    inside, beside = tmp_path / "a.npz/test/00000", tmp_path / "a.png"
    found = predict(bundle, [inside, beside], "cpu")
    assert found.files == [inside, beside] and found.problems == []
    np.testing.assert_allclose(found.probabilities[0], found.probabilities[1], atol=1e-6)
