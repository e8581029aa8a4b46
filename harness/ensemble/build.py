"""Build ensembles of a study: gather, fit out-of-fold, score on the test split, save as bundles, log.

Trains no network, but for bagging-retrained and with `nested`. Everything is fitted and chosen on development rows; the
test split is read to be scored. A bundle appears whole or not at all; its run in MLflow comes before it, unless MLflow
is away.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.calibration.deployed import Parts, out_of_bag_parts
from harness.calibration.operating_points import Rule
from harness.ensemble.bundle import contents_section
from harness.ensemble.bundle_files import NetworkSet, Part, own_networks, write_bundle
from harness.ensemble.inputs import Gathered, cross_fitted_oof, gather, only, rest_without_fold
from harness.ensemble.methods import METHODS, Method, by_fold_index, require_method
from harness.ensemble.nested import fit_best_single, nested_full
from harness.ensemble.nested_training import Pairs, plan_pairs, train_pairs
from harness.ensemble.new_networks import RESAMPLES, Made, make_soup, retrain
from harness.ensemble.oof import Embed, Model, check_probabilities
from harness.ensemble.postprocess import (
    CALIBRATED,
    NOT_ASKED,
    Development,
    Usual,
    augment_part,
    reference_part,
    trust_sections,
    usual_images,
)
from harness.ensemble.score_table import BEST_SINGLE, MEAN, oof_reason, score_ensembles
from harness.ensemble.scores import (
    EnsembleResult,
    Predictions,
    ScoreRow,
    as_json,
    scores_in_words,
    table_columns,
    tracked_metrics,
)
from harness.errors import DiskFull, HarnessError, Interrupted, Leak
from harness.hardware import commit, parse_devices
from harness.store.arrays import pack
from harness.store.files import new_folder
from harness.store.home import Home, lock
from harness.store.records import StudyRecord, audit_tags, count_test_reads
from harness.track.mlflow_store import StoreAway, log_run
from harness.train.inference import Cost, network_costs
from harness.types import Progress, silent

__all__ = ["Built", "Candidate", "EnsembleResult", "ScoreRow", "build"]


@dataclass(frozen=True)
class Candidate:
    """One fitted method before it is scored."""

    method: str
    model: Model
    oof: NDArray[np.float64]
    """(N, C) by fits without the row's fold: see oof.Fitted"""
    selection: NDArray[np.float64]
    """(N, C) of the final model on the rows that it was fitted on"""
    test: NDArray[np.float64]
    """(T, C)"""
    networks: list[NetworkSet]
    """the checkpoints that its bundle keeps: the members' own, or new ones"""
    cross_fitted: NDArray[np.float64] | None = None
    """(N, C) as `oof`, by members that were chosen without the row's fold; None where that is not made"""
    full: NDArray[np.float64] | None = None
    """(K-1, N, C) by networks trained again without the row's fold and each other one, by fold index (nested.py):
    development rows predicted as new ones are; None where that is not made"""
    without: Sequence[NDArray[np.float64]] = ()
    """(N, C) as `oof`, for each of the members without it; none where that is not made"""
    seconds: float = float("nan")
    """that fitting it took"""
    each: NDArray[np.float64] = field(default_factory=lambda: np.empty((1, 0, 0)))
    """(K, T, C) as `test`, by the networks of each fold index; K networks where the method made its own"""
    parts: Parts | None = None
    """see deployed.merged"""
    rest: Sequence[NDArray[np.float64]] | None = None
    """for each fold k, (N, C) the other folds' rows by fits without the labels of fold k; None where there are none"""


@dataclass(frozen=True)
class Built:
    """One table: every method that could be built, and why the others could not."""

    results: list[EnsembleResult]
    refused: dict[str, str]
    """by method"""
    untracked: str = ""
    """why MLflow has no run of them: it was away"""


def build(
    home: Home,
    studies: list[StudyRecord],
    methods: list[str],
    top: int,
    seed: int,
    device: str = "auto",
    progress: Progress | None = None,
    decide: Rule | None = None,
    resamples: int = RESAMPLES,
    reference: bool = True,
    nested: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Built:
    """Fit `methods` over the fold checkpoints of the `top` best complete trials, by their mean over folds of the search
    metric.

    Bundles are written to home.bundles(study)/METHOD-topN; building the same again replaces it. A method that cannot be
    built of these members is refused with its reason, and the others are built; the only one asked for raises it.
    Raises RequestError when there is nothing to build from or the data are not those of the study, Leak when a member's
    files do not fit the rows they are scored on, HarnessError when they are damaged.

    decide: the rule by which the bundles decide (None: see decisions.fit_decisions). resamples: how many networks
    bagging-retrained trains. reference: keep what usual images look like to the networks, so that foreign ones are
    told. nested: train the members again without each pair of folds, for scores that are estimates without a test split
    (nested.nested_full); `tell` is told beforehand what that takes.
    """
    chosen = {name: require_method(name) for name in methods}
    report = progress or silent
    use_device = parse_devices(device)[0]
    study = studies[0].name
    with lock(home.work(study) / "ensembles.lock", f"an ensemble of study {study!r}"):
        found = gather(home, studies, top, use_device, report, nested)
        pairs = _pairs(home, found, use_device, report, tell) if nested else None
        candidates, refused = [], {}
        for name, method in chosen.items():
            try:
                candidates.append(
                    _make_networks(name, home, found, resamples, seed, use_device, report)
                    if method is None
                    else fit_method(name, method, found, seed, report, use_device, pairs)
                )
            except (Leak, DiskFull, Interrupted):
                raise
            except HarnessError as error:
                if len(chosen) == 1:
                    raise
                refused[name] = str(error)
        beside = {} if pairs is None else _nested_beside(found, pairs, seed)
        results = score_candidates(home, found, candidates, use_device, seed, report, beside)
        shared, untracked = _shared_parts(found), ""
        rows = [*results[0].rows[:-1], *(result.rows[-1] for result in results)] if results else []
        usual: dict[tuple[Path, ...], Usual] = {}
        for candidate, result in zip(candidates, results, strict=True):
            for left_over in result.bundle.parent.glob(f".{result.bundle.name}.*"):
                shutil.rmtree(left_over, ignore_errors=True)  # of a build that was killed: this study's lock is ours
            with new_folder(result.bundle) as folder:
                predictions = _predictions(candidate, found)
                networks = candidate.networks
                kept = tuple(network.weights for one in networks for network in one.networks)
                if kept not in usual:  # methods that keep the same networks share what these find usual
                    usual[kept] = usual_images(found, networks, seed, use_device, report) if reference else NOT_ASKED
                parts = shared | _parts(found, candidate, seed, decide, usual[kept])
                write_bundle(folder, found, result, candidate.model, predictions, networks, parts, seed)
                untracked = untracked or _log_or_say(home, found, result, rows, folder, seed)
    return Built(results, refused, untracked)


def fit_method(
    name: str,
    method: Method,
    found: Gathered,
    seed: int,
    report: Progress,
    device: str = "cpu",
    pairs: Pairs | None = None,
) -> Candidate:
    """One method on all development rows, and without them in every way that its scores need."""
    outputs = found.outputs
    embed: dict[str, Embed | None] = {
        "none": None,
        "held_out": outputs.held_out_embeddings,
        "all": outputs.development_embeddings,
    }
    of = embed[method.embeddings]
    if of is not None:  # kept from now on: what the networks take is no part of what fitting takes
        for done, (m, k) in enumerate(product(range(found.table.members), range(found.table.k)), start=1):
            of(m, k)
            report("embeddings", done, found.table.members * found.table.k)
    start = time.monotonic()
    fitted = method.fit(found.table, of, seed, report, device)
    seconds = time.monotonic() - start
    of_test = outputs.test_embeddings if method.needs_embeddings else None
    test = fitted.model.predict(found.test_logits, of_test)
    return Candidate(
        method=name,
        model=fitted.model,
        oof=fitted.oof,
        selection=fitted.selection,
        test=check_probabilities(test, f"{name}, test split", found.table.multilabel),
        networks=own_networks(found),
        cross_fitted=cross_fitted_oof(found.pool, method, found.choices, fitted.oof, seed, report)
        if found.choices
        else None,
        full=None if pairs is None else _nested(name, method, pairs, seed, report, device),
        without=_without_each(method, found, seed),
        seconds=seconds,
        each=by_fold_index(fitted.model, found.test_logits, of_test),
        rest=rest_without_fold(found.pool, method, found.choices, seed, report),
    )


def _pairs(home: Home, found: Gathered, device: str, report: Progress, tell: Callable[[str], None]) -> Pairs:
    plan = plan_pairs(home, found)
    tell(str(plan))
    return train_pairs(home, found, plan, device, report)


def _nested(name: str, method: Method, pairs: Pairs, seed: int, report: Progress, device: str) -> NDArray[np.float64]:
    fit = partial(method.fit, device=device)
    embed = pairs.embed if method.needs_embeddings else None
    return nested_full(fit, pairs.table, embed, seed, report, f"{name}, nested", by_fold_index)


def _nested_beside(found: Gathered, pairs: Pairs, seed: int) -> dict[str, NDArray[np.float64]]:
    """What the methods have to beat, nested as they are."""
    return {
        BEST_SINGLE: nested_full(fit_best_single(found.metric), pairs.table, None, seed, what="the best single member"),
        MEAN: nested_full(METHODS["mean"].fit, pairs.table, None, seed, what="the mean"),
    }


def _without_each(method: Method, found: Gathered, seed: int) -> list[NDArray[np.float64]]:
    members = range(found.table.members)
    if method.needs_embeddings or not 1 < len(members) <= method.few:
        return []
    others = [tuple(m for m in members if m != left_out) for left_out in members]
    return [method.fit(only(found.table, rest), None, seed, None).oof for rest in others]


def _make_networks(
    name: str, home: Home, found: Gathered, resamples: int, seed: int, device: str, report: Progress
) -> Candidate:
    """By one of methods.NETWORK_METHODS."""
    start = time.monotonic()
    made: Made = (
        retrain(home, found, resamples, seed, device, report)
        if name == "bagging-retrained"
        else make_soup(home, found, name == "soup-greedy", device, report)
    )
    return Candidate(
        method=name,
        model=made.model,
        oof=made.oof,
        selection=made.selection,
        test=made.test,
        networks=[made.networks],
        seconds=time.monotonic() - start,
        each=made.each,
        parts=out_of_bag_parts(len(made.each)) if name == "bagging-retrained" else None,
    )


def _predictions(candidate: Candidate, found: Gathered) -> Predictions:
    return Predictions(
        candidate.method,
        "ensemble",
        candidate.oof,
        candidate.test,
        candidate.selection,
        candidate.cross_fitted,
        None if candidate.full is None else np.asarray(candidate.full.mean(axis=0)),
        oof_reason(candidate.method, found),
    )


def score_candidates(
    home: Home,
    found: Gathered,
    candidates: Sequence[Candidate],
    device: str,
    seed: int,
    report: Progress,
    beside: Mapping[str, NDArray[np.float64]] | None = None,
) -> list[EnsembleResult]:
    """One table of all of them. beside: see table.score_ensembles."""
    networks = [[network.weights for one in each.networks for network in one.networks] for each in candidates]
    costs = network_costs(networks, device, report)
    return score_ensembles(
        found,
        [_predictions(candidate, found) for candidate in candidates],
        home.bundles(found.studies[0].name),
        {one.method: _cost(one, cost) for one, cost in zip(candidates, costs, strict=True)},
        {candidate.method: candidate.without for candidate in candidates},
        _test_reads(home, found, candidates),
        seed,
        report,
        beside,
    )


def _test_reads(home: Home, found: Gathered, candidates: Sequence[Candidate]) -> int:
    if not len(found.test.y):
        return 0
    return count_test_reads(home, found.studies[0].name, [(one.method, found.labels) for one in candidates])


def _cost(candidate: Candidate, cost: Cost) -> dict[str, float]:
    return {
        "fit_seconds": candidate.seconds,
        "networks": float(sum(len(one.networks) for one in candidate.networks)),
        "seconds_per_image": cost.seconds,
        "megabytes": cost.megabytes,
    }


def _shared_parts(found: Gathered) -> dict[str, Part]:
    """The optional sections that every bundle of one gathering has alike."""
    data = found.data
    rows = data.folds.development_rows(), data.folds.test_rows()
    return {"contents": Part(*contents_section(data.pixels, *rows, data.dataset.data_hash))}


def _parts(found: Gathered, candidate: Candidate, seed: int, decide: Rule | None, usual: Usual) -> dict[str, Part]:
    """The optional sections of the bundle, by name."""
    dataset, fold = found.data.dataset, found.table.fold
    development = Development(
        oof=candidate.oof,
        judged=candidate.cross_fitted,
        rest=candidate.rest,
        full=candidate.full,
        learned=bool(oof_reason(candidate.method, found)),
    )
    trust = trust_sections(
        development,
        candidate.each,
        found.development,
        found.test,
        fold,
        dataset.classes,
        seed,
        decide,
        candidate.parts,
    )
    parts = {name: Part(as_json(section)) for name, section in trust.sections.items()}
    kept = {CALIBRATED: pack({"development": trust.nested, "test": trust.test, "test_part": trust.test_part})}
    return parts | {
        "calibration": Part(parts["calibration"].about, kept),
        "reference": reference_part(found, trust, usual),
        "augment": augment_part(found),
    }


def _log_or_say(
    home: Home, found: Gathered, result: EnsembleResult, rows: list[ScoreRow], folder: Path, seed: int
) -> str:
    """Why there is no run in MLflow, where it is away: hours of fitting do not hang on a server."""
    try:
        _log(home, found, result, rows, folder, seed)
    except StoreAway as error:
        return str(error)
    return ""


def _log(home: Home, found: Gathered, result: EnsembleResult, rows: list[ScoreRow], folder: Path, seed: int) -> None:
    """rows: of all that was built together, which stand beside the run as one table."""
    study = found.studies[0]
    numbers = ",".join(str(number) for number in result.members)
    tags = {
        "harness.kind": "ensemble",
        "harness.state": "complete",
        "harness.bundle": result.bundle.relative_to(home.root).as_posix(),
        "harness.spec_hash": study.spec_hash,
        "harness.data_hash": study.data_hash,
        "harness.folds_hash": study.folds_hash,
        "harness.commit": commit(),
        **audit_tags(study),
        **({"harness.optimistic": "true"} if result.rows[-1].optimistic else {}),
        "harness.test_reads": str(result.test_reads),
        **scores_in_words(result),
    }
    params = {
        "ensemble.method": result.method,
        "ensemble.top": found.top,
        "ensemble.members": numbers,
        "ensemble.seed": seed,
    }
    log_run(
        home,
        study.name,
        result.bundle.name,
        tags,
        params,
        tracked_metrics(result),
        {"bundle": folder / "bundle.json", "predictions": folder / "predictions.parquet"},
        note="\n\n".join(result.notes),
        tables={"scores.json": table_columns(rows, result.metric)},
    )
