"""Workers that die, drivers that die, and what is trained again: nothing but the epoch that was under way."""

import errno
import os
import signal
from dataclasses import replace

import pytest
import torch
from scripted_tasks import Scripted

from benchmarks._hurt_study import (
    epochs_of,
    finish,
    problems,
    results,
    said,
    start,
    tiny,
    wait_for,
    weights,
    workers,
)
from harness.data.prepare import prepare
from harness.errors import DiskFull, HarnessError
from harness.hardware import choose_device, free_by_device
from harness.search.driver import MAX_DEATHS
from harness.search.run import run_study
from harness.search.trial import Task, run_trial
from harness.search.workers import FAT_BYTES, Plan, is_fat, run_in_processes
from harness.store.home import Home, lock
from harness.store.records import read_all_epochs, read_study, read_trial, read_trials, write_study, write_trial
from harness.train import checkpoint
from harness.train.checkpoint import ResumeState
from harness.types import EpochDone


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Home:
    """The study of this file, left alone, with one thread as each of two workers has."""
    home = Home(tmp_path_factory.mktemp("calm") / "home")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_study(tiny(), home, 1, "cpu", lambda event: None)
    finally:
        torch.set_num_threads(before)
    assert problems(home, 2) == []
    return home


def run_here(home: Home, listener=lambda event: None) -> None:
    run_study(tiny(search__trials=1), home, 1, "cpu", listener)


def state(home: Home, number: int, fold: int = 0) -> object:
    return (home.trial_state("tiny", number) / f"fold_{fold}.pt").exists()


@pytest.mark.slow  # test_chaos.py does it, too, among other things
def test_a_killed_worker_is_replaced_and_its_trial_goes_on_where_it_was(calm, tmp_path):
    home = Home(tmp_path / "home")
    process = start(home, tiny(), jobs=2)
    wait_for(lambda: state(home, 0) and epochs_of(home, 0) >= 2, process)
    dead = workers(process.pid)
    for worker in dead:
        os.kill(worker, signal.SIGKILL)
    assert process.wait(timeout=300) == 0, said(home)
    assert len(dead) == 2 and "its worker process died (signal SIGKILL); it goes on" in said(home)
    assert sum(record.deaths for record in read_trials(home, "tiny")) == 2
    assert problems(home, 2, most_retrained=2) == []
    assert results(home) == results(calm) and weights(home) == weights(calm)


def test_a_trial_whose_worker_dies_again_and_again_is_failed_with_the_reason(tmp_path):
    home = Home(tmp_path / "home")
    study = tiny(search__trials=1, train__epochs=4)
    process = start(home, study, jobs=2)
    killed: set[int] = set()

    def kill_all() -> bool:
        for worker in set(workers(process.pid)) - killed:
            os.kill(worker, signal.SIGKILL)
            killed.add(worker)
        return len(killed) == MAX_DEATHS

    wait_for(kill_all, process)
    assert process.wait(timeout=300) == 1
    record = read_trial(home, "tiny", 0)
    assert (record.state, record.deaths) == ("failed", MAX_DEATHS)
    assert "signal SIGKILL" in record.reason and "3 times without finishing an epoch" in record.reason
    assert "Too little memory is the usual cause: fewer --jobs" in record.reason
    assert not home.trial_state("tiny", 0).exists()


@pytest.mark.slow  # as above
def test_workers_of_a_killed_driver_end_by_themselves_and_its_successor_goes_on(calm, tmp_path):
    home = Home(tmp_path / "home")
    process = start(home, tiny(), jobs=2)
    wait_for(lambda: epochs_of(home, 0) >= 2, process)
    orphans = workers(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(orphans) == 2
    finish(home, tiny(), jobs=2)  # at once: the orphans may still be writing their last state
    assert not [orphan for orphan in orphans if os.path.exists(f"/proc/{orphan}")]
    assert problems(home, 2, most_retrained=2) == []
    assert results(home) == results(calm) and weights(home) == weights(calm)


def test_a_trial_that_another_process_still_trains_is_not_trained_beside_it(calm, tmp_path, monkeypatch):
    from harness.search import trial

    study, home = tiny(), Home(tmp_path)
    data = prepare(study.spec.data, 0, calm, lambda what, done, total: None)
    monkeypatch.setattr(trial, "ORPHAN_SECONDS", 0.1)
    running = home.trial_state("tiny", 0)
    task = Task(0, study.tree, "tiny", tmp_path / "artifacts", running, "fp32", "auroc")
    with lock(running.with_suffix(".lock"), "held by an orphan"):
        outcome = run_trial(task, data, "cpu", None)
    assert outcome.state == "died" and "trial 0 is in use by another process" in outcome.reason
    assert not (tmp_path / "artifacts").exists()


def test_a_trial_that_was_trained_and_not_yet_written_down_is_not_trained_again(calm, tmp_path):
    home = Home(tmp_path / "home")
    run_here(home)
    before, trained = read_trial(home, "tiny", 0), epochs_of(home, 0)
    # what a driver leaves that is killed between the artifacts' DONE and the ledger
    lost = replace(before, state="running", oof={}, cv={}, cv_se={}, fold_values=[], logged=False, ended=0.0)
    write_trial(home, "tiny", lost)
    write_study(home, replace(read_study(home, "tiny"), state="running"))
    _forget_in_optuna(home)
    run_here(home)
    after = read_trial(home, "tiny", 0)
    assert replace(after, ended=before.ended) == before
    assert epochs_of(home, 0) == trained and len(read_all_epochs(home, "tiny", 0)) == 8
    assert problems(home, 1) == []


class Ending:
    """A boss under which a trial ends in its third epoch, in some way."""

    def __init__(self, running, error):
        self.running, self.error, self.kept = running, error, False

    def epoch(self, event):
        if event.report.epoch == 2:
            self.kept = any(self.running.iterdir())
            raise self.error
        return True

    def fold(self, event):
        return True


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (RuntimeError("shapes do not fit"), False),
        (HarnessError("the loss is not finite"), False),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (KeyboardInterrupt(), True),
    ],
)
def test_the_resume_state_goes_with_a_failure_and_stays_where_the_trial_can_go_on(tmp_path, monkeypatch, error, kept):
    monkeypatch.setattr(checkpoint, "WRITE_SHARE", 1e9)  # a state after every epoch
    study, home = tiny(data__root="phantom:40"), Home(tmp_path / "home")
    data = prepare(study.spec.data, 0, home, lambda what, done, total: None)
    running = home.trial_state("tiny", 0)
    boss = Ending(running, error)
    task = Task(0, study.spec.model_dump(mode="json"), "tiny", tmp_path / "artifacts", running, "fp32", "auroc")
    task.artifacts.mkdir()
    if kept:
        with pytest.raises((DiskFull, KeyboardInterrupt)):
            run_trial(task, data, "cpu", boss)
    else:
        assert run_trial(task, data, "cpu", boss).state == "failed"
    assert boss.kept and running.exists() == kept


def _forget_in_optuna(home: Home) -> None:
    """Cut the journal back to before the trial was told: the last line."""
    lines = home.optuna_journal.read_bytes().splitlines(keepends=True)
    home.optuna_journal.write_bytes(b"".join(lines[:-1]))


def test_what_a_crash_tore_is_swept_and_a_damaged_state_lets_its_fold_begin_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "WRITE_SHARE", 1e9)  # a state after every epoch
    calm, home = Home(tmp_path / "calm"), Home(tmp_path / "home")
    run_here(calm)

    class Crash(BaseException):
        """Ends a study without a word, as no Exception of a trial does."""

    def crash(event):
        if isinstance(event, EpochDone) and event.report.epoch == 2:
            raise Crash

    with pytest.raises(Crash):
        run_here(home, crash)
    trained = epochs_of(home, 0)
    (file,) = home.trial_state("tiny", 0).glob("*.pt")
    file.write_bytes(file.read_bytes()[:-100])
    (home.work("tiny") / "trials" / ".0000.json.torn").write_text('{"number')  # a write that never came to its end
    (home.run_artifacts("tiny", read_trial(home, "tiny", 0).run_id) / ".fold_0.torn").mkdir()
    run_here(home)
    assert trained == 3 and problems(home, 1, most_retrained=trained) == []
    assert results(home) == results(calm) and weights(home) == weights(calm)
    assert not list(home.root.rglob(".*torn*"))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn", b"\x00" * 5000, b"\x80\x02]q"])
def test_a_damaged_state_is_set_aside(tmp_path, damage):
    path = tmp_path / "fold_0.pt"
    path.write_bytes(damage)
    assert ResumeState(path).load("cpu") is None
    assert not path.exists() and path.with_suffix(".damaged").read_bytes() == damage


def test_a_worker_that_got_no_task_is_asked_again_after_every_outcome(tmp_path):
    study, home = tiny(data__root="phantom:40"), Home(tmp_path / "home")
    scripted = Scripted(study, home, tmp_path / "artifacts")
    plan = Plan(["cpu"], 1, home, study.spec.data, study.spec.seed)
    run_in_processes(plan, 2, scripted.next_task, scripted, scripted.ended)
    scripted.check()


def test_a_worker_goes_where_the_most_memory_is_left_for_it():
    equal = {"cuda:0": 80, "cuda:1": 80}
    assert [choose_device(equal, workers) for workers in ({}, {"cuda:0": 1}, {"cuda:0": 1, "cuda:1": 1})] == [
        "cuda:0",
        "cuda:1",
        "cuda:0",
    ]
    crowded = {"cuda:0": 10, "cuda:1": 60}  # somebody else trains on the first
    count: dict[str, int] = {}
    for _ in range(7):
        device = choose_device(crowded, count)
        count[device] = count.get(device, 0) + 1
    assert count == {"cuda:1": 6, "cuda:0": 1}
    assert choose_device({"cuda:0": 0, "cuda:1": 1}, {"cuda:1": 50}) == "cuda:1"
    assert free_by_device(["cpu"]) == {"cpu": 1}


def test_what_is_free_is_asked_in_another_process():
    (free,) = set(free_by_device(["cpu", "cpu"]).values())
    assert free > 2**20


def test_a_worker_that_grew_is_replaced():
    assert not is_fat(0, 10 * FAT_BYTES)
    assert not is_fat(FAT_BYTES // 10, FAT_BYTES)  # many times, but not much
    assert not is_fat(8 * FAT_BYTES, 12 * FAT_BYTES)  # much, but not many times
    assert is_fat(FAT_BYTES, 3 * FAT_BYTES)
