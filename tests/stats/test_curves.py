"""Curves: scikit-learn's on the same rows, the areas that studies are scored by, bands that hold what they promise."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from harness.metrics import score
from harness.stats.curves import GRID, Question, areas, precision_recall, questions, roc
from harness.stats.intervals import intervals


def draw(rng, groups: int, classes: int = 2, signal: float = 1.0):
    """Two images a patient, with ties: y (N,), p (N, C), groups (N,)."""
    y = rng.integers(0, classes, groups).repeat(2)
    z = signal * np.eye(classes)[y] + rng.normal(size=(groups, classes)).repeat(2, axis=0)
    p = np.exp(z + 0.3 * rng.normal(size=z.shape)).round(1) + 0.1
    return y, p / p.sum(axis=1, keepdims=True), np.arange(groups).repeat(2).astype(str)


@pytest.mark.parametrize("classes", [2, 4])
def test_curves_and_areas_are_scikit_learns(classes):
    names = [f"c{c}" for c in range(classes)]
    y, p, groups = draw(np.random.default_rng(classes), 60, classes)
    asked = questions(y, p, names)
    assert [one.of for one in asked] == (["c1"] if classes == 2 else names)
    found, precision = [], []
    for one in asked:
        positive = y == names.index(one.of)
        fpr, tpr, _ = roc_curve(positive, one.score, drop_intermediate=False)
        found.append(roc([one], groups, 0).y)
        np.testing.assert_allclose(found[-1], np.interp(GRID, fpr, tpr), atol=1e-12)
        by_sklearn, recall, _ = precision_recall_curve(positive, one.score)
        reached = [by_sklearn[recall >= max(share - 1e-9, 1e-12)][-1] for share in GRID]
        precision.append(precision_recall([one], groups, 0).y)
        np.testing.assert_allclose(precision[-1], reached, atol=1e-12)
        auroc, auprc = areas(one, groups, 0)
        assert auroc.value == pytest.approx(roc_auc_score(positive, one.score))
        assert auprc.value == pytest.approx(average_precision_score(positive, one.score))
    np.testing.assert_allclose(roc(asked, groups, 0).y, np.mean(found, axis=0))
    np.testing.assert_allclose(precision_recall(asked, groups, 0).y, np.mean(precision, axis=0))
    assert np.trapezoid(roc(asked, groups, 0).y, GRID) == pytest.approx(score(y, p)["auroc"], abs=0.01)
    if classes == 2:
        assert areas(asked[0], groups, 7) == tuple(intervals(y, p, groups, 7)[name] for name in ("auroc", "auprc"))


def test_a_band_draws_patients_again_and_holds_what_it_promises():
    rng = np.random.default_rng(0)
    y, p, groups = draw(rng, 20_000)
    fpr, tpr, _ = roc_curve(y, p[:, 1])
    place, runs, held, naive = 20, 120, 0, 0
    truth = np.interp(GRID[place], fpr, tpr)
    for run in range(runs):
        y, p, groups = draw(rng, 60)
        asked = questions(y, p, ["a", "b"])
        for own, names in ((True, groups), (False, np.arange(len(y)).astype(str))):
            band = roc(asked, names, run)
            inside = band.lo[place] <= truth <= band.hi[place]
            held, naive = held + (inside and own), naive + (inside and not own)
    assert 0.88 <= held / runs <= 0.99
    assert naive < held - 0.03 * runs  # images as if each were a patient: a band that is too narrow


def test_labels_of_several_are_asked_where_they_are_known_and_drawn_together():
    rng = np.random.default_rng(1)
    y, p = rng.integers(-1, 2, (80, 2)), rng.random((80, 2))
    groups = np.arange(80).astype(str)
    asked = questions(y, p, ["a", "b"])
    for c, one in enumerate(asked):
        known = y[:, c] >= 0
        fpr, tpr, _ = roc_curve(y[known, c], p[known, c], drop_intermediate=False)
        np.testing.assert_allclose(roc([one], groups, 0).y, np.interp(GRID, fpr, tpr), atol=1e-12)
    both = roc(asked, groups, 0)
    apart = [roc([one], groups, 0) for one in asked]
    assert (both.hi - both.lo)[30:70].mean() < np.mean([(one.hi - one.lo)[30:70].mean() for one in apart])


def test_where_there_is_nothing_to_draw_there_is_no_band():
    rows = np.arange(6)
    alone = Question("a", rows, rows == 0, np.linspace(1, 0, 6))
    curve = roc([alone], rows.astype(str), 0)
    assert curve.y[0] == 1 and np.isnan(curve.lo).all()  # a single positive group
    nobody = Question("a", rows, rows < 0, np.linspace(1, 0, 6))
    assert np.isnan(precision_recall([nobody], rows.astype(str), 0).y).all()
    assert np.isnan(areas(nobody, rows.astype(str), 0)[0].value)
    nothing = Question("a", rows[:0], np.zeros(0, bool), np.zeros(0))
    assert np.isnan(roc([nothing], rows.astype(str), 0).y).all() and np.isnan(areas(nothing, rows.astype(str), 0)[0].hi)
