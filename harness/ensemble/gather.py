"""Gather what every method is fitted on and scored on: members, out-of-fold table, their networks' outputs.

Reads what stage 1 left on disk and trains no network. One gathering serves any number of methods, so images go through
a network once.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.config.load import check_study
from harness.config.spec import Spec
from harness.data.prepare import Prepared, prepare
from harness.ensemble.embed import EncoderCache, StudyOutputs, read_encoders
from harness.ensemble.members import Member, choose_members, complete_members, read_oof
from harness.ensemble.nestable import require_nestable
from harness.ensemble.nested import Chosen
from harness.ensemble.oof import OofTable
from harness.ensemble.pool import Pool, choose_without, gather_pool
from harness.ensemble.scores import Rows
from harness.errors import RequestError
from harness.store.home import Home
from harness.store.records import StudyRecord
from harness.train.checkpoint import FoldMeta
from harness.types import Dataset, Progress


@dataclass(frozen=True)
class Gathered:
    """The members of an ensemble and all that is known of them. Letters as in oof.py."""

    studies: tuple[StudyRecord, ...]
    spec: Spec
    """of the first study, whose search metric chooses"""
    top: int
    members: tuple[Member, ...]
    metas: tuple[tuple[FoldMeta, ...], ...]
    """M x K, what the checkpoints say of themselves"""
    names: tuple[str, ...]
    """M, such as trial-0007; STUDY/trial-0007 where the members come from several studies"""
    data: Prepared
    """of the first study; its data set and folds are everyone's, its pixels maybe not"""
    table: OofTable
    outputs: StudyOutputs
    test_logits: NDArray[np.float32]
    """(M, K, T, C)"""
    development: Rows
    test: Rows
    pool: Pool
    """every trial that could have been a member"""
    choices: tuple[Chosen, ...] | None
    """for each fold the members that would have been chosen without it, as places in the pool; None where the metric is
    not defined without some fold"""

    @property
    def metric(self) -> str:
        return self.spec.search.metric

    @property
    def labels(self) -> list[int | str]:
        """M trial numbers; names where the members come from several studies."""
        if len(self.studies) > 1:
            return list(self.names)
        return [member.number for member in self.members]

    @property
    def titles(self) -> list[str]:
        """M names with their backbones, for people."""
        return [f"{name} ({metas[0].model['backbone']})" for name, metas in zip(self.names, self.metas, strict=True)]


def gather(
    home: Home, studies: list[StudyRecord], top: int, device: str, progress: Progress, nested: bool = False
) -> Gathered:
    """The `top` best complete trials of each study, by their mean over folds of the search metric, checked and run on
    the test rows. nested: whether they are to be trained again without pairs of folds.

    Raises RequestError when there is nothing to build from, the data are not those of a study, or the studies do not
    share rows, folds and classes; Leak when a member's files do not fit the rows they would be scored on, HarnessError
    when they are damaged.
    """
    specs = [check_study(study.tree, f"study {study.name}").spec for study in studies]
    prepared = [prepare(spec.data, spec.seed, home, progress) for spec in specs]
    for study, data in zip(studies, prepared, strict=True):
        _check_same_data(study, data)
    for study, own in zip(studies[1:], prepared[1:], strict=True):
        _check_agree(studies[0], study, prepared[0].dataset, own.dataset)
    data, metric = prepared[0], specs[0].search.metric
    members = [member for study in studies for member in choose_members(home, study, metric, top)]
    if nested:
        require_nestable(members, studies, data.folds.k)
    caches = {
        study.name: EncoderCache(home, study.name, own.dataset, own.pixels, device)
        for study, own in zip(studies, prepared, strict=True)
    }
    metas = read_encoders(members, data.dataset, data.folds)
    rows = data.folds.development_rows()
    table = OofTable(
        y=data.dataset.y[rows],
        groups=data.dataset.groups[rows],
        fold=data.folds.fold[rows],
        logits=read_oof(members, data.dataset, data.folds),
        encoder_ids=tuple(tuple(meta.encoder_id for meta in row) for row in metas),
    )
    outputs = StudyOutputs([caches[one.study] for one in members], members, metas, data.folds, table.logits)
    test, per_group = data.folds.test_rows(), specs[0].data.per_group
    many = len(studies) > 1
    rivals = [trial for study in studies for trial in complete_members(home, study, metric)]
    pool = gather_pool(members, table, metas, rivals, caches, data)
    return Gathered(
        studies=tuple(studies),
        spec=specs[0],
        top=top,
        members=tuple(members),
        metas=tuple(tuple(row) for row in metas),
        names=tuple(f"{member.study}/{member.name}" if many else member.name for member in members),
        data=data,
        table=table,
        outputs=outputs,
        test_logits=outputs.test_logits(progress),
        development=Rows(table.y, table.groups, per_group, table.fold),
        test=Rows(data.dataset.y[test], data.dataset.groups[test], per_group),
        pool=pool,
        choices=choose_without(pool, metric, top),
    )


def _check_same_data(study: StudyRecord, data: Prepared) -> None:
    if (data.dataset.data_hash, data.folds.folds_hash) != (study.data_hash, study.folds_hash):
        raise RequestError(
            f"the data of study {study.name!r} have changed since it ran, so its folds are no longer these. Bring the "
            f"old files back, or train anew: harness study run {study.name} --as NEWNAME"
        )


def _check_agree(first: StudyRecord, other: StudyRecord, of_first: Dataset, of_other: Dataset) -> None:
    if of_first.classes != of_other.classes or of_first.multilabel != of_other.multilabel:
        raise RequestError(
            f"studies {first.name!r} and {other.name!r} differ in classes: {', '.join(of_first.classes)} and "
            f"{', '.join(of_other.classes)}, in this order. Give both the same data.classes, or build an ensemble of "
            "each."
        )
    for what, key in (("rows, labels or groups", "data_hash"), ("folds", "folds_hash")):
        if getattr(first, key) != getattr(other, key):
            raise RequestError(
                f"studies {first.name!r} and {other.name!r} differ in {what} ({key} {getattr(first, key)} and "
                f"{getattr(other, key)}): a row that one held out, the other may have trained on. Give both the same "
                "data block (but for data.decode) and seed, or build an ensemble of each."
            )
