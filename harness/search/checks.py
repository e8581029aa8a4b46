"""What can be known to be wrong before trial 0: networks, weights, disk."""

import shutil
from typing import Any

from harness.errors import RequestError
from harness.home import Home
from harness.models.backbones import resolve
from harness.models.network import Network, build_network
from harness.records import Dataset
from harness.study.load import Study
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
    return build_network(spec.model, len(dataset.classes), decode.channels, decode.size, spec.seed)


def check_backbones(study: Study) -> None:
    """The names alone: fast enough to come before any data is read."""
    range_ = study.space.get("model.backbone")
    for name in range_.options if isinstance(range_, Choice) else [study.spec.model.backbone]:
        resolve(str(name))


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
