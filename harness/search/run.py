"""Run a study: everything that can be known to be wrong comes before trial 0, then a driver with an engine."""

import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial

from harness.config.load import Study, spec_hash
from harness.data.audit import audit_hash, findings_to_json
from harness.data.people import write_people
from harness.data.prepare import Prepared, prepare
from harness.errors import RequestError
from harness.hardware import made_with, parse_devices, usable_cores
from harness.models.network import pin_weights
from harness.search import checks, ray_engine
from harness.search.driver import CLOSE_SECONDS, Driver, Engine
from harness.search.estimate import estimate_study
from harness.search.grid import check_sampler, total_trials
from harness.search.nodes import Cluster
from harness.search.precisions import choose_precisions, say_precisions
from harness.search.start import pin_starts
from harness.search.workers import Plan, run_here, run_in_processes
from harness.store.home import Home, lock
from harness.store.records import StudyRecord, read_study, read_trials, write_study
from harness.track.mlflow_sync import send_missing
from harness.types import ENDED, DataReady, Estimated, Listener, Notice, StudyEnded, Working


def run_study(
    study: Study,
    home: Home,
    jobs: int,
    device: str,
    listener: Listener,
    cluster: Cluster | None = None,
    estimating: bool = False,
) -> StudyRecord:
    """Run a study to its total number of trials, or go on with it where it stopped; on this machine or on a cluster.

    estimating: measure before trial 0 how long it will take, which itself takes some seconds for each network.
    Raises RequestError before anything is trained when the study, its data or its past do not fit, HarnessError when
    too many trials fail. On KeyboardInterrupt the running trial keeps its last finished epoch.
    """
    devices = check_request(study, home, jobs, device, cluster)
    held = lock(home.work(study.name) / "driver.lock", f"study {study.name}", wait_seconds=1)
    with held, ray_engine.joined(cluster) if cluster else nullcontext():
        past = read_study(home, study.name)
        data = check_data(study, past, home, listener)
        total, done = total_trials(study), count_ended(home, study.name)
        if past and past.state == "complete" and done >= total:
            past = replace(past, tree=study.tree, caches=list(data.caches))  # the same data may lie elsewhere now
            write_study(home, past)
            write_people(home, study.name, data.dataset)
            send_missing(home, study, listener, CLOSE_SECONDS)
            listener(StudyEnded(study.name, "complete", 0))
            return past
        checks.check_same_weights(past, study)
        parameters = check_training(study, home, data, total - done)
        if cluster:
            ray_engine.check_nodes(study, home, cluster)
        from harness.search.proposals import Proposals

        source = Proposals(study, home)
        record = begin(past, study, home, data, devices[0], listener, cluster)
        write_people(home, study.name, data.dataset)
        if estimating and not done and not cluster:
            found = estimate_study(study, data, record.precision, parameters, devices[0], jobs, total - done, listener)
            if found:
                listener(Estimated(found, shutil.disk_usage(home.root).free))
                record = replace(record, estimate=asdict(found))
        driver = Driver(study, home, data, record, source, listener)
        return driver.run(choose_engine(study, home, data, jobs, devices, listener, cluster), devices, jobs)


def check_request(study: Study, home: Home, jobs: int, device: str, cluster: Cluster | None) -> list[str]:
    """What can be refused before any data are read. Returns the devices. Raises RequestError."""
    if jobs < 1:
        raise RequestError(f"--jobs {jobs}: write a number from 1 up.")
    devices = [cluster.device] if cluster else parse_devices(device)
    checks.check_backbones(study, home)
    check_sampler(study)
    return devices


def check_data(study: Study, past: StudyRecord | None, home: Home, listener: Listener) -> Prepared:
    """The data of the study, scanned, divided and decoded; they and the spec are those that it began with. Raises
    RequestError."""
    checks.check_same_spec(past, study)
    data = prepare(study.spec.data, study.spec.seed, home, lambda *step: listener(Working(*step)))
    checks.check_same_data(past, study, data)
    listener(data_ready(data))
    return data


def check_training(study: Study, home: Home, data: Prepared, trials: int) -> dict[str, int]:
    """Everything that a trial can be, at the ends of all ranges, and room for `trials` of them. Returns the parameters
    of each backbone. Raises RequestError."""
    checks.check_training(study, data.dataset)
    parameters = checks.check_networks(study, home, data)
    checks.check_disk(study, home, parameters, trials)
    return parameters


def count_ended(home: Home, study: str) -> int:
    return sum(record.state in ENDED for record in read_trials(home, study))


def begin(
    past: StudyRecord | None,
    study: Study,
    home: Home,
    data: Prepared,
    device: str,
    listener: Listener,
    cluster: Cluster | None = None,
) -> StudyRecord:
    """The study's record as it runs now. What must not change later, such as number formats, is decided once."""
    here = ray_engine.on_a_node(cluster, choose_precisions, study, device) if cluster else None
    precision = choose_precisions(study, device) if here is None else dict(here)
    say_precisions(precision, listener, past.precision if past else None)
    findings, caches = findings_to_json(data.findings), list(data.caches)
    record = past or StudyRecord(
        study.name,
        "running",
        study.tree,
        spec_hash(study.tree),
        data.dataset.data_hash,
        data.folds.folds_hash,
        time.time(),
        precision=precision,
        weights=pin_weights(checks.options(study, "weights"), checks.options(study, "backbone")),
        starts=pin_starts(checks.options(study, "weights"), checks.options(study, "backbone"), home),
        made_with=made_with(device, usable_cores()),
    )
    return replace(
        record,
        state="running",
        tree=study.tree,
        audit_hash=audit_hash(data.findings),
        findings=findings,
        caches=caches,
    )


def choose_engine(
    study: Study,
    home: Home,
    data: Prepared,
    jobs: int,
    devices: list[str],
    listener: Listener,
    cluster: Cluster | None = None,
) -> Engine:
    """What trains the trials: this process, or `jobs` others that share the cores, or as many on a cluster."""
    if cluster:
        return partial(ray_engine.run_on_ray, study, home, cluster, jobs, lambda line: listener(Notice(line)))
    if jobs == 1:
        return partial(run_here, data, devices[0])
    threads = max(1, usable_cores() // jobs)
    return partial(run_in_processes, Plan(devices, threads, home, study.spec.data, study.spec.seed), jobs)


def data_ready(data: Prepared) -> DataReady:
    """What the audience is told about the data."""
    dataset = data.dataset
    return DataReady(
        rows=len(dataset.y),
        development=len(data.folds.development_rows()),
        test=len(data.folds.test_rows()),
        groups=len(set(dataset.groups.tolist())),
        classes=dataset.classes,
        counts=tuple(dataset.counts()),
        k=data.folds.k,
        warnings=tuple(finding.message for finding in data.findings),
    )
