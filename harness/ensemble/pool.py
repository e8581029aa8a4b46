"""The trials that an ensemble's members were chosen from: what it takes to choose again without a fold.

Reads predictions and the headers of checkpoints; a network is run only where a method on embeddings asks for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from harness.data.prepare import Prepared
from harness.ensemble.embed import EncoderCache, StudyOutputs, read_encoders
from harness.ensemble.members import Member, read_oof
from harness.ensemble.methods import Method
from harness.ensemble.nested import Chosen, best, stitched, values_without
from harness.ensemble.oof import Embed, OofTable, single_oof, without_fold
from harness.errors import HarnessError
from harness.train.checkpoint import FoldMeta
from harness.types import Progress, silent


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
