"""Calibration against scikit-learn's; chosen without the rows it is judged by; nothing but numbers in a bundle."""

import json

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from harness.calibration.maps import FITS, apply, apply_map, fit_calibration
from harness.errors import RequestError
from harness.metrics import METRICS, UNKNOWN, logit, softmax


class Says(ClassifierMixin, BaseEstimator):
    """A classifier whose decision is its input."""

    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, x):
        return x[:, 0] if x.shape[1] == 1 else x

    def predict(self, x):
        return self.classes_[self.decision_function(x).argmax(axis=1)]


def theirs(method: str, x, y, new):
    """What scikit-learn's calibration of decisions x says of new ones."""
    return CalibratedClassifierCV(FrozenEstimator(Says().fit(x, y)), method=method).fit(x, y).predict_proba(new)


def draw(rng, n: int, classes: int, temperature: float = 1.0, shift: float = 0.0):
    """Probabilities that are too extreme by `temperature` and shifted towards the last class, and labels."""
    z = rng.normal(size=(n, classes)) * 1.5
    true = softmax(z)
    y = (true.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=classes - 1)
    z = z * temperature
    z[:, -1] += shift
    groups = np.array([f"g{i // 2}" for i in range(n)])
    return softmax(z), y, groups, (np.arange(n) // 2) % 5


@pytest.mark.parametrize("classes", [2, 4])
def test_temperature_is_scikit_learns(classes):
    p, y, _, _ = draw(np.random.default_rng(0), 600, classes, temperature=2.5)
    new = draw(np.random.default_rng(1), 50, classes, 2.5)[0]
    mine = apply_map(FITS["temperature"](p, y), new)
    if classes == 2:  # their logits of two classes are (-x, x)
        expected = theirs("temperature", logit(p[:, 1:]) / 2, y, logit(new[:, 1:]) / 2)
    else:
        expected = theirs("temperature", np.log(p), y, np.log(new))
    np.testing.assert_allclose(mine, expected, atol=1e-5)
    assert 2.0 < FITS["temperature"](p, y)["temperature"] < 3.0


@pytest.mark.parametrize("classes", [2, 3])
def test_platt_is_scikit_learns_sigmoid_on_log_odds(classes):
    p, y, _, _ = draw(np.random.default_rng(2), 600, classes, 2.0, shift=1.0)
    new = draw(np.random.default_rng(3), 50, classes, 2.0, 1.0)[0]
    mine = apply_map(FITS["platt"](p, y), new)
    if classes == 2:
        expected = theirs("sigmoid", logit(p[:, 1:]), y, logit(new[:, 1:]))
    else:
        expected = theirs("sigmoid", logit(p), y, logit(new))
    np.testing.assert_allclose(mine, expected, atol=2e-4)


def test_isotonic_is_scikit_learns_towards_smoothed_targets():
    p, y, _, _ = draw(np.random.default_rng(4), 600, 2, 2.0, 1.0)
    new = draw(np.random.default_rng(5), 80, 2, 2.0, 1.0)[0]
    steps = theirs("isotonic", p[:, 1:], y, new[:, 1:])[:, 1]  # isotonic regression goes along with any line
    yes, no = (y == 1).sum(), (y == 0).sum()
    low, high = 1 / (no + 2), (yes + 1) / (yes + 2)
    mine = apply_map(FITS["isotonic"](p, y), new)[:, 1]
    np.testing.assert_allclose(mine, low + steps * (high - low), atol=1e-9)
    assert steps.min() == 0.0 and mine.min() > 0.0  # theirs would stake everything on a handful of rows


@pytest.mark.parametrize(
    ("temperature", "shift", "chosen"), [(1.0, 0.0, "none"), (3.0, 0.0, "temperature"), (2.5, 2.0, "platt")]
)
def test_the_simplest_that_is_good_is_taken(temperature, shift, chosen):
    p, y, groups, fold = draw(np.random.default_rng(6), 1500, 2, temperature, shift)
    found = fit_calibration(p, y, groups, fold, False)
    assert [one["method"] for one in found.about["candidates"][0] if one["chosen"]] == [chosen]
    assert found.about["maps"][0]["method"] == chosen
    better = METRICS["log_loss"].of(y, p, None) - METRICS["log_loss"].of(y, found.oof, None)
    assert (better[0] > 0.01) == (chosen != "none")


def test_steps_are_taken_where_no_line_fits():
    rng = np.random.default_rng(7)
    q = rng.uniform(0.01, 0.99, 4000)
    y = (rng.random(4000) < np.where(q < 0.5, 0.1, 0.6)).astype(np.int64)
    found = fit_calibration(np.column_stack([1 - q, q]), y, np.arange(4000).astype(str), np.arange(4000) % 5, False)
    assert found.about["maps"][0]["method"] == "isotonic"
    assert found.oof[q < 0.4, 1].mean() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_fold_has_no_say_in_its_own_probabilities(classes):
    """Neither by the fit nor by the choice of the method: its labels are turned round and nothing moves."""
    p, y, groups, fold = draw(np.random.default_rng(8), 200, classes, 3.0)
    before = fit_calibration(p, y, groups, fold, False).oof
    for k in range(5):
        other = np.where(fold == k, (y + 1) % classes, y)
        after = fit_calibration(p, other, groups, fold, False).oof
        np.testing.assert_array_equal(before[fold == k], after[fold == k])
        assert not np.allclose(before[fold != k], after[fold != k])


def test_labels_that_say_nothing_give_the_prevalence():
    rng = np.random.default_rng(9)
    p, y, groups, fold = draw(rng, 1000, 2, 4.0)
    found = fit_calibration(p, rng.permutation(y), groups, fold, False)
    assert METRICS["log_loss"].of(y, found.oof, None)[0] < np.log(2) + 0.03
    assert np.abs(found.oof[:, 1] - 0.5).mean() < 0.1


def test_few_rows_do_no_harm():
    """With 30 rows the choice must not make things much worse than leaving them alone, on average over draws."""
    rng = np.random.default_rng(10)
    changes = []
    for _ in range(60):
        p, y, groups, fold = draw(rng, 30, 2)
        new, truth, _, _ = draw(rng, 500, 2)
        found = fit_calibration(p, y, groups, fold, False)
        calibrated = apply(found.about, new)
        changes.append((METRICS["log_loss"].of(truth, calibrated, None) - METRICS["log_loss"].of(truth, new, None))[0])
    assert np.mean(changes) < 0.03


@pytest.mark.parametrize("method", list(FITS))
@pytest.mark.parametrize("classes", [2, 5])
def test_every_map_gives_distributions_survives_json_and_keeps_the_order(method, classes):
    p, y, _, _ = draw(np.random.default_rng(11), 300, classes, 2.0, 0.5)
    found = json.loads(json.dumps(FITS[method](p, y), allow_nan=False))
    q = apply_map(found, np.vstack([p, np.eye(classes)]))  # also what is flatly certain
    np.testing.assert_allclose(q.sum(axis=1), 1.0, atol=1e-12)
    assert np.isfinite(q).all() and (q >= 0).all()
    if classes == 2:
        assert (np.diff(q[np.argsort(p[:, 1]), 1]) >= -1e-12).all() or method == "none"


def test_several_labels_have_a_map_each_and_unknown_answers_have_no_say():
    rng = np.random.default_rng(12)
    first, y1, groups, fold = draw(rng, 800, 2, 3.0)
    second, y2, _, _ = draw(rng, 800, 2)
    p, y = np.column_stack([first[:, 1], second[:, 1]]), np.column_stack([y1, y2])
    y[::7, 0] = UNKNOWN
    found = fit_calibration(p, y, groups, fold, True)
    assert [one["method"] for one in found.about["maps"]] == ["temperature", "none"]
    moved = p.copy()
    moved[::7, 0] = 0.999
    again = fit_calibration(moved, y, groups, fold, True)
    assert again.about == found.about
    assert np.isfinite(found.oof).all()
    np.testing.assert_array_equal(apply(found.about, p)[:, 1], p[:, 1])


def test_one_fold_only_is_halved_by_group():
    p, y, groups, _ = draw(np.random.default_rng(13), 400, 2, 3.0)
    found = fit_calibration(p, y, groups, np.zeros(400, np.int64), False)
    assert np.isfinite(found.oof).all() and found.about["maps"][0]["method"] == "temperature"


def test_no_calibration_leaves_all_as_it_is():
    p = np.array([[0.2, 0.8]])
    assert apply(None, p) is p


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"multilabel": False, "maps": []},
        {"multilabel": True, "maps": [{"method": "none"}]},
        {"multilabel": False, "maps": [{"method": "exec"}]},
        {"multilabel": False, "maps": [{"method": "temperature", "temperature": -1.0}]},
        {"multilabel": False, "maps": [{"method": "temperature", "temperature": None}]},
        {"multilabel": False, "maps": [{"method": "platt", "lines": [[0.0, -1.0]]}]},
        {"multilabel": False, "maps": [{"method": "platt", "lines": [[0.0]]}]},
        {"multilabel": False, "maps": [{"method": "platt", "lines": []}]},
        {"multilabel": False, "maps": [{"method": "isotonic", "steps": [{"x": [0.1, 0.2], "y": [0.5, 0.4]}]}]},
        {"multilabel": False, "maps": [{"method": "isotonic", "steps": [{"x": [0.1], "y": [1.5]}]}]},
        {"multilabel": False, "maps": [{"method": "isotonic", "steps": [{"x": [], "y": []}]}]},
        {"multilabel": False, "maps": "none"},
        [1],
    ],
)
def test_a_section_that_is_none_is_refused(about):
    with pytest.raises(RequestError, match="calibration cannot be read"):
        apply(about, np.array([[0.2, 0.8]]))
