"""One label and one probability for each group, against pandas, and what is left out."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.metrics import score
from harness.stats.intervals import all_intervals, by_group


def draw(seed: int, classes: int, n: int = 50) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    groups = np.array([f"g{g}" for g in rng.integers(0, 15, n)])
    p = rng.random((n, classes))
    return rng.integers(0, classes, n), p / p.sum(axis=1, keepdims=True), groups


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), how=st.sampled_from(["mean", "max"]))
def test_two_classes_are_what_pandas_says(seed: int, how: str) -> None:
    y, p, groups = draw(seed, 2)
    table = pd.DataFrame({"group": groups, "y": y, "p": p[:, 1]}).groupby("group", sort=False)
    found_y, found_p, names = by_group(y, p, groups, how)  # type: ignore[arg-type]
    assert names.tolist() == list(table.groups) or sorted(names.tolist()) == sorted(table.groups)
    np.testing.assert_array_equal(found_y, table["y"].max().loc[names.tolist()])
    np.testing.assert_allclose(found_p[:, 1], table["p"].agg(how).loc[names.tolist()])
    np.testing.assert_allclose(found_p.sum(axis=1), 1)


def test_groups_of_several_classes_are_left_out() -> None:
    y = np.array([0, 0, 1, 2, 2])
    groups = np.array(["a", "a", "b", "b", "c"])
    p = np.eye(3)[[0, 1, 1, 2, 2]]
    found_y, found_p, names = by_group(y, p, groups, "mean")
    assert (found_y.tolist(), names.tolist()) == ([0, 2], ["a", "c"])
    np.testing.assert_allclose(found_p, [[0.5, 0.5, 0], [0, 0, 1]])
    np.testing.assert_allclose(by_group(y, p, groups, "max")[1], [[0.5, 0.5, 0], [0, 0, 1]])


def test_several_labels_are_yes_where_one_image_is_and_unknown_where_none_is_known() -> None:
    y = np.array([[1, 0, -1], [0, 0, -1], [-1, 1, 0]])
    found_y, found_p, _ = by_group(y, np.full((3, 3), [[0.2, 0.4, 0.9]]), np.array(["a", "a", "b"]), "max")
    assert found_y.tolist() == [[1, 0, -1], [-1, 1, 0]]
    np.testing.assert_allclose(found_p, [[0.2, 0.4, 0.9]] * 2)


def test_intervals_of_both_kinds_stand_side_by_side() -> None:
    y, p, groups = draw(3, 2)
    found = all_intervals(y, p, groups, 0, "mean")
    group_y, group_p, _ = by_group(y, p, groups, "mean")
    assert found["auroc"].value == pytest.approx(score(y, p)["auroc"])
    assert found["group_auroc"].value == pytest.approx(score(group_y, group_p)["auroc"])
    assert found["group_auroc"].lo <= found["group_auroc"].value <= found["group_auroc"].hi
    assert not [name for name in all_intervals(y, p, groups, 0, "none") if name.startswith("group_")]
    alone = np.arange(len(y)).astype(np.str_)
    assert not [name for name in all_intervals(y, p, alone, 0, "mean") if name.startswith("group_")]
