"""The preview shows the study's own augmentation, at its largest, on the study's own pixels."""

import numpy as np

from harness.augment.preview import augmented, changes, largest_augmentation
from harness.config.load import check_study
from harness.config.spec import Augment


def test_ranges_give_their_largest_value_and_constants_their_own() -> None:
    augment = {
        "hflip": {"choice": [0.5, 0.0]},
        "rotate": {"float": [0.0, 30.0]},
        "noise": 0.1,
        "erase": {"choice": [0.0]},
    }
    tree = {"name": "s", "data": {"root": "phantom", "group": "patient"}, "augment": augment}
    spec = largest_augmentation(check_study(tree, "test"))
    assert spec == Augment(hflip=0.5, rotate=30.0, noise=0.1)


def test_a_searched_policy_is_shown_and_only_what_is_on_is_told() -> None:
    augment = {"policy": {"choice": ["none", "trivialaugment"]}, "hue": {"float": [0.0, 0.2]}, "mixup": 0.4}
    tree = {"name": "s", "data": {"root": "phantom", "group": "patient"}, "augment": augment}
    spec = largest_augmentation(check_study(tree, "test"))
    assert spec == Augment(policy="trivialaugment", hue=0.2, mixup=0.4)
    assert changes(spec) == {"hue": 0.2, "policy": "trivialaugment", "policy_magnitude": 0.3}
    assert changes(Augment(policy="randaugment")) == {
        "policy": "randaugment",
        "policy_ops": 2,
        "policy_magnitude": 0.3,
    }
    assert changes(Augment(hflip=0.5, probability=0.5)) == {"hflip": 0.5}
    assert changes(Augment(rotate=5.0, probability=0.5)) == {"rotate": 5.0, "probability": 0.5}
    assert changes(Augment(rotate=5.0, hflip=1.0, probability=0.0)) == {"hflip": 1.0}
    assert changes(Augment(cutmix=1.0)) == {}


def test_nothing_switched_on_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    drawn = augmented(image, Augment(), 3, 0)
    assert drawn.shape == (3, 16, 16, 3) and drawn.dtype == np.uint8 and (drawn == image).all()


def test_draws_differ_and_come_again() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 1), dtype=np.uint8)
    spec = Augment(rotate=90.0, brightness=0.3)
    drawn = augmented(image, spec, 4, 7)
    assert len({one.tobytes() for one in drawn}) == 4
    assert (augmented(image, spec, 4, 7) == drawn).all() and not (augmented(image, spec, 4, 8) == drawn).all()


def test_a_flip_is_shown_as_a_flip() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    assert (augmented(image, Augment(hflip=1.0), 1, 0)[0] == image[:, ::-1]).all()
