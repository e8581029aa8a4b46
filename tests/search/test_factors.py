"""Which arms an ablation gets: leaving out, adding, other options, and what is refused."""

import pytest

from harness.config.load import all_keys, check_study
from harness.config.space import fill
from harness.errors import RequestError
from harness.search.ablation import NEUTRAL, Arm, find_arms

TREE = {
    "name": "any",
    "data": {"root": "phantom", "group": "patient"},
    "optim": {"lr": {"float": [1e-4, 1e-2], "log": True}, "weight_decay": 0.02, "name": {"choice": ["adamw", "sgd"]}},
    "train": {"batch_size": {"choice": [16, 32, 64]}},
    "augment": {"hflip": {"choice": [0.0, 0.5]}, "rotate": {"choice": [0.0, 10.0, 20.0]}, "noise": 0.1},
    "search": {"trials": 4},
}


def arms(wanted=(), **values):
    study = check_study(TREE, "test")
    drawn = {"optim.lr": 1e-3, "optim.name": "adamw", "train.batch_size": 32, "augment.hflip": 0.0}
    drawn |= {"augment.rotate": 10.0} | {name.replace("__", "."): value for name, value in values.items()}
    return find_arms(fill(study.tree, drawn), study.space, list(wanted))


def test_what_is_on_is_left_out_and_what_is_off_or_other_is_added():
    found, left_out = arms()
    assert found == [
        Arm("optim.name", "adamw", "sgd", "before"),
        Arm("optim.weight_decay", 0.0, 0.02, "after"),
        Arm("train.batch_size", 32, 16, "before"),
        Arm("train.batch_size", 32, 64, "before"),
        Arm("augment.hflip", 0.0, 0.5, "before"),
        Arm("augment.rotate", 0.0, 10.0, "after"),
        Arm("augment.rotate", 10.0, 20.0, "before"),
        Arm("augment.noise", 0.0, 0.1, "after"),
    ]
    assert left_out == ["optim.lr"]
    assert [arm.value for arm in found] == ["sgd", 0.0, 16, 64, 0.5, 0.0, 20.0, 0.0]


def test_a_factor_that_is_on_is_left_out_once():
    found, _ = arms(["augment.hflip"], augment__hflip=0.5)
    assert found == [Arm("augment.hflip", 0.0, 0.5, "after")]


def test_by_name_beginning_and_value():
    assert {arm.factor for arm in arms(["augment"])[0]} == {"augment.hflip", "augment.rotate", "augment.noise"}
    assert [arm.factor for arm in arms(["augment.noise", "augment.noise"])[0]] == ["augment.noise"]
    found, left_out = arms(["optim.lr=1e-4, 1e-3,3e-3", "optim.weight_decay=0"])
    assert found == [
        Arm("optim.lr", 1e-3, 1e-4, "before"),
        Arm("optim.lr", 1e-3, 3e-3, "before"),
        Arm("optim.weight_decay", 0, 0.02, "after"),
    ]
    assert left_out == []


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("augment.rotat", "Did you mean augment.rotate"),
        ("augment.hue", "off in this trial"),
        ("optim.lr", "no value for off.*--factor optim.lr=VALUE"),
        ("optim.l=1", "no key that a trial may vary. Did you mean optim.l"),
        ("data.root=x", "no key that a trial may vary"),
        ("optim.weight_decay=0.02", "has this value already"),
    ],
)
def test_what_says_nothing_is_refused(wanted, says):
    with pytest.raises(RequestError, match=says):
        arms([wanted])


def test_a_trial_without_factors_is_refused():
    tree = check_study({**TREE, "search": {"trials": 1}, "optim": {}, "train": {}, "augment": {}}, "test").tree
    with pytest.raises(RequestError, match="nothing to leave out"):
        find_arms(fill(tree, {"optim.weight_decay": 0.0}), {}, [])


def test_every_neutral_value_is_one_that_a_study_takes():
    assert set(NEUTRAL) <= set(all_keys())
    tree = fill({**TREE, "search": {"trials": 1}, "optim": {}, "train": {}, "augment": {}}, NEUTRAL)
    check_study(tree, "test")


def test_early_stopping_is_one_factor_its_patience_goes_with_it():
    stopped = {**TREE, "search": {"trials": 1}, "optim": {}, "augment": {}}
    stopped["train"] = {"select": "inner", "patience": 3, "epochs": 5}
    tree = check_study(stopped, "test").tree
    (arm,), _ = find_arms(tree, {}, ["train.select"])
    assert (arm.before, arm.after, arm.base) == ("last", "inner", "after")
    assert arm.changes == {"train.select": "last", "train.patience": 0}
    check_study(fill(tree, arm.changes), "the arm")
    (elsewhere,), _ = find_arms(tree, {}, ["train.select=scored_fold"])
    assert elsewhere.changes == {"train.select": "scored_fold"}
