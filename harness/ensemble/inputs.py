"""Everything that methods are fitted and scored on, and the trials that could be members.

Gather what every method is fitted on and scored on: members, out-of-fold table, their networks' outputs.

Reads what stage 1 left on disk and trains no network. One gathering serves any number of methods, so images go through
a network once.

The trials that an ensemble's members were chosen from: what it takes to choose again without a fold.

Reads predictions and the headers of checkpoints; a network is run only where a method on embeddings asks for it.

Whether members can be trained again without a pair of folds, before anything is done for it: see nested_training.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.config.load import build_spec, check_study
from harness.config.space import fill
from harness.config.spec import Spec
from harness.data.prepare import Prepared, prepare
from harness.ensemble.embed import EncoderCache, StudyOutputs, read_encoders
from harness.ensemble.members import Member, choose_members, complete_members, read_oof
from harness.ensemble.methods import Method
from harness.ensemble.nested import Chosen, best, stitched, too_few_folds, values_without
from harness.ensemble.oof import Embed, OofTable, single_oof, without_fold
from harness.ensemble.scores import Rows
from harness.errors import HarnessError, RequestError
from harness.models.network import require_same_weights
from harness.models.weights import kind_of
from harness.store.home import Home
from harness.store.records import StudyRecord
from harness.train.checkpoint import FoldMeta
from harness.types import Dataset, Progress, silent


@dataclass(frozen=True)
class Pool:
    """P trials, study by study and by number: an order that no label has a say in, which ties are settled by."""

    members: tuple[Member, ...]
    table: OofTable
    """as if all P were members"""
    outputs: StudyOutputs
    chosen: Chosen
    """places of the ensemble's members, in their order"""
    left_out: dict[str, str]
    """why a trial is not in the pool, by its name: its files cannot be read or do not fit"""

    @property
    def parts(self) -> list[str]:
        return [member.study for member in self.members]


def gather_pool(
    members: Sequence[Member],
    table: OofTable,
    metas: Sequence[Sequence[FoldMeta]],
    rivals: Sequence[Member],
    caches: Mapping[str, EncoderCache],
    data: Prepared,
) -> Pool:
    """members, table and metas: of the ensemble; rivals: every trial that can be a member, these too. One whose files
    do not fit is left out with its reason: it could not have been a member."""
    places = {(member.study, member.number): place for place, member in enumerate(members)}
    everyone: list[Member] = []
    of_everyone: list[Sequence[FoldMeta]] = []
    logits: list[NDArray[np.float32]] = []
    left_out: dict[str, str] = {}
    studies = list(caches)
    for rival in sorted(rivals, key=lambda one: (studies.index(one.study), one.number)):
        place = places.get((rival.study, rival.number))
        try:
            own = metas[place] if place is not None else read_encoders([rival], data.dataset, data.folds)[0]
            said = table.logits[:, [place]] if place is not None else read_oof([rival], data.dataset, data.folds)
        except HarnessError as error:
            left_out[f"{rival.study}/{rival.name}"] = str(error)
            continue
        everyone.append(rival)
        of_everyone.append(own)
        logits.append(said)
    whole = replace(
        table,
        logits=np.concatenate(logits, axis=1),
        encoder_ids=tuple(tuple(meta.encoder_id for meta in row) for row in of_everyone),
    )
    outputs = StudyOutputs([caches[one.study] for one in everyone], everyone, of_everyone, data.folds, whole.logits)
    names = [(member.study, member.number) for member in everyone]
    chosen = tuple(names.index((member.study, member.number)) for member in members)
    return Pool(tuple(everyone), whole, outputs, chosen, left_out)


def choose_without(pool: Pool, metric: str, top: int, together: bool = False) -> tuple[Chosen, ...] | None:
    """For each fold the `top` best trials of each study by their mean over the other folds, or with `together` of all
    of them. None where the metric is not defined in some fold."""
    table = pool.table
    p = [single_oof(table, place) for place in range(table.members)]
    values = values_without(metric, table.y, p, table.fold, table.k)
    parts = [""] * len(p) if together else pool.parts
    choices = tuple(best(metric, values[:, k], parts, top) for k in range(table.k))
    return choices if all(choices) else None


def cross_fitted_oof(
    pool: Pool, method: Method, choices: Sequence[Chosen], known: NDArray[np.float64], seed: int, report: Progress
) -> NDArray[np.float64]:
    """(N, C) the method's out-of-fold predictions, each fold's by the members that were chosen without it. `known`:
    what it says with the ensemble's own members."""

    def out_of_fold(chosen: Chosen) -> NDArray[np.float64]:
        return method.fit(only(pool.table, chosen), embed_of(pool, method, chosen), seed, report).oof

    return stitched(choices, pool.table.fold, {pool.chosen: known}, out_of_fold)


def rest_without_fold(
    pool: Pool, method: Method, choices: Sequence[Chosen] | None, seed: int, report: Progress
) -> list[NDArray[np.float64]] | None:
    """For each fold k, (N, C) the out-of-fold predictions of the other folds' rows, NaN in fold k, by the members of
    choices[k] (None: of the ensemble) and by fits that read no label of fold k: what a map or a threshold may be fitted
    on that is applied to fold k. None with two folds, where no other fold is left to fit on."""
    table = pool.table
    if table.k < 3:
        return None
    found = []
    for k in range(table.k):
        chosen = pool.chosen if choices is None else choices[k]
        smaller, embed = without_fold(only(table, chosen), embed_of(pool, method, chosen), k)
        found.append(np.full((len(table.y), table.classes), np.nan))
        found[-1][table.fold != k] = method.fit(smaller, embed, seed, silent).oof
        report("probabilities without a fold", k + 1, table.k)
    return found


def only(table: OofTable, chosen: Chosen) -> OofTable:
    """The table of some of its members."""
    return replace(
        table, logits=table.logits[:, list(chosen)], encoder_ids=tuple(table.encoder_ids[place] for place in chosen)
    )


def embed_of(pool: Pool, method: Method, chosen: Chosen) -> Embed | None:
    """What a method asks of the embeddings of the members at these places, as it would of an ensemble's own."""
    if not method.needs_embeddings:
        return None
    whole = pool.outputs.held_out_embeddings if method.embeddings == "held_out" else pool.outputs.development_embeddings
    return lambda m, k: whole(chosen[m], k)


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


def require_nestable(members: Sequence[Member], studies: Sequence[StudyRecord], k: int) -> None:
    """Raises RequestError where networks cannot be trained again so that they have not seen a pair of folds."""
    if k < 3:
        raise RequestError(too_few_folds(k))
    for member in members:
        study = next(one for one in studies if one.name == member.study)
        spec = member_spec(member, study)
        name = f"{member.name} of study {study.name}"
        files = [(member.weights(fold), member.predictions(fold)) for fold in range(k)]
        gone = [fold for fold, pair in enumerate(files) if not all(path.is_file() for path in pair)]
        if gone:
            raise RequestError(
                f"--nested full: {name} has no files of fold {gone[0]} any more ({member.folder}). Restore them, leave "
                "the trial out by a smaller --top, or build without --nested full."
            )
        if kind_of(spec.model.weights) == "study":
            raise RequestError(
                f"--nested full: {name} starts each fold from the fold of an earlier study that held out the same rows "
                f"(model.weights: {spec.model.weights}), and that study has no network without two folds: its start "
                "would have seen the scored rows. Take members with model.weights: none, pretrained or a file, or "
                "judge by a held-out test split."
            )
        require_same_weights(study.weights, spec.model.weights, spec.model.backbone, study.name)
        if spec.train.select == "scored_fold":
            raise RequestError(
                f"--nested full: {name} picks its epoch on the rows that it is scored on (train.select: scored_fold), "
                "so no score of it is an estimate. Run the study with train.select: last or inner."
            )
        if spec.model.backbone not in study.precision:
            raise RequestError(
                f"--nested full: the study {study.name} does not say in which number format {spec.model.backbone} was "
                "trained. Run it again under a new name (--as NEWNAME)."
            )


def member_spec(member: Member, study: StudyRecord) -> Spec:
    return build_spec(fill(study.tree, member.trial.params), f"{member.name} of {study.name}")
