"""What can be known to be wrong before trial 0: another spec or other data than before, networks, weights, disk."""

import shutil
from typing import Any

from harness.data.prepare import Prepared
from harness.errors import RequestError
from harness.home import Home
from harness.ledger import StudyRecord
from harness.models.backbones import check_weights, resolve
from harness.models.network import Network, build_network, require_any_size
from harness.records import Dataset
from harness.study.load import Study, differences, spec_hash
from harness.study.space import Choice, extremes


def check_networks(study: Study, dataset: Dataset) -> None:
    """Build every network that the study can draw, at the ends of its `model` ranges. Raises RequestError."""
    first: dict[str, Any] = {name: extremes(range_)[0] for name, range_ in study.space.items()}
    model_ranges = {name: range_ for name, range_ in study.space.items() if name.startswith("model.")}
    variants = [first] + [{**first, name: v} for name, range_ in model_ranges.items() for v in extremes(range_)[1:]]
    for values in variants:
        _build(study, values, dataset)


def _build(study: Study, values: dict[str, Any], dataset: Dataset) -> Network:
    spec = study.draw(values)
    decode = spec.data.decode
    network = build_network(spec.model, len(dataset.classes), decode.channels, decode.side, spec.seed)
    if decode.size == "native":
        require_any_size(network, spec.model.backbone, decode.channels)
    return network


def check_backbones(study: Study) -> None:
    """Names and files alone: fast enough to come before any data is read."""
    for name in _options(study, "backbone"):
        resolve(name)
        for weights in _options(study, "weights"):
            check_weights(name, weights)


def _options(study: Study, key: str) -> list[str]:
    """Every value that model.KEY can take."""
    range_ = study.space.get(f"model.{key}")
    return [str(v) for v in range_.options] if isinstance(range_, Choice) else [str(getattr(study.spec.model, key))]


def check_disk(study: Study, home: Home, dataset: Dataset, trials: int) -> None:
    """Room for the checkpoints of all trials, and for one resume state with the optimiser. Raises RequestError."""
    first: dict[str, Any] = {name: extremes(range_)[0] for name, range_ in study.space.items()}
    size = 4 * sum(int(p.numel()) for p in _build(study, first, dataset).parameters())
    need = size * (study.spec.data.folds * trials + 4)
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


def check_same_data(past: StudyRecord | None, study: Study, data: Prepared) -> None:
    """The data that the study began with, by content. Raises RequestError."""
    if past is not None and (past.data_hash, past.folds_hash) != (data.dataset.data_hash, data.folds.folds_hash):
        raise RequestError(
            f"the data under {study.spec.data.root} have changed since study {study.name!r} began; its trials could "
            f"not be compared. Bring the old files back, or start anew: harness study run {study.name} --as NEWNAME"
        )
