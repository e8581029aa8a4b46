"""The table beside an ensemble: who is the best single, which sign a difference has, what MLflow is told."""

import json
import math
from pathlib import Path

import numpy as np

from harness.ensemble.scores import (
    EnsembleResult,
    Predictions,
    Rows,
    as_json,
    best_single,
    difference,
    score_row,
    tracked_metrics,
)
from harness.metrics import METRICS
from harness.records import Difference, Interval

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, 300)
ROWS = Rows(Y, np.arange(300).astype(str), "mean")


def predictions(name: str, kind: str, signal_oof: float, signal_test: float) -> Predictions:
    def p(signal: float) -> np.ndarray:
        positive = 1 / (1 + np.exp(-(signal * (2 * Y - 1) + np.random.default_rng(1).normal(size=len(Y)))))
        return np.column_stack([1 - positive, positive])

    return Predictions(name, kind, p(signal_oof), p(signal_test))


def test_the_best_single_is_chosen_without_the_test_split() -> None:
    good_oof, good_test = predictions("a", "single", 1.0, 0.1), predictions("b", "single", 0.5, 3.0)
    mean = predictions("mean", "mean", 3.0, 3.0)
    rows = [score_row(p, ROWS, ROWS, seed=0) for p in (good_test, good_oof, mean)]
    for metric in METRICS:
        assert best_single(rows, metric) == 1


def test_a_difference_is_a_minus_b_whatever_the_direction() -> None:
    good, bad = predictions("good", "ensemble", 2.0, 2.0), predictions("bad", "single", 0.2, 0.2)
    assert difference("auroc", good, bad, ROWS, 0).value > 0.1
    assert difference("log_loss", good, bad, ROWS, 0).value < -0.1
    assert difference("auroc", good, bad, ROWS, 0).p < 0.01


def test_a_score_that_stage_1_knows_is_not_made_again() -> None:
    found = predictions("a", "single", 1.0, 1.0)
    known = {name: Interval(0.25, 0.2, 0.3) for name in METRICS}
    assert score_row(found, ROWS, ROWS, 0, known).oof == known
    assert score_row(found, ROWS, ROWS, 0, {"auroc": Interval(0.25, 0.2, 0.3)}).oof["auroc"].value > 0.8


def test_what_mlflow_is_told() -> None:
    members = [predictions("a", "single", 0.5, 0.5), predictions("b", "single", 1.0, 1.0)]
    parts = [*members, predictions("mean", "mean", 1.2, 1.2), predictions("stacking", "ensemble", 1.5, 1.5)]
    rows = [score_row(p, ROWS, ROWS, 0) for p in parts]
    result = EnsembleResult(
        "s",
        "stacking",
        Path("bundle"),
        [0, 1],
        rows,
        Difference(0.1, 0.05, math.nan, 0.02),
        Difference(0.01, -0.02, 0.03, 0.4),
        "auroc",
    )
    found = tracked_metrics(result)
    assert found["test/auroc"] == rows[3].test["auroc"].value
    assert found["oof/brier_lo"] == rows[3].oof["brier"].lo
    assert found["single/test/auroc_hi"] == rows[1].test["auroc"].hi
    assert found["mean/test/log_loss"] == rows[2].test["log_loss"].value
    assert (found["delta/test/auroc"], found["delta/test/auroc_p"]) == (0.1, 0.02)
    assert found["delta_vs_mean/test/auroc_p"] == 0.4
    assert "delta/test/auroc_hi" not in found  # not a number: left out, not 0
    assert all(math.isfinite(value) for value in found.values())


def test_json_knows_no_nan() -> None:
    text = json.dumps(as_json({"d": Difference(0.1, math.nan, math.inf, 1.0), "n": [1, (math.nan,)]}), allow_nan=False)
    assert json.loads(text) == {"d": {"value": 0.1, "lo": None, "hi": None, "p": 1.0}, "n": [1, [None]]}
