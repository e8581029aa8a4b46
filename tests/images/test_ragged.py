"""Images of their own sizes in one flat array: what goes in comes out, whichever rows are asked for."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.images.pixels import gather


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=8),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 99),
)
def test_every_way_of_asking_gives_the_same_images(sizes: list[tuple[int, int]], channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, 256, (height, width, channels), dtype=np.uint8) for height, width in sizes]
    ragged = gather(images, channels)
    assert len(ragged) == len(images)
    rows = rng.integers(0, len(images), 5) if images else np.zeros(0, np.int64)
    mask = rng.random(len(images)) < 0.5
    asked = {
        "rows": (ragged[rows], [images[row] for row in rows]),
        "mask": (ragged[mask], [image for image, kept in zip(images, mask, strict=True) if kept]),
        "slice": (ragged[1:], images[1:]),
        "twice": (ragged[::2][rows % max(1, len(images[::2]))], [images[::2][row % len(images[::2])] for row in rows]),
    }
    for name, (found, wanted) in asked.items():
        assert len(found) == len(wanted), name
        for one, image in enumerate(wanted):
            np.testing.assert_array_equal(found[one], image, err_msg=name)


def test_taking_images_copies_nothing() -> None:
    ragged = gather([np.full((2, 3, 1), 7, np.uint8), np.full((4, 1, 1), 9, np.uint8)], 1)
    ragged.flat[6] = 1
    assert ragged[1][0, 0, 0] == 1 and ragged[np.array([1])][0][0, 0, 0] == 1
