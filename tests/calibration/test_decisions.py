"""Operating points: against sums over all thresholds, theory, and new rows that were never looked at."""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_curve

from harness.calibration.operating_points import (
    Answers,
    HeldOut,
    decide,
    fit_decisions,
    kept,
    parse_rule,
    pooled,
    rates,
    threshold,
)
from harness.errors import RequestError
from harness.metrics import UNKNOWN
from harness.output.result import plain
from harness.types import Interval

SOME = np.array([True, False])
"""answers of both kinds"""


def draw(rng, n: int, per_group: int = 1):
    """True probabilities, and labels drawn from them."""
    q = rng.beta(0.7, 1.6, n)
    y = (rng.random(n) < q).astype(np.int64)
    groups = np.array([f"g{i // per_group}" for i in range(n)])
    return Answers(y, np.column_stack([1 - q, q]), groups, (np.arange(n) // per_group) % 5)


def said(rows: Answers, cut: float):
    return rows.p[:, 1] >= cut


@pytest.mark.parametrize("seed", range(5))
def test_youden_and_fixed_rates_are_the_best_of_all_thresholds(seed):
    rng = np.random.default_rng(seed)
    rows = draw(rng, 200)
    q = np.round(rows.p[:, 1], 2)  # with ties
    fpr, tpr, _ = roc_curve(rows.y, q, drop_intermediate=False)

    def at(rule):
        found = rates(rows.y, q >= threshold(parse_rule(rule), rows.y, q), rows.groups)
        return found["sensitivity"].value, found["specificity"].value

    sensitivity, specificity = at("youden")
    assert sensitivity + specificity == pytest.approx((tpr + 1 - fpr).max())
    assert at("sensitivity=.9")[1] == pytest.approx((1 - fpr)[tpr >= 0.9].max())
    assert at("sensitivity=.9")[0] >= 0.9
    assert at("specificity=.8")[0] == pytest.approx(tpr[1 - fpr >= 0.8].max())
    assert at("specificity=.8")[1] >= 0.8


@pytest.mark.parametrize("cost", [0.1, 0.5, 1.0, 4.0])
def test_the_cost_of_true_probabilities_sets_the_threshold_by_theory(cost):
    rng = np.random.default_rng(0)
    cuts = []
    for _ in range(40):
        rows = draw(rng, 1000)
        cuts.append(threshold(parse_rule(f"cost={cost}"), rows.y, rows.p[:, 1]))
    assert np.mean(cuts) == pytest.approx(cost / (1 + cost), abs=0.01)
    assert np.std(cuts) < 0.04
    new = draw(rng, 200_000)
    price = [
        ((new.y == 1) & ~said(new, t)).sum() + cost * ((new.y == 0) & said(new, t)).sum()
        for t in (cost / (1 + cost), cost / (1 + cost) + 0.1, cost / (1 + cost) - 0.05)
    ]
    assert price[0] == min(price)


def test_the_cost_of_untrue_probabilities_is_mended_by_the_line():
    rng = np.random.default_rng(1)
    rows = draw(rng, 50_000)
    odds = rows.p[:, 1] / (1 - rows.p[:, 1])
    extreme = odds**2 / (1 + odds**2)
    cut = threshold(parse_rule("cost=.25"), rows.y, extreme)
    assert cut == pytest.approx(0.25**2 / (1 + 0.25**2), abs=0.01)  # where the true odds are 1 to 4


def test_rates_are_those_of_the_confusion_matrix():
    rows = draw(np.random.default_rng(2), 300)
    answer = said(rows, 0.4)
    tn, fp, fn, tp = confusion_matrix(rows.y, answer).ravel()
    found = {name: one.value for name, one in rates(rows.y, answer, rows.groups).items()}
    assert found == pytest.approx(
        {"sensitivity": tp / (tp + fn), "specificity": tn / (tn + fp), "ppv": tp / (tp + fp), "npv": tn / (tn + fn)}
    )


def test_development_figures_are_not_flattered_by_the_choice():
    """Over many draws they agree with new rows; what the chosen threshold says of the rows that chose it does not."""
    rng = np.random.default_rng(3)
    crossed, flattered, fresh = [], [], []
    for _ in range(200):
        rows, new = draw(rng, 60), draw(rng, 2000)
        point = fit_decisions(rows, rows, [HeldOut(rows, new)], ("no", "yes"), False, "none")["points"][0]
        assert point["rule"] == "youden"
        own = rates(rows.y, said(rows, point["threshold"]), rows.groups)
        for kept_in, one in ((crossed, point["development"]), (flattered, own), (fresh, point["test"])):
            kept_in.append(one["sensitivity"].value + one["specificity"].value)
    assert np.mean(crossed) == pytest.approx(np.mean(fresh), abs=0.025)
    assert np.mean(flattered) > np.mean(fresh) + 0.05


def test_test_intervals_hold_the_truth():
    rng = np.random.default_rng(4)
    held, runs = 0, 200
    big = draw(rng, 200_000)
    for _ in range(runs):
        rows, new = draw(rng, 100), draw(rng, 150)
        point = fit_decisions(rows, rows, [HeldOut(rows, new)], ("no", "yes"), False, "none")["points"][1]
        truth = (said(big, point["threshold"]) & (big.y == 1)).sum() / (big.y == 1).sum()
        held += point["test"]["sensitivity"].lo <= truth <= point["test"]["sensitivity"].hi
    assert 0.91 <= held / runs <= 0.99, held / runs


def test_a_promise_that_is_broken_is_said():
    assert kept(parse_rule("sensitivity=.95"), {"sensitivity": Interval(0.96, 0.9, 0.99)}, SOME) == "met"
    assert kept(parse_rule("sensitivity=.95"), {"sensitivity": Interval(0.93, 0.88, 0.97)}, SOME) == "within noise"
    assert kept(parse_rule("specificity=.95"), {"specificity": Interval(0.8, 0.75, 0.85)}, SOME) == "missed"
    assert (
        kept(parse_rule("specificity=.95"), {"specificity": Interval(math.nan, math.nan, math.nan)}, SOME) == "unknown"
    )
    assert kept(parse_rule("youden"), {}, SOME) == ""
    for said_of_all in (np.ones(9, bool), np.zeros(9, bool)):
        for value in (0.97, 1.0):
            found = {"sensitivity": Interval(value, 0.7, 1.0)}
            assert kept(parse_rule("sensitivity=.95"), found, said_of_all) == "trivial"
    rng = np.random.default_rng(5)
    rows, elsewhere = draw(rng, 1000), draw(rng, 1000)
    moved = Answers(elsewhere.y, np.column_stack([1 - elsewhere.p[:, 1] / 3, elsewhere.p[:, 1] / 3]), elsewhere.groups)
    points = fit_decisions(rows, rows, [HeldOut(rows, moved)], ("no", "yes"), False, "none")["points"]
    assert [point["promise"] for point in points] == ["", "missed", "trivial", ""]  # nobody is found


@pytest.mark.parametrize("how", ["mean", "max"])
def test_groups_have_thresholds_of_their_own(how):
    """A patient is positive where any image is; the mean or the largest of four is rarely as low as one of them."""
    rng = np.random.default_rng(6)
    rows, new = draw(rng, 2000, per_group=4), draw(rng, 2000, per_group=4)
    about = fit_decisions(rows, rows, [HeldOut(rows, new)], ("no", "yes"), False, how)
    cuts = {point["unit"]: point for point in about["points"] if point["rule"] == "sensitivity=0.95"}
    assert cuts["group"]["threshold"] > cuts["image"]["threshold"]
    by_patient = pooled(new, how)
    assert len(by_patient.y) == 500
    answer = by_patient.p[:, 1] >= cuts["group"]["threshold"]
    expected = (answer & (by_patient.y == 1)).sum() / (by_patient.y == 1).sum()
    assert cuts["group"]["test"]["sensitivity"].value == pytest.approx(expected)
    assert cuts["group"]["development"]["sensitivity"].value == pytest.approx(0.95, abs=0.02)
    reading = decide(
        json.loads(json.dumps(plain(about))), ("no", "yes"), False, by_patient.p, "group", "sensitivity=.95"
    )
    assert np.array_equal(reading[:, 1], answer)


def test_a_group_keeps_its_fold_and_its_rows_in_any_order():
    rows = draw(np.random.default_rng(7), 60, per_group=3)
    order = np.random.default_rng(8).permutation(60)
    moved = Answers(rows.y[order], rows.p[order], rows.groups[order], rows.fold[order])
    here, there = pooled(rows, "mean"), pooled(moved, "mean")
    assert dict(zip(here.groups, here.fold, strict=True)) == dict(zip(there.groups, there.fold, strict=True))
    assert here.fold.tolist() == [i % 5 for i in range(20)]


def test_images_only_where_no_group_has_two():
    rows = draw(np.random.default_rng(9), 200)
    about = fit_decisions(rows, rows, [HeldOut(rows, rows)], ("no", "yes"), False, "mean")
    assert {point["unit"] for point in about["points"]} == {"image"}
    with pytest.raises(RequestError, match="decides per image only"):
        decide(about, ("no", "yes"), False, rows.p, "group")


def test_the_default_is_stored_and_another_rule_may_be_asked_for():
    rows = draw(np.random.default_rng(10), 400)
    assert fit_decisions(rows, rows, [HeldOut(rows, rows)], ("no", "yes"), False, "none")["default"] == "youden"
    about = fit_decisions(rows, rows, [HeldOut(rows, rows)], ("no", "yes"), False, "none", parse_rule("sensitivity=.8"))
    assert about["default"] == "sensitivity=0.8" and about["points"][0]["rule"] == "sensitivity=0.8"
    yes = decide(about, ("no", "yes"), False, rows.p)
    assert (yes.sum(axis=1) == 1).all()
    assert yes[rows.y == 1, 1].mean() == pytest.approx(0.8, abs=0.02)
    assert decide(about, ("no", "yes"), False, rows.p, rule="specificity=.95")[:, 1].sum() < yes[:, 1].sum()
    assert np.array_equal(decide(about, ("no", "yes"), False, rows.p, rule="argmax")[:, 1], rows.p[:, 1] > 0.5)
    with pytest.raises(RequestError, match=r"no threshold for it.*It has sensitivity=0\.8, youden.*--decide specific"):
        decide(about, ("no", "yes"), False, rows.p, rule="specificity=.5")


def test_three_classes_take_the_most_probable_or_flag_each():
    rng = np.random.default_rng(11)
    p = rng.dirichlet([1, 1, 1], 600)
    y = (p.cumsum(axis=1) < rng.random((600, 1))).sum(axis=1)
    rows = Answers(y, p, np.arange(600).astype(str), np.arange(600) % 5)
    about = fit_decisions(rows, rows, [HeldOut(rows, rows)], ("a", "b", "c"), False, "none")
    assert about["default"] == "argmax"
    assert np.array_equal(decide(about, ("a", "b", "c"), False, p).argmax(axis=1), p.argmax(axis=1))
    flags = decide(about, ("a", "b", "c"), False, p, rule="sensitivity=.95")
    for c in range(3):
        assert flags[y == c, c].mean() == pytest.approx(0.95, abs=0.02)
    assert set(flags.sum(axis=1)) >= {1, 2, 3}


def test_labels_are_decided_one_by_one_on_known_answers():
    rng = np.random.default_rng(12)
    p = rng.uniform(size=(500, 2))
    y = (rng.random((500, 2)) < p).astype(np.int64)
    y[::5, 0] = UNKNOWN
    rows = Answers(y, p, np.arange(500).astype(str), np.arange(500) % 5)
    about = fit_decisions(rows, rows, [HeldOut(rows, rows)], ("a", "b"), True, "none", parse_rule("sensitivity=.9"))
    flags = decide(about, ("a", "b"), True, p)
    for c in range(2):
        assert flags[y[:, c] == 1, c].mean() == pytest.approx(0.9, abs=0.02)
    assert set(flags.sum(axis=1)) == {0, 1, 2}
    with pytest.raises(RequestError, match="each is decided by itself"):
        decide(about, ("a", "b"), True, p, rule="argmax")
    with pytest.raises(RequestError, match="each is decided by itself"):
        fit_decisions(rows, rows, [HeldOut(rows, rows)], ("a", "b"), True, "none", parse_rule("argmax"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yuden", "Did you mean youden"),
        ("sensitivity", "a share between 0 and 1"),
        ("sensitivity=95", "a share between 0 and 1"),
        ("specificity=nan", "a share between 0 and 1"),
        ("cost=-1", "a number above 0"),
        ("cost=much", "a number above 0"),
        ("youden=.5", "takes no number"),
        ("", "no such rule"),
    ],
)
def test_a_wrong_rule_says_what_to_type(text, says):
    with pytest.raises(RequestError, match=says):
        parse_rule(text)


def test_one_answer_only_has_no_threshold():
    assert math.isnan(threshold(parse_rule("youden"), np.ones(4, np.int64), np.linspace(0, 1, 4)))


@pytest.mark.parametrize("about", [{"default": "youden"}, {"default": "youden", "points": [{}]}])
def test_sections_that_are_none_are_refused(about):
    with pytest.raises(RequestError, match="decisions cannot be read"):
        decide(about, ("no", "yes"), False, np.array([[0.5, 0.5]]))


def test_what_is_stored_is_plain_json():
    rows = draw(np.random.default_rng(13), 100)
    about = fit_decisions(rows, rows, [HeldOut(rows, rows)], ("no", "yes"), False, "none")
    text = json.dumps(plain(about), allow_nan=False)
    assert json.loads(text)["points"][0]["development"]["sensitivity"] == asdict(
        about["points"][0]["development"]["sensitivity"]
    )


def test_rates_of_two_patients_have_no_interval_and_promise_nothing():
    y, hit = np.array([1, 1, 1, 0, 0, 0, 0]), np.array([1, 1, 1, 0, 0, 1, 0], dtype=bool)
    found = rates(y, hit, np.array(["a", "a", "b", "c", "d", "e", "f"]))
    assert found["sensitivity"].value == 1.0 and math.isnan(found["sensitivity"].lo)
    assert found["sensitivity"].reason == "too-few-groups" and found["specificity"].reason == ""
    assert kept(parse_rule("sensitivity=.95"), found, hit) == "unknown"
    assert rates(y[:3], hit[:3], np.array(["a", "a", "b"]))["specificity"].reason == "no-rows"
