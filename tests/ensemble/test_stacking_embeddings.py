"""Heads on embeddings beside the logits: against scikit-learn, and what each number has not seen."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_members import Simulated
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from harness.ensemble import stacking
from harness.errors import HarnessError, RequestError
from harness.metrics import METRICS
from harness.seeds import derive_seed


def auroc(y: np.ndarray, p: np.ndarray) -> float:
    return float(METRICS["auroc"].of(y, p, None)[0])


def test_equals_scikit_learn_done_by_hand() -> None:
    s = Simulated(seed=0, signal=0.6, groups=90, members=2, k=3, test=40)
    beside = np.zeros_like(s.table.logits)
    test = np.zeros_like(s.test_logits)
    for m in range(2):
        for k in range(3):
            rows = np.flatnonzero(s.fold == k)
            x, y = s.embed(m, k)[rows].astype(np.float64), s.y[rows]
            part = stacking.parts(y, s.groups[rows], derive_seed(1, "stacking-embeddings", k))
            head = make_pipeline(StandardScaler(), LogisticRegression(C=1 / x.shape[1], tol=1e-8, max_iter=5000))
            for i in range(5):
                beside[rows[part == i], m] = head.fit(x[part != i], y[part != i]).predict_log_proba(x[part == i])
            test[m, k] = head.fit(x, y).predict_log_proba(s.embed_test(m, k).astype(np.float64))
    table = replace(
        s.table, logits=np.concatenate([s.table.logits, beside], axis=1), encoder_ids=s.encoder_ids + s.encoder_ids
    )
    expected = stacking.fit_stacking(table)
    fitted = stacking.fit_stacking_embeddings(s.table, s.embed, 1)
    np.testing.assert_allclose(fitted.oof, expected.oof, atol=1e-3)
    np.testing.assert_allclose(
        fitted.model.predict(s.test_logits, s.embed_test),
        expected.model.predict(np.concatenate([s.test_logits, test]), None),
        atol=1e-3,
    )


def test_hears_what_only_the_embeddings_say() -> None:
    s = Simulated(seed=1, signal=1.0, groups=150, members=2)
    silent = replace(s.table, logits=np.random.default_rng(0).normal(size=s.table.logits.shape).astype(np.float32))
    assert auroc(s.y, stacking.fit_stacking(silent).oof) < 0.65
    assert auroc(s.y, stacking.fit_stacking_embeddings(silent, s.embed, 0).oof) > 0.85


def test_a_head_scores_no_group_that_it_was_fitted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the parts held still, turning round the labels of one part changes nothing that is said of that part."""
    s = Simulated(seed=2, signal=0.5, groups=80, members=2)
    monkeypatch.setattr(
        stacking, "parts", lambda y, groups, seed: np.array([int(name[1:]) // 7 % 5 for name in groups])
    )
    part = stacking.parts(s.y, s.groups, 0)
    turned = (s.fold == 1) & (part == 2)
    x = s.embed
    before = stacking.fit_stacking_embeddings(s.table, x, 0)
    after = stacking.fit_stacking_embeddings(replace(s.table, y=np.where(turned, 1 - s.y, s.y)), x, 0)
    np.testing.assert_array_equal(after.oof[turned], before.oof[turned])
    same_fold = (s.fold == 1) & (part != 2)
    assert (after.oof[same_fold] != before.oof[same_fold]).any()


def test_embeddings_of_rows_that_the_encoder_trained_on_are_not_used() -> None:
    s = Simulated(seed=3, signal=0.5, groups=40, members=2, k=3)

    def held_out_only(m: int, k: int) -> np.ndarray:
        x = s.embed(m, k)
        x[s.fold != k] = np.nan
        return x

    np.testing.assert_array_equal(
        stacking.fit_stacking_embeddings(s.table, held_out_only, 0).oof,
        stacking.fit_stacking_embeddings(s.table, s.embed, 0).oof,
    )


@settings(max_examples=40, deadline=None)
@given(groups=st.integers(2, 30), classes=st.integers(1, 4), seed=st.integers(0, 1000))
def test_parts_are_whole_groups_evenly_dealt(groups: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    group_of_row = np.repeat(np.arange(groups), rng.integers(1, 4, groups))
    y = (np.arange(groups) % classes)[group_of_row]
    part = stacking.parts(y, group_of_row.astype(str), seed)
    of_group = [set(part[group_of_row == group].tolist()) for group in range(groups)]
    assert all(len(found) == 1 for found in of_group)
    first = np.array([found.pop() for found in of_group])
    assert len(set(first.tolist())) == min(groups, stacking.PARTS)
    for value in range(min(classes, groups)):
        counts = np.bincount(first[np.arange(groups) % classes == value], minlength=min(groups, 5))
        assert counts.max() - counts.min() <= 1


def test_a_fold_with_one_group_is_refused() -> None:
    s = Simulated(seed=4, signal=0.5, groups=40, members=1, k=3)
    table = replace(s.table, groups=np.where(s.fold == 1, "all-in-one", s.groups))
    with pytest.raises(HarnessError, match="fold 1 has a single group"):
        stacking.fit_stacking_embeddings(table, s.embed, 0)


def test_embeddings_are_required_and_finite() -> None:
    s = Simulated(seed=5, signal=0.5, groups=40, members=1, k=3)
    with pytest.raises(HarnessError, match="none were given"):
        stacking.fit_stacking_embeddings(s.table, None, 0)
    with pytest.raises(HarnessError, match="encoder-0-0 are not finite"):
        stacking.fit_stacking_embeddings(s.table, lambda m, k: np.full((len(s.y), 3), np.inf, dtype=np.float32), 0)


def test_a_head_without_bias_is_refused() -> None:
    s = Simulated(seed=6, signal=0.5, groups=40, members=1, k=2)
    model = stacking.fit_stacking_embeddings(s.table, s.embed, 0).model
    head = model.heads[0, 1]  # type: ignore[attr-defined]
    model.heads[0, 1] = replace(head, bias=head.bias[:1])  # type: ignore[attr-defined]
    with pytest.raises(RequestError, match="head of encoder 0_1"):
        stacking.load_stacking_embeddings(model.files())
