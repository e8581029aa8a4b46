"""The table beside an ensemble: who is the best single, which sign a difference has, what MLflow is told."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from harness.ensemble.score_table import Judged, of_document, of_result, recommended, verdict_together
from harness.ensemble.scores import (
    Comparison,
    EnsembleResult,
    Predictions,
    Rows,
    as_json,
    compare,
    result_json,
    score_table,
    scores_in_words,
    tracked_metrics,
    unusable,
    verdict_word,
)
from harness.metrics import METRICS
from harness.stats.intervals import all_intervals
from harness.stats.paired import holm, paired_difference
from harness.types import Difference, Interval

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, 300)
GROUPS = np.array([f"g{i // 2}" for i in range(300)])
FOLD = np.arange(300) // 2 % 5
ROWS, DEVELOPMENT = Rows(Y, GROUPS, "mean"), Rows(Y, GROUPS, "mean", FOLD)


def p_of(signal: float, noise: int = 1) -> np.ndarray:
    positive = 1 / (1 + np.exp(-(signal * (2 * Y - 1) + np.random.default_rng(noise).normal(size=len(Y)))))
    return np.column_stack([1 - positive, positive])


def predictions(name: str, kind: str, oof: float, test: float, selection: float = 0.0, noise: int = 1) -> Predictions:
    nested = p_of(oof, noise)
    return Predictions(name, kind, nested, p_of(test, noise), p_of(selection or oof, noise), nested, nested)


def test_only_estimates_have_an_interval() -> None:
    parts = [
        replace(predictions("m", "ensemble", 1.0, 2.0, selection=3.0), oof_reason="networks-shared"),
        predictions("mean", "mean", 1.0, 2.0),
    ]
    learned, mean = score_table(parts, DEVELOPMENT, ROWS, seed=5)
    assert learned.test == all_intervals(Y, p_of(2.0), GROUPS, 5, "mean")
    assert learned.nested_full == mean.oof == all_intervals(Y, p_of(1.0), GROUPS, 5, "mean", fold=FOLD)
    values = all_intervals(Y, p_of(1.0), GROUPS, 5, "mean")
    for name, reason in (("oof", "networks-shared"), ("cross_fitted", "networks-shared"), ("selection", "same-rows")):
        found = getattr(learned, name)
        assert set(found) == set(values) and "group_auroc" in found
        for one in found.values():
            assert one.reason == reason and math.isnan(one.lo) and math.isnan(one.hi)
    assert learned.cross_fitted["auroc"].value == pytest.approx(values["auroc"].value)
    assert learned.cross_fitted["group_brier"].value == pytest.approx(values["group_brier"].value)


def test_members_chosen_from_more_take_the_interval_of_the_nested_score() -> None:
    (row,) = score_table([predictions("mean", "mean", 1.0, 2.0)], DEVELOPMENT, ROWS, 0, chosen=True)
    assert row.nested_full["auroc"].reason == "members-chosen" and math.isnan(row.nested_full["auroc"].lo)


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


def test_comparisons_are_paired_differences_and_one_family() -> None:
    found = compared()
    expected = paired_difference("auroc", Y, p_of(0.6, 3), p_of(1.0), GROUPS, 0)
    assert found[2].vs_mean == expected
    of = METRICS["auroc"].of
    assert found[2].optimism == pytest.approx(float(of(Y, p_of(2.5, 3), None)[0] - of(Y, p_of(0.9, 3), None)[0]))
    # the mean is no test against itself: five tests are corrected for, not six, and not three and two
    tests = [one.vs_single.p for one in found] + [one.vs_mean.p for one in found[1:]]
    corrected = holm(np.array(tests)).tolist()
    assert [one.holm_single for one in found] + [one.holm_mean for one in found[1:]] == corrected
    assert {one.family for one in found} == {5}
    assert math.isnan(found[0].holm_mean) and (found[0].vs_mean.value, found[0].vs_mean.p) == (0.0, 1.0)


class TestJudge:
    def test_rows_that_cannot_judge(self) -> None:
        assert unusable(ROWS) == ""
        assert unusable(Rows(Y[:0], GROUPS[:0], "mean")) == "nothing-held-out"
        assert unusable(Rows(np.zeros_like(Y), GROUPS, "mean")) == "one-class"
        few = np.flatnonzero((Y == 0) | np.isin(GROUPS, GROUPS[Y == 1][:1]))
        assert unusable(Rows(Y[few], GROUPS[few], "mean")) == "too-few-groups"
        labels = np.stack([Y, np.where(Y == 1, -1, 0)], axis=1)
        assert unusable(Rows(labels, GROUPS, "mean")) == "one-class"

    @pytest.mark.parametrize("why", ["nothing-held-out", "one-class", "too-few-groups"])
    def test_a_test_split_that_cannot_judge_gives_way_to_nested_full_or_nothing(self, why: str) -> None:
        rows = {
            "nothing-held-out": np.array([], dtype=np.int64),
            "one-class": np.flatnonzero(Y == 0),
            "too-few-groups": np.flatnonzero((Y == 0) | np.isin(GROUPS, GROUPS[Y == 1][:1])),
        }[why]
        test = Rows(Y[rows], GROUPS[rows], "mean")
        mean, good = predictions("mean", "mean", 0.2, 0.2), predictions("greedy", "ensemble", 2.0, 2.0)
        parts = [replace(one, test=one.test[rows]) for one in (mean, good)]
        (found,) = compare("auroc", [parts[1]], parts[0], parts[0], DEVELOPMENT, test, 0)
        assert found.judged_on == "nested_full" and found.holm_mean < 0.05
        assert found.vs_mean == paired_difference("auroc", Y, p_of(2.0), p_of(0.2), GROUPS, 0, fold=FOLD)
        shared = [replace(one, nested_full=None) for one in parts]
        (found,) = compare("auroc", [shared[1]], shared[0], shared[0], DEVELOPMENT, test, 0)
        assert (found.judged_on, found.vs_mean.reason, found.family) == ("none", why, 0)
        assert all(math.isnan(one) for one in (found.vs_mean.value, found.vs_mean.p, found.holm_mean))
        (row,) = score_table([shared[1]], DEVELOPMENT, test, 0)
        assert row.test["auroc"].reason == why and math.isnan(row.test["auroc"].lo)

    def test_a_method_that_was_not_nested_is_compared_with_nothing(self) -> None:
        nothing = Rows(Y[:0], GROUPS[:0], "mean")
        mean = predictions("mean", "mean", 0.2, 0.2)
        soup = replace(predictions("soup", "ensemble", 2.0, 2.0), nested_full=None)
        _, found = compare("auroc", [mean, soup], mean, mean, DEVELOPMENT, nothing, 0)
        assert found.judged_on == "nested_full" and found.vs_mean.reason == "not-nested"


@pytest.mark.parametrize("metric", ["auroc", "log_loss"])
def test_a_difference_is_a_minus_b_whatever_the_direction(metric: str) -> None:
    good, bad = predictions("good", "ensemble", 2.0, 2.0), predictions("bad", "single", 0.2, 0.2)
    (found,) = compare(metric, [good], bad, bad, ROWS, ROWS, 0)
    assert (found.vs_single.value > 0.1) == METRICS[metric].higher_is_better
    assert found.vs_single.p < 0.01


class TestRecommended:
    """The mean, unless another is better than it beyond chance, by something that can judge."""

    @pytest.mark.parametrize(
        ("metric", "judged_on", "delta", "p", "expected"),
        [
            ("auroc", "test", 0.1, 0.049, "greedy"),
            ("auroc", "nested_full", 0.1, 0.001, "greedy"),
            ("auroc", "none", 0.1, 0.001, "mean"),
            ("auroc", "test", 0.1, 0.051, "mean"),
            ("auroc", "test", -0.1, 0.001, "mean"),
            ("log_loss", "test", -0.1, 0.001, "greedy"),
            ("log_loss", "test", 0.1, 0.001, "mean"),
            ("auroc", "test", 0.1, math.nan, "mean"),
        ],
    )
    def test_one_other(self, metric: str, judged_on: str, delta: float, p: float, expected: str) -> None:
        mean = Judged("mean", metric, judged_on, 0.0, math.nan)
        assert recommended([mean, Judged("greedy", metric, judged_on, delta, p)]) == expected

    def test_the_one_that_is_better_by_most_and_nothing_of_nothing(self) -> None:
        table = [Judged("a", "auroc", "test", 0.1, 0.01), Judged("b", "auroc", "test", 0.2, 0.04)]
        assert recommended(table) == "b" and recommended([]) == "mean"

    def test_what_is_stored_recommends_what_was_built(self) -> None:
        for result in results():
            document = as_json(result_json(result)) | {"method": result.method, "metric": "auroc"}
            one, other = of_result(result), of_document(document)
            assert (one.method, one.judged_on, one.delta) == (other.method, other.judged_on, other.delta)
            assert one.p_holm == other.p_holm or (math.isnan(one.p_holm) and math.isnan(other.p_holm))
            word = verdict_word("auroc", result.comparison.vs_mean, result.comparison.holm_mean)
            assert document["delta_vs_mean"]["verdict"] == word


def results() -> list[EnsembleResult]:
    return [
        EnsembleResult("s", name, Path("b"), [0], [], one, "auroc")
        for name, one in zip(["mean", "weighted", "stacking"], compared(), strict=True)
    ]


def test_what_is_worse_beyond_chance_is_said_once() -> None:
    (sentence,) = verdict_together("auroc", results())
    assert sentence.startswith("Worse than the simple mean on the test split") and "stacking -" in sentence
    assert "weighted" not in sentence and sentence.endswith("p = .002.")


def test_what_mlflow_is_told() -> None:
    members = [predictions("a", "single", 0.5, 0.5), predictions("b", "single", 1.0, 1.0)]
    parts = [*members, predictions("mean", "mean", 1.2, 1.2), predictions("stacking", "ensemble", 1.5, 1.5, 2.0)]
    rows = score_table(parts, ROWS, ROWS, 0)
    vs_single, vs_mean = Difference(0.1, 0.05, math.nan, 0.02), Difference(0.01, -0.02, 0.03, 0.4)
    comparison = Comparison("test", vs_single, vs_mean, 0.06, 0.4, 2, 0.1)
    cost = {"fit_seconds": 1.5}
    result = EnsembleResult("s", "stacking", Path("bundle"), [0, 1], rows, comparison, "auroc", cost=cost)
    found = tracked_metrics(result)
    assert found["test/auroc"] == rows[3].test["auroc"].value
    assert found["oof/brier_lo"] == rows[3].oof["brier"].lo
    assert rows[3].selection and rows[3].cross_fitted and rows[3].nested_full
    assert found["selection/auroc"] == rows[3].selection["auroc"].value
    assert found["cross_fitted/auroc"] == rows[3].cross_fitted["auroc"].value
    assert not any(f"{name}/auroc_{end}" in found for name in ("selection", "cross_fitted") for end in ("lo", "hi"))
    assert found["nested_full/auroc_hi"] == rows[3].nested_full["auroc"].hi
    assert found["single/test/auroc_hi"] == rows[0].test["auroc"].hi  # the one with a selection score is the best
    assert found["mean/test/log_loss"] == rows[2].test["log_loss"].value
    assert found["delta/test/auroc"] == 0.1
    assert (found["delta/test/auroc_p_holm"], found["delta_vs_mean/test/auroc_p_holm"]) == (0.06, 0.4)
    assert not any(name.endswith("_p") for name in found)  # one p for one difference, that after Holm
    assert found["cost/fit_seconds"] == 1.5
    assert "delta/test/auroc_hi" not in found  # not a number: left out, not 0
    assert all(math.isfinite(value) for value in found.values())
    tags = scores_in_words(result)
    assert tags["harness.recommended"] == "mean" and tags["harness.judged_on"] == "test"
    assert "p=0.06" in tags["harness.vs_single/auroc"] and "p=0.4" in tags["harness.vs_mean/auroc"]
    assert tags["harness.verdict"].startswith("not distinguishable")


def test_the_result_as_json() -> None:
    result = EnsembleResult("s", "mean", Path("bundle"), [0], [], compared()[0], "auroc", notes=["said"])
    document = as_json(result_json(result))
    assert set(document["delta_vs_mean"]) == {*asdict(Difference(0, 0, 0, 0)), "p_holm", "verdict"}
    assert document["delta_vs_mean"]["p_holm"] is None and document["delta_vs_mean"]["verdict"] == ""
    assert document["selection_minus_cross_fitted"] == {"value": 0, "reason": "networks-shared"}
    assert document["recommended"] == "mean" and document["comparisons"] == 5
    assert document["notes"] == ["said"]


def test_json_knows_no_nan() -> None:
    text = json.dumps(as_json({"d": Difference(0.1, math.nan, math.inf, 1.0), "n": [1, (math.nan,)]}), allow_nan=False)
    assert json.loads(text) == {
        "d": {"value": 0.1, "lo": None, "hi": None, "p": 1.0, "coverage": None, "reason": ""},
        "n": [1, [None]],
    }
