"""Switches that exclude each other are refused before trial 0, wherever a trial could draw them together."""

import numpy as np
import pytest

from harness.config.load import check_study, list_study_files, load_study
from harness.errors import RequestError
from harness.search.run import check_training_settings
from harness.train.batches import row_order
from harness.train.loss import class_weights
from harness.types import Dataset

PARTNERS = {"patience": {"select": "inner"}, "unfreeze_every": {"freeze": 1}}
BOTH = {"choice": [False, True]}
ORDERS = {"choice": ["shuffle", "balanced"]}
DATASET = Dataset(np.array(["a", "b"]), ("a", "b"), np.array([0, 1]), np.array(["a", "b"]), ("well", "ill"), "hash")
ANSWERS = Dataset(DATASET.ids, DATASET.files, np.eye(2, dtype=np.int64), DATASET.groups, ("x", "y"), "hash")


def study(**train):
    data, optim = {"root": "phantom", "group": "patient"}, {"lr": {"float": [1e-4, 1e-2], "log": True}}
    return check_study({"name": "s", "data": data, "optim": optim, "train": train}, "here")


@pytest.mark.parametrize("kind", ["class_weights", "pos_weights"])
@pytest.mark.parametrize(("weights", "order"), [(True, "balanced"), (BOTH, "balanced"), (True, ORDERS), (BOTH, ORDERS)])
def test_weights_and_balanced_rows_together_are_refused_before_trial_0(kind, weights, order):
    with pytest.raises(RequestError) as refused:
        check_training_settings(study(**{kind: weights, "sampling": order}), ANSWERS)
    told = str(refused.value)
    assert f"--set train.{kind}=false" in told and "--set train.sampling=shuffle" in told


def test_what_is_told_to_type_is_accepted():
    check_training_settings(
        study(class_weights={**BOTH, "when": {"train.sampling": "shuffle"}}, sampling=ORDERS), DATASET
    )
    check_training_settings(study(class_weights=False, sampling=ORDERS), DATASET)
    check_training_settings(study(class_weights=BOTH, sampling="shuffle"), DATASET)


@pytest.mark.parametrize(
    "train",
    [
        {"ema": {"choice": [0.0, 0.99]}, "swa": {"float": [0.0, 0.5]}},
        {"patience": {"choice": [0, 3]}, "select": {"choice": ["inner", "last"]}},
        {"swa": {"choice": [0.0, 0.5]}, "select": {"choice": ["last", "inner"]}},
        {"freeze": {"choice": [1, 0]}, "unfreeze_every": {"choice": [0, 1]}},
    ],
)
def test_keys_that_exclude_each_other_are_refused_where_each_alone_is_right(train):
    with pytest.raises(RequestError, match="train"):
        check_training_settings(study(**train), DATASET)
    for key, range_ in train.items():
        check_training_settings(study(**{key: range_}, **PARTNERS.get(key, {})), DATASET)
    check_training_settings(study(**train), DATASET, combined=False)


def test_together_they_would_give_a_rare_class_nearly_all_of_the_loss():
    """Why it is refused: 10% of the rows would have 90% of the loss."""
    y = np.repeat([0, 1], [900, 100])
    shown = y[row_order(y, "balanced", 0).numpy()]
    weights = class_weights(y, 2).numpy()[shown]
    assert weights[shown == 1].sum() / weights.sum() == pytest.approx(0.9, abs=0.001)


def test_no_shipped_study_can_draw_what_is_refused():
    files = list_study_files()
    assert len(files) > 10
    for path in files:
        loaded = load_study(str(path))
        check_training_settings(loaded, DATASET if isinstance(loaded.spec.data.label, str) else ANSWERS)
