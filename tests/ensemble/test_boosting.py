"""What boosting trains on and stores: against XGBoost, encoder by encoder."""

import numpy as np
import pytest
import xgboost
from simulated_members import Simulated

from harness.ensemble import boosting
from harness.ensemble.boosting import watched_rows
from harness.ensemble.oof import OofTable
from harness.errors import HarnessError, RequestError
from harness.seeds import derive_seed


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


def test_equals_xgboost_encoder_by_encoder() -> None:
    """By hand: for each encoder XGBoost on the rows that it trained on, asked of those that it held out."""
    s = Simulated(seed=5, signal=0.6, groups=60, members=2, k=3, test=30)
    expected, test = np.zeros((len(s.y), 2)), np.zeros((30, 2))
    for m in range(2):
        for k in range(3):
            x, train, seed = s.embed(m, k), s.fold != k, derive_seed(9, "boosting", f"encoder-{m}-{k}")
            watched = watched_rows(s.y[train], s.groups[train], seed)
            settings = {**boosting.SETTINGS, "objective": "binary:logistic", "seed": seed % 2**31, "nthread": 1}
            parts = [xgboost.DMatrix(x[train][rows], s.y[train][rows]) for rows in (~watched, watched)]
            booster = xgboost.train(
                settings, parts[0], 200, evals=[(parts[1], "w")], early_stopping_rounds=15, verbose_eval=False
            )
            best = (0, booster.best_iteration + 1)
            p = booster.predict(xgboost.DMatrix(x[~train]), iteration_range=best)
            expected[~train] += np.column_stack([1 - p, p]) / 2
            p = booster.predict(xgboost.DMatrix(s.embed_test(m, k)), iteration_range=best)
            test += np.column_stack([1 - p, p]) / 6
    fitted = boosting.fit(s.table, s.embed, 9)
    np.testing.assert_allclose(fitted.oof, expected, atol=1e-6)
    np.testing.assert_allclose(fitted.model.predict(s.test_logits, s.embed_test), test, atol=1e-6)
