"""Gather the members of an ensemble from disk: the best complete trials, their out-of-fold predictions, all checked.

Reads records and predictions, never networks: torch stays out. What does not fit is refused with trial, fold and rows;
a member whose fold model saw the rows it predicts would make every score of the ensemble a lie.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.errors import HarnessError, Leak, RequestError
from harness.store.files import file_sha256, is_done
from harness.store.home import Home
from harness.store.predictions import from_column
from harness.store.records import StudyRecord, no_best, ranked, read_trials
from harness.types import Dataset, Folds, TrialRecord


@dataclass(frozen=True)
class Member:
    """One trial's K fold checkpoints."""

    study: str
    trial: TrialRecord
    folder: Path
    """the trial's artifacts: fold_0/weights.safetensors, ..."""

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def name(self) -> str:
        return f"trial-{self.number:04d}"

    def weights(self, fold: int) -> Path:
        return self.folder / f"fold_{fold}" / "weights.safetensors"

    def predictions(self, fold: int) -> Path:
        return self.folder / f"fold_{fold}" / "predictions.parquet"


def complete_members(home: Home, study: StudyRecord, metric: str) -> list[Member]:
    """Every trial that can be a member, in the order of `store.records.ranked`: the best mean over folds first.

    Trials whose files are not finished are left out as well. Raises RequestError that tells what to type when none is
    left.
    """
    trials = read_trials(home, study.name)
    members = [
        Member(study.name, trial, home.run_artifacts(study.name, trial.run_id)) for trial in ranked(trials, metric)
    ]
    found = [member for member in members if is_done(member.folder)]
    if not found:
        raise RequestError(
            f"study {study.name!r} has {no_best(trials, metric)}, so there is nothing to "
            f"combine. Go on with it: harness study resume {study.name}   (or add trials: harness study run "
            f"{study.name} --set search.trials=N)"
        )
    return found


def best_first(members: Sequence[Member], metric: str) -> list[int]:
    """Places of the members in the order in which trials are ranked; of equals the earlier place first. Members of
    several studies may share a number."""
    trials = [replace(member.trial, number=place) for place, member in enumerate(members)]
    return [trial.number for trial in ranked(trials, metric)]


def choose_members(home: Home, study: StudyRecord, metric: str, top: int) -> list[Member]:
    """The `top` best of complete_members, by trial number; fewer where there are fewer. Raises RequestError as that."""
    if top < 1:
        raise RequestError(f"--top {top}: an ensemble needs at least one member. Type --top 5.")
    return sorted(complete_members(home, study, metric)[:top], key=lambda member: member.number)


def check_unchanged(member: Member, file: Path) -> None:
    """Raises Leak where a file is not the one that training left. Trials of earlier versions wrote no fingerprints;
    what they say is only checked against what their networks say (embed.py)."""
    name = file.relative_to(member.folder).as_posix()
    written = member.trial.files.get(name)
    if written is not None and file_sha256(file) != written:
        raise Leak(
            f"trial {member.number}: {file} is not the file that its training wrote (SHA-256 differs), so what it says "
            f"of its held-out rows cannot be trusted: refused. {_again(member)}"
        )


def read_oof(members: list[Member], dataset: Dataset, folds: Folds) -> NDArray[np.float32]:
    """(n, M, C) out-of-fold logits of the n development rows, in the order of folds.development_rows().

    Raises HarnessError that names trial, fold and rows unless every fold model predicted exactly the rows that it held
    out, each once, with the labels and groups of this data set, and every prediction is finite.
    """
    development = folds.development_rows()
    names = np.sort(dataset.ids)
    row_of_name = np.argsort(dataset.ids)
    logits = np.full((len(dataset.ids), len(members), len(dataset.classes)), np.nan, dtype=np.float32)
    for m, member in enumerate(members):
        for fold in range(folds.k):
            ids, values = _read_fold(member, fold, dataset, folds, names, row_of_name)
            logits[ids, m] = values
    for m, member in enumerate(members):
        rows = development[~np.isfinite(logits[development, m]).all(axis=1)]
        if len(rows):
            raise HarnessError(
                f"trial {member.number}: {len(rows)} development rows have no finite out-of-fold prediction, "
                f"first {dataset.ids[rows[0]]!r} of fold {folds.fold[rows[0]]}. {_again(member)}"
            )
    return logits[development]


def _read_fold(
    member: Member,
    fold: int,
    dataset: Dataset,
    folds: Folds,
    names: NDArray[np.str_],
    row_of_name: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows (n,) and logits (n, C) of one fold's predictions file, checked against data set and folds."""
    place = f"trial {member.number}, fold {fold}"
    path = member.predictions(fold)
    try:
        check_unchanged(member, path)
        table = pq.read_table(path, columns=["id", "group", "y", "logits"], use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise HarnessError(f"{place}: {path} cannot be read ({error}). {_again(member)}") from error
    ids = np.asarray(table["id"].to_numpy(), dtype=np.str_)
    position = np.minimum(np.searchsorted(names, ids), len(names) - 1)
    unknown = names[position] != ids
    if unknown.any():
        raise HarnessError(
            f"{place}: predicts {int(unknown.sum())} images that the study's data does not have, "
            f"first {ids[unknown][0]!r}. {_again(member)}"
        )
    rows = row_of_name[position]
    held_out = folds.held_out_rows(fold)
    seen = np.setdiff1d(rows, held_out)
    if len(seen):
        raise Leak(
            f"{place}: {len(seen)} of its predicted rows are not the ones that it held out, so its network may have "
            f"trained on them; first {dataset.ids[seen[0]]!r} (fold {folds.fold[seen[0]]}). A score over them would "
            f"leak: refused. {_again(member)}"
        )
    missing = np.setdiff1d(held_out, rows)
    if len(missing) or len(rows) != len(held_out):
        first = missing[0] if len(missing) else rows[np.flatnonzero(np.bincount(rows)[rows] > 1)[0]]
        raise HarnessError(
            f"{place}: {len(missing)} held-out rows have no prediction and {len(rows) + len(missing) - len(held_out)} "
            f"have several; first {dataset.ids[first]!r}. {_again(member)}"
        )
    y, wanted = from_column(table["y"]), dataset.y[rows]
    if y is None or y.shape != wanted.shape:
        raise HarnessError(f"{place}: its labels are not those of the study's task. {_again(member)}")
    other_label = (y != wanted).reshape(len(rows), -1).any(axis=1)
    groups = np.asarray(table["group"].to_numpy(), dtype=np.str_)
    other_group = groups != dataset.groups[rows]
    if len(dataset.identities):  # what trials of earlier versions wrote
        other_group &= groups != dataset.identities[rows]
    for what, differs in (("label", other_label), ("group", other_group)):
        if differs.any():
            raise HarnessError(
                f"{place}: {int(differs.sum())} rows carry another {what} than the study's data, first "
                f"{ids[differs][0]!r}. {_again(member)}"
            )
    values = from_column(table["logits"])
    if values is None or values.shape != (len(rows), len(dataset.classes)):
        raise HarnessError(f"{place}: its logits are not {len(dataset.classes)} numbers a row. {_again(member)}")
    return rows, values.astype(np.float32)


def _again(member: Member) -> str:
    return (
        f"The files of trial {member.number} in {member.folder} do not belong to this study as it stands: "
        "leave the trial out by a smaller --top, or run the study under a new name (--as NEWNAME)."
    )
