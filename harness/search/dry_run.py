"""What `study run` would do, and how long it would take: every check, then nothing.

No record of the study is made, in no store. What was found of the data (headers, folds, pixels) is kept, as by
`data scan`, and the study finds it there.
"""

import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from harness.config.load import Study
from harness.config.space import Choice, Range
from harness.data.prepare import Prepared
from harness.search import ray_workers, run
from harness.search.estimate import estimate_study
from harness.search.ray_workers import Cluster
from harness.search.run import check_data, check_request, check_training, choose_precisions, count_ended
from harness.search.samplers import total_trials
from harness.store.home import Home
from harness.store.records import read_study
from harness.types import Estimate, Listener


@dataclass(frozen=True)
class Part:
    """A fold, or the test split."""

    name: str
    rows: int
    groups: int
    counts: list[int]
    """rows of each class"""


@dataclass(frozen=True)
class DryRun:
    study: str
    state: str
    """new, or as an earlier run left it"""
    trials: int
    done: int
    """trials that earlier runs ended"""
    devices: list[str]
    jobs: int
    metric: str
    sampler: str
    pruner: str
    varies: dict[str, str]
    """each searched key with its range in words"""
    folds: int
    epochs: str
    backbones: dict[str, int]
    """parameters by name"""
    precision: dict[str, str]
    """by backbone; empty on a cluster, whose nodes measure it themselves"""
    images: int
    groups: int
    classes: tuple[str, ...]
    parts: list[Part]
    warnings: list[str]
    """findings of the audit that do not block"""
    estimate: Estimate | None
    """of the trials that are left; None where there are none, on a cluster, and where a probe failed"""
    disk_free: int
    """bytes"""


def dry_run(
    study: Study, home: Home, jobs: int, device: str, listener: Listener, cluster: Cluster | None = None
) -> DryRun:
    """Raises RequestError exactly where `run_study` would before its first trial."""
    devices = check_request(study, home, jobs, device, cluster)
    past = read_study(home, study.name)
    data = check_data(study, past, home, listener)
    total, done = total_trials(study), count_ended(home, study.name)
    left = max(total - done, 0)
    precision: dict[str, str] = {}
    estimate = None
    with ray_workers.joined(cluster) if cluster else nullcontext():
        if left:
            run.check_same_weights(past, study)
        parameters = check_training(study, home, data, left)
        if cluster:
            ray_workers.check_nodes(study, home, cluster)
        elif left:
            known = past.precision if past else {}
            precision = known or choose_precisions(study, devices[0])
            estimate = estimate_study(study, data, precision, parameters, devices[0], jobs, left, listener)
    return DryRun(
        study=study.name,
        state=past.state if past else "new",
        trials=total,
        done=done,
        devices=devices,
        jobs=jobs,
        metric=study.spec.search.metric,
        sampler=study.spec.search.sampler,
        pruner=study.spec.search.pruner,
        varies={name: range_in_words(range_) for name, range_ in study.space.items()},
        folds=data.folds.k,
        epochs=_constant_or_range(study, "train.epochs", study.spec.train.epochs),
        backbones=parameters,
        precision=precision,
        images=len(data.dataset.ids),
        groups=len(set(data.dataset.groups.tolist())),
        classes=data.dataset.classes,
        parts=_parts(data),
        warnings=[finding.message for finding in data.findings],
        estimate=estimate,
        disk_free=shutil.disk_usage(home.root).free,
    )


def range_in_words(range_: Range) -> str:
    """'1e-05 to 0.01, log', 'one of 0, 0.5'"""
    if isinstance(range_, Choice):
        words = f"one of {', '.join(_word(option) for option in range_.options)}"
    else:
        words = f"{_word(range_.low)} to {_word(range_.high)}"
        words += ", log" if range_.log else ""
        words += f", step {_word(range_.step)}" if range_.step not in (None, 1) else ""
    when = [f"{key} is {' or '.join(_word(value) for value in values)}" for key, values in range_.when]
    return words + (f", when {' and '.join(when)}" if when else "")


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if value is None else str(value)


def _constant_or_range(study: Study, name: str, constant: int) -> str:
    return range_in_words(study.space[name]) if name in study.space else str(constant)


def _parts(data: Prepared) -> list[Part]:
    folds = [(f"fold {fold}", data.folds.held_out_rows(fold)) for fold in range(data.folds.k)]
    groups = data.dataset.groups
    return [
        Part(name, len(rows), len(set(groups[rows].tolist())), data.dataset.counts(rows))
        for name, rows in [*folds, ("test", data.folds.test_rows())]
    ]
