"""AdaBoost's trees as arrays against scikit-learn, and what it does where there is nothing to boost."""

from dataclasses import replace

import numpy as np
import pytest
from simulated_members import Simulated
from sklearn.ensemble import AdaBoostClassifier
from sklearn.tree import DecisionTreeClassifier

from harness.ensemble import adaboost
from harness.ensemble.adaboost import AdaBoostModel, fit_vote
from harness.errors import RequestError


def rows(classes: int, n: int = 150, size: int = 9, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    x = rng.normal(size=(n, size)) + 1.2 * rng.normal(size=(classes, size))[y]
    return x.astype(np.float32), y


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("rounds", [1, 30])
def test_predicts_what_scikit_learn_predicts(classes: int, rounds: int) -> None:
    x, y = rows(classes)
    new = rows(classes, seed=1)[0]
    depth = {2: 1, 3: 2, 5: 3}[classes]  # as many leaves as classes
    tree = DecisionTreeClassifier(max_depth=depth, max_features="sqrt")
    expected = AdaBoostClassifier(tree, n_estimators=rounds, random_state=17).fit(x, y)
    vote = fit_vote(x, y, classes, 17, rounds)
    assert len(vote.say) == len(expected.estimators_) == rounds
    np.testing.assert_allclose(vote.predict(new), expected.predict_proba(new), rtol=0, atol=1e-12)
    stored = adaboost.load(AdaBoostModel({(0, 0): vote}).files()).boosters[0, 0]
    np.testing.assert_array_equal(stored.predict(new), vote.predict(new))


def test_classes_that_the_rows_lack_get_nothing() -> None:
    x, y = rows(2)
    p = fit_vote(x, np.array([1, 4])[y], 6, 3).predict(x)
    np.testing.assert_array_equal(p[:, [0, 2, 3, 5]], 0.0)
    np.testing.assert_allclose(p[:, [1, 4]], fit_vote(x, y, 2, 3).predict(x), atol=1e-15)


def test_one_tree_that_is_never_wrong_ends_the_boosting() -> None:
    x = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
    vote = fit_vote(x, (x[:, 0] > 0).astype(np.int64), 2, 0)
    assert len(vote.say) == 1
    np.testing.assert_allclose(vote.predict(x).max(axis=1), 1 / (1 + np.exp(-2)))  # as sure as it can be


def test_embeddings_that_say_nothing_give_the_class_shares() -> None:
    y = np.arange(40) % 2
    vote = fit_vote(np.zeros((40, 3), dtype=np.float32), y, 3, 0)
    assert len(vote.say) == 0
    np.testing.assert_allclose(vote.predict(np.ones((2, 3), dtype=np.float32)), [[0.5, 0.5, 0.0]] * 2)


def test_one_class_needs_no_tree() -> None:
    vote = fit_vote(rows(2)[0], np.full(150, 1), 3, 0)
    np.testing.assert_array_equal(vote.predict(rows(2)[0][:4]), [[0.0, 1.0, 0.0]] * 4)


def test_each_encoder_is_fitted_on_the_rows_that_it_trained_on() -> None:
    s = Simulated(seed=2, signal=0.7, groups=50, members=2, k=3)
    fitted = adaboost.fit(s.table, s.embed, 0)
    assert sorted(fitted.model.boosters) == [(m, k) for m in range(2) for k in range(3)]  # type: ignore[attr-defined]

    def garbage(m: int, k: int) -> np.ndarray:
        x = s.embed(m, k)
        x[s.fold == k] = 1e6
        return x

    assert adaboost.fit(s.table, garbage, 0).model.files() == fitted.model.files()


def test_trees_that_are_not_whole_are_refused() -> None:
    vote = fit_vote(*rows(3), 3, 0)
    circle = vote.left.copy()
    circle[0, 1] = 0
    broken = {
        "left": circle,
        "right": vote.right + 99,
        "label": np.full_like(vote.label, 7),
        "feature": vote.feature - 50,
        "threshold": vote.threshold[:, :1],
        "say": vote.say[:-1],
    }
    for name, array in broken.items():
        with pytest.raises(RequestError, match="encoder 0_0 are not whole"):
            adaboost.load(AdaBoostModel({(0, 0): replace(vote, **{name: array})}).files())
