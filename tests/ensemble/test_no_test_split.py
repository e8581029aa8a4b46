"""A study that holds nothing out: every row is predicted out of fold; nothing but --nested full compares ensembles."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from every_method import build_every

import harness.api
from benchmarks._tiny_study import tiny
from harness.ensemble.results import saved_document
from harness.metrics import METRICS
from harness.output.result import plain
from harness.predict.evaluate import evaluate
from harness.search.run import run_study
from harness.store.files import read_json
from harness.store.home import Home
from harness.store.records import require_study

METHODS = ["mean", "boosting", "stacking", "soup"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    home = Home(tmp_path_factory.mktemp("all"))
    study = tiny(name="all", data__folds=3, data__test_fraction=0.0, search__trials=2, search__pruner="none")
    run_study(study, home, 1, "cpu", lambda event: None)
    return home


def test_every_row_is_predicted_once_and_no_method_is_compared(home):
    record = require_study(home, "all")
    (*_, last) = results = build_every(home, [record], METHODS, 2, 0, "cpu")
    table = pd.read_parquet(last.bundle / "predictions.parquet")
    assert len(set(table["id"])) == len(table) == 280 and set(table["split"]) == {"oof"}
    for result in results:
        own, compared = result.rows[-1], result.comparison
        assert not any(np.isfinite(own.test[metric].value) for metric in METRICS)
        assert compared.judged_on == "none" and result.test_reads == 0 and result.recommended == "mean"
        for delta in (compared.vs_single, compared.vs_mean):
            assert np.isnan([delta.value, delta.lo, delta.hi, delta.p]).all() and delta.reason == "nothing-held-out"
        about = read_json(result.bundle / "bundle.json")
        document = json.loads(json.dumps(plain(saved_document(result.bundle, about)), allow_nan=False))
        test = document["scores"][-1]["test"]["auroc"]
        assert [test[key] for key in ("value", "lo", "hi", "reason")] == [None, None, None, "nothing-held-out"]
        # all candidates are members: what learns nothing from out-of-fold predictions has its interval out of fold
        given = result.method in ("mean", "boosting", "soup")
        assert np.isfinite(own.oof["auroc"].lo) == given
    said = subprocess.run(
        [sys.executable, "-m", "harness", "ensemble", "show", "all/boosting-top2"],
        env={**os.environ, "HARNESS_HOME": str(home.root)}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "holds nothing out" in said and "on the test split" not in said and "nan" not in said.lower()
    assert "better" not in said and "worse" not in said


def test_its_report_and_its_evaluation_say_what_home_is(home, tmp_path):
    build_every(home, [require_study(home, "all")], ["mean"], 2, 0, "cpu")
    page = tmp_path / "page.md"
    harness.api.report("all", page, format="md", quiet=True, home=home.root)
    said = page.read_text()
    assert "none held out as the test split" in said and "Recommended: the plain mean" in said
    assert "on the test split" not in said and "nan" not in said.lower()
    place = home.root / "phantom.yaml"
    place.write_text(
        "data: {root: phantom, label: label, classes: [normal, bleed], group: patient}\nsearch: {trials: 1}\n"
    )
    found = evaluate("all/mean-top2", str(place), home, device="cpu")
    assert found.home_part == "oof" and found.home_n == 280
    assert all(np.isfinite(point["home"]["sensitivity"]["value"]) for point in found.points)
