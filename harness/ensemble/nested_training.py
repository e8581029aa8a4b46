"""Train the members' networks again without each pair of folds: what `ensemble build --nested full` rests on.

For a member of K folds these are K (K - 1) / 2 trainings, each a little shorter than that of a fold, by the trial's own
settings, data, number format and seed. The network without folds j and k lies in the trial's artifacts under
pairs/J-K/, whole and with DONE, so that later builds of any method use it; its state while it trains lies in the work
folder of the study, so a build that was killed goes on where it was. nested.py says what is made of them.
"""

import math
import shutil
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from harness.config.spec import Spec
from harness.data.prepare import Prepared
from harness.ensemble.inputs import Gathered, member_spec, require_nestable
from harness.ensemble.members import Member
from harness.ensemble.nested import PairEmbed, PairTable
from harness.errors import HarnessError
from harness.hardware import give_back
from harness.output.format import plural, span
from harness.store.files import is_done
from harness.store.home import Home, lock
from harness.train.checkpoint import NO_FOLD, FoldMeta, read_meta
from harness.train.cross_validation import Part, read_fold, train_part
from harness.train.precision import parse_precision, threads_of
from harness.types import EpochReport, FoldResult, Progress

FIRST_NUMBER, MOST_FOLDS = 1000, 50
"""a pair's random draws are named by FIRST_NUMBER + MOST_FOLDS j + k, which is no number of a fold or a resample"""
SET = "nested"
"""of the rows whose embeddings are kept"""


@dataclass(frozen=True)
class _Training:
    """One network to train, or to read."""

    member: int
    pair: tuple[int, int]
    spec: Spec
    precision: str
    part: Part


@dataclass(frozen=True)
class Plan:
    """What `--nested full` has to train."""

    trainings: tuple[_Training, ...]
    missing: tuple[_Training, ...]
    """those that no earlier build has made"""
    seconds: float
    """what the missing ones are thought to take, from what the members' own folds took; NaN where that is not known"""

    def __str__(self) -> str:
        total, missing = len(self.trainings), len(self.missing)
        if not missing:
            return f"nested full: all {total} networks without a pair of folds are there, nothing is trained."
        known = f", about {span(self.seconds * 0.8, self.seconds * 1.3)}" if math.isfinite(self.seconds) else ""
        kept = f" ({total - missing} of {total} are there already)" if missing < total else ""
        return f"nested full: trains {plural(missing, 'network')} without a pair of folds{kept}{known}."


@dataclass(frozen=True)
class Pairs:
    """What the networks without pairs of folds say."""

    table: PairTable
    embed: PairEmbed


def plan_pairs(home: Home, found: Gathered) -> Plan:
    """Raises RequestError as require_nestable."""
    k = found.data.folds.k
    require_nestable(found.members, found.studies, k)
    trainings = []
    for m, member in enumerate(found.members):
        study = next(one for one in found.studies if one.name == member.study)
        spec = member_spec(member, study)
        for pair in combinations(range(k), 2):
            part = _part(home, found.data, member, pair)
            trainings.append(_Training(m, pair, spec, study.precision[spec.model.backbone], part))
    missing = tuple(one for one in trainings if not _is_kept(one, found))
    seconds = sum(found.members[one.member].trial.seconds / k * (k - 2) / (k - 1) for one in missing)
    return Plan(tuple(trainings), missing, seconds if seconds > 0 else math.nan)


def train_pairs(home: Home, found: Gathered, plan: Plan, device: str, progress: Progress) -> Pairs:
    """Train what is missing, and read what all of them say. Raises HarnessError where a training fails."""
    epochs = [one.spec.train.epochs for one in plan.missing]
    for place, one in enumerate(plan.missing):
        member = found.members[one.member]
        data = replace(found.data, pixels=found.outputs.cache(one.member).pixels)
        before, total = sum(epochs[:place]), sum(epochs)

        def on_epoch(report: EpochReport, before: int = before, total: int = total) -> None:
            progress("epochs of networks without a pair of folds", before + report.epoch + 1, total)

        precision = parse_precision(one.precision)
        try:
            with lock(home.work(member.study) / "pairs.lock", f"training for --nested full of study {member.study!r}"):
                if _is_kept(one, found):
                    continue
                with threads_of(precision):
                    train_part(one.spec, data, one.part, member.study, member.number, device, precision, on_epoch)
        except HarnessError as error:
            where = f"{member.name} of study {member.study}, without folds {one.pair[0]} and {one.pair[1]}"
            raise type(error)(f"{where}: {error}") from error
        finally:
            give_back()
    return _read(found, plan)


def _read(found: Gathered, plan: Plan) -> Pairs:
    data, table, k = found.data, found.table, found.data.folds.k
    development = data.folds.development_rows()
    members = len(found.members)
    logits = np.full((len(development), k, members, table.classes), np.nan, dtype=np.float32)
    metas: dict[tuple[int, int, int], FoldMeta] = {}
    weights: dict[tuple[int, int, int], Path] = {}
    for one in plan.trainings:
        m, (j, other) = one.member, one.pair
        result = _result(one.part, data)
        places = np.searchsorted(development, result.rows)
        # a row of fold j is the one that this network predicts for the fit that leaves out the other, and the reverse
        logits[places, np.where(table.fold[places] == j, other, j), m] = result.logits
        for key in ((m, j, other), (m, other, j)):
            weights[key] = one.part.folder / "weights.safetensors"
            metas[key] = read_meta(weights[key])
    names = tuple(
        tuple(tuple(metas[m, j, i].encoder_id if i != j else "" for i in range(k)) for j in range(k))
        for m in range(members)
    )

    def embed(m: int, j: int, i: int) -> np.ndarray:
        cache = found.outputs.cache(m)
        return cache.outputs(metas[m, j, i], weights[m, j, i], {SET: development})[0].embeddings

    return Pairs(PairTable(table.y, table.groups, table.fold, logits, names), embed)


def _part(home: Home, data: Prepared, member: Member, pair: tuple[int, int]) -> Part:
    j, k = pair
    fold = data.folds.fold
    held_out = np.flatnonzero((fold == j) | (fold == k))
    train = np.setdiff1d(data.folds.development_rows(), held_out)
    name = f"{j}-{k}"
    state = home.work(member.study) / "pairs" / f"{member.name}-{name}.pt"
    return Part(FIRST_NUMBER + MOST_FOLDS * j + k, NO_FOLD, train, held_out, member.folder / "pairs" / name, state)


def _is_kept(one: _Training, found: Gathered) -> bool:
    """Whether its network is there, whole and of these data; what is of others is removed."""
    folder, member = one.part.folder, found.members[one.member]
    if not is_done(folder):
        return False
    wanted = (member.study, member.number, NO_FOLD, found.data.dataset.data_hash, found.data.folds.folds_hash)
    try:
        meta = read_meta(folder / "weights.safetensors")
        result = _result(one.part, found.data)
        same_rows = np.array_equal(np.sort(result.rows), one.part.held_out) and bool(np.isfinite(result.logits).all())
    except (HarnessError, OSError, KeyError, ValueError):
        meta, same_rows = None, False
    if meta and same_rows and wanted == (meta.study, meta.trial, meta.fold, meta.data_hash, meta.folds_hash):
        return True
    shutil.rmtree(folder)
    return False


def _result(part: Part, data: Prepared) -> FoldResult:
    return read_fold(part.folder, part.number, data)
