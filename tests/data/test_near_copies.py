"""Near copies are looked for among all rows, in pictures that do not depend on data.decode."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from small_data import quiet

from harness.config.data import Data
from harness.data.duplicates import almost_equal, other_crops
from harness.data.prepare import look
from harness.store.home import Home

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
LOOK_ALIKE = (26519, 26657, 27757, 28380, 29055, 29845, 29902, 30348, 31145, 31323, 31663, 31988)
"""HAM10000 images of twelve different lesions, the most alike of its six million pairs"""


def folder(root: Path, pictures: list[tuple[str, PIL.Image.Image]]) -> Path:
    """Pictures with labels in turn, every one a group of its own."""
    root.mkdir()
    lines = ["file,label"]
    for number, (name, picture) in enumerate(pictures):
        picture.save(root / name, quality=60)
        lines.append(f"{name},{'ab'[number % 2]}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def seen(root: Path, home: Home, **decode: object):
    keys = {"root": str(root), "image": "{file}", "group": "none", "folds": 2, "test_fraction": 0}
    return look(Data.model_validate({**keys, "copies": "together", "decode": decode}), 0, home, quiet)


def blobs(number: int) -> PIL.Image.Image:
    coarse = np.random.default_rng(number).integers(0, 256, (9, 12), dtype=np.uint8)
    return PIL.Image.fromarray(coarse).resize((160, 120), PIL.Image.Resampling.BICUBIC)


DECODINGS = [{"size": 8}, {"size": 28, "channels": 3}, {"size": 160, "fit": "crop"}, {"size": "native"}]


def test_groups_and_folds_do_not_depend_on_how_a_study_decodes(tmp_path: Path) -> None:
    pictures = [(f"{number:02d}.png", blobs(number)) for number in range(24)]
    pictures += [("30.jpg", blobs(3)), ("31.png", blobs(5).resize((80, 60))), ("32.png", blobs(7))]
    for name, seed in (("40.png", 1), ("41.png", 2)):  # alike from afar, of another texture: no copies
        texture = np.random.default_rng(seed).choice([-16, 16], (60, 80)).repeat(2, axis=0).repeat(2, axis=1)
        grey = np.clip(np.asarray(blobs(50)) * 0.6 + 40 + texture, 0, 255).astype(np.uint8)
        pictures.append((name, PIL.Image.fromarray(grey)))
    root, home = folder(tmp_path / "root", pictures), Home(tmp_path / "home")
    found = [seen(root, home, **decode) for decode in DECODINGS]
    assert len({one.folds.folds_hash for one in found}) == len({one.dataset.data_hash for one in found}) == 1
    for one in found:
        group = dict(zip(one.dataset.ids.tolist(), one.dataset.groups.tolist(), strict=True))
        pairs = [("03.png", "30.jpg"), ("05.png", "31.png"), ("07.png", "32.png")]
        assert all(group[a] == group[b] for a, b in pairs) and len(set(group.values())) == 26


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development data at {SHARED}")
@pytest.mark.parametrize("size", [28, 32])
def test_different_lesions_are_not_called_copies_at_small_sizes(tmp_path: Path, size: int) -> None:
    files = [SHARED / "ham10000" / "images" / f"ISIC_00{number}.jpg" for number in LOOK_ALIKE]
    pictures = [(file.name, PIL.Image.open(file)) for file in files]
    root = folder(tmp_path / "root", [*pictures, ("again.jpg", PIL.Image.open(files[0]).resize((100, 75)))])
    found = seen(root, Home(tmp_path / "home"), size=size)
    groups = found.dataset.groups.tolist()
    assert len(set(groups)) == len(files) and groups[-1] == groups[0]
    keys = {"root": str(root), "image": "{file}", "group": "none", "folds": 2, "test_fraction": 0}
    apart = Data.model_validate({**keys, "decode": {"size": size}})
    told = [one for one in look(apart, 0, Home(tmp_path / "home"), quiet).findings if one.kind == "near_duplicate"]
    assert {name for one in told for name in one.images} == {files[0].name, "again.jpg"}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development data at {SHARED}")
@pytest.mark.parametrize("name", ["breastmnist", "retinamnist"])
def test_of_files_of_28_pixels_nothing_is_claimed_that_cannot_be_known(tmp_path: Path, name: str) -> None:
    keys = {"root": str(SHARED / "medmnist" / f"{name}.npz"), "group": "none", "split": "official", "folds": 2}
    found = look(Data.model_validate({**keys, "decode": {"size": 28}}), 0, Home(tmp_path), quiet).findings
    near = [one for one in found if one.kind == "near_duplicate"]
    assert near and all("may be copies" in one.message and "trained on" not in one.message for one in near)
    assert len({image for one in near for image in one.images}) < 200


def test_all_rows_are_searched_for_near_copies() -> None:
    rng = np.random.default_rng(0)
    n = 20_200
    pixels = rng.integers(0, 256, (n, 16, 16, 1), dtype=np.uint8)
    pixels[-1] = pixels[-2] // 2 + 40
    pixels[-3] = pixels[4] // 2 + 40
    assert sorted(almost_equal(pixels, np.arange(n)).tolist()) == [[4, n - 3], [n - 2, n - 1]]


@pytest.mark.slow  # the foreground of thousands of pictures
def test_all_rows_are_searched_for_crops() -> None:
    rng = np.random.default_rng(0)
    n = 5_100
    pixels = np.repeat(np.repeat(rng.integers(0, 256, (n, 32, 32, 1), dtype=np.uint8), 2, axis=1), 2, axis=2)
    pixels[-1] = pixels[-2] // 2 + 40
    assert other_crops(pixels, np.full((n, 2), 64), np.arange(n)).tolist() == [[n - 2, n - 1]]


def test_many_copies_of_one_picture_are_one_set() -> None:
    picture = np.asarray(blobs(1))[:, :120, None]
    file = io.BytesIO()
    PIL.Image.fromarray(picture[..., 0]).save(file, "JPEG", quality=70)
    again = np.asarray(PIL.Image.open(file))[..., None]
    pixels = np.stack([picture, again, picture // 2 + 60, again // 2 + 60, np.asarray(blobs(2))[:, :120, None]])
    pairs = almost_equal(pixels, np.arange(5))
    assert {row for pair in pairs.tolist() for row in pair} == {0, 1, 2, 3}
