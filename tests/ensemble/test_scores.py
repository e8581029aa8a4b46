"""The table beside an ensemble: who is the best single, which sign a difference has, what MLflow is told."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.ensemble.scores import (
    Comparison,
    EnsembleResult,
    Predictions,
    Rows,
    as_json,
    best_single,
    compare,
    result_json,
    score_table,
    tracked_metrics,
)
from harness.ensemble.verdict import verdict, verdict_together
from harness.metrics import METRICS
from harness.records import Difference, Interval
from harness.stats.compare import holm, paired_difference
from harness.stats.grouped import all_intervals

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, 300)
GROUPS = np.array([f"g{i // 2}" for i in range(300)])
ROWS = Rows(Y, GROUPS, "mean")


def p_of(signal: float, noise: int = 1) -> np.ndarray:
    positive = 1 / (1 + np.exp(-(signal * (2 * Y - 1) + np.random.default_rng(noise).normal(size=len(Y)))))
    return np.column_stack([1 - positive, positive])


def predictions(name: str, kind: str, oof: float, test: float, selection: float = 0.0, noise: int = 1) -> Predictions:
    nested = p_of(oof, noise)
    return Predictions(name, kind, nested, p_of(test, noise), p_of(selection or oof, noise), nested)


def test_the_best_single_is_chosen_without_the_test_split() -> None:
    singles = [predictions("b", "single", 0.5, 3.0), predictions("a", "single", 1.0, 0.1)]
    rows = score_table(singles, ROWS, ROWS, seed=0)
    for metric in METRICS:
        assert best_single([row.oof for row in rows], metric) == 1


def test_every_score_is_that_of_its_own_predictions() -> None:
    parts = [Predictions("a", "single", p_of(0.5), p_of(1.0)), predictions("m", "ensemble", 1.0, 2.0, selection=3.0)]
    single, ensemble = score_table(parts, ROWS, ROWS, seed=5)
    assert single.selection is None and single.nested is None
    for found, signal in ((ensemble.oof, 1.0), (ensemble.nested, 1.0), (ensemble.selection, 3.0), (ensemble.test, 2.0)):
        assert found == all_intervals(Y, p_of(signal), GROUPS, 5, "mean")
    assert "group_auroc" in ensemble.test


def test_a_score_that_stage_1_knows_is_not_made_again() -> None:
    found = Predictions("a", "single", p_of(1.0), p_of(1.0))
    known = {name: Interval(0.25, 0.2, 0.3) for name in METRICS}
    assert score_table([found], ROWS, ROWS, 0, [known])[0].oof == known
    assert score_table([found], ROWS, ROWS, 0, [{"auroc": Interval(0.25, 0.2, 0.3)}])[0].oof["auroc"].value > 0.8


def compared() -> list[Comparison]:
    single, mean = predictions("a", "single", 1.0, 0.8), predictions("mean", "mean", 1.2, 1.0)
    ensembles = [
        replace(mean, kind="ensemble"),
        predictions("weighted", "ensemble", 1.2, 1.2, selection=1.3, noise=2),
        predictions("stacking", "ensemble", 0.9, 0.6, selection=2.5, noise=3),
    ]
    return compare("auroc", ensembles, mean, single, ROWS, ROWS, seed=0)


def test_comparisons_are_paired_differences_and_corrected_over_the_methods() -> None:
    found = compared()
    expected = paired_difference("auroc", Y, p_of(0.6, 3), p_of(1.0), GROUPS, 0)
    assert found[2].vs_mean == expected
    assert found[2].flattery == paired_difference("auroc", Y, p_of(2.5, 3), p_of(0.9, 3), GROUPS, 0)
    assert found[2].nested_vs_mean == paired_difference("auroc", Y, p_of(0.9, 3), p_of(1.2), GROUPS, 0)
    corrected = holm(np.array([one.vs_single.p for one in found]))
    assert [one.holm_single for one in found] == corrected.tolist()
    # the mean is no test against itself: two tests are corrected for, not three
    assert math.isnan(found[0].holm_mean) and (found[0].vs_mean.value, found[0].vs_mean.p) == (0.0, 1.0)
    assert [one.holm_mean for one in found[1:]] == holm(np.array([one.vs_mean.p for one in found[1:]])).tolist()


@pytest.mark.parametrize("metric", ["auroc", "log_loss"])
def test_a_difference_is_a_minus_b_whatever_the_direction(metric: str) -> None:
    good, bad = predictions("good", "ensemble", 2.0, 2.0), predictions("bad", "single", 0.2, 0.2)
    (found,) = compare(metric, [good], bad, bad, ROWS, ROWS, 0)
    assert (found.vs_single.value > 0.1) == METRICS[metric].higher_is_better
    assert found.vs_single.p < 0.01


def said(ensemble: Predictions, metric: str = "auroc") -> list[str]:
    mean = predictions("mean", "mean", 1.2, 1.0)
    row, of_mean = score_table([ensemble, mean], ROWS, ROWS, 0)
    return verdict(metric, row, of_mean, compare(metric, [ensemble], mean, mean, ROWS, ROWS, 0)[0])


class TestVerdict:
    def test_over_fitting_is_said_with_its_size(self) -> None:
        for metric in ("auroc", "log_loss"):
            (sentence,) = said(predictions("stacking", "ensemble", 1.3, 1.2, selection=3.0), metric)
            assert f"stacking flatters itself: {metric}" in sentence and "on the rows that chose it" in sentence
            assert "worse" not in sentence

    def test_with_a_nested_score_below_the_mean_it_is_over_fitting(self) -> None:
        (sentence,) = said(predictions("stacking", "ensemble", 0.6, 1.2, selection=3.0))
        assert "stacking over-fits: auroc" in sentence and "worse than the simple mean nested" in sentence

    def test_of_several_methods_each_thing_is_said_once(self) -> None:
        results = [
            EnsembleResult("s", name, Path("b"), [0], [], one, "auroc")
            for name, one in zip(["mean", "weighted", "stacking"], compared(), strict=True)
        ]
        flatters, nested, test = verdict_together("auroc", results)
        assert flatters.startswith("Selection flatters") and "stacking" in flatters and "mean +" not in flatters
        assert nested.startswith("Nested worse than the simple mean: stacking -") and "[" in nested
        assert nested.endswith("; maybe by chance weighted. Over-fitted: weighted, stacking.")
        assert "On the test split" in test and "stacking" in test

    def test_being_below_the_mean_is_said_for_the_rows_it_is_so_on(self) -> None:
        (nested,) = said(predictions("greedy", "ensemble", 0.5, 1.3, noise=2))
        assert "worse than the simple mean nested" in nested and "test split" not in nested
        (test,) = said(predictions("greedy", "ensemble", 1.5, 0.5, noise=2))
        assert "worse than the simple mean on the test split" in test and "nested" not in test

    def test_chance_is_said_where_it_may_be_chance(self) -> None:
        (sentence,) = said(predictions("greedy", "ensemble", 1.25, 1.3, noise=2))
        assert "maybe by chance" in sentence

    def test_nothing_is_said_of_what_is_well(self) -> None:
        assert said(predictions("greedy", "ensemble", 1.3, 1.2)) == []
        assert said(predictions("mean", "ensemble", 1.2, 1.0)) == []


def test_what_mlflow_is_told() -> None:
    members = [predictions("a", "single", 0.5, 0.5), predictions("b", "single", 1.0, 1.0)]
    parts = [*members, predictions("mean", "mean", 1.2, 1.2), predictions("stacking", "ensemble", 1.5, 1.5, 2.0)]
    rows = score_table(parts, ROWS, ROWS, 0)
    nothing = Difference(math.nan, math.nan, math.nan, math.nan)
    vs_single, vs_mean = Difference(0.1, 0.05, math.nan, 0.02), Difference(0.01, -0.02, 0.03, 0.4)
    comparison = Comparison("test", vs_single, vs_mean, 0.06, 0.4, nothing, nothing)
    cost = {"fit_seconds": 1.5}
    result = EnsembleResult("s", "stacking", Path("bundle"), [0, 1], rows, comparison, "auroc", cost=cost)
    found = tracked_metrics(result)
    assert found["test/auroc"] == rows[3].test["auroc"].value
    assert found["oof/brier_lo"] == rows[3].oof["brier"].lo
    assert rows[3].selection and rows[3].nested
    assert found["selection/auroc"] == rows[3].selection["auroc"].value
    assert found["nested/auroc_hi"] == rows[3].nested["auroc"].hi
    assert found["single/test/auroc_hi"] == rows[1].test["auroc"].hi
    assert found["mean/test/log_loss"] == rows[2].test["log_loss"].value
    assert (found["delta/test/auroc"], found["delta/test/auroc_p"]) == (0.1, 0.02)
    assert (found["delta/test/auroc_p_holm"], found["delta_vs_mean/test/auroc_p"]) == (0.06, 0.4)
    assert found["cost/fit_seconds"] == 1.5
    assert "delta/test/auroc_hi" not in found  # not a number: left out, not 0
    assert "selection_minus_nested/auroc" not in found
    assert all(math.isfinite(value) for value in found.values())


def test_the_result_as_json() -> None:
    result = EnsembleResult("s", "mean", Path("bundle"), [0], [], compared()[0], "auroc", notes=["said"])
    document = as_json(result_json(result))
    assert set(document["delta_vs_mean"]) == {"value", "lo", "hi", "p", "p_holm"}
    assert document["delta_vs_mean"]["p_holm"] is None
    assert document["selection_minus_nested"]["value"] == 0
    assert document["notes"] == ["said"]


def test_json_knows_no_nan() -> None:
    text = json.dumps(as_json({"d": Difference(0.1, math.nan, math.inf, 1.0), "n": [1, (math.nan,)]}), allow_nan=False)
    assert json.loads(text) == {"d": {"value": 0.1, "lo": None, "hi": None, "p": 1.0}, "n": [1, [None]]}
