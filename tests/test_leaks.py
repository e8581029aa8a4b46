"""Labels that mean nothing must score at chance, from the first fold to the last ensemble.

A leak between folds, between development and test, or into a fitted statistic would lift one of these scores: networks
that train on a row they are scored on reach far above .9 here.
"""

import shutil

import numpy as np
import pandas as pd
import pytest
from every_method import build_every

from harness.config.load import check_study
from harness.data.phantom import ensure_phantom
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.records import read_trials, require_study

SHUFFLES = 3
METHODS = ("mean", "bagging", "boosting", "stacking", "soup", "soup-greedy", "bagging-retrained")


def quiet(*_):
    return None


def shuffled_copy(source, target, seed):
    """The data set with each patient's labels given to another patient, so that groups stay as alike as they were."""
    shutil.copytree(source, target)
    table = pd.read_csv(target / "labels.csv", dtype=str)
    slices = {patient: part["label"].tolist() for patient, part in table.groupby("patient")}
    rng = np.random.default_rng(seed)
    for size in {len(labels) for labels in slices.values()}:
        patients = [patient for patient, labels in slices.items() if len(labels) == size]
        for to, of in zip(patients, rng.permutation(patients), strict=True):
            table.loc[table["patient"] == to, "label"] = slices[of]
    table.to_csv(target / "labels.csv", index=False)
    return target


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """(shuffles, [cv, oof, and oof and test of each method]) AUROC"""
    folder = tmp_path_factory.mktemp("leaks")
    home = Home(folder / "home")
    home.root.mkdir()
    source = ensure_phantom(home, quiet)
    rows = []
    for seed in range(SHUFFLES):
        root = shuffled_copy(source, folder / f"shuffled{seed}", seed)
        tree = {
            "name": f"shuffled{seed}",
            "seed": seed,
            "data": {
                "root": str(root),
                "classes": ["normal", "bleed"],
                "group": "patient",
                "folds": 3,
                "decode": {"size": 32},
            },
            "model": {"backbone": "test_resnet"},
            "train": {"epochs": 6, "precision": "fp32"},
            "augment": {"hflip": {"choice": [0.0, 0.5]}},
            "search": {"trials": 2, "pruner": "none"},
        }
        run_study(check_study(tree, "test"), home, 1, "cpu", quiet)
        record = require_study(home, tree["name"])
        row = {}
        for number, trial in enumerate(read_trials(home, record.name)):
            row[f"trial {number} cv"] = trial.cv["auroc"]
            row[f"trial {number} oof"] = trial.oof["auroc"].value
        for method in METHODS:
            result = build_every(home, [record], [method], 5, 0, "cpu", quiet, resamples=3)[0]
            last = next(score for score in reversed(result.rows) if score.kind == "ensemble")
            row[f"{method} oof"], row[f"{method} test"] = last.oof["auroc"].value, last.test["auroc"].value
        rows.append(row)
    return pd.DataFrame(rows)


def test_networks_and_every_ensemble_score_at_chance(scores):
    # 224 development rows of 112 patients: the standard error of an AUROC at chance is near .05, near .1 on the 56 rows
    # of the test split; three shuffles make it .03 and .06. Four standard errors:
    for name, values in scores.items():
        bound = 0.24 if str(name).endswith("test") else 0.12
        assert abs(values.mean() - 0.5) < bound, f"{name}: {values.tolist()}"


def test_all_scores_together_are_at_chance(scores):
    assert abs(scores.to_numpy().mean() - 0.5) < 0.08, scores.to_string()
