"""Two levels against the long way round: every fit made anew on a table that holds only the rows it may read."""

import numpy as np
import pytest
from simulated_members import Simulated

from harness.ensemble import averaging, stacking
from harness.ensemble.oof import OofTable
from harness.errors import RequestError
from harness.metrics import METRICS

RULES = ("stacking", "greedy", "weighted")


def only(table: OofTable, folds: list[int], logits: np.ndarray | None = None) -> OofTable:
    """The rows of these folds, numbered anew from 0, as if the study had no others."""
    rows = np.isin(table.fold, folds)
    values = table.logits if logits is None else logits
    ids = tuple(tuple(f"e{m}-{k}" for k in range(len(folds))) for m in range(values.shape[1]))
    fold = np.searchsorted(folds, table.fold[rows])
    return OofTable(table.y[rows], table.groups[rows], fold, values[rows], ids)


def answers(table: OofTable, folds: list[int], rows: np.ndarray) -> np.ndarray:
    """(n, 3, C) log-probabilities of some rows, by three rules fitted on these folds alone."""
    part = only(table, folds)
    models = [
        stacking.fit_stacking(part).model,
        averaging.fit_greedy(part, None, 7).model,
        averaging.fit_weighted(part).model,
    ]
    logits = table.logits[rows].swapaxes(0, 1)[:, None]  # one network per member
    return np.log(np.stack([model.predict(logits, None) for model in models], axis=1)).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3])
def test_equals_the_long_way_round(classes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    s = Simulated(seed=classes, signal=0.6, groups=80, members=5, classes=classes, k=4)
    table, everyone = s.table, [0, 1, 2, 3]
    # three classes are fitted by lbfgs, which stops a hair before the optimum: at another hair for another last digit
    near = 1e-6 if classes == 2 else 2e-3
    monkeypatch.setattr(stacking, "LEVEL_1", {name: stacking.LEVEL_1[name] for name in RULES})
    expected = np.full((len(s.y), classes), np.nan)
    for k in everyone:
        others = [j for j in everyone if j != k]
        said = np.full((len(s.y), 3, classes), np.nan, dtype=np.float32)
        for j in others:
            said[s.fold == j] = answers(table, [i for i in others if i != j], s.fold == j)
        level_2 = stacking.fit_stacking(only(table, others, said)).model
        asked = answers(table, others, s.fold == k)
        expected[s.fold == k] = level_2.predict(asked.swapaxes(0, 1)[:, None], None)
    found = stacking.fit_stacking_levels(table, None, 7)
    np.testing.assert_allclose(found.oof, expected, atol=near)

    said = np.full((len(s.y), 3, classes), np.nan, dtype=np.float32)
    for j in everyone:
        said[s.fold == j] = answers(table, [i for i in everyone if i != j], s.fold == j)
    level_2 = stacking.fit_stacking(only(table, everyone, said)).model
    whole = answers(table, everyone, np.ones(len(s.y), dtype=bool))
    np.testing.assert_allclose(found.selection, level_2.predict(whole.swapaxes(0, 1)[:, None], None), atol=near)


def test_fits_each_rule_once_for_each_pair_of_folds() -> None:
    s = Simulated(seed=1, signal=0.5, groups=60, members=2, k=5)
    asked: list[frozenset[int]] = []
    learn, load = stacking.LEVEL_1["weighted"]

    def counted(table: OofTable, seed: int):
        inner = learn(table, seed)
        return lambda left_out: asked.append(left_out) or inner(left_out)

    before = dict(stacking.LEVEL_1)
    try:
        stacking.LEVEL_1["weighted"] = (counted, load)
        stacking.fit_stacking_levels(s.table, None, 0)
    finally:
        stacking.LEVEL_1.update(before)
    assert len(asked) == len(set(asked)) == 16


def test_a_rule_that_learns_by_heart_is_not_believed() -> None:
    """Level 2 must hear of a rule what it says of rows it does not know. Boosted trees without brakes know by heart
    what they were fitted on; a level 2 fitted on such answers would listen to nobody else."""
    s = Simulated(seed=4, signal=0.0, groups=150, members=8)
    before = dict(stacking.SETTINGS)
    try:
        stacking.SETTINGS.update({"max_depth": 8, "eta": 1.0, "min_child_weight": 0.0, "lambda": 0.0})
        fitted = stacking.fit_stacking_levels(s.table, None, 0)
        alone = stacking.fit_stacking_boosted(s.table, None, 0)
    finally:
        stacking.SETTINGS.clear()
        stacking.SETTINGS.update(before)

    def loss(p: np.ndarray) -> float:
        return float(METRICS["log_loss"].of(s.y, p, None)[0])

    assert loss(alone.oof) > 0.75  # log 2 = .693 is chance
    assert loss(fitted.oof) < 0.71


def test_two_folds_give_the_mean_of_the_rules() -> None:
    s = Simulated(seed=5, signal=0.8, groups=60, members=3, k=2)
    fitted = stacking.fit_stacking_levels(s.table, None, 0)
    model = fitted.model
    assert model.level_2 is None  # type: ignore[attr-defined]
    each = [rule.predict(s.test_logits) for rule in model.level_1]  # type: ignore[attr-defined]
    np.testing.assert_allclose(model.predict(s.test_logits, None), np.mean(each, axis=0), atol=1e-6)
    np.testing.assert_allclose(
        stacking.load_stacking_levels(model.files()).predict(s.test_logits),
        model.predict(s.test_logits, None),
        atol=1e-12,
    )


def test_a_missing_rule_is_named() -> None:
    s = Simulated(seed=6, signal=0.5, groups=40, members=2, k=3)
    files = stacking.fit_stacking_levels(s.table, None, 0).model.files()
    assert "greedy.weights.npz" in files
    del files["greedy.weights.npz"]
    with pytest.raises(RequestError, match="lack greedy"):
        stacking.load_stacking_levels(files)
