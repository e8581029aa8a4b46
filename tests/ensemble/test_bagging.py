"""The resamples behind bagging's out-of-bag scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_members import Simulated
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from harness.ensemble import bagging
from harness.ensemble.oof import OofTable, mean_oof, mean_predict
from harness.errors import HarnessError
from harness.metrics import METRICS
from harness.seeds import derive_seed


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(2, 12),
    positives=st.integers(0, 12),
    seed=st.integers(0, 1000),
    heads=st.integers(1, 5),
)
def test_groups_stay_whole_and_each_is_left_out_once(groups: int, positives: int, seed: int, heads: int) -> None:
    rng = np.random.default_rng(seed)
    group_of_row = np.repeat(np.arange(groups), rng.integers(1, 4, groups))
    y = (group_of_row < positives).astype(np.int64)
    counts = bagging.resamples(y, group_of_row.astype(str), rng, heads)
    assert len(counts) >= heads
    for group in range(groups):
        own = counts[:, group_of_row == group]
        assert (own == own[:, :1]).all()
    assert ((counts == 0).any(axis=0)).all()


def test_resamples_hold_two_classes_where_they_can() -> None:
    y = np.array([1] + [0] * 9)
    groups = np.arange(10).astype(str)
    counts = bagging.resamples(y, groups, np.random.default_rng(0))
    with_positive = counts[:, 0] > 0
    assert with_positive[: bagging.HEADS].all()  # by redrawing
    assert (~with_positive).sum() == 1  # and the one head that leaves the only positive out of the bag


def test_a_row_is_out_of_bag_scored_without_its_own_label() -> None:
    """Turning round one group's labels must not change that group's out-of-fold probabilities."""
    s = Simulated(seed=1, signal=0.5, groups=60, members=1, k=3)
    own = s.groups == s.groups[0]
    y = s.y.copy()
    y[own] = 1 - y[own]
    turned = OofTable(y, s.groups, s.fold, s.table.logits, s.encoder_ids)
    x = s.embed  # embeddings of the rows as they were
    before, after = bagging.fit(s.table, x, 0), bagging.fit(turned, x, 0)
    np.testing.assert_allclose(after.oof[own], before.oof[own], atol=1e-12)
    assert not np.allclose(after.oof[~own], before.oof[~own], atol=1e-6)


def test_embeddings_of_rows_that_the_encoder_trained_on_are_not_used() -> None:
    s = Simulated(seed=2, signal=0.5, groups=40, members=2, k=3)

    def held_out_only(m: int, k: int) -> np.ndarray:
        x = s.embed(m, k)
        x[s.fold != k] = np.nan
        return x

    np.testing.assert_array_equal(bagging.fit(s.table, held_out_only, 0).oof, bagging.fit(s.table, s.embed, 0).oof)


def test_rows_that_no_head_left_out_are_refused() -> None:
    s = Simulated(seed=3, signal=0.5, groups=40, members=1, k=3)
    groups = np.where(s.fold == 1, "all-in-one", s.groups)
    table = OofTable(s.y, groups, s.fold, s.table.logits, s.encoder_ids)
    with pytest.raises(HarnessError, match=rf"out of bag.*: {int((s.fold == 1).sum())} of {len(s.y)} rows"):
        bagging.fit(table, s.embed, 0)


def test_is_half_networks_and_half_heads() -> None:
    s = Simulated(seed=4, signal=0.5, groups=60, members=1, k=3)
    uninformative = bagging.fit(s.table, lambda m, k: np.zeros((len(s.y), 3), dtype=np.float32), 0)
    heads = 2 * uninformative.oof - mean_oof(s.table)
    # heads that see nothing say each resample's class shares, about one half here
    np.testing.assert_allclose(heads, 0.5, atol=0.2)


def test_embeddings_that_are_not_finite_are_refused() -> None:
    s = Simulated(seed=5, signal=0.5, groups=40, members=1, k=3)
    with pytest.raises(HarnessError, match="encoder-0-0 are not finite"):
        bagging.fit(s.table, lambda m, k: np.full((len(s.y), 3), np.inf, dtype=np.float32), 0)


def test_equals_scikit_learn_head_by_head() -> None:
    """The same resamples, every head fitted by scikit-learn on the resample's rows written out one by one."""
    s = Simulated(seed=6, signal=0.6, groups=60, members=2, k=3, test=25)
    heads_oof, heads_test = np.zeros((len(s.y), 2)), np.zeros((25, 2))
    for m in range(2):
        for k in range(3):
            rows = np.flatnonzero(s.fold == k)
            x, y, x_test = s.embed(m, k)[rows].astype(np.float64), s.y[rows], s.embed_test(m, k).astype(np.float64)
            rng = np.random.default_rng(derive_seed(4, "bagging", f"encoder-{m}-{k}"))
            counts = bagging.resamples(s.y[rows], s.groups[rows], rng)
            said, unseen = np.zeros((len(rows), 2)), np.zeros((len(rows), 1))
            for count in counts:
                drawn = np.repeat(np.arange(len(rows)), count)
                model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / x.shape[1], tol=1e-9, max_iter=5000))
                model.fit(x[drawn], y[drawn])
                out = count == 0
                said[out] += model.predict_proba(x[out])
                unseen[out] += 1
                heads_test += model.predict_proba(x_test) / len(counts) / 6
            heads_oof[rows] += said / unseen / 2
    fitted = bagging.fit(s.table, s.embed, 4)
    np.testing.assert_allclose(fitted.oof, (mean_oof(s.table) + heads_oof) / 2, atol=1e-5)
    found = fitted.model.predict(s.test_logits, s.embed_test)
    np.testing.assert_allclose(found, (mean_predict(s.test_logits) + heads_test) / 2, atol=1e-5)


def test_a_resample_is_a_bootstrap_of_groups() -> None:
    """Of G groups drawn G times with replacement each is left out with probability (1 - 1/G)^G, and drawn once on
    average. 20 standard errors would be a bug; four are chance's."""
    groups, heads = 25, 400
    of_row = np.repeat(np.arange(groups), np.arange(groups) % 3 + 1)
    counts = bagging.resamples(np.arange(groups)[of_row] % 2, of_row.astype(str), np.random.default_rng(0), heads)
    per_group = np.array([counts[:heads, of_row == group][:, 0] for group in range(groups)]).T
    np.testing.assert_array_equal(per_group.sum(axis=1), groups)
    left_out = (1 - 1 / groups) ** groups
    assert abs((per_group == 0).mean() - left_out) < 4 * np.sqrt(left_out * (1 - left_out) / (heads * groups))
    assert np.abs(per_group.mean(axis=0) - 1).max() < 4.5 / np.sqrt(heads)


def test_the_out_of_bag_score_is_that_of_new_rows() -> None:
    """What out-of-bag estimation is for: heads that are useless beyond their own rows must not look good."""
    gaps = []
    for seed in range(6):
        s = Simulated(seed=seed, signal=0.35, groups=120, members=1, k=3, test=600)
        fitted = bagging.fit(s.table, s.embed, seed)
        scores = METRICS["auroc"].of(s.y, fitted.oof, None)[0], METRICS["auroc"].of(s.y, fitted.selection, None)[0]
        gaps.append(scores)
    oof, selection = np.mean(gaps, axis=0)
    new = np.mean([_new_rows(seed) for seed in range(6)])
    assert abs(oof - new) < 0.05 < selection - new


def _new_rows(seed: int) -> float:
    """As a row meets its networks out of fold: those of one fold index, not the mean over all of them."""
    s = Simulated(seed=seed, signal=0.35, groups=120, members=1, k=3, test=600)
    heads = bagging.fit(s.table, s.embed, seed).model.heads  # type: ignore[attr-defined]
    found = []
    for k in range(3):
        one = bagging.BaggingModel({(0, 0): heads[0, k]})
        p = one.predict(s.test_logits[:, [k]], lambda m, _, k=k: s.embed_test(m, k))
        found.append(METRICS["auroc"].of(s.y_test, p, None)[0])
    return float(np.mean(found))
