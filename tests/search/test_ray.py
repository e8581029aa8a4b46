"""Studies on a real Ray cluster: a head node and machines of one core each, as processes here."""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scripted_tasks import Scripted
from test_run import tiny

from benchmarks._servers import RayCluster, ray_cluster, session, wait_until
from harness.config.load import dump_yaml
from harness.errors import RequestError
from harness.hardware import commit
from harness.search.ray_workers import Cluster, joined, leave_token, misfit, run_on_ray, software
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.records import read_trials
from harness.types import EpochDone, FoldDone, Notice

ray = pytest.importorskip("ray", reason="pip install 'harness[ray]'")


@pytest.fixture(scope="module")
def machines():
    """Two machines of one core each, and a head node that trains nothing."""
    with ray_cluster({"a": 1, "b": 1}) as cluster:
        yield cluster


def random_study(**values):
    """Each point depends on its number alone, so that the order in which trials end is of no matter."""
    return tiny(search__sampler="random", **values)


def run_on(machines: RayCluster, home: Home, study, jobs=2, listen=lambda event: None):
    events = []

    def listener(event):
        events.append(event)
        listen(event)

    record = run_study(study, home, jobs, "auto", listener, Cluster(machines.address))
    return record, events


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The same study on this machine alone, one thread."""
    home = Home(tmp_path_factory.mktemp("calm"))
    run_study(random_study(search__trials=4), home, 1, "cpu", lambda event: None)
    return home


def results(home):
    return [(trial.number, trial.state, trial.params, trial.fold_values) for trial in read_trials(home, "tiny")]


def test_a_study_gives_on_two_machines_what_it_gives_on_one_though_a_worker_was_killed(machines, calm, tmp_path):
    home, killed = Home(tmp_path), []

    def kill_one(event):
        if isinstance(event, EpochDone) and event.trial == 1 and event.report.fold == 1 and not killed:
            killed.extend(trainers(machines)[:1])
            os.kill(killed[0], signal.SIGKILL)

    record, events = run_on(machines, home, random_study(search__trials=4), listen=kill_one)
    assert record.state == "complete" and len(killed) == 1
    assert sum(trial.deaths for trial in read_trials(home, "tiny")) == 1
    assert any("lost" in event.line for event in events if isinstance(event, Notice))
    assert results(home) == results(calm)
    assert len({(event.trial, event.fold) for event in events if isinstance(event, FoldDone)}) == 12


def test_a_worker_that_got_no_task_is_asked_again_after_every_outcome(machines, tmp_path):
    study, home, cluster = random_study(data__root="phantom:40"), Home(tmp_path / "home"), Cluster(machines.address)
    scripted = Scripted(study, home, tmp_path / "artifacts")
    with joined(cluster):
        run_on_ray(study, home, cluster, 2, print, scripted.next_task, scripted, scripted.ended)
    scripted.check()


def trainers(machines: RayCluster) -> list[int]:
    """Process ids of the actors: Ray names a process by what it runs."""
    processes = [number for leader in machines.nodes.values() for number in session(leader.pid)]
    return [number for number in processes if Path(f"/proc/{number}/cmdline").read_bytes().startswith(b"ray::Worker")]


def test_a_lost_machine_is_replaced_by_one_that_joins_later_and_one_with_other_software_is_left_out(calm, tmp_path):
    home, done = Home(tmp_path), []
    with ray_cluster({"a": 1}) as machines:

        def lose(event):
            if isinstance(event, EpochDone) and event.trial == 1 and not done:
                done.append(event)
                machines.kill("a")
                machines.add("odd", 1, GIT_DIR="/nowhere")  # there the commit of the program is not known
            if isinstance(event, Notice) and "left out" in event.line:
                machines.add("late", 1)

        record, events = run_on(machines, home, random_study(search__trials=2), 1, lose)
    assert record.state == "complete" and done
    assert [trial.deaths for trial in read_trials(home, "tiny")] == [0, 1]
    assert results(home) == results(calm)[:2]
    (said,) = [event.line for event in events if isinstance(event, Notice) and "left out" in event.line]
    assert f"commit unknown where the driver has {commit()}" in said


@pytest.mark.slow
def test_a_lost_head_node_ends_the_driver_with_a_word_and_the_study_goes_on(machines, tmp_path):
    home, study, path = (
        Home(tmp_path / "home"),
        random_study(search__trials=2, train__epochs=40),
        tmp_path / "tiny.yaml",
    )
    path.write_text(dump_yaml(study.tree))
    with ray_cluster({"a": 1}) as short:
        driver = command(home, "study", "run", path, "--backend", "ray", "--address", short.address)
        wait_until(home.trial_epochs("tiny", 0).exists, "the first epoch")  # many more come than the head is missed in
        short.kill("head")
        _, said = driver.communicate(timeout=120)
    assert driver.returncode == 1
    assert "the head node of the Ray cluster" in said and "harness study resume tiny --backend ray" in said
    record, _ = run_on(machines, home, study)
    assert record.state == "complete" and [trial.state for trial in read_trials(home, "tiny")] == ["complete"] * 2


def command(home, *arguments, **more):
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *map(str, arguments)],
        env={**os.environ, "HARNESS_HOME": str(home.root), "OMP_NUM_THREADS": "1", **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_machine_with_other_software_is_named_before_anything_is_trained(tmp_path):
    with ray_cluster({}) as machines:
        machines.add("odd", 1, GIT_DIR="/nowhere")
        machines.wait_for(2)
        with pytest.raises(RequestError, match=rf"does not fit this study. Node {socket.gethostname()} .*unknown"):
            run_on(machines, Home(tmp_path), random_study())
    assert not read_trials(Home(tmp_path), "tiny")


def test_what_makes_a_machine_unfit(tmp_path):
    path, here = tmp_path / "work" / "token", software()
    token = leave_token(path)
    assert misfit(path, token, here) == ""
    assert "has torch" in misfit(path, token, replace(here, torch="1.0"))
    assert "commit" not in misfit(path, token, replace(here, torch="1.0"))
    assert "does not see the driver's home" in misfit(tmp_path / "elsewhere", token, here, patience=0)
    assert leave_token(path) != token
    assert "it says something else here" in misfit(path, token, here, patience=0)


def test_what_cannot_be_done_on_this_cluster_is_refused_at_once(machines, tmp_path):
    home, study = Home(tmp_path), random_study()
    with pytest.raises(RequestError, match=r"no node .* has the 3 CPUs and 0 GPUs of a trial.*\n.*: 1 CPUs, 0 GPUs"):
        run_study(study, home, 1, "auto", print, Cluster(machines.address, cpus=3))
    with pytest.raises(RequestError, match=r"--gpus-per-trial 2: .* one card"):
        run_study(study, home, 1, "auto", print, Cluster(machines.address, gpus=2))
    with pytest.raises(RequestError, match=r"--address 127.0.0.1:1: no Ray cluster answers there.*ray start --head"):
        run_study(study, home, 1, "auto", print, Cluster("127.0.0.1:1"))
    assert not read_trials(home, "tiny")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--backend", "rai"], "write local or ray. Did you mean ray?"),
        (["--address", "auto"], "Write --backend ray with it"),
        (["--backend", "ray", "--device", "cuda"], "--gpus-per-trial 1"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, said):
    run = command(Home(tmp_path), "study", "run", "lr_aug_sweep", *options)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 2 and said in " ".join(errors.split())


def test_without_ray_the_error_says_what_to_install(tmp_path):
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from harness.cli.app import run; sys.exit(run(['study', 'run', 'lr_aug_sweep', '--backend', 'ray']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "HARNESS_HOME": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 2 and "pip install 'harness[ray]'" in done.stderr
