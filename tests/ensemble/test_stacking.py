"""Stacking against an independent computation, and its choices."""

import numpy as np
import pytest
from simulated_members import Simulated
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from harness.ensemble import oof, stacking


def by_scikit_learn(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> GridSearchCV:
    """The strength chosen by log-loss over the given folds, refitted on all rows: the long way round."""
    # every row counts once, not every fold
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=5000))
    grid = {"logisticregression__C": list(stacking.STRENGTHS)}
    return GridSearchCV(pipeline, grid, cv=PredefinedSplit(fold), scoring="neg_log_loss").fit(x, y)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_scikit_learn_done_by_hand(classes: int, seed: int) -> None:
    s = Simulated(seed=seed, signal=0.7, groups=60, members=4, classes=classes, k=4, test=50)
    # equal fold sizes, so that the mean over folds and the mean over rows choose alike
    keep = np.concatenate([np.flatnonzero(s.fold == k)[: np.bincount(s.fold).min()] for k in range(4)])
    table = oof.OofTable(s.y[keep], s.groups[keep], s.fold[keep], s.table.logits[keep], s.encoder_ids)
    fitted = stacking.fit_stacking(table)

    z = table.logits.astype(np.float64)
    x = z[:, :, 1] - z[:, :, 0] if classes == 2 else (z - z.mean(axis=2, keepdims=True)).reshape(len(z), -1)
    expected = np.zeros((len(z), classes))
    for k in range(4):
        train = table.fold != k
        search = by_scikit_learn(x[train], table.y[train], table.fold[train])
        expected[~train] = search.predict_proba(x[~train])
    np.testing.assert_allclose(fitted.oof, expected, atol=2e-4)

    losses = []
    for strength in stacking.STRENGTHS:
        p = np.zeros_like(expected)
        for k in range(4):
            train = table.fold != k
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-8, max_iter=5000))
            p[~train] = model.fit(x[train], table.y[train]).predict_proba(x[~train])
        losses.append(log_loss(table.y, p))
    best = stacking.STRENGTHS[int(np.argmin(losses))]
    model = make_pipeline(StandardScaler(), LogisticRegression(C=best, tol=1e-8, max_iter=5000)).fit(x, table.y)
    per_fold = []
    for k in range(4):
        z = s.test_logits[:, k].swapaxes(0, 1).astype(np.float64)
        wide = z[:, :, 1] - z[:, :, 0] if classes == 2 else (z - z.mean(axis=2, keepdims=True)).reshape(len(z), -1)
        per_fold.append(model.predict_proba(wide))
    np.testing.assert_allclose(fitted.model.predict(s.test_logits), np.mean(per_fold, axis=0), atol=2e-4)


def test_a_fold_is_predicted_without_its_own_labels() -> None:
    """Turning round the labels of one fold must not change what is predicted for it."""
    s = Simulated(seed=3, signal=0.7, groups=60, members=3)
    before = stacking.fit_stacking(s.table)
    y = s.y.copy()
    y[s.fold == 2] = 1 - y[s.fold == 2]
    after = stacking.fit_stacking(oof.OofTable(y, s.groups, s.fold, s.table.logits, s.encoder_ids))
    np.testing.assert_array_equal(after.oof[s.fold == 2], before.oof[s.fold == 2])
    assert not np.allclose(after.oof[s.fold == 1], before.oof[s.fold == 1])


def test_prefers_the_better_member() -> None:
    s = Simulated(seed=4, signal=0.0, groups=200, members=2)
    logits = s.table.logits.copy()
    logits[:, 1, 1] += 2.0 * s.y
    fitted = stacking.fit_stacking(oof.OofTable(s.y, s.groups, s.fold, logits, s.encoder_ids))
    weights = fitted.model.linear.weights[:, 1] - fitted.model.linear.weights[:, 0]  # type: ignore[attr-defined]
    assert weights[1] > 3 * abs(weights[0])


def test_an_overconfident_network_has_one_vote() -> None:
    logits = np.array([[[0.0, 1e4]], [[1e4, 0.0]]], dtype=np.float32)
    np.testing.assert_array_equal(stacking.features(logits), [[stacking.CUT], [-stacking.CUT]])
