"""Subgroups: kinds out of columns, nobody recognisable, a truly worse kind found, one that is so by chance not."""

import numpy as np
import pandas as pd
import pytest

from benchmarks._coverage_models import Cell
from benchmarks._coverage_models import draw as cell_draw
from harness.errors import RequestError
from harness.metrics import METRICS, sigmoid
from harness.stats.subgroups import OTHER, UNKNOWN_KIND, Sample, chosen_columns, kinds, subgroups, worst


def draw(rng, groups: int, weak: np.ndarray | None = None, signal: float = 1.5) -> Sample:
    """Two images a patient; where `weak` (groups,), the score says nothing."""
    y = rng.integers(0, 2, groups)
    strength = np.where(np.zeros(groups, bool) if weak is None else weak, 0.0, signal)
    p = sigmoid((strength * (2 * y - 1)).repeat(2) + rng.normal(size=2 * groups))
    return Sample(y.repeat(2), np.column_stack([1 - p, p]), np.arange(groups).repeat(2).astype(str))


def test_a_truly_worse_kind_is_found_and_named():
    rng = np.random.default_rng(0)
    scanner = np.where(np.arange(120) % 4 == 0, "old", "new")
    sample = draw(rng, 120, scanner == "old")
    found = subgroups(sample, {"scanner": scanner.repeat(2)}, "auroc", 0)
    bad = worst(found, "auroc")
    assert bad is not None and (bad.column, bad.kind, bad.n, bad.groups) == ("scanner", "old", 60, 30)
    assert bad.p_holm < 0.05 and bad.versus_rest.hi < 0
    inside = (scanner == "old").repeat(2)
    of = METRICS["auroc"].of
    assert bad.score.value == pytest.approx(of(sample.y[inside], sample.p[inside], None)[0])
    assert sum(bad.positives) == 60


def test_the_worst_of_many_by_chance_is_not_believed():
    rng = np.random.default_rng(1)
    runs, believed, uncorrected = 60, 0, 0
    for run in range(runs):
        sample = draw(rng, 100, signal=0.5)
        columns = {f"c{i}": rng.choice(["a", "b", "c"], 100).repeat(2) for i in range(3)}
        bad = worst(found := subgroups(sample, columns, "auroc", run), "auroc")
        assert len(found) == 9 and bad is not None
        believed += bad.p_holm < 0.05
        uncorrected += min(one.versus_rest.p for one in found) < 0.05
    assert believed / runs <= 0.08
    assert uncorrected / runs > 0.08  # one of nine comparisons
    assert uncorrected > 2 * believed


def test_six_patients_a_site_are_no_finding():
    """Nothing differs between six sites: percentile bootstraps had a row with p < .05 after Holm in 29% of tables.
    Monte-Carlo sd of .05 over 60 tables is .028."""
    cell = Cell(36, 4, 0.5, 0.9)
    found = dict.fromkeys(("auroc", "accuracy", "log_loss"), 0)
    for seed in range(60):
        drawn = cell_draw(np.random.default_rng(seed), cell, (0.9,))
        site = np.char.add("s", (drawn.groups.astype(int) % 6).astype(str))
        for name in found:
            table = subgroups(Sample(drawn.y, drawn.p[0], drawn.groups), {"site": site}, name, 0)
            found[name] += any(row.p_holm < 0.05 for row in table)
    assert max(found.values()) / 60 <= 0.05 + 0.056, found


def test_for_a_loss_the_worst_is_the_largest():
    rng = np.random.default_rng(2)
    site = np.where(np.arange(80) % 2 == 0, "a", "b")
    bad = worst(subgroups(draw(rng, 80, site == "b"), {"site": site.repeat(2)}, "log_loss", 0), "log_loss")
    assert bad is not None and bad.kind == "b" and bad.versus_rest.lo > 0


def test_kinds_of_a_few_patients_are_not_shown_by_themselves():
    rng = np.random.default_rng(3)
    sample = draw(rng, 60)
    column = np.array(["common"] * 52 + ["rare"] * 4 + ["unheard of"] * 4).repeat(2)
    found = {one.kind: one.groups for one in subgroups(sample, {"site": column}, "auroc", 0)}
    assert found == {"common": 52, OTHER: 8}
    column = np.array(["common"] * 57 + ["one person"] * 3).repeat(2)
    assert [one.kind for one in subgroups(sample, {"site": column}, "auroc", 0)] == ["common"]


def test_a_kind_of_one_class_has_no_score_and_is_not_the_worst():
    sample = draw(np.random.default_rng(4), 60)
    column = np.where(sample.y == 1, "sick ward", "mixed")
    column[:20] = "mixed"
    found = {one.kind: one for one in subgroups(sample, {"ward": column}, "auroc", 0)}
    assert np.isnan(found["sick ward"].score.value) and np.isnan(found["sick ward"].p_holm)
    assert worst(list(found.values()), "auroc") is None


def test_ages_become_bands_numbers_quarters_and_words_stay():
    ages = pd.Series(["3", "17.5", "18", "40", "79", "80", "", "101Y"], name="age")
    assert kinds("PatientAge age", ages).tolist() == [
        "0-17",
        "0-17",
        "18-39",
        "40-59",
        "60-79",
        "80-150",
        UNKNOWN_KIND,
        "80-150",
    ]
    numbers = pd.Series([f"{i / 10}" for i in range(100)])
    quarters = kinds("dose", numbers)
    assert sorted(set(quarters.tolist())) == ["0 to 2.475", "2.475 to 4.95", "4.95 to 7.425", "7.425 to 9.9"]
    assert min(np.unique(quarters, return_counts=True)[1]) == 25
    assert kinds("sex", pd.Series(["F", "M", " F", None])).tolist() == ["F", "M", "F", UNKNOWN_KIND]
    assert kinds("name", pd.Series([f"person {i}" for i in range(50)])) is None


def test_columns_are_found_by_their_names_or_asked_for():
    table = pd.DataFrame(
        {
            "file": [f"{i}.png" for i in range(30)],
            "patient": [str(i) for i in range(30)],
            "PatientSex": ["F", "M"] * 15,
            "age_years": [str(20 + i) for i in range(30)],
            "site": ["only one"] * 30,
            "passage": ["x", "y"] * 15,
            "dicom.Manufacturer": ["A", "B", "B"] * 10,
        }
    )
    assert chosen_columns(table, [], ("patient",)) == ["PatientSex", "age_years", "dicom.Manufacturer"]
    assert chosen_columns(table, ["passage"], ("patient",)) == ["passage"]
    for asked, says in (
        ("patient", "says who somebody is"),
        ("file", "30 different values that are no numbers"),
        ("PatientsSex", "Did you mean PatientSex"),
    ):
        with pytest.raises(RequestError, match=says):
            chosen_columns(table, [asked], ("patient",))
