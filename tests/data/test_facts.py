"""Numbers about a data set: counted by hand on a small one."""

import numpy as np
import pandas as pd

from harness.data.summary import by_class, grey_spread, left_out, rows_of, samples, size_spread, summary, usable_rows
from harness.types import Dataset


def small() -> tuple[pd.DataFrame, Dataset]:
    """Four usable images, in another order than the manifest's, and three that are left out."""
    manifest = pd.DataFrame(
        {
            "id": ["a", "b", "c", "d", "gone", "torn", "spare"],
            "width": [10, 20, 30, 40, 0, 5, 0],
            "height": [7] * 7,
            "mode": ["L", "L", "RGB", "L", "", "L", ""],
            "format": ["PNG", "JPEG", "PNG", "PNG", "", "PNG", ""],
            "problem": ["", "", "", "", "no file", "", "no label"],
        }
    )
    ids = np.array(["d", "c", "b", "a"])
    return manifest, Dataset(ids, tuple(ids), np.array([0, 1, 1, 0]), ids, ("x", "y", "never"), "")


def test_rows_come_in_the_order_of_the_data_set() -> None:
    manifest, dataset = small()
    assert usable_rows(manifest, dataset)["width"].tolist() == [40, 30, 20, 10]


def test_what_is_left_out_is_counted_by_reason() -> None:
    manifest, dataset = small()
    assert left_out(manifest, dataset) == {"no file": 1, "cannot be decoded": 1, "no label": 1}


def test_the_summary_counts_usable_images_alone() -> None:
    found = summary(*small())
    assert found["sizes"]["width"] == {"min": 10, "median": 25, "max": 40} and found["sizes"]["different"] == 4
    assert found["formats"] == {"PNG": 3, "JPEG": 1} and found["modes"] == {"L": 3, "RGB": 1}
    assert sum(found["left_out"].values()) == 3


def test_values_are_counted_by_class_the_most_frequent_first() -> None:
    manifest, dataset = small()
    counts = by_class(usable_rows(manifest, dataset)["mode"], dataset)
    assert list(counts.items()) == [("L", [2, 1, 0]), ("RGB", [0, 1, 0])]


def test_shares_of_sizes_add_up_for_every_class_that_has_images() -> None:
    manifest, dataset = small()
    spread = size_spread("width", usable_rows(manifest, dataset)["width"], dataset)
    assert spread.shares.sum(axis=1).tolist() == [1, 1, 0]
    assert (spread.low, spread.high) == (10, 40) and spread.quantiles[0, 1] == 25 and np.isnan(spread.quantiles[2, 1])
    assert spread.shares[0, 0] == spread.shares[0, -1] == 0.5


def test_one_size_for_all_has_a_histogram_too() -> None:
    manifest, dataset = small()
    spread = size_spread("height", usable_rows(manifest, dataset)["height"], dataset)
    assert spread.low == spread.high == 7 and spread.shares[0].sum() == 1


def test_grey_levels_are_counted_by_class() -> None:
    _, dataset = small()
    pixels = np.zeros((4, 8, 8, 1), np.uint8)
    pixels[0] = 255
    pixels[1:3] = 100
    spread = grey_spread(pixels, dataset)
    assert spread.shares[0, 0] == spread.shares[0, -1] == 0.5
    assert spread.shares[1, 25] == 1 and spread.quantiles[1].tolist() == [100, 100, 100]
    assert spread.shares[2].sum() == 0 and np.isnan(spread.quantiles[2]).all()


def test_samples_are_of_the_class_and_the_part_and_evenly_spread() -> None:
    y = np.arange(100) % 2
    ids = np.array([str(i) for i in range(100)])
    dataset = Dataset(ids, tuple(ids), y, ids, ("even", "odd"), "")
    chosen = samples(dataset, np.arange(50), 1, 5)
    assert chosen.tolist() == [1, 13, 25, 37, 49]
    assert samples(dataset, np.arange(4), 0, 5).tolist() == [0, 2]
    assert samples(dataset, np.array([1, 3]), 0, 5).tolist() == []


def test_an_image_with_two_labels_is_of_both_classes() -> None:
    ids = np.array(["a", "b"])
    dataset = Dataset(ids, tuple(ids), np.array([[1, 1], [0, 1]]), ids, ("x", "y"), "")
    assert rows_of(dataset, 0).tolist() == [0] and rows_of(dataset, 1).tolist() == [0, 1]
