"""What boosting watches, trains on and stores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_members import Simulated

from harness.ensemble import boosted_trees, boosting
from harness.ensemble.oof import OofTable
from harness.errors import HarnessError, RequestError


@settings(max_examples=40, deadline=None)
@given(groups=st.integers(1, 30), classes=st.integers(1, 4), mixed=st.booleans(), seed=st.integers(0, 1000))
def test_early_stopping_watches_whole_groups(groups: int, classes: int, mixed: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    group_of_row = np.repeat(np.arange(groups), rng.integers(1, 4, groups))
    label = rng.integers(0, classes, len(group_of_row)) if mixed else rng.integers(0, classes, groups)[group_of_row]
    watched = boosted_trees.watched_rows(label, group_of_row.astype(str), seed)
    for group in range(groups):
        assert len(set(watched[group_of_row == group].tolist())) == 1
    assert set(label[~watched].tolist()) == set(label.tolist())


def test_the_held_out_folds_labels_are_not_used() -> None:
    s = Simulated(seed=1, signal=0.5, groups=60, members=2, k=3)
    y = s.y.copy()
    y[s.fold == 1] = 1 - y[s.fold == 1]
    x = s.embed
    before = boosting.fit(s.table, x, 0)
    after = boosting.fit(OofTable(y, s.groups, s.fold, s.table.logits, s.encoder_ids), x, 0)
    np.testing.assert_array_equal(after.oof[s.fold == 1], before.oof[s.fold == 1])
    assert not np.allclose(after.oof[s.fold == 0], before.oof[s.fold == 0])


def test_each_encoder_has_a_booster_of_its_own() -> None:
    s = Simulated(seed=2, signal=0.5, groups=40, members=2, k=3)
    model = boosting.fit(s.table, s.embed, 0).model
    assert sorted(model.boosters) == [(m, k) for m in range(2) for k in range(3)]  # type: ignore[attr-defined]


def test_a_missing_booster_is_named() -> None:
    s = Simulated(seed=3, signal=0.5, groups=40, members=1, k=2)
    files = boosting.fit(s.table, s.embed, 0).model.files()
    del files["booster_0_1.ubj"]
    with pytest.raises(RequestError, match=r"booster_0_1\.ubj"):
        boosting.load(files)


def test_embeddings_are_required() -> None:
    s = Simulated(seed=4, signal=0.5, groups=40, members=1, k=2)
    with pytest.raises(HarnessError, match="embeddings"):
        boosting.fit(s.table, None, 0)
