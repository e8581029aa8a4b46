"""The journal survives crashes, and sampling after a resume never repeats points."""

import subprocess
import sys

import optuna
import pytest

from harness.errors import RequestError
from harness.home import Home
from harness.search.grid import grid, total_trials
from harness.search.storage import ask, open_optuna
from harness.study.search import Search
from harness.study.space import Choice, FloatRange, IntRange

SPACE = {
    "optim.lr": FloatRange(1e-5, 1e-2, log=True),
    "augment.rotate": Choice((0.0, 15.0)),
    "train.epochs": IntRange(2, 6),
}


def run(home, trials, search, seed=3):
    study = open_optuna(home, "s", search)
    while len(study.get_trials()) < trials:
        trial = ask(study, search, SPACE, seed)
        study.tell(trial, trial.params["train.epochs"] - trial.params["optim.lr"])
    return [trial.params for trial in study.get_trials()]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_resumed_search_proposes_what_the_uninterrupted_one_would(tmp_path, sampler):
    search = Search(sampler=sampler, startup=3)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = run(Home(tmp_path / "a"), 9, search)
    for stop in (2, 5, 9):  # three processes' worth of opening and going on
        parts = run(Home(tmp_path / "b"), stop, search)
    assert parts == whole
    rates = [params["optim.lr"] for params in whole]
    assert len(set(rates)) == len(rates)


@pytest.mark.parametrize("tail", [b'{"op_code": 4, "worker', b'{"op_code": 4, "worker_id": \n', b"\x00\x00"])
def test_a_torn_journal_line_is_cut_off(tmp_path, tail):
    home = Home(tmp_path)
    before = run(home, 4, Search())
    whole = home.optuna_journal.read_bytes()
    home.optuna_journal.write_bytes(whole + tail)
    open_optuna(home, "s", Search())
    assert home.optuna_journal.read_bytes().startswith(whole)
    assert run(home, 6, Search())[:4] == before
    assert len(open_optuna(home, "s", Search()).get_trials()) == 6


def test_a_dead_lock_holder_blocks_nobody(tmp_path):
    code = (
        "import os,sys; from filelock import FileLock; "
        f"FileLock({str(tmp_path / 'optuna.journal.lock')!r}).acquire(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert run(Home(tmp_path), 1, Search())


def test_the_direction_follows_the_metric(tmp_path):
    home = Home(tmp_path)
    assert open_optuna(home, "a", Search()).direction is optuna.study.StudyDirection.MAXIMIZE
    assert open_optuna(home, "b", Search(metric="log_loss")).direction is optuna.study.StudyDirection.MINIMIZE


def test_grid_covers_every_point_once(tmp_path):
    space = {"augment.rotate": Choice((0.0, 15.0)), "train.epochs": IntRange(2, 6, step=2)}
    assert grid(space) == {"augment.rotate": [0.0, 15.0], "train.epochs": [2, 4, 6]}
    search, study = Search(sampler="grid"), open_optuna(Home(tmp_path), "g", Search(sampler="grid"))
    assert total_trials(search, space) == 6
    assert total_trials(Search(sampler="grid", trials=4), space) == 4
    for _ in range(6):
        study.tell(ask(study, search, space, 0), 0.5)
    assert len({tuple(sorted(trial.params.items())) for trial in study.get_trials()}) == 6
    with pytest.raises(RequestError, match=r"optim.lr.*grid sampler"):
        grid(SPACE)
