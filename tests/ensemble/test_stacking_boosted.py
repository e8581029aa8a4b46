"""Boosted stacking: where trees are worth having, and where there are too few rows for them."""

import numpy as np
import pytest
from simulated_members import Simulated

from harness.ensemble import stacking
from harness.ensemble.oof import OofTable, mean_oof
from harness.errors import RequestError
from harness.metrics import METRICS


def log_loss(y: np.ndarray, p: np.ndarray) -> float:
    return float(METRICS["log_loss"].of(y, p, None)[0])


def one_expert_at_a_time(n: int, seed: int = 0) -> OofTable:
    """Three members: of the first two, one knows the class and the other knows its opposite; which, the third shows."""
    rng = np.random.default_rng(seed)
    y, turn = rng.integers(0, 2, n), rng.integers(0, 2, n)
    sign = 2.0 * (y == turn) - 1.0
    z = np.stack([2.0 * sign, -2.0 * sign, 3.0 * (2 * turn - 1)], axis=1) + rng.normal(size=(n, 3))
    logits = np.stack([np.zeros_like(z), z], axis=-1).astype(np.float32)
    ids = tuple(tuple(f"e{m}-{k}" for k in range(4)) for m in range(3))
    return OofTable(y, np.arange(n).astype(str), np.arange(n) % 4, logits, ids)


def test_finds_what_no_line_can() -> None:
    table = one_expert_at_a_time(1200)
    assert log_loss(table.y, stacking.fit_stacking(table).oof) > 0.68  # log 2 = .693
    assert log_loss(table.y, stacking.fit_stacking_boosted(table).oof) < 0.35


def test_few_rows_stay_near_the_mean() -> None:
    s = Simulated(seed=1, signal=0.8, groups=30, members=4)
    moved = np.abs(stacking.fit_stacking_boosted(s.table).oof - mean_oof(s.table)).mean()
    assert moved < 0.1


def test_corrects_a_mean_that_is_too_sure_when_rows_are_many() -> None:
    s = Simulated(seed=2, signal=0.5, groups=1500, members=2)
    loud = OofTable(s.y, s.groups, s.fold, 6 * s.table.logits, s.encoder_ids)
    assert log_loss(s.y, stacking.fit_stacking_boosted(loud).oof) < 0.8 * log_loss(s.y, mean_oof(loud))


def test_an_order_of_members_that_is_none_is_refused() -> None:
    s = Simulated(seed=3, signal=0.5, groups=40, members=3, k=2)
    model = stacking.fit_stacking_boosted(s.table).model
    broken = stacking.StackingBoostedModel(model.trees, np.array([0, 2, 2]))  # type: ignore[attr-defined]
    with pytest.raises(RequestError, match="order"):
        stacking.load_stacking_boosted(broken.files())
