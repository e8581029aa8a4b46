"""Study files: strict, complete, and round-tripping."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.load import all_keys, check_study, differences, dump_yaml, load_study, parse_override, spec_hash
from harness.config.space import Choice, FloatRange, IntRange, fill, find_ranges, flatten
from harness.errors import RequestError

DATA = {"root": "phantom", "group": "patient"}
LR = {"float": [1e-5, 1e-2], "log": True}


def tree(**blocks):
    return {"name": "s", "data": DATA, "optim": {"lr": LR}, **blocks}


def test_ranges_stand_where_values_stand_and_defaults_are_filled_in():
    study = check_study(tree(augment={"rotate": {"choice": [0, 15]}}, train={"epochs": {"int": [2, 5]}}), "here")
    assert study.space == {
        "optim.lr": FloatRange(1e-5, 1e-2, log=True),
        "augment.rotate": Choice((0, 15)),
        "train.epochs": IntRange(2, 5),
    }
    spec = study.draw({"optim.lr": 1e-3, "augment.rotate": 15, "train.epochs": 3})
    assert (spec.optim.lr, spec.augment.rotate, spec.train.epochs) == (1e-3, 15.0, 3)
    assert set(flatten(spec.model_dump(mode="json"))) == set(all_keys())


def test_a_study_that_went_through_yaml_is_the_same_study(tmp_path):
    study = check_study(tree(augment={"rotate": {"choice": [0, 15]}}), "here")
    path = tmp_path / "s.yaml"
    path.write_text(dump_yaml(study.tree))
    again = load_study(str(path))
    assert again.tree == study.tree
    assert again.space == study.space
    assert spec_hash(again.tree) == spec_hash(study.tree)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"optm": {}}, ["optm", "Did you mean optim"]),
        ({"optim": {"lr": LR, "weight_dekay": 1.0}}, ["optim.weight_dekay", "weight_decay"]),
        ({"optim": {"lr": "high"}}, ["optim.lr", "number", "'high'"]),
        ({"train": {"epochs": "many"}, "optim": {"lr": LR}}, ["train.epochs", "integer"]),
        ({"train": {"epochs": {"float": [1, 3]}}}, ["train.epochs", "integer"]),
        ({"optim": {"lr": {"float": [0, 1]}}}, ["optim.lr", "greater than 0"]),
        ({"optim": {"lr": {"float": [1, 0.1]}}}, ["optim.lr", "below"]),
        ({"optim": {"lr": {"float": [0, 1], "log": True}}}, ["optim.lr", "log"]),
        ({"augment": {"rotate": {"choice": []}}}, ["augment.rotate", "choice"]),
        ({"augment": {"rotate": {"choice": [0, 700]}}}, ["augment.rotate", "180"]),
        ({"data": {**DATA, "folds": {"int": [2, 5]}}}, ["data.folds", "cannot stand here"]),
        ({"data": {"root": "phantom"}}, ["data.group", "missing", "none"]),
        ({"train": 3}, ["train is a block"]),
        ({"optim": {"lr": 1e-3}}, ["nothing is searched"]),
        ({"name": "../evil"}, ["name", "letters"]),
    ],
)
def test_a_wrong_study_is_refused_with_the_key_and_what_to_type(bad, words):
    with pytest.raises(RequestError) as error:
        check_study(tree(**bad), "studies/s.yaml")
    for word in words:
        assert word in str(error.value)


def test_a_key_written_twice_is_refused_with_its_line(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("name: s\ndata: {root: phantom, group: none}\nname: t\n")
    with pytest.raises(RequestError, match=r"line 3.*'name' stands twice"):
        load_study(str(path))


def test_an_unknown_study_names_the_nearest():
    with pytest.raises(RequestError, match="lr_aug_sweep"):
        load_study("lr_aug_swep")


def test_overrides_replace_ranges_and_read_yaml(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(dump_yaml(tree(augment={"rotate": {"choice": [0, 15]}})))
    study = load_study(str(path), ["optim.lr=1e-3", "data.decode.size=96", "augment.hflip={choice: [0.0, 0.5]}"])
    assert study.spec.optim.lr == 1e-3
    assert study.spec.data.decode.size == 96
    assert set(study.space) == {"augment.rotate", "augment.hflip"}
    for text, word in [("optim.lr", "KEY=VALUE"), ("optim.rate=1", "no such key"), ("optim=1", "block")]:
        with pytest.raises(RequestError, match=word):
            load_study(str(path), [text])
    assert parse_override("a.b=[1, x]") == ("a.b", [1, "x"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lr={flot: [1e-4, 1e-2]}", ["s.yaml: optim.lr", "{float: [low, high]}"]),
        ("optim.lr={float: [1e-2, 1e-4]}", ["s.yaml: optim.lr", "below the high end"]),
        ("data.classes=sick", ["s.yaml: data.classes", "a list, such as [a, b], not 'sick'"]),
        ("search.metric=auc", ["s.yaml: search.metric", "Did you mean auroc"]),
        ("name=../x", ["s.yaml: name: use letters"]),
    ],
)
def test_a_wrong_value_is_named_with_file_key_and_what_to_write(tmp_path, override, words):
    path = tmp_path / "s.yaml"
    path.write_text(dump_yaml(tree()))
    with pytest.raises(RequestError) as refused:
        load_study(str(path), [override])
    for word in words:
        assert word in str(refused.value)
    assert "Value error" not in str(refused.value)


def test_an_empty_new_name_is_refused(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(dump_yaml(tree()))
    with pytest.raises(RequestError, match="name: use letters"):
        load_study(str(path), rename="")


def test_only_the_total_of_trials_may_grow_and_the_data_may_move():
    old = check_study(tree(search={"trials": 4}), "here")
    more = check_study(tree(search={"trials": 9}, data={**DATA, "root": "elsewhere"}), "here")
    other = check_study(tree(train={"epochs": 3}), "here")
    assert spec_hash(old.tree) == spec_hash(more.tree)
    assert spec_hash(old.tree) != spec_hash(other.tree)
    assert differences(old.tree, other.tree) == ["train.epochs: 10 -> 3"]


def test_a_key_that_came_later_has_its_default_in_older_studies() -> None:
    study = load_study("lr_aug_sweep")
    old = copy.deepcopy(study.tree)
    del old["data"]["per_group"], old["data"]["decode"]["frame"], old["train"]["label_smoothing"]
    assert spec_hash(old) == spec_hash(study.tree) and differences(old, study.tree) == []
    smoothed = load_study("lr_aug_sweep", ["train.label_smoothing=0.1", "optim.lr=0.01"])
    assert "train.label_smoothing: 0.0 -> 0.1" in differences(old, smoothed.tree)
    assert not [line for line in differences(old, smoothed.tree) if line.startswith("optim.lr: 0.001")]


leaves = st.one_of(st.integers(-5, 5), st.floats(-1, 1), st.text("abc", max_size=3), st.booleans())
trees = st.recursive(
    leaves, lambda c: st.dictionaries(st.text("xyz", min_size=1, max_size=2), c, min_size=1), max_leaves=8
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text("xyz", min_size=1, max_size=2), trees, min_size=1))
def test_flatten_and_fill_are_inverse(nested):
    flat = flatten(nested)
    assert fill({}, flat) == nested
    assert find_ranges(nested) == {}
