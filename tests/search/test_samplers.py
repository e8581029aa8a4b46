"""Proposals: what was interrupted goes on as if it had not been, and conditions, enqueued points and windows hold."""

import math
import subprocess
import sys
import warnings

import numpy as np
import optuna
import pytest
from optuna.study import StudyDirection
from proposing import make, run, score
from scipy.stats import kstest, qmc

from harness.config.load import check_study, key_defaults
from harness.config.space import Choice, FloatRange, IntRange, flatten
from harness.errors import RequestError
from harness.search.proposals import Proposals
from harness.search.samplers import (
    check_sampler,
    grid_points,
    random_point,
    sobol_point,
    total_trials,
    value_at,
    window,
)
from harness.search.storage import open_optuna
from harness.store.home import Home
from harness.types import TrialRecord

SAMPLERS = ["tpe", "gp", "cmaes", "random", "qmc"]
CONDITIONAL = {
    "name": "s",
    "data": {"root": "phantom", "group": "patient"},
    "optim": {
        "momentum": {"float": [0.5, 0.95], "when": {"optim.name": "sgd"}},
        "nesterov": {"choice": [True, False], "when": {"optim.name": "sgd"}},
        "name": {"choice": ["adamw", "sgd"]},
        "lr": {"float": [1e-5, 1e-2], "log": True},
    },
    "train": {"epochs": {"int": [2, 6]}},
}


def conditional(**search):
    return check_study({**CONDITIONAL, "search": {"trials": 60, **search}}, "test")


@pytest.mark.parametrize("make_study", [make, conditional])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_resumed_search_proposes_what_the_uninterrupted_one_would(tmp_path, sampler, make_study):
    study = make_study(sampler=sampler, startup=3)
    last = 12 if sampler == "gp" else 30
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = run(Home(tmp_path / "a"), last, study)
    for stop in (2, last // 2, last):  # three processes' worth of opening and going on
        parts = run(Home(tmp_path / "b"), stop, study)
    assert parts == whole
    assert len({tuple(sorted(params.items())) for params in whole}) == last


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_points_asked_for_at_the_same_time_differ_and_survive_a_kill(tmp_path, sampler):
    study, home = make(sampler=sampler, startup=3), Home(tmp_path)
    run(home, 8, study)
    source = Proposals(study, home)
    together = [source.next() for _ in range(3)]
    assert len({str(point.params) for point in together}) == 3
    again = Proposals(study, home)  # the driver was killed: nothing was told
    assert again.begun({}) == together
    fresh = again.next()
    assert fresh.number == together[-1].number + 1
    assert fresh.params not in [point.params for point in together]


def test_cmaes_goes_through_generations_that_a_resume_finds_again(tmp_path):
    study, home = make(sampler="cmaes"), Home(tmp_path)
    params = run(home, 45, study)
    states = [trial.system_attrs for trial in open_optuna(home, "s", study.spec.search).get_trials()]
    generations = [state.get("cma:generation") for state in states]
    assert generations[0] is None and max(generations[1:]) >= 4 and generations[1:] == sorted(generations[1:])
    values = [score(one) for one in params]
    assert np.mean(values[-10:]) > np.mean(values[:10]) + 0.5  # it has moved


def test_a_model_finds_more_than_chance(tmp_path):
    """On a smooth function of three numbers, the last points of each model are better than random ones."""

    def last(sampler, seed, folder):
        study = check_study(
            {
                "name": "s",
                "seed": seed,
                "data": {"root": "phantom", "group": "patient"},
                "augment": {name: {"float": [0.0, 0.5]} for name in ("hflip", "noise", "brightness")},
                "search": {"trials": 25 if sampler == "gp" else 50, "sampler": sampler},
            },
            "test",
        )
        home = Home(tmp_path / folder)
        home.root.mkdir()
        source, values = Proposals(study, home), []
        while (point := source.next()) is not None:
            values.append(-sum((value - 0.2) ** 2 for value in point.params.values()))
            cv = {"auroc": values[-1]}
            source.ended(TrialRecord(point.number, "complete", point.params, "run", cv=cv))
        return max(values)

    chance = last("random", 0, "random")
    for sampler in ("tpe", "gp", "cmaes"):
        assert last(sampler, 0, sampler) > 0.5 * chance, sampler  # in distance from the top


@pytest.mark.parametrize("sampler", [*SAMPLERS, "grid"])
def test_a_range_stands_only_where_its_condition_holds(tmp_path, sampler):
    tree = {**CONDITIONAL, "search": {"trials": 12, "sampler": sampler, "startup": 3}}
    if sampler == "grid":
        steps = {"lr": {"choice": [1e-3, 1e-2]}, "momentum": {"choice": [0.5, 0.7], "when": {"optim.name": "sgd"}}}
        tree["optim"] = {**CONDITIONAL["optim"], **steps}
        del tree["train"]
    study = check_study(tree, "test")
    source, names = Proposals(study, Home(tmp_path)), []
    while (point := source.next()) is not None:
        sgd = point.params["optim.name"] == "sgd"
        names.append(point.params["optim.name"])
        assert ("optim.momentum" in point.params) is sgd is ("optim.nesterov" in point.params)
        stands = flatten(point.tree)
        for name in ("optim.momentum", "optim.nesterov"):
            assert stands[name] == point.params.get(name, key_defaults()[name])
        value = point.params.get("optim.momentum", 0.0)
        source.ended(TrialRecord(point.number, "complete", point.params, "r", cv={"auroc": value}))
    assert set(names) == {"adamw", "sgd"}
    if sampler == "grid":
        assert len(names) == 2 + 2 * 2 * 2  # momentum and nesterov multiply the points of sgd alone


def test_the_grid_covers_every_point_once():
    study = make(sampler="grid")
    with pytest.raises(RequestError, match=r"optim.lr.*grid sampler"):
        grid_points(study)
    tree = {
        "name": "g",
        "data": {"root": "phantom", "group": "patient"},
        "augment": {"rotate": {"choice": [0.0, 15.0]}},
        "train": {"epochs": {"int": [2, 6], "step": 2}},
        "search": {"sampler": "grid", "trials": 20},
    }
    points = grid_points(check_study(tree, "test"))
    assert len(points) == 6 == total_trials(check_study(tree, "test"))
    assert {tuple(point.values()) for point in points} == {(r, e) for r in (0.0, 15.0) for e in (2, 4, 6)}
    tree["search"]["trials"] = 4
    assert total_trials(check_study(tree, "test")) == 4
    tree["train"] = {"epochs": {"int": [1, 9999]}, "batch_size": {"int": [1, 99]}}
    with pytest.raises(RequestError, match=r"more than 100,000 points.*qmc"):
        grid_points(check_study(tree, "test"))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_enqueued_points_come_first_and_the_rest_of_them_is_drawn(tmp_path, sampler):
    study = make(sampler=sampler, enqueue=[{"optim.lr": 1e-3, "augment.rotate": 15}, {"train.epochs": 2}])
    first, second, third = run(Home(tmp_path), 3, study)
    assert first["optim.lr"] == 1e-3 and first["augment.rotate"] == 15.0 and second["train.epochs"] == 2
    assert len({params["optim.lr"] for params in (first, second, third)}) == 3


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"optim.lr": 1.0}, r"point 0: optim.lr: 1.0 is outside its range \[1e-05, 0.01\]"),
        ({"optim.rl": 1.0}, r"optim.rl is not searched. Did you mean optim.lr"),
        ({"augment.rotate": 10.0}, r"outside its range \[0.0, 15.0\]"),
        ({"train.epochs": 2.5}, r"train.epochs: 2.5 is outside its range"),
    ],
)
def test_an_enqueued_point_outside_the_space_is_refused(point, said):
    with pytest.raises(RequestError, match=said):
        make(enqueue=[point])
    with pytest.raises(
        RequestError, match=r"optim.momentum stands only where optim.name is sgd: write optim.name: sgd"
    ):
        conditional(enqueue=[{"optim.momentum": 0.6}])
    conditional(enqueue=[{"optim.momentum": 0.6, "optim.name": "sgd"}])
    with pytest.raises(RequestError, match="grid visits every point"):
        make(sampler="grid", enqueue=[{"train.epochs": 2}])


def test_the_cube_becomes_ranges():
    draw = np.random.default_rng(0).random(4000)
    rates = [math.log(value_at(FloatRange(1e-5, 1e-1, log=True), u)) for u in draw]
    assert kstest(rates, "uniform", (math.log(1e-5), math.log(1e-1) - math.log(1e-5))).pvalue > 0.001
    counts = np.unique([value_at(IntRange(2, 8, step=3), u) for u in draw], return_counts=True)
    assert counts[0].tolist() == [2, 5, 8] and counts[1].min() > 1200
    assert {value_at(Choice((None, "a")), u) for u in draw} == {None, "a"}
    assert {value_at(FloatRange(0.0, 0.3, step=0.1), u) for u in draw} == {0.0, 0.1, 0.2, 0.1 * 3}
    ints = np.array([value_at(IntRange(1, 100, log=True), u) for u in draw])
    assert ints.min() == 1 and ints.max() == 100 and 0.4 < (ints <= 10).mean() < 0.65


def test_a_sobol_sequence_fills_space_more_evenly_than_chance():
    sobol = np.array([sobol_point(3, number, 5) for number in range(64)])
    chance = np.array([random_point(3, number, 5) for number in range(64)])
    assert qmc.discrepancy(sobol) < 0.5 * qmc.discrepancy(chance)
    assert not np.allclose(sobol[0], sobol_point(3, 0, 6))


def trial(number, value, state=optuna.trial.TrialState.COMPLETE, steps=None, broken=0.0):
    made = optuna.trial.create_trial(
        state=state,
        values=None if value is None else value if isinstance(value, list) else [value],
        intermediate_values=steps or {},
        system_attrs={"constraints:x": broken},
    )
    made.number = number
    return made


def test_a_window_holds_the_best_all_that_run_and_an_even_spread():
    draw = np.random.default_rng(0)
    values = draw.permutation(1000).tolist()
    trials = [trial(number, float(value)) for number, value in enumerate(values)]
    running = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING)
    running.number = 1000
    chosen = window([*trials, running], [StudyDirection.MINIMIZE], 25, 100)
    numbers = [one.number for one in chosen]
    assert numbers == sorted(numbers) and len(numbers) == 101 and numbers[-1] == 1000
    assert set(range(25)) <= {one.values[0] for one in chosen[:-1]}
    gaps = np.diff(numbers)
    assert gaps.max() <= 20
    assert window(trials[:90], [StudyDirection.MINIMIZE], 25, 100) == trials[:90]


def test_a_window_ranks_pruned_after_complete_and_broken_last():
    pruned = optuna.trial.TrialState.PRUNED
    trials = [
        trial(0, 0.5),
        trial(1, 0.9),
        trial(2, None, pruned, {0: 0.8}),
        trial(3, None, pruned, {0: 0.3, 1: 0.3}),
        trial(4, 0.99, broken=2.0),
        trial(5, 0.2),
    ]
    chosen = [{one.number for one in window(trials, [StudyDirection.MAXIMIZE], best, best)} for best in range(1, 6)]
    assert chosen == [{1}, {0, 1}, {0, 1, 5}, {0, 1, 3, 5}, {0, 1, 2, 3, 5}]
    both = [trial(0, [0.5, 1.0]), trial(1, [0.6, 2.0]), trial(2, [0.5, 3.0]), trial(3, [0.4, 0.5])]
    found = window(both, [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE], 3, 3)
    assert {one.number for one in found} == {0, 1, 3}


def test_cmaes_needs_two_numbers():
    tree = {**CONDITIONAL, "optim": {"lr": CONDITIONAL["optim"]["lr"]}, "search": {"sampler": "cmaes"}}
    del tree["train"]
    with pytest.raises(RequestError, match=r"two numbers.*optim.lr.*search.sampler=tpe"):
        check_sampler(check_study(tree, "test"))
    check_sampler(make(sampler="cmaes"))


def test_importing_the_search_leaves_warnings_and_the_log_of_the_process_alone():
    code = (
        "import logging, warnings, optuna\n"
        "before = list(warnings.filters), optuna.logging.get_verbosity()\n"
        "import harness.search.driver, harness.search.samplers, harness.search.optuna_export\n"
        "import harness.search.proposals\n"
        "own = [one for one in warnings.filters if one not in before[0]]\n"
        "about = [one for one in own if 'gamma' in str(one[1]) or 'optuna' in one[2].__module__]\n"
        "assert not about and optuna.logging.get_verbosity() == before[1], about\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_a_search_is_quiet_and_leaves_the_settings_as_they_were(tmp_path, sampler, capfd):
    level = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        warnings.simplefilter("error", optuna.exceptions.ExperimentalWarning)
        filters = list(warnings.filters)
        run(Home(tmp_path), 6, make(sampler=sampler, startup=3))
        assert list(warnings.filters) == filters
    assert optuna.logging.get_verbosity() == level
    assert "study created" not in capfd.readouterr().err
