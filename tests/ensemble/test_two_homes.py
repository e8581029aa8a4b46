"""A home's salt decides no number: the same study in another home gives the same values, and the same bytes."""

import numpy as np
import pytest

from benchmarks._tiny_study import tiny_tree
from benchmarks.two_homes import METHODS, difference, run_home
from harness.calibration.uncertainty import _parts
from harness.data.people import read_people
from harness.ensemble import bagging, new_networks, stacking
from harness.ensemble.boosting import watched_rows
from harness.numbering import by_appearance, first_rows, numbered
from harness.store.home import Home


def test_one_study_in_two_homes(tmp_path_factory):
    tree = tiny_tree(name="twice", data__root="phantom:60", data__folds=2, train__epochs=1, data__decode__size=24)
    homes = [Home(tmp_path_factory.mktemp(name)) for name in ("here", "there")]
    for home in homes:
        run_home(home, tree, METHODS, resamples=2)
    assert homes[0].salt() != homes[1].salt()
    compared, differing = difference(homes[0], homes[1], "twice")
    assert compared > 50_000 and differing == []
    here, there = (read_people(home, "twice") for home in homes)
    assert here["group"].equals(there["group"]) and set(here["identity"]).isdisjoint(there["identity"])


def test_numbers_are_by_first_appearance():
    names = np.array(["z", "a", "z", "m", "a"])
    assert by_appearance(names).tolist() == [0, 1, 0, 2, 1]
    assert first_rows(by_appearance(names)).tolist() == [0, 1, 3]
    assert numbered(names).tolist() == ["g000000", "g000001", "g000000", "g000002", "g000001"]
    assert len(by_appearance(np.array([], dtype=np.str_))) == 0


@pytest.mark.parametrize("seed", range(3))
def test_no_draw_depends_on_what_groups_are_called(seed):
    rng = np.random.default_rng(seed)
    of_row = np.repeat(np.arange(20), 3)[rng.permutation(60)]
    y = rng.integers(0, 2, 60)
    called = [np.array([f"{name:016x}" for name in rng.choice(2**40, 20, replace=False)])[of_row] for _ in range(2)]
    draws = [
        (
            bagging.resamples(y, groups, np.random.default_rng(seed)),
            new_networks.draw_groups(y, groups, 4, seed),
            stacking.parts(y, groups, seed),
            watched_rows(y, groups, seed),
            _parts(groups, seed),
        )
        for groups in called
    ]
    for one, other in zip(*draws, strict=True):
        np.testing.assert_array_equal(one, other)
