"""Diversity against its textbook definitions, written out pair by pair, and an identity that must hold exactly."""

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from harness.ensemble.diversity import diversity, mean_over_pairs
from harness.metrics import METRICS, UNKNOWN, softmax

RNG = np.random.default_rng(0)


def drawn(n: int, members: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    y = RNG.integers(0, classes, n)
    p = softmax(1.5 * np.eye(classes)[y][:, None] + RNG.normal(size=(n, members, classes)))
    return y, p


@pytest.mark.parametrize("classes", [2, 4])
def test_pairwise_measures_are_those_of_the_paper(classes: int) -> None:
    y, p = drawn(200, 4, classes)
    found = diversity(y, p)
    right = p.argmax(axis=2) == y[:, None]
    for a in range(4):
        for b in range(a):
            n11, n00 = (right[:, a] & right[:, b]).sum(), (~right[:, a] & ~right[:, b]).sum()
            n10, n01 = (right[:, a] & ~right[:, b]).sum(), (~right[:, a] & right[:, b]).sum()
            assert found.q[a, b] == pytest.approx((n11 * n00 - n01 * n10) / (n11 * n00 + n01 * n10))
            assert found.double_fault[a, b] == pytest.approx(n00 / 200)
            differ = np.mean(p[:, a].argmax(axis=1) != p[:, b].argmax(axis=1))
            assert found.disagreement[a, b] == found.disagreement[b, a] == pytest.approx(differ)
            # the correlation of two yes-no variables is Matthews's coefficient
            expected = matthews_corrcoef(right[:, a], right[:, b])
            assert found.error_correlation[a, b] == pytest.approx(expected)
    assert np.isnan(found.q.diagonal()).all()
    np.testing.assert_allclose(found.double_fault.diagonal(), 1 - right.mean(axis=0))


@pytest.mark.parametrize("classes", [2, 5])
def test_the_mean_is_better_than_its_members_by_their_ambiguity(classes: int) -> None:
    """Krogh and Vedelsby's identity, with the project's own Brier score on the left."""
    y, p = drawn(150, 6, classes)
    found = diversity(y, p)
    own = [METRICS["brier"].of(y, p[:, m], None)[0] for m in range(6)]
    assert found.members_brier == pytest.approx(np.mean(own))
    assert found.members_brier - found.ambiguity == pytest.approx(METRICS["brier"].of(y, p.mean(axis=1), None)[0])
    assert found.ambiguity > 0.01


def test_of_several_labels_each_known_one_is_an_answer() -> None:
    y = RNG.integers(-1, 2, (120, 3))
    p = RNG.uniform(size=(120, 4, 3))
    found = diversity(y, p)
    assert (y == UNKNOWN).any()
    own = [METRICS["brier"].of(y, p[:, m], None)[0] for m in range(4)]
    assert found.members_brier == pytest.approx(np.mean(own))
    assert found.members_brier - found.ambiguity == pytest.approx(METRICS["brier"].of(y, p.mean(axis=1), None)[0])
    differ = [(p[i, 0, c] > 0.5) != (p[i, 1, c] > 0.5) for i in range(120) for c in range(3) if y[i, c] != UNKNOWN]
    assert found.disagreement[0, 1] == pytest.approx(np.mean(differ))


def test_twins_opposites_and_strangers() -> None:
    y = np.tile([0, 1], 500)
    hit = RNG.uniform(size=1000) < 0.7
    other = RNG.uniform(size=1000) < 0.7
    p = np.stack([np.where(h[:, None], 0.9 * np.eye(2)[y] + 0.05, 0.9 * np.eye(2)[1 - y] + 0.05) for h in
                  (hit, hit, ~hit, other)], axis=1)  # fmt: skip
    found = diversity(y, p)
    assert (found.disagreement[0, 1], found.disagreement[0, 2]) == (0, 1)
    assert found.error_correlation[0, 1] == pytest.approx(1)
    assert found.error_correlation[0, 2] == pytest.approx(-1)
    assert (found.q[0, 1], found.q[0, 2]) == (1, -1)
    assert abs(found.error_correlation[0, 3]) < 0.1
    assert found.residual_correlation[0, 1] == pytest.approx(1)


def test_a_pair_without_a_number_is_nan_and_left_out_of_the_mean() -> None:
    y = np.array([0, 1, 0, 1])
    perfect = np.eye(2)[y]
    found = diversity(y, np.stack([perfect, perfect, 1 - 0.9 * perfect], axis=1))
    assert np.isnan(found.error_correlation).all()  # nobody varies: always right, or always wrong
    assert np.isnan(mean_over_pairs(found.error_correlation))
    assert mean_over_pairs(found.disagreement) == pytest.approx(2 / 3)
    assert np.isnan(mean_over_pairs(diversity(y, perfect[:, None]).disagreement))  # one member has no pair
