"""An ensemble's table as people read it: every number survives a narrow window, and no score stands alone."""

import io
from typing import Any

import pytest
from rich.console import Console

from harness.cli.ensemble_tables import (
    cost_lines,
    differences_table,
    diversity_line,
    members_table,
    methods_table,
    signed,
)
from harness.records import Interval


def drawn(table: Any, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(table)
    return stream.getvalue()


def scores(value: float | None, lo: float = 0.123, hi: float = 0.987) -> dict[str, Any]:
    return {"auroc": {"value": value, "lo": lo, "hi": hi}}


def row(name: str, kind: str, test: float | None, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "oof": scores(0.5), "test": scores(test), **more}


def delta(value: float, p: float | None) -> dict[str, float | None]:
    return {"value": value, "lo": value - 0.05, "hi": value + 0.05, "p": p, "p_holm": p}


SINGLES = [row("trial-0001 (resnet10t)", "single", 0.61, selection=scores(0.5), nested=scores(0.45))]
SINGLES += [row("trial-0007 (convnext_tiny)", "single", 0.62, selection=None, nested=None)]
MEAN = row("mean", "mean", 0.63, selection=scores(0.71), nested=scores(0.69))
STACKING = row("stacking-embeddings", "ensemble", 0.64, selection=scores(0.91), nested=scores(0.68))
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


def test_a_selection_score_never_stands_without_nested_and_test() -> None:
    """Each line that has a selection score has the two honest ones on the same line."""
    text = drawn(methods_table([*SINGLES, MEAN, STACKING], ENSEMBLES, "auroc", 80), 80)
    lines = [line for line in text.splitlines() if "0.910" in line]
    assert len(lines) == 1 and "0.680" in lines[0] and "0.640 [0.123, 0.987]" in lines[0]


@pytest.mark.parametrize("width", [60, 80])
def test_differences_of_all_methods_fit(width: int) -> None:
    text = drawn(differences_table(ENSEMBLES, width), width)
    assert max(len(line) for line in text.splitlines()) <= width
    for part in ("+.010", "[-.040, +.060]", "< .001", "-.030", "[-.080, +.020]", ".04", ".40"):
        assert part in text


@pytest.mark.parametrize("width", [60, 80])
def test_members_and_what_they_give(width: int) -> None:
    gives = [{"to_mean": {"value": 0.004, "lo": -0.001, "hi": 0.009}}, {"to_mean": None}]
    text = drawn(members_table(SINGLES, gives, "auroc", width), width)
    assert max(len(line) for line in text.splitlines()) <= width
    for part in ("trial-0001", "trial-0007", "0.610", "0.620", "+.004", "[-.001, +.009]"):
        assert part in text


def test_a_number_that_is_none_is_a_dash_and_a_partly_nested_one_is_marked() -> None:
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
