"""What every ensemble method must do, on simulated members whose truth is known."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_members import Simulated, permuted

from harness.ensemble.methods import METHODS, require_method
from harness.ensemble.oof import OofTable, mean_oof, mean_predict
from harness.errors import HarnessError, RequestError
from harness.metrics import METRICS
from harness.numbering import by_appearance, first_rows


def auroc(y: np.ndarray, p: np.ndarray) -> float:
    return float(METRICS["auroc"].of(y, p, None)[0])


OWN_GROUP_LEFT_OUT = {"bagging", "stacking-embeddings"}
"""whose heads are fitted inside a fold, without the row's group: what they have not seen is tested where they are"""


@pytest.mark.parametrize("method", sorted(METHODS))
class TestEveryMethod:
    @pytest.mark.parametrize("classes", [2, 3])
    def test_probabilities_are_distributions(self, method: str, classes: int) -> None:
        s = Simulated(seed=1, signal=1.0, groups=45, classes=classes, members=2, k=3, test=30)
        fitted = METHODS[method].fit(s.table, s.embed, 0, None)
        test = fitted.model.predict(s.test_logits, s.embed_test)
        for p, n in ((fitted.oof, len(s.y)), (test, 30)):
            assert p.shape == (n, classes)
            assert np.isfinite(p).all() and (p >= 0).all()
            np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-9)

    def test_learns_what_can_be_learned(self, method: str) -> None:
        s = Simulated(seed=2, signal=1.0, memory=2.0)
        fitted = METHODS[method].fit(s.table, s.embed, 0, None)
        assert auroc(s.y, fitted.oof) > 0.85
        assert auroc(s.y_test, fitted.model.predict(s.test_logits, s.embed_test)) > 0.85

    def test_scores_at_chance_when_nothing_can_be_learned(self, method: str) -> None:
        """Encoders know the labels of the rows they trained on by heart: any leak of those would show."""
        repeats, oof, test = 8, [], []
        for seed in range(repeats):
            s = Simulated(seed=100 + seed, signal=0.0, groups=100, members=2)
            fitted = METHODS[method].fit(s.table, s.embed, seed, None)
            oof.append(auroc(s.y, fitted.oof))
            test.append(auroc(s.y_test, fitted.model.predict(s.test_logits, s.embed_test)))
        # the standard error of one AUROC of 100 independent groups in two equal classes is
        # sqrt((n0 + n1 + 1) / (12 n0 n1)) = .058; four standard errors of the mean of eight are .082
        bound = 4 * np.sqrt(101 / (12 * 50 * 50)) / np.sqrt(repeats)
        assert abs(np.mean(oof) - 0.5) < bound
        assert abs(np.mean(test) - 0.5) < bound

    @settings(max_examples=4, deadline=None)
    @given(order=st.permutations([0, 1, 2]), seed=st.integers(0, 50))
    def test_does_not_depend_on_the_order_of_members(self, method: str, order: list[int], seed: int) -> None:
        s = Simulated(seed=seed, signal=0.8, groups=40, k=3, test=20)
        fitted = METHODS[method].fit(s.table, s.embed, 7, None)
        table, test_logits, embed, embed_test = permuted(s, order)
        again = METHODS[method].fit(table, embed, 7, None)
        np.testing.assert_allclose(again.oof, fitted.oof, atol=1e-5)
        np.testing.assert_allclose(
            again.model.predict(test_logits, embed_test), fitted.model.predict(s.test_logits, s.embed_test), atol=1e-5
        )

    def test_is_the_same_every_time(self, method: str) -> None:
        s = Simulated(seed=4, signal=0.5, groups=40, members=2, k=3)
        a, b = (METHODS[method].fit(s.table, s.embed, 3, None) for _ in range(2))
        np.testing.assert_array_equal(a.oof, b.oof)
        assert a.model.files() == b.model.files()

    def test_predicts_the_same_after_storing(self, method: str) -> None:
        s = Simulated(seed=5, signal=0.5, groups=45, members=2, classes=3, k=3)
        fitted = METHODS[method].fit(s.table, s.embed, 0, None)
        loaded = METHODS[method].load(fitted.model.files(), 3, multilabel=False)
        np.testing.assert_array_equal(
            loaded.predict(s.test_logits, s.embed_test), fitted.model.predict(s.test_logits, s.embed_test)
        )

    def test_stores_no_pickle(self, method: str) -> None:
        s = Simulated(seed=5, signal=0.5, groups=40, members=1, k=2)
        for name, content in METHODS[method].fit(s.table, s.embed, 0, None).model.files().items():
            assert name.endswith((".npz", ".ubj"))
            assert b"pickle" not in content and not content.startswith(b"\x80")

    @pytest.mark.parametrize("classes", [2, 3])
    def test_a_fold_without_one_class(self, method: str, classes: int) -> None:
        s = Simulated(seed=6, signal=1.0, groups=60, members=2, classes=classes, k=3)
        keep = ~((s.fold == 1) & (s.y == classes - 1))
        table = OofTable(s.y[keep], s.groups[keep], s.fold[keep], s.table.logits[keep], s.encoder_ids)
        fitted = METHODS[method].fit(table, lambda m, k: s.embed(m, k)[keep], 0, None)
        assert np.isfinite(fitted.oof).all()
        assert auroc(s.y_test, fitted.model.predict(s.test_logits, s.embed_test)) > 0.7

    @pytest.mark.parametrize("classes", [2, 3])
    def test_a_class_that_only_one_fold_has(self, method: str, classes: int) -> None:
        """Then a fit without that fold has never seen the class."""
        s = Simulated(seed=7, signal=1.0, groups=60, members=2, classes=classes, k=3)
        keep = (s.fold == 1) | (s.y != classes - 1)
        table = OofTable(s.y[keep], s.groups[keep], s.fold[keep], s.table.logits[keep], s.encoder_ids)
        fitted = METHODS[method].fit(table, lambda m, k: s.embed(m, k)[keep], 0, None)
        assert np.isfinite(fitted.oof).all()
        np.testing.assert_allclose(fitted.oof.sum(axis=1), 1.0, atol=1e-9)

    def test_one_member_and_two_folds(self, method: str) -> None:
        s = Simulated(seed=8, signal=1.0, groups=40, members=1, k=2)
        fitted = METHODS[method].fit(s.table, s.embed, 0, None)
        assert auroc(s.y, fitted.oof) > 0.6

    def test_refuses_a_row_without_prediction(self, method: str) -> None:
        s = Simulated(seed=9, signal=1.0, groups=40, members=2, k=3)
        logits = s.table.logits.copy()
        logits[17, 1] = np.nan
        table = OofTable(s.y, s.groups, s.fold, logits, s.encoder_ids)
        with pytest.raises(HarnessError, match=r"1 of .* row 17"):
            METHODS[method].fit(table, s.embed, 0, None)

    def test_does_not_depend_on_the_order_of_rows(self, method: str) -> None:
        """A feature that is the row's position must not help; at least position itself must not enter. Groups are
        numbered by first appearance, whatever they are called, so their first rows keep their order."""
        s = Simulated(seed=10, signal=0.5, groups=40, members=2, k=3)
        first = first_rows(by_appearance(s.groups))
        others = np.setdiff1d(np.arange(len(s.y)), first)
        order = np.concatenate([first, np.random.default_rng(0).permutation(others)])
        assert (np.diff(s.fold[order]) != 0).sum() > 30
        table = OofTable(s.y[order], s.groups[order], s.fold[order], s.table.logits[order], s.encoder_ids)
        fitted = METHODS[method].fit(s.table, s.embed, 0, None)
        again = METHODS[method].fit(table, lambda m, k: s.embed(m, k)[order], 0, None)
        if method == "boosting":  # subsampling draws rows by position: another draw, the same forest in the large
            assert np.corrcoef(again.oof[:, 1], fitted.oof[order, 1])[0, 1] > 0.9
        else:
            np.testing.assert_allclose(again.oof, fitted.oof[order], atol=1e-4)


@pytest.mark.parametrize("method", sorted(set(METHODS) - OWN_GROUP_LEFT_OUT))
@pytest.mark.parametrize("classes", [2, 3])
def test_a_fold_is_predicted_by_fits_that_saw_none_of_it(method: str, classes: int) -> None:
    """Other labels in fold 1: not one bit of what is said of fold 1 changes."""
    s = Simulated(seed=13, signal=0.6, groups=60, members=3, classes=classes, k=4)
    turned = s.fold == 1
    y = np.where(turned, (s.y + 1) % classes, s.y)
    x = s.embed
    before = METHODS[method].fit(s.table, x, 0, None).oof
    after = METHODS[method].fit(OofTable(y, s.groups, s.fold, s.table.logits, s.encoder_ids), x, 0, None).oof
    np.testing.assert_array_equal(after[turned], before[turned])
    assert (method == "mean") == np.array_equal(after[~turned], before[~turned])


def test_mean_is_the_mean_of_all_fold_models() -> None:
    s = Simulated(seed=11, signal=1.0, groups=30, members=3, k=3)
    z = s.test_logits.astype(np.float64)
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(mean_predict(s.test_logits), p.mean(axis=(0, 1)), atol=1e-12)
    z = s.table.logits.astype(np.float64)
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(mean_oof(s.table), p.mean(axis=1), atol=1e-12)


def test_an_unknown_method_is_told_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"stakcing.*stacking"):
        require_method("stakcing")


def test_file_names_are_plain() -> None:
    """The methods' files travel in bundle.json by name and hash: names must be plain."""
    s = Simulated(seed=12, signal=1.0, groups=40, members=2, k=2)
    for method in METHODS.values():
        names = list(method.fit(s.table, s.embed, 0, None).model.files())
        assert json.loads(json.dumps(names)) == names
        assert all("/" not in name and ".." not in name for name in names)
