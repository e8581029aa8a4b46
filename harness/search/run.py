"""Run a study: checks before trial 0, number formats, workers.

Run a study: everything that can be known to be wrong comes before trial 0, then a driver with an engine.

What can be known to be wrong before trial 0: another spec or other data than before, networks, weights, disk.

In which number format each backbone of a study trains: decided by rule before trial 0, and kept.
"""

import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.augment.drawn_lesions import check_drawn_lesions
from harness.augment.synthetic import check_synthetic
from harness.config.load import Study, differences, spec_hash
from harness.config.space import Choice, combinations, extremes, probes
from harness.config.spec import Spec
from harness.data.audit import audit_hash, findings_to_json
from harness.data.people import write_people
from harness.data.prepare import Prepared, prepare
from harness.errors import RequestError
from harness.hardware import made_with, parse_devices, usable_cores
from harness.models.backbones import check_weights, resolve
from harness.models.network import Network, build_network, pin_weights, require_any_size, require_same_weights
from harness.models.stages import require_level
from harness.models.weights import kind_of
from harness.search import ray_workers
from harness.search.driver import CLOSE_SECONDS, Driver, Engine, disk_needed
from harness.search.estimate import estimate_study
from harness.search.ray_workers import Cluster
from harness.search.samplers import check_sampler, total_trials
from harness.search.warm_start import find_start, pin_starts, refuse_own_checkpoint, resolve_start, start_file
from harness.search.workers import Plan, run_here, run_in_processes
from harness.store.home import Home, lock
from harness.store.records import StudyRecord, read_study, read_trials, write_study
from harness.track.mlflow_sync import send_missing
from harness.train.loss import check_loss
from harness.train.optim import check_average, check_optimizer
from harness.train.precision import choose_precision
from harness.types import ENDED, DataReady, Dataset, Estimated, Listener, Notice, PrecisionChosen, StudyEnded, Working


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
    with held, ray_workers.joined(cluster) if cluster else nullcontext():
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
        check_same_weights(past, study)
        parameters = check_training(study, home, data, total - done)
        if cluster:
            ray_workers.check_nodes(study, home, cluster)
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
    check_backbones(study, home)
    check_sampler(study)
    return devices


def check_data(study: Study, past: StudyRecord | None, home: Home, listener: Listener) -> Prepared:
    """The data of the study, scanned, divided and decoded; they and the spec are those that it began with. Raises
    RequestError."""
    check_same_spec(past, study)
    data = prepare(study.spec.data, study.spec.seed, home, lambda *step: listener(Working(*step)))
    check_same_data(past, study, data)
    listener(data_ready(data))
    return data


def check_training(study: Study, home: Home, data: Prepared, trials: int) -> dict[str, int]:
    """Everything that a trial can be, at the ends of all ranges, and room for `trials` of them. Returns the parameters
    of each backbone. Raises RequestError."""
    check_training_settings(study, data.dataset)
    parameters = check_networks(study, home, data)
    check_disk(study, home, parameters, trials)
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
    here = ray_workers.on_a_node(cluster, choose_precisions, study, device) if cluster else None
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
        weights=pin_weights(options(study, "weights"), options(study, "backbone")),
        starts=pin_starts(options(study, "weights"), options(study, "backbone"), home),
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
        return partial(ray_workers.run_on_ray, study, home, cluster, jobs, lambda line: listener(Notice(line)))
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


DEPENDENT = (
    ("train.class_weights", "train.pos_weights", "train.sampling"),
    ("train.ema", "train.swa"),
    ("train.patience", "train.select"),
    ("train.swa", "train.select"),
    ("train.unfreeze_every", "train.freeze"),
)
"""keys whose values are allowed in some combinations only"""


def check_networks(study: Study, home: Home, data: Prepared) -> dict[str, int]:
    """Build every network that the study can draw, at the ends of its ranges: each backbone with every pooling and
    every start, as few times as that takes. Returns how many parameters each has. Raises RequestError."""
    first: dict[str, Any] = {name: extremes(range_)[0] for name, range_ in study.space.items()}
    first["model.drop_path"] = _largest(study, "model.drop_path", study.spec.model.drop_path)
    first["model.hidden"] = _largest(study, "model.hidden", study.spec.model.hidden)
    level = int(_largest(study, "train.freeze", study.spec.train.freeze))
    parameters = {}
    for backbone in options(study, "backbone"):
        starts, poolings = options(study, "weights"), options(study, "pooling")
        for number in range(max(len(starts), len(poolings))):
            values = {**first, "model.backbone": backbone}
            values["model.weights"] = starts[number] if number < len(starts) else "none"
            values["model.pooling"] = poolings[number if number < len(poolings) else 0]
            network = _build(study.draw(values), home, data)
            require_level(network, level)
            parameters[backbone] = sum(parameter.numel() for parameter in network.parameters())
    return parameters


def _build(spec: Spec, home: Home, data: Prepared) -> Network:
    decode, weights, dataset = spec.data.decode, spec.model.weights, data.dataset
    start = None
    if kind_of(weights) == "study":
        start = start_file(resolve_start(weights, spec.model.backbone, home, data), 0)
    network = build_network(
        spec.model, len(dataset.classes), decode.channels, decode.side, spec.seed, start, dataset.classes
    )
    if decode.size == "native":
        require_any_size(network, spec.model.backbone, decode.channels)
    return network


def check_backbones(study: Study, home: Home) -> None:
    """Names, files and earlier studies alone: fast enough to come before any data is read."""
    for name in options(study, "backbone"):
        resolve(name)
        for weights in options(study, "weights"):
            if kind_of(weights) == "study":
                find_start(weights, name, home)
            else:
                check_weights(name, weights)
            if kind_of(weights) == "file":
                refuse_own_checkpoint(Path(weights).expanduser(), home)


def check_training_settings(study: Study, dataset: Dataset, combined: bool = True) -> None:
    """What networks do not decide: optimiser, losses, averages, generated images, each range at both of its ends.

    combined: also dependent keys in every combination that a trial can draw; an ablation changes one key at a time.
    """
    decode, multilabel, classes = study.spec.data.decode, dataset.multilabel, len(dataset.classes)
    native = decode.size == "native"
    for point in probes(study.space):
        spec = study.draw(point)
        check_optimizer(spec.optim.name)
        check_loss(spec.train, multilabel)
        check_average(spec.train)
        check_synthetic(spec.augment.synthetic, multilabel, native)
        check_drawn_lesions(spec.augment.drawn_lesions, classes, multilabel, decode.channels, native)
    for keys in DEPENDENT if combined else ():
        for point in combinations(study.space, keys):
            check_loss(study.draw(point).train, multilabel)


def options(study: Study, key: str) -> list[str]:
    """Every value that model.KEY can take."""
    range_ = study.space.get(f"model.{key}")
    return [str(v) for v in range_.options] if isinstance(range_, Choice) else [str(getattr(study.spec.model, key))]


def _largest(study: Study, name: str, fixed: float) -> float:
    """The largest number that a key can be."""
    values = extremes(study.space[name]) if name in study.space else []
    return max((value for value in values if isinstance(value, int | float)), default=fixed)


def check_disk(study: Study, home: Home, parameters: dict[str, int], trials: int) -> None:
    """Room for the checkpoints of all trials, were they all of the largest network. Raises RequestError."""
    need = disk_needed(max(parameters.values()), study.spec.data.folds, trials)
    free = shutil.disk_usage(home.root).free
    if need > free:
        raise RequestError(
            f"{home.root}: {trials} trials of {study.spec.data.folds} folds need about {need / 1e9:.1f} GB for their "
            f"checkpoints, and {free / 1e9:.1f} GB are free. Free some, set HARNESS_HOME, or --set search.trials=N."
        )


def check_same_spec(past: StudyRecord | None, study: Study) -> None:
    """The spec that the study began with, but for what may change. Raises RequestError with the difference."""
    if past is None or spec_hash(past.tree) == spec_hash(study.tree):
        return
    lines = "\n  ".join(differences(past.tree, study.tree))
    raise RequestError(
        f"study {study.name!r} has already run with another spec:\n  {lines}\n"
        f"Run this one under another name: harness study run {study.name} --as NEWNAME   (same --set options), "
        f"or go on with the old one: harness study resume {study.name}"
    )


def check_same_weights(past: StudyRecord | None, study: Study) -> None:
    """The files of weights that the study began with, by content. Raises RequestError."""
    for backbone in options(study, "backbone"):
        for weights in options(study, "weights"):
            require_same_weights(past.weights if past else {}, weights, backbone, study.name)


def check_same_data(past: StudyRecord | None, study: Study, data: Prepared) -> None:
    """The data that the study began with, by content. Raises RequestError."""
    if past is not None and (past.data_hash, past.folds_hash) != (data.dataset.data_hash, data.folds.folds_hash):
        raise RequestError(
            f"the data under {study.spec.data.root} have changed since study {study.name!r} began; its trials could "
            f"not be compared. Bring the old files back, or start anew: harness study run {study.name} --as NEWNAME"
        )


def choose_precisions(study: Study, device: str) -> dict[str, str]:
    """str(Precision) by backbone, on this machine. Raises RequestError where train.compile: true cannot be done."""
    chosen = {}
    for backbone in _backbones(study):
        model = study.spec.model.model_copy(update={"backbone": backbone})
        chosen[backbone] = str(choose_precision(study.spec.model_copy(update={"model": model}), device))
    return chosen


def say_precisions(chosen: dict[str, str], listener: Listener, kept: dict[str, str] | None = None) -> None:
    """Tell what each backbone trains in. kept: what the study began with and goes on in, whatever this machine is."""
    for backbone, precision in (kept or chosen).items():
        other = chosen.get(backbone, precision)
        if kept is None:
            listener(PrecisionChosen(f"{backbone} trains in {precision}"))
        elif other != precision:
            listener(
                PrecisionChosen(
                    f"{backbone} goes on in {precision}, as the study began; this machine by itself would take {other}"
                )
            )


def _backbones(study: Study) -> list[str]:
    range_ = study.space.get("model.backbone")
    return [str(name) for name in range_.options] if isinstance(range_, Choice) else [study.spec.model.backbone]
