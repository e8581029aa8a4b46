"""What methods say of the rows that they were chosen on, beside what they say of rows that they were not."""

from dataclasses import replace

import numpy as np
import pytest
from simulated_members import Simulated

from harness.ensemble import bagging, stacking
from harness.ensemble.methods import METHODS
from harness.ensemble.oof import OofTable
from harness.metrics import METRICS, SMALLEST_PROBABILITY, softmax

ON_PREDICTIONS = sorted(name for name, method in METHODS.items() if method.embeddings == "none")
NOTHING_CHOSEN = ("mean", "boosting", "adaboost")
"""of a row's held-out embedding or logits, only networks and trees speak that never saw the row"""


def auroc(y: np.ndarray, p: np.ndarray) -> float:
    return float(METRICS["auroc"].of(y, p, None)[0])


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("classes", [2, 3])
def test_selection_is_probabilities_of_every_row(method: str, classes: int) -> None:
    s = Simulated(seed=1, signal=0.5, groups=50, members=2, classes=classes, k=3)
    fitted = METHODS[method].fit(s.table, s.embed, 0, None)
    assert fitted.selection.shape == (len(s.y), classes) and (fitted.selection >= 0).all()
    np.testing.assert_allclose(fitted.selection.sum(axis=1), 1.0, atol=1e-9)
    assert (method in NOTHING_CHOSEN) == np.array_equal(fitted.selection, fitted.oof)


@pytest.mark.parametrize("method", ON_PREDICTIONS)
def test_selection_is_what_the_final_model_says_of_the_out_of_fold_logits(method: str) -> None:
    s = Simulated(seed=2, signal=0.5, groups=60, members=3)
    fitted = METHODS[method].fit(s.table, None, 0, None)
    as_new_rows = s.table.logits.swapaxes(0, 1)[:, None]
    np.testing.assert_allclose(fitted.selection, fitted.model.predict(as_new_rows, None), atol=1e-6)


def one_fold(s: Simulated, k: int, heads: dict) -> tuple[np.ndarray, np.ndarray, dict]:
    """Fold k as if its rows were new ones: rows, logits (M, 1, n, C), and the heads of fold model k alone."""
    rows = s.fold == k
    return rows, s.table.logits[rows].swapaxes(0, 1)[:, None], {(m, 0): heads[m, k] for m in range(s.members)}


@pytest.mark.parametrize("method", ["bagging", "stacking-embeddings"])
def test_selection_is_what_the_final_heads_say_of_held_out_embeddings(method: str) -> None:
    s = Simulated(seed=3, signal=0.5, groups=60, members=2, k=3)
    fitted = METHODS[method].fit(s.table, s.embed, 0, None)
    for k in range(3):
        rows, logits, heads = one_fold(s, k, fitted.model.heads)  # type: ignore[attr-defined]
        if method == "bagging":
            model = bagging.BaggingModel(heads)
        else:
            model = stacking.StackingEmbeddingsModel(heads, fitted.model.stacked)  # type: ignore[attr-defined]
        said = model.predict(logits, lambda m, _, k=k, rows=rows: s.embed(m, k)[rows])
        np.testing.assert_allclose(fitted.selection[rows], said, atol=1e-6)


def noise(seed: int, members: int = 40, groups: int = 100) -> OofTable:
    """Members that know nothing: any score above chance was made by choosing."""
    return Simulated(seed=seed, signal=0.0, members=members, groups=groups).table


@pytest.mark.parametrize("method", ["greedy", "stacking"])
def test_choosing_among_many_useless_members_flatters_and_nesting_does_not(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 groups, 40 members of pure noise. The standard error of one AUROC is .058 (Mann-Whitney, 50 against 50).

    Stacking with a weak penalty only: allowed to choose, it takes the strongest and stays at chance both ways.
    """
    monkeypatch.setattr(stacking, "STRENGTHS", (10.0,))
    repeats, selected, nested = 6, [], []
    for seed in range(repeats):
        table = noise(seed)
        fitted = METHODS[method].fit(table, None, seed, None)
        selected.append(auroc(table.y, fitted.selection))
        nested.append(auroc(table.y, fitted.oof))
    bound = 4 * np.sqrt(101 / (12 * 50 * 50)) / np.sqrt(repeats)
    assert np.mean(selected) > 0.62 > 0.5 + bound
    assert abs(np.mean(nested) - 0.5) < bound


def test_in_a_task_of_labels_each_label_has_its_selection() -> None:
    s = Simulated(seed=4, signal=0.5, groups=60, members=3, k=3)
    z = s.table.logits[..., 1] - s.table.logits[..., 0]
    y = np.stack([s.y, np.roll(s.y, 5)], axis=1)
    y[::7, 1] = -1
    table = OofTable(y, s.groups, s.fold, np.stack([z, z], axis=-1), s.encoder_ids)
    fitted = METHODS["greedy"].fit(table, None, 0, None)
    alone = METHODS["greedy"].fit(replace(s.table, logits=np.stack([np.zeros_like(z), z], -1)), None, 0, None)
    np.testing.assert_allclose(fitted.selection[:, 0], alone.selection[:, 1], atol=1e-12)
    unknown = y[:, 1] == -1
    p = softmax(np.stack([np.zeros_like(z), z], -1))[..., 1].mean(axis=1)
    np.testing.assert_allclose(fitted.selection[unknown, 1], p[unknown], atol=SMALLEST_PROBABILITY * 10)
