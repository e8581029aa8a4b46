"""Data sets in one .npz file: their images, labels and official split; what is no such file is told."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from small_data import quiet, scan

from harness.config.data import Data, Decode
from harness.data.prepare import findings, prepare
from harness.errors import RequestError, Unreadable
from harness.images.decode import decode, decode_with_digest
from harness.images.npz import as_file
from harness.store.home import Home
from harness.types import TEST

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development data at {SHARED}")


def write(path: Path, colours: bool = False, **change: object) -> dict[str, np.ndarray]:
    """A small archive; the arrays in it."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for name, count in (("train", 40), ("val", 10), ("test", 12)):
        arrays[f"{name}_images"] = rng.integers(0, 256, (count, 14, 9, *([3] if colours else [])), dtype=np.uint8)
        arrays[f"{name}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    arrays |= change
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
    return arrays


def study(root: Path, **keys: object) -> Data:
    base = {"root": str(root), "group": "none", "folds": 2, "split": "official", "decode": {"size": 14}}
    return Data.model_validate({**base, **keys})


@pytest.mark.parametrize("colours", [False, True])
def test_images_labels_and_split_are_the_archives(tmp_path: Path, colours: bool) -> None:
    arrays = write(tmp_path / "a.npz", colours)
    how = {"size": 14, "fit": "stretch", "channels": 3 if colours else 1}
    prepared = prepare(study(tmp_path / "a.npz", decode=how), 0, Home(tmp_path / "home"), quiet)
    dataset, folds = prepared.dataset, prepared.folds
    assert dataset.ids.tolist()[:2] == ["train/00000", "train/00001"] and dataset.ids.tolist()[-1] == "test/00011"
    assert dataset.y.tolist() == [y for name in ("train", "val", "test") for y in arrays[f"{name}_labels"][:, 0]]
    assert (folds.fold == TEST).tolist() == [name.startswith("test/") for name in dataset.ids.tolist()]
    assert set(folds.fold.tolist()) == {TEST, 0, 1}
    picture = decode(tmp_path / "a.npz/test/00003", Decode.model_validate({**how, "size": 14}))
    assert np.array_equal(prepared.pixels[53], picture) and picture.shape == (14, 14, 3 if colours else 1)


def test_pixels_are_those_of_the_array(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8)
    write(tmp_path / "a.npz", train_images=images, train_labels=np.arange(4))
    for row in range(4):
        picture, digest = decode_with_digest(tmp_path / f"a.npz/train/{row:05d}", Decode(size=16))
        assert np.array_equal(picture[..., 0], images[row])
        assert np.array_equal(np.load(io.BytesIO(as_file(tmp_path / f"a.npz/train/{row}"))), images[row])
        assert digest == decode_with_digest(tmp_path / f"a.npz/train/{row:05d}", Decode(size=16))[1]


def test_the_manifest_says_size_and_mode(tmp_path: Path) -> None:
    write(tmp_path / "a.npz", colours=True)
    found = scan(tmp_path / "a.npz", tmp_path / "home", where={"official": ["train", "test"]})
    assert len(found.manifest) == 52 and found.filtered == {"official: [train, test]": 10}
    assert set(found.manifest["width"]) == {9} and set(found.manifest["height"]) == {14}
    assert set(found.manifest["mode"]) == {"RGB"} and set(found.manifest["format"]) == {"NPZ"}


def test_another_archive_of_that_name_is_seen(tmp_path: Path) -> None:
    write(tmp_path / "a.npz")
    home = Home(tmp_path / "home")
    first = prepare(study(tmp_path / "a.npz"), 0, home, quiet)
    write(tmp_path / "a.npz", test_images=np.random.default_rng(5).integers(3, 8, (12, 14, 9), dtype=np.uint8))
    second = prepare(study(tmp_path / "a.npz"), 0, home, quiet)
    assert first.dataset.data_hash != second.dataset.data_hash
    assert second.pixels[-1].max() == 7 < first.pixels[-1].max()


def test_several_labels_are_several_columns(tmp_path: Path) -> None:
    labels = {
        f"{name}_labels": np.tile([[0, 1], [1, 0]], (n // 2, 1))
        for name, n in (("train", 40), ("val", 10), ("test", 12))
    }
    write(tmp_path / "a.npz", **labels)
    assert scan(tmp_path / "a.npz", tmp_path / "home", label="label_1").manifest["label"][0] == "1"
    with pytest.raises(RequestError, match=r"'label'.*label_0, label_1, official"):
        scan(tmp_path / "a.npz", tmp_path / "home")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train_images": np.zeros((40, 5, 5, 5), np.uint8)}, r"train_images.npy is uint8 \(40, 5, 5, 5\)"),
        ({"train_images": np.zeros((40, 5, 5), np.float32)}, "float32"),
        ({"train_labels": np.zeros(39, np.uint8)}, r"train_labels is uint8 \(39,\).*\(40,\)"),
        ({"train_labels": np.zeros(40)}, "float64"),
        ({"train_images": np.array([None] * 40)}, "cannot be read"),
        ({f"{name}_labels": None for name in ("train", "val", "test")}, "holds train_images.npy, val_images.npy"),
    ],
)
def test_what_is_no_such_data_set_is_refused(tmp_path: Path, change: dict[str, object], said: str) -> None:
    write(tmp_path / "a.npz", **change)
    with pytest.raises(RequestError, match=rf"data\.root.*a\.npz.*{said}"):
        scan(tmp_path / "a.npz", tmp_path / "home")


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(path)
    whole = path.read_bytes()
    for damaged in (b"", b"no archive", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(RequestError, match=r"a\.npz"):
            scan(path, tmp_path / "home")
    with pytest.raises(RequestError, match=r"no \.npz file.*data\.root"):
        scan(tmp_path / "b.npz", tmp_path / "home")


def test_an_image_that_cannot_be_unpacked_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write(path, val_images=np.random.default_rng(0).integers(0, 256, (10, 200, 300), dtype=np.uint8))
    with zipfile.ZipFile(path) as file:
        place = file.getinfo("val_images.npy").header_offset
    raw = bytearray(path.read_bytes())
    raw[place + 100_600 : place + 100_700] = b"\xff" * 100
    path.write_bytes(raw)
    found = findings(study(path, on_error="drop"), 0, Home(tmp_path / "home"), quiet)
    unreadable = [finding for finding in found if finding.kind == "unreadable"]
    assert len(unreadable) == 1 and len(unreadable[0].images) == 10
    assert all(name.startswith("val/") for name in unreadable[0].images) and "archive" in unreadable[0].message


@pytest.mark.parametrize("name", ["train/x", "train/99999", "other/00000"])
def test_strange_names_are_unreadable(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.npz")
    with pytest.raises(Unreadable):
        decode(tmp_path / "a.npz" / name, Decode(size=8))


@pytest.mark.parametrize("keys", [{"labels": "x.csv"}, {"labels": "folders"}, {"pattern": "(?P<a>.)"}])
def test_keys_that_an_archive_does_not_need_are_refused(tmp_path: Path, keys: dict[str, object]) -> None:
    write(tmp_path / "a.npz")
    with pytest.raises(RequestError, match=f"data.{next(iter(keys))}.*Leave this key out"):
        scan(tmp_path / "a.npz", tmp_path / "home", **keys)


@needs_shared
def test_the_real_ones(tmp_path: Path) -> None:
    archive = SHARED / "medmnist/breastmnist.npz"
    with pytest.raises(RequestError, match=r"(?s)exact_duplicate.*test/00076.*conflicting_labels.*test/00076"):
        prepare(study(archive, folds=5), 0, Home(tmp_path), quiet)
    known = {"exact_duplicate": "published as it is", "conflicting_labels": "published as it is"}
    breast = prepare(study(archive, folds=5, acknowledge=known), 0, Home(tmp_path), quiet)
    assert len(breast.dataset.y) == 780 and int((breast.folds.fold == TEST).sum()) == 156
    with np.load(SHARED / "medmnist/breastmnist.npz") as arrays:
        assert breast.dataset.y[-156:].tolist() == arrays["test_labels"].ravel().tolist()
    assert any(finding.kind == "conflicting_labels" and "test/00076" in finding.images for finding in breast.findings)
    how = {"size": 28, "channels": 3}
    eyes = prepare(study(SHARED / "medmnist/retinamnist.npz", decode=how, folds=5), 0, Home(tmp_path), quiet)
    assert eyes.dataset.classes == tuple("01234") and eyes.pixels.shape == (1600, 28, 28, 3)
