"""A study that holds nothing out: every row is predicted out of fold, and ensembles are judged by nested scores."""

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
from harness.cli.ensemble_document import saved_document
from harness.cli.output import plain
from harness.home import Home, read_json
from harness.ledger import require_study
from harness.metrics import METRICS
from harness.predict.evaluate import evaluate
from harness.search.run import run_study

METHODS = ["mean", "boosting", "stacking", "soup"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Home:
    home = Home(tmp_path_factory.mktemp("all"))
    study = tiny(name="all", data__folds=3, data__test_fraction=0.0, search__trials=2, search__pruner="none")
    run_study(study, home, 1, "cpu", lambda event: None)
    return home


def test_every_row_is_predicted_once_and_ensembles_are_judged_by_that(home):
    record = require_study(home, "all")
    (*_, last) = results = build_every(home, [record], METHODS, 2, 0, "cpu")
    table = pd.read_parquet(last.bundle / "predictions.parquet")
    assert len(set(table["id"])) == len(table) == 280 and set(table["split"]) == {"oof"}
    for result in results:
        single = next(row for row in result.rows if row.kind == "single" and row.nested)
        mean, own = result.rows[-2], result.rows[-1]
        assert not any(np.isfinite(own.test[metric].value) for metric in METRICS)
        honest = own.nested or own.oof
        compared = result.comparison
        assert compared.judged_on == "nested" and result.test_reads == 0
        beside = (single.nested or single.oof, mean.nested or mean.oof)
        for delta, other in zip((compared.vs_single, compared.vs_mean), beside, strict=True):
            assert delta.value == pytest.approx(honest["auroc"].value - other["auroc"].value, abs=1e-12)
            assert 0 <= delta.p <= 1
        about = read_json(result.bundle / "bundle.json")
        document = json.loads(json.dumps(plain(saved_document(result.bundle, about)), allow_nan=False))
        assert document["scores"][-1]["test"]["auroc"] == {"value": None, "lo": None, "hi": None}
    said = subprocess.run(
        [sys.executable, "-m", "harness", "ensemble", "show", "all/boosting-top2"],
        env={**os.environ, "HARNESS_HOME": str(home.root)}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "holds nothing out" in said and "test split" not in said and "nan" not in said.lower()


def test_its_report_and_its_evaluation_say_what_home_is(home, tmp_path):
    build_every(home, [require_study(home, "all")], ["mean"], 2, 0, "cpu")
    page = tmp_path / "page.md"
    harness.api.report("all", page, format="md", quiet=True, home=home.root)
    said = page.read_text()
    assert "none held out as the test split" in said and "out of fold, nested" in said
    assert "on the test split" not in said and "nan" not in said.lower()
    place = home.root / "phantom.yaml"
    place.write_text(
        "data: {root: phantom, label: label, classes: [normal, bleed], group: patient}\nsearch: {trials: 1}\n"
    )
    found = evaluate("all/mean-top2", str(place), home, device="cpu")
    assert found.home_part == "oof" and found.home_n == 280
    assert all(np.isfinite(point["home"]["sensitivity"]["value"]) for point in found.points)
