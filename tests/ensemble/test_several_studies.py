"""Members of several studies: combined where rows, folds and classes are the same, refused with the fact where not."""

import dataclasses
import json
import shutil
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from every_method import build_every

from harness.config.load import check_study
from harness.data.prepare import prepare
from harness.ensemble.build import build
from harness.ensemble.bundle import load_bundle, predict_bundle
from harness.errors import RequestError
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.records import StudyRecord
from harness.types import silent


@pytest.fixture(scope="module")
def two(small_study, tmp_path_factory) -> tuple[Home, StudyRecord, StudyRecord]:
    """The small study and another one over the same rows and folds, with larger images: a trial of it has number 0,
    too."""
    home = Home(tmp_path_factory.mktemp("two"))
    shutil.copytree(small_study.home.root, home.root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("bundles"))
    tree = deepcopy(small_study.record.tree)
    tree["name"], tree["data"]["decode"]["size"], tree["search"]["trials"] = "other", 48, 1
    tree["optim"]["lr"] = {"choice": [2e-3]}
    other = run_study(check_study(tree, "other"), home, 1, "cpu", lambda event: None)
    return home, small_study.record, other


def test_members_of_both_in_one_bundle_that_predicts_by_itself(two):
    home, small, other = two
    (result,) = build_every(home, [small, other], ["greedy"], 5, 0, "cpu")
    assert result.members == ["small/trial-0000", "small/trial-0001", "other/trial-0000"]
    assert result.bundle == home.bundles("small") / "greedy-top5-with-other"
    assert [row.name for row in result.rows[:3]] == [f"{name} (test_resnet)" for name in result.members]
    about = json.loads((result.bundle / "bundle.json").read_text())
    assert about["studies"] == ["small", "other"] and len(about["decodes"]) == 2
    bundle = load_bundle(result.bundle)
    prepared = [prepare(check_study(one.tree, one.name).spec.data, 0, home, silent) for one in (small, other)]
    rows = prepared[0].folds.test_rows()
    images = [np.array(data.pixels[rows]) for data in prepared]
    stored = pd.read_parquet(result.bundle / "predictions.parquet").query("split == 'test'")
    expected = np.stack(stored["probabilities"])
    np.testing.assert_allclose(predict_bundle(bundle, images), expected, atol=1e-5)


def test_each_study_gives_its_best(two):
    home, small, other = two
    (result,) = build_every(home, [other, small], ["mean"], 1, 0, "cpu")
    assert len(result.members) == 2 and result.study == "other"
    assert [name.split("/")[0] for name in result.members] == ["other", "small"]


def with_tree(home: Home, record: StudyRecord, **data) -> StudyRecord:
    """The record of a study of the same images with another data block, as if it had run."""
    tree = deepcopy(record.tree)
    tree["name"] = "third"
    seed = data.pop("seed", tree.get("seed", 0))
    tree["seed"] = seed
    tree["data"] |= data
    found = prepare(check_study(tree, "third").spec.data, seed, home, silent)
    return dataclasses.replace(
        record, name="third", tree=tree, data_hash=found.dataset.data_hash, folds_hash=found.folds.folds_hash
    )


@pytest.mark.parametrize(
    ("data", "saying"),
    [
        ({"seed": 7}, r"'small' and 'third' differ in folds \(folds_hash \w+ and \w+\)"),
        ({"folds": 4}, r"'small' and 'third' differ in folds"),
        ({"group": "none"}, r"'small' and 'third' differ in rows, labels or groups \(data_hash"),
        ({"classes": ["bleed", "normal"]}, r"'small' and 'third' differ in classes: normal, bleed and bleed, normal"),
    ],
)
def test_what_does_not_agree_is_refused_with_the_fact(two, data, saying):
    home, small, _ = two
    with pytest.raises(RequestError, match=saying):
        build(home, [small, with_tree(home, small, **data)], ["mean"], 5, 0, "cpu")
