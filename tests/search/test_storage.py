"""The journal survives crashes: torn lines, dead holders of its lock."""

import subprocess
import sys

import optuna
import pytest
from proposing import make, run

from harness.config.spec import Search
from harness.search.storage import BLOCK, open_optuna
from harness.store.home import Home


@pytest.mark.parametrize("tail", [b'{"op_code": 4, "worker', b'{"op_code": 4, "worker_id": \n', b"\x00\x00"])
@pytest.mark.parametrize("blocks", [False, True])
def test_a_torn_journal_line_is_cut_off(tmp_path, tail, blocks):
    home = Home(tmp_path)
    before = run(home, 4, make())
    if blocks:  # the last whole line is longer than what is read at once
        storage = open_optuna(home, "s", Search())._storage
        storage.set_study_user_attr(0, "long", "x" * (2 * BLOCK))
    whole = home.optuna_journal.read_bytes()
    home.optuna_journal.write_bytes(whole + tail)
    open_optuna(home, "s", Search())
    assert home.optuna_journal.read_bytes().startswith(whole)
    assert run(home, 6, make())[:4] == before
    assert len(open_optuna(home, "s", Search()).get_trials()) == 6


def test_a_dead_lock_holder_blocks_nobody(tmp_path):
    code = (
        "import os,sys; from filelock import FileLock; "
        f"FileLock({str(tmp_path / 'optuna.journal.lock')!r}).acquire(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert run(Home(tmp_path), 1, make())


def test_the_direction_follows_the_metric(tmp_path):
    home = Home(tmp_path)
    assert open_optuna(home, "a", Search()).direction is optuna.study.StudyDirection.MAXIMIZE
    assert open_optuna(home, "b", Search(metric="log_loss")).direction is optuna.study.StudyDirection.MINIMIZE
