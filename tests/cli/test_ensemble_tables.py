"""An ensemble's table as people read it: every number survives a narrow window, and no score stands alone."""

import io
from typing import Any

import pytest
from rich.console import Console

from harness.cli.ensemble_tables import answer_line, cost_lines, diversity_line, members_table, methods_table, signed
from harness.types import Interval


def drawn(table: Any, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(table)
    return stream.getvalue()


def scores(value: float | None, lo: float = 0.123, hi: float = 0.987) -> dict[str, Any]:
    return {"auroc": {"value": value, "lo": lo, "hi": hi}}


def row(name: str, kind: str, test: float | None, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "oof": scores(0.5), "test": scores(test), **more}


def delta(value: float, p: float | None) -> dict[str, float | None]:
    return {"value": value, "lo": value - 0.05, "hi": value + 0.05, "p": p, "p_holm": p, "reason": "", "verdict": ""}


SINGLES = [row("trial-0001 (resnet10t)", "single", 0.61, selection=scores(0.5), cross_fitted=scores(0.45))]
SINGLES += [row("trial-0007 (convnext_tiny)", "single", 0.62, selection=None, cross_fitted=None)]
MEAN = row("mean", "mean", 0.63, selection=scores(0.71), cross_fitted=scores(0.69))
STACKING = row("stacking-embeddings", "ensemble", 0.64, selection=scores(0.91), cross_fitted=scores(0.68))
ENSEMBLES = [
    {"method": "mean", "delta_vs_mean": delta(0.0, None), "delta_vs_single": delta(0.02, 0.4), "cost": {}},
    {
        "method": "stacking-embeddings",
        "delta_vs_mean": delta(0.01, 0.0004),
        "delta_vs_single": delta(-0.03, 0.04),
        "cost": {"fit_seconds": 12.3, "networks": 6.0, "seconds_per_image": 0.0123, "megabytes": 1234.5},
    },
]


@pytest.mark.parametrize("width", [60, 80])
def test_every_number_survives_a_narrow_window(width: int) -> None:
    rows = [*SINGLES, MEAN, row("mean", "ensemble", 0.63), STACKING]
    text = drawn(methods_table(rows, ENSEMBLES, "auroc", width), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert text.count("[0.123, 0.987]") == 3  # the best single, the mean once, the method
    for number in ("0.910", "0.680", "0.640", "0.710", "0.690", "0.630", "0.450", "0.610", "12 s"):
        assert number in text
    assert "0.620" not in text


def test_a_selection_score_never_stands_without_the_test_score() -> None:
    """Each line that has a selection score has the honest one and the difference from the mean on the same line."""
    text = drawn(methods_table([*SINGLES, MEAN, STACKING], ENSEMBLES, "auroc", 80), 80)
    lines = [line for line in text.splitlines() if "0.910" in line]
    assert len(lines) == 1 and "0.680" in lines[0] and "0.640 [0.123, 0.987]" in lines[0]
    assert "+.010" in lines[0] and "< .001" in lines[0]


def test_what_is_no_estimate_has_no_interval_and_nothing_is_compared_by_it() -> None:
    full = row("greedy", "ensemble", None, selection=scores(0.9), cross_fitted=scores(0.8), nested_full=scores(0.7))
    text = drawn(methods_table([MEAN, full], ENSEMBLES, "auroc", 80, "none"), 80)
    assert text.count("[0.123, 0.987]") == 1 and "- mean" not in text and "0.700 [0.123, 0.987]" in text
    text = drawn(methods_table([MEAN, STACKING], ENSEMBLES, "auroc", 80, "none"), 80)
    assert "[" not in text and "- mean" not in text


def test_the_answer_names_the_recommended_method_its_reason_and_its_number() -> None:
    document = {"ensembles": ENSEMBLES, "metric": "auroc", "judged_on": "test", "scores": [MEAN, STACKING]}
    ensembles = [{**one, "metric": "auroc", "judged_on": "test"} for one in ENSEMBLES]
    told = answer_line({**document, "ensembles": ensembles, "recommended": "stacking-embeddings"})
    assert "stacking-embeddings" in told and "0.640 [0.123, 0.987]" in told and "p < .001" in told
    told = answer_line({**document, "ensembles": ensembles[:1], "recommended": "mean"})
    assert "mean" in told and "0.630" in told and "--method all" in told


@pytest.mark.parametrize("width", [60, 80])
def test_members_and_what_they_give(width: int) -> None:
    gives = [{"to_mean": {"value": 0.004, "lo": -0.001, "hi": 0.009}}, {"to_mean": None}]
    text = drawn(members_table(SINGLES, gives, "auroc", width), width)
    assert max(len(line) for line in text.splitlines()) <= width
    for part in ("trial-0001", "trial-0007", "0.610", "0.620", "+.004", "[-.001, +.009]"):
        assert part in text


def test_a_number_that_is_none_is_a_dash_and_one_whose_members_were_chosen_is_marked() -> None:
    text = drawn(methods_table([row("mean", "mean", None)], [], "auroc", 80), 80)
    assert text.splitlines()[1].split() == ["mean", "-", "0.500~", "-", "-"]
    assert signed(Interval(float("nan"), 0.0, 0.0)) == "-"


def test_a_star_marks_what_is_optimistic() -> None:
    rows = [{**MEAN, "optimistic": True}, STACKING]
    text = drawn(methods_table(rows, [], "auroc", 80), 80)
    assert "0.710*" in text and "0.690*" in text and "0.910*" not in text


def test_diversity_in_a_sentence() -> None:
    found = {"disagreement": 0.123, "error_correlation": 0.5, "q": 0.8, "ambiguity": 0.01, "members_brier": 0.15}
    text = diversity_line({**found, "pairs": {}})
    assert "12.3% of answers" in text and "correlate by 0.50 (Q 0.80)" in text and "0.010 off" in text
    assert "correlate" not in diversity_line({**found, "error_correlation": None, "pairs": {}})


def test_what_an_image_costs_is_said_once_where_it_is_the_same() -> None:
    cost = ENSEMBLES[1]["cost"]
    (line,) = cost_lines([{"method": "mean", "cost": cost}, {"method": "greedy", "cost": cost}])
    assert line == "An image costs 12.3 ms and 1,234.5 MB of weights (6 networks)."
    soup = {**cost, "networks": 1.0, "megabytes": 205.0}
    lines = cost_lines([{"method": "mean", "cost": cost}, {"method": "soup", "cost": soup}, {"method": "old"}])
    assert lines[0].endswith("(6 networks): mean.") and lines[1].endswith("205.0 MB of weights (1 network): soup.")
