"""What a picture shows is cut out whatever lies around it, however bright the export, however large the file."""

import io

import numpy as np
import PIL.Image
import pytest
from pydantic import ValidationError

from harness.config.data import Decode
from harness.images.decode import decode_bytes, foreground


def scene(size: int = 300) -> np.ndarray:
    """(size, size) a textured disc with a dark hole, a letter in a corner, a frame's line at the right."""
    y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
    disc = (x - 0.45) ** 2 + (y - 0.55) ** 2 < 0.3**2
    picture = np.where(disc, 130 + 50 * np.sin(40 * x) * np.cos(31 * y), 0)
    picture[(x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.05**2] = 0
    picture[(x < 0.1) & (y < 0.08)] = 255
    picture[x > 0.99] = 200
    return picture.astype(np.uint8)


def shown(picture: np.ndarray) -> np.ndarray:
    return np.round(255 * foreground(picture)).astype(np.uint8)


def test_the_object_is_cut_out_and_what_lies_around_it_is_black() -> None:
    found = shown(scene())
    assert abs(found.shape[0] - 180) <= 2 and abs(found.shape[1] - 180) <= 2
    assert found[:20, :20].max() == 0 and found.max() == 255  # the letter and the frame are gone
    assert found[int(0.25 * 180 / 0.6) : int(0.25 * 180 / 0.6) + 2, 95:100].max() == 0  # the hole stays


def test_another_brightness_and_another_size_show_the_same() -> None:
    one = shown(scene()).astype(int)
    dim = shown((scene() * 0.5 + 30).astype(np.uint8)).astype(int)
    assert dim.shape == one.shape and np.abs(dim - one).mean() < 3
    large = PIL.Image.fromarray(shown(scene(1500))).resize(one.shape[::-1], PIL.Image.Resampling.BOX)
    assert np.abs(np.asarray(large, dtype=int) - one).mean() < 12


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (7, 7)])
def test_where_nothing_stands_out_the_whole_picture_stays(shape: tuple[int, int]) -> None:
    assert foreground(np.full(shape, 80, np.uint8)).shape == shape


def test_files_are_trimmed_before_they_are_resized() -> None:
    file = io.BytesIO()
    PIL.Image.fromarray(scene()).convert("RGBA").save(file, format="PNG")
    how = Decode(size=64, channels=1, trim=True, fit="stretch")
    decoded = decode_bytes(file.getvalue(), ".png", how)
    box = PIL.Image.fromarray(shown(scene())).resize((64, 64), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(decoded[..., 0], np.asarray(box))
    whole = decode_bytes(file.getvalue(), ".png", how.model_copy(update={"trim": False}))
    assert decoded.shape == whole.shape == (64, 64, 1) and decoded.mean() > 1.5 * whole.mean()
    with pytest.raises(ValidationError, match=r"data\.decode\.channels to 1"):
        Decode(channels=3, trim=True)
