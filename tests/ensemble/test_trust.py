"""The calibration and decisions that a real bundle carries: they fit its own predictions, and its labels have no say
where they must not."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from every_method import build_every

from harness.calibration.operating_points import Answers, parse_rule, pooled, rates
from harness.ensemble.bundle import load_bundle
from harness.ensemble.postprocess import Development, trust_sections
from harness.ensemble.scores import Rows, as_json
from harness.metrics import METRICS, softmax
from harness.store.arrays import unpack
from harness.store.home import Home


def predictions(path, split: str):
    table = pd.read_parquet(path / "predictions.parquet")
    table = table[table["split"] == split]
    return table["y"].to_numpy(), np.stack(list(table["probabilities"])), table["group"].to_numpy(dtype=np.str_)


@pytest.mark.parametrize("method", ["mean", "stacking"])
def test_a_bundle_carries_both_and_they_fit_its_predictions(built, method):
    bundle = load_bundle(built[method].bundle)
    about = bundle.about["calibration"]
    y, raw, groups = predictions(bundle.path, "test")
    stored = unpack(bundle.read("calibration/calibrated.npz"), "calibrated.npz")
    p, part = stored["test"], stored["test_part"]
    assert about["fitted_on"] == "held-out images" and about["judged_on"] == "test" and set(part.tolist()) == {0, 1}
    measured = about["reliability"]["test"]["calibrated"][0]
    assert measured["of"] == "bleed" and measured["n"] == len(y)
    assert measured["brier"]["value"] == pytest.approx(METRICS["brier"].of(y, p, None)[0])
    raw_brier = about["reliability"]["test"]["raw"][0]["brier"]["value"]
    assert raw_brier == pytest.approx(METRICS["brier"].of(y, raw, None)[0])
    decisions = bundle.about["decisions"]
    assert decisions["default"] == "youden" and decisions["per_group"] == "mean"
    for unit in ("image", "group"):
        point = next(one for one in decisions["points"] if (one["unit"], one["rule"]) == (unit, "youden"))
        judged = [Answers(y[part == h], p[part == h], groups[part == h]) for h in (0, 1)]
        if unit == "group":
            judged = [pooled(one, "mean") for one in judged]
        said = np.concatenate([one.p[:, 1] >= point["test_thresholds"][h] for h, one in enumerate(judged)])
        joined = [np.concatenate([getattr(one, key) for one in judged]) for key in ("y", "groups")]
        assert point["test"] == as_json(rates(joined[0], said, joined[1]))
        assert point["threshold"] == pytest.approx(np.mean(point["test_thresholds"]), abs=0.1)


def test_the_rule_asked_for_is_the_one_that_decides(small_study, tmp_path):
    home = Home(shutil.copytree(small_study.home.root, tmp_path / "home"))
    (result,) = build_every(home, [small_study.record], ["mean"], 1, 0, "cpu", decide=parse_rule("sensitivity=.9"))
    about = json.loads((result.bundle / "bundle.json").read_text())["decisions"]
    assert about["default"] == "sensitivity=0.9"
    assert about["points"][0]["promise"] in ("met", "within noise", "missed", "trivial")


def test_sections_of_a_task_of_several_labels():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.98, (300, 2))
    y = (rng.random((300, 2)) < p).astype(np.int64)
    y[::6, 1] = -1
    groups, fold = np.array([f"g{i // 2}" for i in range(300)]), (np.arange(300) // 2) % 3
    rows = Rows(y, groups, "max")
    found = trust_sections(Development(p), np.stack([p, p]), rows, rows, fold, ("one", "two"), 0)
    sections = as_json(found.sections)
    text = json.loads(json.dumps(sections, allow_nan=False))
    assert [part["of"] for part in text["calibration"]["reliability"]["test"]["raw"]] == ["one", "two"]
    assert {(point["unit"], point["class"]) for point in text["decisions"]["points"]} == {
        ("image", "one"),
        ("image", "two"),
        ("group", "one"),
        ("group", "two"),
    }


def test_probabilities_without_any_information_are_not_made_to_look_good():
    """Labels shuffled: calibrated development probabilities are no better than the prevalence, points no better than
    a coin."""
    rng = np.random.default_rng(1)
    p = softmax(rng.normal(size=(400, 2)) * 4)
    y = rng.integers(0, 2, 400)
    rows = Rows(y, np.arange(400).astype(str), "none")
    found = trust_sections(Development(p), np.stack([p, p]), rows, rows, np.arange(400) % 5, ("no", "yes"), 0)
    sections = as_json(found.sections)
    brier = sections["calibration"]["reliability"]["development"]["calibrated"][0]["brier"]
    assert brier["lo"] > 0.24
    youden = sections["decisions"]["points"][0]["development"]
    assert youden["sensitivity"]["value"] + youden["specificity"]["value"] == pytest.approx(1.0, abs=0.12)
