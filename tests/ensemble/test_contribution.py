"""Leave-one-member-out differences against the paired difference of stats, and on members of known worth."""

import numpy as np
import pytest

from harness.ensemble.diversity import contributions, means_without
from harness.metrics import METRICS, softmax
from harness.stats.paired import paired_difference

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, 400)
GROUPS = np.array([f"g{i // 2}" for i in range(400)])


def member(signal: float) -> np.ndarray:
    return softmax(signal * np.eye(2)[Y] + RNG.normal(size=(400, 2)))


P = np.stack([member(2.0), member(1.0), member(0.0)], axis=1)


def test_each_mean_lacks_one_member() -> None:
    without = means_without(P)
    for m in range(3):
        np.testing.assert_allclose(without[m], np.delete(P, m, axis=1).mean(axis=1))
    with pytest.raises(ValueError, match="only member"):
        means_without(P[:, :1])


@pytest.mark.parametrize("metric", ["auroc", "log_loss"])
def test_the_numbers_are_those_of_a_paired_difference(metric: str) -> None:
    whole, without = P.mean(axis=1), means_without(P)
    fold = np.arange(400) // 2 % 5
    for of_rows in (None, fold):
        found = contributions(metric, Y, whole, list(without), GROUPS, 3, of_rows)
        for m in range(3):
            expected = paired_difference(metric, Y, whole, without[m], GROUPS, seed=3, fold=of_rows)
            assert (found[m].value, found[m].lo, found[m].hi) == (expected.value, expected.lo, expected.hi)


def test_what_is_no_estimate_has_no_interval() -> None:
    found = contributions("auroc", Y, P.mean(axis=1), list(means_without(P)), GROUPS, 0, reason="networks-shared")
    assert all(np.isfinite(one.value) and np.isnan(one.lo) and one.reason == "networks-shared" for one in found)


def test_a_good_member_gives_and_noise_takes() -> None:
    good, fair, noise = contributions("auroc", Y, P.mean(axis=1), list(means_without(P)), GROUPS, seed=0)
    assert good.lo > 0 and good.value > fair.value > noise.value
    assert noise.hi < 0


def test_a_single_group_has_no_interval() -> None:
    found = contributions("auroc", Y, P.mean(axis=1), list(means_without(P)), np.full(400, "g"), seed=0)
    assert np.isfinite(found[0].value) and np.isnan([found[0].lo, found[0].hi]).all()


def test_the_interval_covers_as_often_as_it_says() -> None:
    """200 studies of 150 rows: the interval of a member's gain holds its expected gain in about 95 of 100."""

    def study(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, n)
        shared = rng.normal(size=(n, 2))
        own = [softmax(s * np.eye(2)[y] + 0.5 * shared + rng.normal(size=(n, 2))) for s in (1.5, 1.0)]
        return y, np.stack(own, axis=1)

    y, p = study(10**6, 400_000)
    of = METRICS["auroc"].of
    truth = of(y, p.mean(axis=1), None)[0] - of(y, p[:, 1], None)[0]
    held = 0
    for seed in range(200):
        y, p = study(seed, 150)
        groups = np.arange(150).astype(str)
        found = contributions("auroc", y, p.mean(axis=1), list(means_without(p))[:1], groups, seed)[0]
        held += found.lo <= truth <= found.hi
    assert 178 <= held <= 199  # 190 expected; four standard deviations are 12
