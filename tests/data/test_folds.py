"""Folds partition the rows, never split a group, hold every class, and are at least as even as scikit-learn's."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from harness.data.folds import check_folds, draw_part, make_folds
from harness.errors import RequestError
from harness.types import TEST, Folds

NAMES = ("a", "b", "c", "d", "e")


def random_rows(seed: int):
    """(y, groups) with 2 to 5 classes, pure or mixed groups, sizes even or very uneven, rows shuffled."""
    rng = np.random.default_rng(seed)
    classes, n = int(rng.integers(2, 6)), int(rng.choice([30, 60, 150, 400]))
    sizes = 1 + [rng.poisson(1.5, n), rng.geometric(0.15, n) - 1, np.minimum(rng.zipf(1.7, n), 60)][rng.integers(3)]
    prevalence = rng.dirichlet(np.ones(classes) * 1.5)
    of_group = rng.choice(classes, n, p=prevalence)
    groups = rng.permutation(np.repeat(np.arange(n), sizes))
    y = of_group[groups] if rng.random() < 0.5 else rng.choice(classes, len(groups), p=prevalence)
    return y.astype(np.int64), np.array([f"g{g}" for g in groups]), NAMES[:classes]


def enough(y, groups, classes, need: int) -> bool:
    return all(len(set(groups[y == c])) >= need for c in range(len(classes)))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.sampled_from([2, 3, 5, 8]), fraction=st.sampled_from([0.1, 0.2, 0.5]))
@example(seed=218255, k=8, fraction=0.5)  # the first test split leaves no eight folds, others do
def test_parts_are_whole_complete_and_hold_every_class(seed, k, fraction):
    y, groups, classes = random_rows(seed)
    assume(enough(y, groups, classes, k + 1))
    folds = make_folds(y, groups, k, seed, fraction, None, classes)
    assert set(folds.fold) == {TEST, *range(k)}
    for group in set(groups):
        assert len(set(folds.fold[groups == group])) == 1
    for part in (TEST, *range(k)):
        assert set(y[folds.fold == part]) == set(range(len(classes)))
    together = np.concatenate([folds.test_rows(), *[folds.held_out_rows(fold) for fold in range(k)]])
    assert sorted(together) == list(range(len(y)))


def worst(y, part, k, classes) -> tuple[float, float]:
    """The largest distance of a class's share in a fold from its share overall, and of a fold's rows from N/K."""
    counts = np.array([[np.sum((part == j) & (y == c)) for c in range(len(classes))] for j in range(k)])
    rows = counts.sum(axis=1, keepdims=True)
    share = np.abs(counts / np.maximum(rows, 1) - counts.sum(axis=0) / len(y)).max() if rows.all() else 1.0
    return share, np.abs(rows * k / len(y) - 1).max()


def test_at_least_as_even_as_scikit_learn():
    """Over random group structures; both divide the development rows that our test split leaves."""
    ours, theirs = [], []
    for seed in range(80):
        k = (3, 5, 10)[seed % 3]
        y, groups, classes = random_rows(seed)
        if not enough(y, groups, classes, k + 1):
            continue
        fold = make_folds(y, groups, k, seed, 0.2, None, classes).fold
        y, groups, fold = y[fold != TEST], groups[fold != TEST], fold[fold != TEST]
        reference = np.empty(len(y), dtype=int)
        splitter = StratifiedGroupKFold(k, shuffle=True, random_state=seed)
        for j, (_, held_out) in enumerate(splitter.split(y, y, groups)):
            reference[held_out] = j
        ours.append(worst(y, fold, k, classes))
        theirs.append(worst(y, reference, k, classes))
    a, b = np.array(ours), np.array(theirs)
    assert len(a) >= 40
    assert a[:, 0].mean() < b[:, 0].mean() and a[:, 1].mean() < b[:, 1].mean()
    assert not (a > b + 1e-9).all(axis=1).any()
    # where no group is so large that it must tip a fold, ours may lose by rounding only
    ordinary = b[:, 1] < 0.05
    assert ordinary.sum() >= 20
    assert (a[ordinary, 0] - b[ordinary, 0]).max() < 0.005


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.35])
def test_the_test_split_is_near_its_share_of_the_rows_and_of_each_class(fraction):
    for seed in range(15):
        y, groups, classes = random_rows(seed)
        if not enough(y, groups, classes, 4) or np.unique(groups, return_counts=True)[1].max() > 0.03 * len(y):
            continue
        test = make_folds(y, groups, 3, seed, fraction, None, classes).fold == TEST
        assert abs(test.mean() - fraction) < 0.03
        for c in range(len(classes)):
            assert abs(np.mean(y[test] == c) - np.mean(y == c)) < 0.06


def test_large_groups_are_tested_as_often_as_small_ones():
    """100 groups of 1 row and 100 of 5: over 40 seeds each kind is held out near the 20% that is asked for."""
    groups = np.repeat(np.arange(200), [1, 5] * 100)
    y = (groups // 2 % 2).astype(np.int64)
    names = np.array([f"g{g}" for g in groups])
    test = np.mean([make_folds(y, names, 2, s, 0.2, None, NAMES[:2]).fold == TEST for s in range(40)], axis=0)
    large = groups % 2 == 1
    assert test[large].mean() == pytest.approx(0.2, abs=0.02)
    assert test[~large].mean() == pytest.approx(0.2, abs=0.04)


def test_the_names_of_groups_do_not_matter_and_the_seed_does():
    y, groups, classes = random_rows(4)
    renamed = np.array([f"{hash((g, 'salt')) % 10**9}-{g}" for g in groups])
    one = make_folds(y, groups, 3, 7, 0.2, None, classes)
    other = make_folds(y, renamed, 3, 7, 0.2, None, classes)
    np.testing.assert_array_equal(one.fold, other.fold)
    assert one.folds_hash == other.folds_hash
    assert make_folds(y, groups, 3, 8, 0.2, None, classes).folds_hash != one.folds_hash


def test_no_group_means_every_row_its_own():
    y = np.arange(100) % 2
    fold = make_folds(y, np.arange(100).astype(str), 4, 0, 0.2, None, NAMES[:2]).fold
    assert [int(np.sum(fold == part)) for part in (TEST, 0, 1, 2, 3)] == [20, 20, 20, 20, 20]
    assert all(y[fold == part].sum() == 10 for part in (TEST, 0, 1, 2, 3))


def test_a_class_with_just_enough_groups_is_in_every_part():
    """One group of class b is forty times as large as the others: it may not crowd them out of a fold."""
    sizes = [1] * 60 + [40, 1, 1, 1, 1, 1]
    groups = np.repeat(np.arange(66), sizes)
    y = (groups >= 60).astype(np.int64)
    for seed in range(10):
        fold = make_folds(y, groups.astype(str), 5, seed, 0.2, None, NAMES[:2]).fold
        assert {*fold[y == 1]} == {TEST, 0, 1, 2, 3, 4}


def test_too_few_groups_of_a_class_name_it_and_the_way_out():
    y = np.array([0] * 20 + [1] * 9)
    groups = np.array([f"g{i}" for i in range(20)] + [f"h{i % 4}" for i in range(9)])
    with pytest.raises(RequestError, match=r"class 'ill' has 9 rows in 4 groups.*5 folds.*--set data\.folds=3"):
        make_folds(y, groups, 5, 0, 0.2, None, ("well", "ill"))
    assert make_folds(y, groups, 3, 0, 0.2, None, ("well", "ill")).k == 3
    with pytest.raises(RequestError, match=r"class 'rare' has 0 rows in 0 groups.*No number of folds fits"):
        make_folds(y, groups, 3, 0, 0.2, None, ("well", "ill", "rare"))


def test_a_given_split_is_taken_as_it_is():
    y = np.arange(40) % 2
    groups = np.array([f"g{i // 2}" for i in range(40)])
    split = np.array(["train"] * 20 + ["val"] * 10 + ["Test "] * 10)
    fold = make_folds(y, groups, 3, 0, 0.2, split, NAMES[:2]).fold
    assert (fold[30:] == TEST).all() and (fold[:30] != TEST).all()


def test_a_given_split_that_cannot_be_used_is_refused():
    y = np.arange(40) % 2
    groups = np.array([f"g{i // 2}" for i in range(40)])
    ids = np.array([f"img{i}.png" for i in range(40)])
    with pytest.raises(RequestError, match=r"no row.*'holdout' \(10\), 'train' \(30\)"):
        make_folds(y, groups, 3, 0, 0.2, np.array(["train"] * 30 + ["holdout"] * 10), NAMES[:2], ids)
    with pytest.raises(RequestError, match="every row"):
        make_folds(y, groups, 3, 0, 0.2, np.full(40, "test"), NAMES[:2], ids)
    with pytest.raises(RequestError, match=r"group g10 is in test, fold 0 \(img20\.png, img21\.png\)"):
        make_folds(y, groups, 3, 0, 0.2, np.array(["train"] * 21 + ["test"] * 19), NAMES[:2], ids)
    with pytest.raises(RequestError, match="4 folds of the development rows"):
        make_folds(y, groups, 4, 0, 0.2, np.array(["train"] * 6 + ["test"] * 34), NAMES[:2], ids)


def test_a_group_planted_in_two_parts_raises_and_is_named():
    y, groups, classes = random_rows(4)
    folds = make_folds(y, groups, 3, 0, 0.2, None, classes)
    check_folds(folds, groups)
    broken = folds.fold.copy()
    row = int(np.flatnonzero(np.array([np.sum(groups == g) > 1 for g in groups]) & (broken == 0))[0])
    broken[row] = 1
    with pytest.raises(RequestError, match=rf"1 group\(s\).*group {groups[row]} is in fold 0, fold 1.*img{row}"):
        check_folds(Folds(broken, 3, ""), groups, np.array([f"img{i}" for i in range(len(y))]))
    with pytest.raises(RequestError, match="the data changed"):
        check_folds(folds, groups[:-1])


def test_ten_thousand_groups_are_dealt_evenly():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(10_000), 1 + np.minimum(rng.zipf(1.6, 10_000), 100))
    y = rng.integers(0, 3, 10_000)[groups]
    fold = make_folds(y, groups.astype(str), 5, 0, 0.2, None, NAMES[:3]).fold
    for c in range(3):
        counts = np.array([np.sum((fold == part) & (y == c)) for part in range(5)])
        assert counts.max() - counts.min() <= 3


def test_it_imports_neither_scikit_learn_nor_torch():
    code = "import sys, harness.data.folds; print([m for m in ('sklearn', 'torch', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def many_labels(seed: int, n: int = 400, labels: int = 5):
    """Rare and common labels, groups of one to four rows that share most of them, some answers not known."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n), rng.integers(1, 5, n))[:n]
    rate = np.linspace(0.08, 0.6, labels)
    y = (rng.random((n, labels)) < rate).astype(np.int64)
    y = np.where(rng.random((n, 1)) < 0.7, y[np.searchsorted(groups, groups)], y)
    y[rng.random((n, labels)) < 0.1] = -1
    return y, groups.astype(np.str_)


@pytest.mark.parametrize("seed", range(4))
def test_several_labels_are_each_balanced_and_groups_whole(seed):
    y, groups = many_labels(seed)
    names = tuple("abcde")
    folds = make_folds(y, groups, 5, seed, 0.2, None, names)
    assert sorted(set(folds.fold.tolist())) == [-1, 0, 1, 2, 3, 4]
    check_folds(folds, groups)
    again = make_folds(y, groups, 5, seed, 0.2, None, names)
    np.testing.assert_array_equal(folds.fold, again.fold)

    def spread(fold):
        parts = [y[fold == part] for part in range(5)]
        share = np.array(
            [[(part[:, c] == 1).sum() / max((part[:, c] >= 0).sum(), 1) for c in range(5)] for part in parts]
        )
        return share.std(axis=0).mean()

    # against groups dealt at random over the same development rows: an independent and common way
    rng = np.random.default_rng(seed)
    at_random = []
    for _ in range(20):
        of_group = dict(
            zip(np.unique(groups).tolist(), rng.integers(0, 5, len(np.unique(groups))).tolist(), strict=True)
        )
        dealt = np.array([of_group[group] for group in groups.tolist()])
        at_random.append(spread(np.where(folds.fold == -1, -1, dealt)))
    assert spread(folds.fold) < 0.5 * min(at_random)
    for part in range(-1, 5):
        rows = y[folds.fold == part]
        assert ((rows == 1).any(axis=0) & (rows == 0).any(axis=0)).all()


def test_a_rare_label_is_refused_by_its_name():
    y = np.zeros((40, 2), dtype=np.int64)
    y[::2, 0] = 1
    y[:3, 1] = 1
    with pytest.raises(RequestError, match="'scar=1' has 3 rows"):
        make_folds(y, np.arange(40).astype(np.str_), 5, 0, 0.2, None, ("fluid", "scar"))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.1, 0.2, 0.5]))
def test_a_part_is_of_whole_groups_and_about_its_share(seed, share):
    y, groups, classes = random_rows(seed)
    drawn = draw_part(y, groups, share, seed, classes)
    assert drawn.any() and not drawn.all()
    assert not set(groups[drawn]) & set(groups[~drawn])
    largest = max(np.unique(groups, return_counts=True)[1])
    assert abs(drawn.sum() - share * len(y)) <= largest + 0.05 * len(y)
    assert np.array_equal(drawn, draw_part(y, groups, share, seed, classes))


def test_a_part_holds_each_class_that_has_two_groups():
    y, groups = np.array([0] * 40 + [1] * 4 + [2]), np.array([f"g{i}" for i in range(45)])
    for seed in range(20):
        drawn = draw_part(y, groups, 0.2, seed, NAMES[:3])
        assert set(y[drawn]) >= {0, 1} and set(y[~drawn]) >= {0, 1}
    assert draw_part(np.zeros(2, np.int64), np.array(["a", "b"]), 0.2, 0, NAMES[:2]).sum() == 1
    with pytest.raises(RequestError, match="one single group"):
        draw_part(y, np.array(["one"] * 45), 0.2, 0, NAMES[:3])


def test_a_fraction_of_nothing_holds_nothing_out():
    y, groups = np.arange(60) % 2, np.array([f"g{row // 3}" for row in range(60)])
    found = make_folds(y, groups, 4, 0, 0.0, None, NAMES[:2])
    assert sorted(set(found.fold.tolist())) == [0, 1, 2, 3] and len(found.development_rows()) == 60
    few = np.array(["a", "b", "c", "d"] * 2)
    make_folds(np.array([0, 1] * 4), few, 2, 0, 0.0, None, NAMES[:2])  # a test split would need a third group of each
    with pytest.raises(RequestError, match="a test split"):
        make_folds(np.array([0, 1] * 4), few, 2, 0, 0.2, None, NAMES[:2])
