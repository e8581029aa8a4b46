"""Lesions that are drawn into training images: to be seen, inside the tissue, of training rows of one class alone."""

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks._tiny_study import tiny
from harness.augment.drawn_lesions import SEEN, SEEN_AREA, check_drawn_lesions, draw_lesions, tissue
from harness.augment.preview import largest_augmentation
from harness.data.phantom import draw
from harness.data.prepare import prepare
from harness.errors import RequestError
from harness.images.pixels import Subset
from harness.report.data_page import _augmentation
from harness.search.run import check_training_settings
from harness.store.home import Home
from harness.train.cross_validation import Part, part_data

SIDE = 96


def heads(n: int, seed: int = 0) -> NDArray[np.uint8]:
    """(n, SIDE, SIDE, 1) bone around grey tissue, on black, with a black hole in the middle."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images = []
    for _ in range(n):
        far = np.hypot((rows - 48) / rng.uniform(0.9, 1.0), columns - 48)
        image = np.where(far < 44, 250.0, 0.0)
        image[far < 37] = rng.uniform(70, 110)
        image[far < 5] = 30
        images.append(image + rng.normal(0, 4, image.shape))
    return np.stack(images).clip(0, 255).astype(np.uint8)[..., None]


def test_tissue_is_what_lies_within_the_bone() -> None:
    far = np.hypot(*(axis - 48 for axis in np.mgrid[:SIDE, :SIDE]))
    found = tissue(heads(1)[0, ..., 0] / 255)
    assert found[far < 33].all() and not found[far > 40].any()
    assert not tissue(np.zeros((SIDE, SIDE))).any() and not tissue(np.full((SIDE, SIDE), 0.9)).any()


def test_every_lesion_is_seen_within_the_tissue_and_no_mark_is_as_large_and_bright() -> None:
    x = heads(1)
    made, labels = draw_lesions(x, np.zeros(1, np.int64), 400.0, 3)
    assert made.shape == (400, SIDE, SIDE, 1) and made.dtype == np.uint8 and labels.tolist() == [1, 0] * 200
    change = (made.astype(float) - x)[..., 0] / 255
    brighter = (change > SEEN + 1 / 255).mean(axis=(1, 2))
    assert (brighter[labels == 1] > 0.8 * SEEN_AREA).all()
    assert (brighter[labels == 0] < 1.5 * SEEN_AREA).all() and np.median(brighter[labels == 0]) == 0
    assert (np.abs(change).max(axis=(1, 2))[labels == 0] > 0.012).all()  # the marks are there
    far = np.hypot(*(axis - 48 for axis in np.mgrid[:SIDE, :SIDE]))
    assert np.abs(change[:, far > 42]).max() <= 1 / 255
    # anywhere, of any size, some with a dark ring
    places = np.array([np.argwhere(one > SEEN).mean(axis=0) for one in change[labels == 1]])
    assert (places.std(axis=0) > 10).all() and brighter.max() > 20 * brighter[labels == 1].min()
    assert 0.1 < (change[labels == 1].min(axis=(1, 2)) < -0.03).mean() < 0.6


def test_only_given_rows_of_the_first_class_are_drawn_into_and_the_same_ones_give_the_same_images() -> None:
    x, y = heads(40), np.arange(40) // 2 % 2
    rows = np.arange(0, 40, 2)
    first, labels = draw_lesions(Subset(x, rows), y[rows], 2.0, 5)
    assert len(first) == len(labels) == 40
    x[1::2] = 255  # held-out rows
    x[rows[y[rows] == 1]] = 0  # rows of the other class
    again, _ = draw_lesions(Subset(x, rows), y[rows], 2.0, 5)
    assert (again == first).all() and (draw_lesions(x[rows], y[rows], 2.0, 5)[0] == first).all()
    assert (draw_lesions(x[rows], y[rows], 2.0, 6)[0] != first).any()
    x[rows[0]] = heads(1, seed=9)[0]
    assert (draw_lesions(x[rows], y[rows], 2.0, 5)[0] != first).any()


def test_where_nothing_can_be_drawn_nothing_is_made() -> None:
    x = heads(4)
    for images, y in ((x, np.ones(4, np.int64)), (np.zeros_like(x), np.zeros(4, np.int64))):
        made, labels = draw_lesions(images, y, 3.0, 0)
        assert made.shape == (0, SIDE, SIDE, 1) and made.dtype == np.uint8 and labels.shape == (0,)
    assert len(draw_lesions(x, np.zeros(4, np.int64), 0.1, 0)[0]) == 0


def test_small_and_real_looking_slices_have_room_for_lesions() -> None:
    drawn = [draw(patient, 0) for patient in range(12)]
    normal = [one.hu for one in drawn if one.label == "normal"]
    for hu in normal:
        picture = np.clip(hu / 80, 0, 1)[:: hu.shape[0] // 32, :: hu.shape[1] // 32][:32, :32]
        x = (picture * 255).astype(np.uint8)[None, ..., None]
        made, labels = draw_lesions(x, np.zeros(1, np.int64), 10.0, 0)
        assert len(made) >= 8 and labels.any()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory):
    study = tiny(name="drawn", augment__drawn_lesions=2.0, data__decode__channels=1)
    home = Home(tmp_path_factory.mktemp("home"))
    return study, prepare(study.spec.data, 0, home, lambda what, done, total: None), home


def test_a_fold_is_given_them_behind_its_own_rows(prepared) -> None:
    study, data, home = prepared
    train, held_out = data.folds.train_rows(0), data.folds.held_out_rows(0)
    found = part_data(study.spec, data, Part(0, 0, train, held_out, home.root, home.root), "cpu")
    made = len(found.y_train) - len(train)
    assert 1.8 * len(train) <= made <= 2 * len(train) and len(found.x_train) == len(found.y_train)
    assert (found.x_train[: len(train)] == np.stack([data.pixels[row] for row in train])).all()
    assert (found.y_train[: len(train)] == data.dataset.y[train]).all()
    assert 0.4 < found.y_train[len(train) :].mean() < 0.6 and len(found.y_val) == len(held_out)
    other = part_data(study.spec, data, Part(1, 1, train, held_out, home.root, home.root), "cpu")
    assert (other.x_train[len(train) :][:20] != found.x_train[len(train) :][:20]).any()


def test_the_page_of_the_data_shows_them(prepared) -> None:
    study, data, _ = prepared
    assert largest_augmentation(study).drawn_lesions == 2
    shown = _augmentation(study, data, 0)
    assert "Drawn into training images of the first class" in shown
    assert shown.count('alt="drawn, normal"') >= 5 and shown.count('alt="drawn, bleed"') >= 5


@pytest.mark.parametrize(
    ("classes", "multilabel", "channels", "native", "told"),
    [
        (3, False, 1, False, "two classes"),
        (2, True, 1, False, "two classes"),
        (2, False, 3, False, "data.decode.channels: 1"),
        (2, False, 1, True, "one size"),
    ],
)
def test_where_it_has_no_meaning_it_is_refused(classes, multilabel, channels, native, told) -> None:
    with pytest.raises(RequestError, match=told) as refused:
        check_drawn_lesions(0.5, classes, multilabel, channels, native)
    assert "augment.drawn_lesions: 0.5" in str(refused.value) and "set augment.drawn_lesions: 0" in str(refused.value)
    check_drawn_lesions(0.0, classes, multilabel, channels, native)
    check_drawn_lesions(0.5, 2, False, 1, False)


def test_it_is_refused_before_anything_is_trained(prepared) -> None:
    _, data, _ = prepared
    for value in (1.0, {"choice": [0.0, 1.0]}):
        study = tiny(name="coloured", augment__drawn_lesions=value, data__decode__channels=3)
        with pytest.raises(RequestError, match=r"augment\.drawn_lesions: 1 needs grey images"):
            check_training_settings(study, data.dataset)
