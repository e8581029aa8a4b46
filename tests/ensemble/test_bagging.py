"""The resamples behind bagging's out-of-bag scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_members import Simulated

from harness.ensemble import bagging
from harness.ensemble.oof import OofTable, mean_oof
from harness.errors import HarnessError


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
