"""Bagging as Breiman meant it: the best trial's configuration trained anew on N bootstrap resamples of the groups.

The one ensemble method that trains. N groups are drawn with replacement from the G groups of the development rows, so
a resample leaves about 37% of them out. Those are its out-of-bag groups: the out-of-bag prediction of a row is the mean
over the networks that did not draw its group, and the ensemble is the mean of all N. By default a group might be in
every resample and would have no such prediction; the last resample is therefore drawn from the groups that another one
leaves out, so with two resamples every row is covered.

Each network is kept when it is done and its state while it trains: a build that was killed goes on where it was.

Which trial is the best was seen on all development rows, as for the best single member; nothing else is chosen. Where
the trial picks its epoch on the rows that it is scored on (train.select: scored_fold), so does every resample, and the
table marks it as optimistic.

Source: Breiman 1996, "Bagging predictors" and "Out-of-bag estimation".
"""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.config.load import build_spec
from harness.config.space import fill
from harness.config.spec import Spec
from harness.data.prepare import Prepared
from harness.ensemble.gather import Gathered
from harness.ensemble.made import Made, assemble
from harness.ensemble.members import best_first
from harness.ensemble.oof import check_probabilities
from harness.ensemble.save import Network, NetworkSet
from harness.errors import HarnessError, RequestError
from harness.hardware import give_back
from harness.metrics import probabilities
from harness.models.network import require_same_weights
from harness.models.weights import kind_of
from harness.numbering import by_appearance
from harness.seeds import derive_seed
from harness.store.files import is_done
from harness.store.home import Home
from harness.train.checkpoint import NO_FOLD, read_meta
from harness.train.cross_validation import Part, read_fold, train_part
from harness.train.precision import parse_precision, threads_of
from harness.types import EpochReport, Progress

RESAMPLES = 10
REDRAWS = 50
"""further draws where a resample holds one class only, or leaves no group out"""


def retrain(home: Home, found: Gathered, resamples: int, seed: int, device: str, progress: Progress) -> Made:
    """Raises RequestError where the trial cannot be trained on other rows than its folds, HarnessError where a training
    fails."""
    best = best_first(found.members, found.metric)[0]
    member, study = found.members[best], next(s for s in found.studies if s.name == found.members[best].study)
    spec = build_spec(fill(study.tree, member.trial.params), f"{found.names[best]} of {study.name}")
    _require_free_start(spec, found.names[best])
    require_same_weights(study.weights, spec.model.weights, spec.model.backbone, study.name)
    precision = study.precision[spec.model.backbone]
    cache = found.outputs.cache(best)
    data = replace(found.data, pixels=cache.pixels)
    rows = data.folds.development_rows()
    drawn = draw_groups(data.dataset.y[rows], data.dataset.groups[rows], resamples, seed)
    folder = home.work(study.name) / "resamples"
    parts = [_part(spec, data, precision, rows, counts, number, folder) for number, counts in enumerate(drawn)]
    epochs = spec.train.epochs

    def on_epoch(report: EpochReport) -> None:
        done = (report.fold - data.folds.k) * epochs + report.epoch + 1
        progress("epochs of the resamples", done, resamples * epochs)

    for number, part in enumerate(parts):
        if is_done(part.folder):
            continue
        try:
            with threads_of(parse_precision(precision)):
                train_part(spec, data, part, study.name, member.number, device, parse_precision(precision), on_epoch)
        except HarnessError as error:
            raise type(error)(f"resample {number} of {found.names[best]}: {error}") from error
        finally:
            give_back()
    oof = _out_of_bag(parts, data)
    networks = [part.folder / "weights.safetensors" for part in parts]
    own = NetworkSet(
        f"{member.name}-resampled",
        study.name,
        member.number,
        member.trial.params,
        tuple(Network(path, read_meta(path)) for path in networks),
    )
    return assemble(own, oof, oof, cache, data.dataset, data.folds)


def draw_groups(y: NDArray[np.int64], groups: NDArray[np.str_], resamples: int, seed: int) -> NDArray[np.int64]:
    """(N, n) how often each of n rows is in each of N group-bootstrap resamples; every group is left out of one.

    y: (n,) or (n, C). Raises RequestError with fewer than two resamples or groups.
    """
    group_of_row = by_appearance(groups)
    number = int(group_of_row.max(initial=-1)) + 1
    if resamples < 2 or number < 2:
        raise RequestError(
            f"{resamples} resamples of {number} groups: out-of-bag predictions need two of each. Type --resamples "
            "10, or another method."
        )
    rng = np.random.default_rng(derive_seed(seed, "resamples"))

    def draw(among: NDArray[np.int64]) -> NDArray[np.int64]:
        """(G,) how often each group is drawn: leaving one out, of two classes where REDRAWS draws find such."""
        kept = np.bincount(among[:1], minlength=number)
        for _ in range(REDRAWS):
            counts = np.bincount(rng.choice(among, size=len(among)), minlength=number)
            if (counts == 0).any():
                kept = counts
                if len(np.unique(y[counts[group_of_row] > 0], axis=0)) > 1:
                    break
        return kept

    everyone = np.arange(number)
    drawn = [draw(everyone) for _ in range(resamples - 1)]
    drawn.append(draw(everyone[np.min(drawn, axis=0) == 0]))
    return np.array([counts[group_of_row] for counts in drawn])


def _require_free_start(spec: Spec, name: str) -> None:
    if kind_of(spec.model.weights) == "study":
        raise RequestError(
            f"{name} starts each fold from the fold of an earlier study that held out the same rows "
            f"(model.weights: {spec.model.weights}). A resample has no such fold: its start would have seen its "
            "out-of-bag rows. Take --method bagging, or a study with model.weights: none, pretrained or a file."
        )


def _part(
    spec: Spec,
    data: Prepared,
    precision: str,
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
    number: int,
    folder: Path,
) -> Part:
    """The training of one resample, its folder named by all that its network depends on."""
    part = data.folds.k + number  # so that its random draws are not those of a fold
    key = hashlib.blake2b(digest_size=8)
    key.update(f"{spec.model_dump_json()}\n{data.dataset.data_hash}\n{precision}\n{part}\n".encode())
    key.update(np.repeat(rows, counts).tobytes())
    own = folder / f"resample_{number:02d}-{key.hexdigest()}"
    state = folder / "running" / f"{own.name}.pt"
    return Part(part, NO_FOLD, np.repeat(rows, counts), rows[counts == 0], own, state)


def _out_of_bag(parts: list[Part], data: Prepared) -> NDArray[np.float64]:
    """(N, C) the mean over the networks that never saw the row. Raises HarnessError where a row has none."""
    total = np.zeros((len(data.dataset.ids), len(data.dataset.classes)))
    networks = np.zeros(len(total), dtype=np.int64)
    for part in parts:
        result = read_fold(part.folder, part.number, data)
        if not np.array_equal(np.sort(result.rows), np.sort(part.held_out)):
            shutil.rmtree(part.folder)
            raise HarnessError(f"{part.folder} held the predictions of other rows. Build again: it is trained anew.")
        total[result.rows] += probabilities(result.logits, data.dataset.multilabel)
        networks[result.rows] += 1
    development = data.folds.development_rows()
    seen_by_none = networks[development] == 0
    p = total[development] / np.where(seen_by_none, np.nan, networks[development].astype(np.float64))[:, None]
    return check_probabilities(p, "retrained bagging, out of bag", data.dataset.multilabel)
