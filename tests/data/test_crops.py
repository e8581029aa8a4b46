"""One picture in several crops and sizes is found, other pictures are not, and copies can be kept together."""

from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
from scipy import ndimage
from small_data import quiet

from harness.config.data import Data
from harness.data.duplicates import other_crops
from harness.data.prepare import look
from harness.images.decode import foreground
from harness.store.home import Home

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


def head(rng: np.random.Generator, size: int = 200) -> np.ndarray:
    """(size, size) a bright disc with an inner structure of its own on black."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    inside = x**2 + (y / 1.1) ** 2 < 0.7
    fine = ndimage.gaussian_filter(rng.normal(0, 1, (size, size)), 3)
    return np.where(inside, 120 + 60 * fine / fine.std() / 2, 0).clip(0, 255).astype(np.uint8)


def framed(picture: np.ndarray, side: int, margin: int, gain: float = 1.0) -> np.ndarray:
    """(256, 256, 1) the picture resized and set into black, somewhere."""
    small = np.asarray(PIL.Image.fromarray(picture).resize((side, side), PIL.Image.Resampling.BICUBIC))
    found = np.zeros((256, 256, 1), np.uint8)
    found[margin : margin + side, 5 : 5 + side, 0] = (small * gain).astype(np.uint8)
    return found


def test_crops_of_one_picture_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    heads = [head(rng) for _ in range(6)]
    pictures = [framed(one, 200, 20) for one in heads]
    pictures += [framed(heads[1], 140, 90), framed(heads[4], 230, 3, gain=0.7)]
    pixels, alone = np.stack(pictures), np.arange(8)
    sizes = np.full((8, 2), 256)
    assert sorted(other_crops(pixels, sizes, alone).tolist()) == [[1, 6], [4, 7]]
    assert other_crops(pixels, sizes, np.array([0, 1, 2, 3, 4, 5, 1, 7])).tolist() == [[4, 7]]
    sizes[7] = 40  # enlarged from so few pixels, its structure is none
    assert other_crops(pixels, sizes, alone).tolist() == [[1, 6]]
    assert other_crops(pixels[:, ::8, ::8], sizes, alone).shape == (0, 2)


def test_flat_pictures_are_like_no_other() -> None:
    assert other_crops(np.full((3, 80, 80, 3), 9, np.uint8), np.full((3, 2), 80), np.arange(3)).shape == (0, 2)
    assert foreground(np.full((5, 7), 3, np.uint8)).shape == (5, 7)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development data at {SHARED}")
def test_copies_of_head_slices_are_kept_together(tmp_path: Path) -> None:
    """images/188.png and 189.png are equal; 105 and 187, 011 and 061 are one slice in two crops (looked at)."""
    home = Home(tmp_path)
    block = {"root": str(SHARED / "head_ct"), "image": "images/{id:0>3}.png", "label": "hemorrhage", "group": "none"}
    data = Data.model_validate({**block, "decode": {"size": 128}, "acknowledge": None})
    apart = look(data, 0, home, quiet)
    said = [finding for finding in apart.findings if "crops of one picture" in finding.message]
    assert {"images/105.png", "images/187.png"} <= {name for finding in said for name in finding.images}
    assert all(finding.kind == "near_duplicate" and "data.copies=together" in finding.message for finding in said)
    together = look(data.model_copy(update={"copies": "together"}), 0, home, quiet)
    group = dict(zip(together.dataset.ids.tolist(), together.dataset.groups.tolist(), strict=True))
    fold = dict(zip(together.dataset.ids.tolist(), together.folds.fold.tolist(), strict=True))
    for one, other in (("011", "061"), ("188", "189"), ("105", "187")):
        a, b = f"images/{one}.png", f"images/{other}.png"
        assert group[a] == group[b] and fold[a] == fold[b]
    assert 170 < len(set(group.values())) < 195 and len(set(apart.dataset.groups.tolist())) == 200
    kinds = {finding.kind for finding in together.findings}
    assert not kinds & {"exact_duplicate", "near_duplicate"}
    assert together.dataset.data_hash != apart.dataset.data_hash
    again = look(data.model_copy(update={"copies": "together"}), 0, home, quiet)
    pd.testing.assert_series_equal(pd.Series(again.dataset.groups), pd.Series(together.dataset.groups))
