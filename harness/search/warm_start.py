"""Where the folds of a study start when model.weights names an earlier study, and whether they may.

A fold that starts from a network which has seen the rows that it is scored on would be flattered by them. So fold k
starts from fold k where both studies have the same rows in the same folds; and otherwise only where no image and no
group of the earlier study's development rows is anywhere in the new one, whose every row is held out once.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness.config.load import build_spec
from harness.config.space import fill
from harness.data.people import identities
from harness.data.prepare import Prepared
from harness.errors import RequestError, nearest
from harness.models.backbones import resolve
from harness.models.network import read_header
from harness.models.weights import kind_of
from harness.store.files import is_done
from harness.store.home import Home
from harness.store.records import StudyRecord, best_trial, list_studies, no_best, read_study, read_trials
from harness.train.checkpoint import NO_FOLD, SEVERAL

PREFIX = "study:"


@dataclass(frozen=True)
class Start:
    """A finished trial whose fold checkpoints others start from."""

    study: StudyRecord
    number: int
    folder: Path
    """the trial's artifacts: fold_0/weights.safetensors, ..."""
    weights: str
    """what that trial itself started from, as its model.weights says"""
    backbone: str
    folds: int
    selected: bool
    """whether its epochs were chosen on the folds that it is scored on"""


def pin_starts(weights: list[str], backbones: list[str], home: Home) -> dict[str, str]:
    """What each `study:NAME` means today, for each backbone: {"study:NAME resnet18": "study:NAME/7"}."""
    open_ = [one for one in weights if kind_of(one) == "study" and "/" not in one]
    return {_pin(one, name): f"{one}/{find_start(one, name, home).number}" for one in open_ for name in backbones}


def pinned(weights: str, backbone: str, record: StudyRecord) -> str:
    """What `weights` meant for this backbone when the study began."""
    return record.starts.get(_pin(weights, backbone), weights)


def _pin(weights: str, backbone: str) -> str:
    return f"{weights} {backbone}"


def start_files(weights: str, backbone: str, home: Home, data: Prepared) -> tuple[Path, ...]:
    """For each fold the checkpoint that it starts from; () where `weights` names no study. Raises as resolve_start."""
    if kind_of(weights) != "study":
        return ()
    folder = resolve_start(weights, backbone, home, data)
    return tuple(start_file(folder, fold) for fold in range(data.folds.k))


def resolve_start(weights: str, backbone: str, home: Home, data: Prepared) -> Path:
    """The folder of the artifacts that `study:NAME` (its best trial of that backbone) or `study:NAME/7` means.

    Raises RequestError where there is no such finished trial, and where it, or whatever it started from itself, has
    seen rows that a fold of `data` holds out.
    """
    start = find_start(weights, backbone, home)
    _require_unseen(start, weights, home, data, same_k=True)
    return start.folder


def start_file(folder: Path, fold: int) -> Path:
    """The checkpoint that fold `fold` starts from: that of the same number; with fewer folds there, counted round."""
    count = len(list(folder.glob("fold_*/weights.safetensors")))
    return folder / f"fold_{fold % max(count, 1)}" / "weights.safetensors"


def find_start(weights: str, backbone: str, home: Home) -> Start:
    """The trial that `weights` names, its files there. Raises RequestError that says what to type.

    A trial named by its number is taken as it is: whether its network fits is seen when it is loaded.
    """
    name, slash, number = weights.removeprefix(PREFIX).partition("/")
    if not name or (slash and not number.isdecimal()):
        raise RequestError(
            f"model.weights: {weights}: write study:NAME for its best trial of the same backbone, or "
            "study:NAME/7 for trial 7."
        )
    record = read_study(home, name)
    if record is None:
        known = [study.name for study in list_studies(home)]
        raise RequestError(
            f"model.weights: {weights}: study {name!r} has not run in {home.root}.{nearest(name, known)} "
            f"Studies that ran: {', '.join(known) or 'none'}."
        )
    trials = read_trials(home, name)
    complete = [trial for trial in trials if trial.state == "complete"]
    specs = {t.number: build_spec(fill(record.tree, t.params), f"trial {t.number} of {name}") for t in complete}
    if slash:
        wanted = [trial for trial in complete if trial.number == int(number)]
    else:
        wanted = [trial for trial in complete if _same_network(specs[trial.number].model.backbone, backbone)]
    metric = record.tree["search"]["metric"]
    chosen = best_trial(wanted, metric) if not slash else next(iter(wanted), None)
    if chosen is None and wanted and not slash:
        raise RequestError(
            f"model.weights: {weights}: of those with a {backbone} study {name!r} has {no_best(wanted, metric)}. "
            f"Name one: {PREFIX}{name}/{wanted[0].number}"
        )
    if chosen is None and complete and not slash:
        there = ", ".join(dict.fromkeys(spec.model.backbone for spec in specs.values()))
        raise RequestError(
            f"model.weights: {weights}: no complete trial of study {name!r} has a {backbone} (there: {there}). Set "
            f"model.backbone to one of those, or run one: harness study run {name} --as {name}_{backbone} --set "
            f"model.backbone={backbone}"
        )
    if chosen is None:
        numbers = ", ".join(str(trial.number) for trial in complete) or "none"
        raise RequestError(
            f"model.weights: {weights}: study {name!r} has no complete trial{f' {number}' if slash else ''} "
            f"(complete: {numbers})."
        )
    folder = home.run_artifacts(name, chosen.run_id)
    spec = specs[chosen.number]
    files = [folder / f"fold_{fold}" / "weights.safetensors" for fold in range(spec.data.folds)]
    missing = [file for file in files if not file.is_file()]
    if missing or not is_done(folder):
        raise RequestError(
            f"model.weights: {weights}: trial {chosen.number} has lost its files ({len(missing)} of {len(files)} "
            f"checkpoints are not under {folder}). Name another trial (complete: {name}/N)."
        )
    own = pinned(spec.model.weights, spec.model.backbone, record)
    chose = spec.train.select == "scored_fold"
    return Start(record, chosen.number, folder, own, spec.model.backbone, spec.data.folds, chose)


def _same_network(one: str, other: str) -> bool:
    """Whether two names mean one network: `resnet18` and `timm/resnet18.a1_in1k` do."""
    found, wanted = resolve(one), resolve(other)
    return (found.library, found.model) == (wanted.library, wanted.model)


def _require_unseen(start: Start, weights: str, home: Home, data: Prepared, same_k: bool) -> None:
    """Raises RequestError where a checkpoint, or one that it descends from, has seen what a fold holds out."""
    record = start.study
    same_k = same_k and start.folds == data.folds.k  # so that fold k descends from fold k all the way
    same = (record.data_hash, record.folds_hash) == (data.dataset.data_hash, data.folds.folds_hash)
    if not (same and same_k):
        _require_no_overlap(start, weights, home, data)
    elif start.selected:
        raise RequestError(
            f"model.weights: {weights}: trial {start.number} of study {record.name!r} chose its epochs on the folds "
            "that it is scored on (train.select: scored_fold), so what starts from it would be flattered. Name a trial "
            "with train.select: last or inner, or set model.weights to none or pretrained."
        )
    if kind_of(start.weights) == "study":
        _require_unseen(find_start(start.weights, start.backbone, home), weights, home, data, same_k)


def _require_no_overlap(start: Start, weights: str, home: Home, data: Prepared) -> None:
    name = start.study.name
    seen = pd.concat(
        [
            pd.read_parquet(start.folder / f"fold_{fold}" / "predictions.parquet", columns=["id", "group"])
            for fold in range(start.folds)
        ]
    )
    there, here = _digests(start.study.caches, home), _digests(list(data.caches), home)
    if not there or not set(seen["id"]) <= set(there):
        raise RequestError(
            f"model.weights: {weights}: which images study {name!r} was trained on is no longer known: its pixel store "
            f"was removed. Bring it back: harness study run {name}   (nothing is trained again)"
        )
    contents = {there[one] for one in seen["id"]}
    ids, groups = data.dataset.ids, data.dataset.groups
    images = np.array([here[one] in contents for one in ids.tolist()])
    people = identities(home, name, seen["id"].to_numpy(dtype=np.str_), seen["group"].to_numpy(dtype=np.str_))
    # who is known by the name of a file is no person: another data set may use the same file names
    known = np.isin(data.dataset.identities, sorted(set(people.tolist()) - set(there)))
    shared = np.isin(groups, groups[known])
    count = int((images | shared).sum())
    if not count:
        return
    held_out = int(((images | shared) & (data.folds.fold < 0)).sum())
    folk = len(set(groups[shared].tolist()))
    raise RequestError(
        f"model.weights: {weights}: trial {start.number} of study {name!r} was trained on {int(images.sum())} of this "
        f"study's {len(ids)} images and on {folk} of its {len(set(groups.tolist()))} groups: {count} images in all, "
        f"{held_out} of them in the test split. Every fold that holds one of them out would be flattered. Starting "
        "from an earlier study is honest with the same data, data.folds, data.test_fraction and seed, where fold k "
        f"starts from fold k, or with data of other patients. Take over that study's data block and its seed "
        f"({start.study.tree['seed']}), or set model.weights to none or pretrained. (Other patients under the same "
        "names: write a prefix before theirs in the column of data.group.)"
    )


def _digests(caches: list[str], home: Home) -> dict[str, str]:
    """Digest of the file's contents by id, from the pixel stores among a study's caches."""
    found: dict[str, str] = {}
    for cache in caches:
        path = home.pixels / cache / "rows.parquet"
        if path.exists():
            table = pd.read_parquet(path)
            if {"id", "digest"} <= set(table.columns):
                found |= dict(zip(table["id"], table["digest"], strict=True))
    return found


def refuse_own_checkpoint(path: Path, home: Home) -> None:
    """A fold checkpoint given by its path would start every fold, those that it must not see, too; and what it has seen
    itself stands in its study's records, not in the file. So only study:NAME, which checks that, is taken.
    RequestError."""
    header = read_header(path)
    if header is None:
        return
    name, trial = header["study"], header["trial"]
    if read_study(home, name) is None:
        raise RequestError(
            f"model.weights: {path} was trained by study {name!r}, which this home ({home.root}) does not know, so "
            "nobody can tell whether it has seen images or patients that a fold here holds out. Work in the home of "
            f"that study (HARNESS_HOME=ITS_MLRUNS) with model.weights={PREFIX}{name}, which checks it; or set "
            "model.weights to none or pretrained."
        )
    if header["fold"] == NO_FOLD:
        raise RequestError(
            f"model.weights: {path} was made over all folds of study {name!r} (a soup or a resample), so it has seen "
            "rows that a fold here holds out. Set model.weights to none, pretrained or "
            f"{PREFIX}{name}, where each fold starts from the one that has not seen its rows."
        )
    where = f"{PREFIX}{name}" if trial == SEVERAL else f"{PREFIX}{name}/{trial}"
    raise RequestError(
        f"model.weights: {path} is fold {header['fold']} of trial {trial} of study {name!r}. Write "
        f"model.weights={where}: then each fold starts from the one that has not seen its rows, and what was seen is "
        "checked."
    )
