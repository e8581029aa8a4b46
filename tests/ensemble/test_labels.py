"""Ensembles over several labels: each label as the method would take it alone, gaps left out, nothing mixed up."""

import numpy as np
import pytest
from simulated_members import Simulated

from harness.ensemble.methods import METHODS, pair
from harness.ensemble.oof import OofTable, mean_oof
from harness.errors import HarnessError, RequestError
from harness.metrics import softmax


def several(seed: int = 3) -> tuple[Simulated, OofTable, np.ndarray]:
    """The table of a two-class task with a second label beside it: the first one turned round, partly not known."""
    s = Simulated(seed=seed, signal=1.0, groups=60, members=2, k=3, test=20)
    z = s.table.logits[..., 1] - s.table.logits[..., 0]
    y = np.stack([s.y, 1 - s.y], axis=1)
    y[::7, 1] = -1
    test = s.test_logits[..., 1] - s.test_logits[..., 0]
    table = OofTable(y, s.groups, s.fold, np.stack([z, -z], axis=-1), s.encoder_ids)
    return s, table, np.stack([test, -test], axis=-1)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_label_is_what_it_would_be_alone(method: str) -> None:
    s, table, test = several()
    fitted = METHODS[method].fit(table, s.embed, 5, None)
    single = OofTable(s.y, s.groups, s.fold, pair(table.logits[..., 0]), s.encoder_ids)
    alone = METHODS[method].fit(single, s.embed, 5, None)
    np.testing.assert_allclose(fitted.oof[:, 0], alone.oof[:, 1], atol=1e-12)
    p = fitted.model.predict(test, s.embed_test)
    np.testing.assert_allclose(p[:, 0], alone.model.predict(pair(test[..., 0]), s.embed_test)[:, 1], atol=1e-12)
    assert p.shape == (20, 2) and ((p >= 0) & (p <= 1)).all()

    loaded = METHODS[method].load(fitted.model.files(), 2, multilabel=True)
    np.testing.assert_allclose(loaded.predict(test, s.embed_test), p, atol=1e-6)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_rows_whose_answer_is_not_known_are_not_fitted(method: str) -> None:
    s, table, test = several()
    unknown = table.y[:, 1] == -1
    other = table.logits.copy()
    other[unknown, :, 1] *= -3.0
    changed = METHODS[method].fit(OofTable(table.y, s.groups, s.fold, other, s.encoder_ids), s.embed, 5, None)
    before = METHODS[method].fit(table, s.embed, 5, None)
    np.testing.assert_array_equal(before.oof[~unknown], changed.oof[~unknown])
    np.testing.assert_array_equal(before.model.predict(test, s.embed_test), changed.model.predict(test, s.embed_test))
    np.testing.assert_allclose(before.oof[unknown, 1], mean_oof(table)[unknown, 1])


def test_pairs_are_sigmoids() -> None:
    z = np.array([-2.0, 0.0, 3.0], dtype=np.float32)
    np.testing.assert_allclose(softmax(pair(z))[:, 1], 1 / (1 + np.exp(-z.astype(float))))


def test_a_fold_without_answers_is_refused() -> None:
    s, table, _ = several()
    table.y[s.fold == 1, 1] = -1
    with pytest.raises(HarnessError, match="label number 1"):
        METHODS["stacking"].fit(table, s.embed, 0, None)


def test_files_of_another_number_of_labels_are_refused() -> None:
    s, table, _ = several()
    files = METHODS["stacking"].fit(table, s.embed, 0, None).model.files()
    with pytest.raises(RequestError, match="label_1"):
        METHODS["stacking"].load(files, 1, multilabel=True)
