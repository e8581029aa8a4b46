"""Which images a bundle has seen: found again in any order, other ones not, and a spoiled section refused."""

import numpy as np
import pytest

from harness.ensemble.bundle import FILE, contents_section, seen
from harness.errors import RequestError
from harness.store.arrays import pack

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
SALT = "ab" * 16


def test_its_own_images_are_found_again_and_others_are_not():
    about, files = contents_section(IMAGES, np.arange(8), np.arange(8, 12), SALT)
    found = seen(about, files[FILE], IMAGES[::-1])
    assert found["development"].tolist() == [False] * 12 + [True] * 8
    assert found["test"].tolist() == [False] * 8 + [True] * 4 + [False] * 8
    nearly = IMAGES.copy()
    nearly[:, 0, 0] ^= 1  # one grey level of one pixel
    assert not any(part.any() for part in seen(about, files[FILE], nearly).values())
    assert not any(part.any() for part in seen(about, files[FILE], IMAGES.reshape(20, 4, 16, 1)).values())


def test_digests_say_nothing_of_rows_and_differ_between_data_sets():
    one = contents_section(IMAGES, np.arange(8), np.arange(8, 12), SALT)[1][FILE]
    assert one == contents_section(IMAGES, np.arange(8)[::-1], np.arange(8, 12), SALT)[1][FILE]
    other = contents_section(IMAGES, np.arange(8), np.arange(8, 12), "cd" * 16)
    assert not seen(other[0], one, IMAGES)["development"].any()


@pytest.mark.parametrize(
    ("about", "stored"),
    [({}, pack({})), ({"salt": "no hex"}, pack({})), ({"salt": SALT}, pack({})), ({"salt": SALT}, b"no archive")],
)
def test_a_section_that_is_none_is_refused(about, stored):
    with pytest.raises(RequestError, match="Build the ensemble again"):
        seen(about, stored, IMAGES)
