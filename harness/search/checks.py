"""What can be known to be wrong before trial 0: another spec or other data than before, networks, weights, disk."""

import shutil
from pathlib import Path
from typing import Any

from harness.augment.drawn_lesions import check_drawn_lesions
from harness.augment.synthetic import check_synthetic
from harness.config.load import Study, differences, spec_hash
from harness.config.space import Choice, combinations, extremes, probes
from harness.config.spec import Spec
from harness.data.prepare import Prepared
from harness.errors import RequestError
from harness.models.backbones import check_weights, resolve
from harness.models.network import Network, build_network, require_any_size, require_same_weights
from harness.models.stages import require_level
from harness.models.weights import kind_of
from harness.search.disk import disk_needed
from harness.search.start import find_start, refuse_own_checkpoint, resolve_start, start_file
from harness.store.home import Home
from harness.store.records import StudyRecord
from harness.train.loss import check_loss
from harness.train.optim import check_average, check_optimizer
from harness.types import Dataset

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


def check_training(study: Study, dataset: Dataset, combined: bool = True) -> None:
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
