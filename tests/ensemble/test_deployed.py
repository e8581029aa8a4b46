"""What is fitted acts on what it was fitted on: per fold index, as deployed, and without the labels it is judged by."""

from types import SimpleNamespace

import numpy as np
import pytest
from simulated_members import Simulated

from benchmarks.calibration_shift import Cell, simulated
from harness.calibration.deployed import as_deployed, merged, out_of_bag_parts
from harness.calibration.maps import UNSEEN, answer, fit_calibration
from harness.calibration.uncertainty import coverage_curve
from harness.ensemble.inputs import Pool, only, rest_without_fold
from harness.ensemble.methods import METHODS, by_fold_index
from harness.ensemble.nested import best as best_of
from harness.ensemble.nested import values_without
from harness.ensemble.oof import OofTable, mean_oof, single_oof
from harness.ensemble.postprocess import SHARED, Development, trust_sections
from harness.ensemble.scores import Rows
from harness.metrics import logit, sigmoid
from harness.stats.calibration import fit_line
from harness.types import Interval

ON_PREDICTIONS = [name for name, method in METHODS.items() if method.embeddings == "none"]


@pytest.mark.parametrize("name", METHODS)
def test_the_mean_over_fold_indices_is_what_the_method_says(name):
    members = Simulated(0, 1.0, groups=60, members=2, k=3, test=40)
    embed = members.embed if METHODS[name].needs_embeddings else None
    model = METHODS[name].fit(members.table, embed, 0, None).model
    of_test = members.embed_test if METHODS[name].needs_embeddings else None
    each = by_fold_index(model, members.test_logits, of_test)
    assert each.shape == (3, 40, 2)
    np.testing.assert_allclose(each.mean(axis=0), model.predict(members.test_logits, of_test), atol=1e-9)
    assert not np.allclose(each[0], each[1])


@pytest.mark.parametrize("name", ["mean", "bagging", "stacking"])
def test_of_several_labels_too(name):
    members = Simulated(1, 1.0, groups=60, members=2, k=3, test=40)
    table = members.table
    several = OofTable(
        np.stack([table.y, 1 - table.y], axis=1), table.groups, table.fold, table.logits, table.encoder_ids
    )
    embed, of_test = (members.embed, members.embed_test) if METHODS[name].needs_embeddings else (None, None)
    model = METHODS[name].fit(several, embed, 0, None).model
    each = by_fold_index(model, members.test_logits, of_test)
    np.testing.assert_allclose(each.mean(axis=0), model.predict(members.test_logits, of_test), atol=1e-9)


def without_labels_of(members: Simulated, name: str, y: np.ndarray):
    """Calibrated development probabilities and operating points' answers, of labels y."""
    table = OofTable(y, members.groups, members.fold, members.table.logits, members.encoder_ids)
    method = METHODS[name]
    outputs = SimpleNamespace(held_out_embeddings=members.embed, development_embeddings=members.embed)
    pool = Pool((), table, outputs, tuple(range(table.members)), {})  # type: ignore[arg-type]
    fitted = method.fit(table, members.embed if method.needs_embeddings else None, 0, None)
    rest = rest_without_fold(pool, method, None, 0, lambda what, done, total: None)
    return fit_calibration(fitted.oof, y, members.groups, members.fold, False, None, rest)


@pytest.mark.parametrize("name", [*ON_PREDICTIONS, "bagging", "stacking-embeddings"])
def test_turning_a_folds_labels_does_not_move_its_calibrated_probabilities(name):
    """Networks as they are: neither the method behind the other folds' probabilities nor the map has read them."""
    members = Simulated(2, 0.6, groups=90, members=3, k=3)
    fold0 = members.fold == 0
    before = without_labels_of(members, name, members.y)
    after = without_labels_of(members, name, np.where(fold0, 1 - members.y, members.y))
    if name not in ("bagging", "stacking-embeddings"):  # their heads are fitted on the fold's other groups
        np.testing.assert_allclose(before.oof[fold0], after.oof[fold0], atol=1e-9)
    np.testing.assert_allclose(before.others[0][~fold0], after.others[0][~fold0], atol=1e-9)
    assert np.isnan(before.others[0][fold0]).all()
    assert not np.allclose(before.oof[~fold0], after.oof[~fold0])


@pytest.mark.parametrize(("alike", "scale"), [(0.9, 1.0), (0.0, 3.0)])
def test_calibration_thresholds_and_abstention_fit_what_is_deployed(alike, scale):
    """A small version of benchmarks/calibration_shift.py. Monte-Carlo error of a mean slope: about .04."""
    cell, rng = Cell(250, 1, 5, 1, alike, scale), np.random.default_rng(3)
    runs = [simulated(cell, rng) for _ in range(16)]
    found = {key: float(np.median([run[key] for run in runs])) for key in runs[0]}
    assert 0.85 <= found["slope"] <= 1.18
    assert 0.85 <= found["full"] <= 1.18
    assert found["sensitivity"] == pytest.approx(0.95, abs=0.04)
    assert found["specificity"] == pytest.approx(0.95, abs=0.04)
    assert 0.15 < found["left_0.2"] < 0.26
    if alike == 0.0:  # what the same maps do where they were not fitted
        assert found["before"] > 2.0 and found["per_fold"] > 1.4


def test_as_deployed_has_the_spread_of_the_mean():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 4000)
    z = (2 * y - 1)[None] + rng.normal(size=(5, 4000)) * 1.2 + rng.normal(size=4000)
    each = np.stack([1 - sigmoid(z), sigmoid(z)], axis=-1)
    like = as_deployed(each[0], y, each[:, :500])
    mean = each.mean(axis=0)
    for c in (0, 1):
        expected = logit(mean[y == c, 1])
        own = logit(like[y == c, 1])
        assert own.mean() == pytest.approx(expected.mean(), abs=0.12)
        assert own.std() == pytest.approx(expected.std(), rel=0.1)
        assert logit(each[0][y == c, 1]).std() > 1.2 * expected.std()
    one = np.stack([each[0]] * 5)
    np.testing.assert_allclose(as_deployed(each[0], y, one), each[0], atol=1e-6)  # alike: nothing to take off


def test_no_map_of_the_mean_turns_the_order_of_two_rows():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(5, 400)) * 2
    each = np.stack([1 - sigmoid(z), sigmoid(z)], axis=-1)
    y = (rng.random(400) < sigmoid(z.mean(axis=0))).astype(np.int64)
    about = fit_calibration(each[0], y, np.arange(400).astype(str), np.arange(400) % 5, False, each).about
    assert about["fitted_on"] == UNSEEN
    p = answer(about, each)
    first = answer({**about, "after": [{"method": "none"}]}, each)
    assert (np.diff(p[np.argsort(first[:, 1]), 1]) >= 0).all()


def test_where_nothing_tells_it_is_said():
    rng = np.random.default_rng(2)
    p = rng.dirichlet([1, 1], 60)
    y, groups, fold = rng.integers(0, 2, 60), np.arange(60).astype(str), np.arange(60) % 3
    known = [(None, "no-held-out-rows"), (p[None], "one-network")]
    for unseen, reason in known:
        about = fit_calibration(p, y, groups, fold, False, unseen).about
        assert (about["fitted_on"], about["reason"]) == ("fold models", reason)
        assert about["after"] == [{"method": "none"}]


def test_networks_of_a_resample_are_averaged_as_out_of_bag_means_are():
    assert out_of_bag_parts(10) == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert out_of_bag_parts(2) == [[0], [1]]
    each = np.arange(20.0).reshape(10, 1, 2)
    np.testing.assert_allclose(merged(each, out_of_bag_parts(10))[1], each[4:7].mean(axis=0))


def noise_study(rng: np.random.Generator, trials: int = 20, top: int = 5, n: int = 120, k: int = 3):
    """Labels that no trial knows anything of; the `top` best are the members, chosen again without each fold."""
    y, fold, groups = rng.integers(0, 2, n), np.arange(n) % k, np.char.mod("g%03d", np.arange(n))
    names = tuple(tuple(f"t{m}-{j}" for j in range(k)) for m in range(trials))
    table = OofTable(y, groups, fold, rng.normal(size=(n, trials, 2)).astype(np.float32), names)
    values = values_without("auroc", y, [single_oof(table, m) for m in range(trials)], fold, k)
    choices = [best_of("auroc", values[:, j], [""] * trials, top) for j in range(k)]
    whole = best_of("auroc", values.mean(axis=1), [""] * trials, top)
    pool = Pool((), table, None, whole, {})  # type: ignore[arg-type]
    rest = rest_without_fold(pool, METHODS["mean"], choices, 0, lambda what, done, total: None)
    judged = np.full((n, 2), np.nan)
    for j, chosen in enumerate(choices):
        judged[fold == j] = mean_oof(only(table, chosen))[fold == j]
    test = sigmoid(rng.normal(size=(k, 40)))
    development = Development(mean_oof(only(table, whole)), judged, rest, learned=True)
    rows = Rows(y, groups, "none")
    held_out = Rows(rng.integers(0, 2, 40), np.char.mod("h%03d", np.arange(40)), "none")
    return y, trust_sections(development, np.stack([1 - test, test], -1), rows, held_out, fold, ("no", "yes"), 0)


def test_on_labels_without_any_signal_the_development_figures_say_so(monkeypatch):
    """Best 5 of 20 trials: Youden's J is about 0 and half of the surest half is right, out of fold and on the test
    split; networks whose labels were shared have no interval. Monte-Carlo errors: .02 and .013."""
    monkeypatch.setattr("harness.ensemble.postprocess.REPS", 2)
    rng = np.random.default_rng(4)
    j, half, flattered = [], [], []
    for _ in range(24):
        labels, trust = noise_study(rng)
        point = trust.sections["decisions"]["points"][0]
        assert point["rule"] == "youden"
        found = point["development"]
        j.append(found["sensitivity"].value + found["specificity"].value - 1)
        half.append(coverage_curve(trust.nested, labels)[-1]["accuracy"])
        flattered.append(coverage_curve(trust.calibration.deployed, labels)[-1]["accuracy"])
    assert np.mean(j) == pytest.approx(0.0, abs=0.06)
    assert np.mean(half) == pytest.approx(0.5, abs=0.045)
    assert np.mean(flattered) > 0.55  # the members that were chosen on these rows
    assert trust.sections["decisions"]["development_kind"] == SHARED
    assert found["sensitivity"].reason == SHARED and np.isnan(found["sensitivity"].lo)
    error = trust.sections["calibration"]["reliability"]["development"]["calibrated"][0].error
    assert isinstance(error, Interval) and error.reason == SHARED and np.isnan(error.hi)
    assert np.isfinite(point["test"]["sensitivity"].lo)


def test_lines_are_found_where_there_are_any():
    """Newton's steps end where the likelihood cannot tell them from rounding, on many rows too."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = 3 * rng.normal(size=4000)
        y = (rng.random(4000) < sigmoid(x)).astype(float)
        intercept, slope = fit_line(x, y)
        assert slope == pytest.approx(1.0, abs=0.2) and abs(intercept) < 0.3
