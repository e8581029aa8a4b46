"""Build ensembles of a study: gather, fit out-of-fold, score on the test split, save as bundles, log.

Trains no network. Everything is fitted and chosen on development rows; the test split is read to be scored. A bundle
appears whole or not at all, after its run is in MLflow.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.doubt_part import augment_part, reference_part
from harness.ensemble.gather import Gathered, gather
from harness.ensemble.methods import Method, require_method
from harness.ensemble.oof import (
    Embed,
    Model,
    check_probabilities,
    mean_oof,
    mean_predict,
    silent,
    single_oof,
    single_predict,
)
from harness.ensemble.save import NetworkSet, Part, own_networks, write_bundle
from harness.ensemble.scores import (
    EnsembleResult,
    Predictions,
    ScoreRow,
    best_single,
    difference,
    score_row,
    tracked_metrics,
)
from harness.home import Home, lock, new_folder
from harness.ledger import StudyRecord, audit_tags
from harness.records import Progress
from harness.track.mlflow_runs import commit, log_run
from harness.train.devices import parse_devices

__all__ = ["Candidate", "EnsembleResult", "ScoreRow", "build"]


@dataclass(frozen=True)
class Candidate:
    """One fitted method before it is scored."""

    method: str
    model: Model
    oof: NDArray[np.float64]
    """(N, C) nested: see oof.Fitted"""
    selection: NDArray[np.float64]
    """(N, C) of the final model on the rows that it was fitted on"""
    test: NDArray[np.float64]
    """(T, C)"""
    networks: list[NetworkSet]
    """the checkpoints that its bundle keeps: the members' own, or new ones"""


def build(
    home: Home,
    studies: list[StudyRecord],
    methods: list[str],
    top: int,
    seed: int,
    device: str = "auto",
    progress: Progress | None = None,
    reference: bool = True,
) -> list[EnsembleResult]:
    """Fit `methods` over the fold checkpoints of the `top` best complete trials, by out-of-fold search metric.

    Bundles are written to home.bundles(study)/METHOD-topN; building the same again replaces it. Raises RequestError
    when there is nothing to build from or the data are not those of the study, HarnessError when a member's files do
    not fit or hide a leak. `reference`: keep what usual images look like to the networks, so that foreign ones are told.
    """
    chosen = {name: require_method(name) for name in methods}
    report = progress or silent
    use_device = parse_devices(device)[0]
    study = studies[0].name
    with lock(home.work(study) / "ensembles.lock", f"an ensemble of study {study!r}"):
        found = gather(home, studies, top, use_device, report)
        candidates = [_fit(name, method, found, seed, report) for name, method in chosen.items()]
        results = _score(home, found, candidates, seed, report)
        for candidate, result in zip(candidates, results, strict=True):
            for left_over in result.bundle.parent.glob(f".{result.bundle.name}.*"):
                shutil.rmtree(left_over, ignore_errors=True)  # of a build that was killed: this study's lock is ours
            with new_folder(result.bundle) as folder:
                predictions = _predictions(candidate)
                parts = _parts(found, candidate, seed, reference, use_device, report)
                write_bundle(folder, found, result, candidate.model, predictions, candidate.networks, parts, seed)
                _log(home, found, result, folder, seed)
    return results


def _fit(name: str, method: Method, found: Gathered, seed: int, report: Progress) -> Candidate:
    outputs = found.outputs
    embed: dict[str, Embed | None] = {
        "none": None,
        "held_out": outputs.held_out_embeddings,
        "all": outputs.development_embeddings,
    }
    fitted = method.fit(found.table, embed[method.embeddings], seed, report)
    test = fitted.model.predict(found.test_logits, outputs.test_embeddings if method.needs_embeddings else None)
    test = check_probabilities(test, f"{name}, test split", found.table.multilabel)
    return Candidate(name, fitted.model, fitted.oof, fitted.selection, test, own_networks(found))


def _predictions(candidate: Candidate) -> Predictions:
    return Predictions(candidate.method, "ensemble", candidate.oof, candidate.test)


def _parts(
    found: Gathered, candidate: Candidate, seed: int, reference: bool, device: str, report: Progress
) -> dict[str, Part]:
    """The optional sections of the bundle, by name."""
    return {
        "reference": reference_part(found, candidate.networks, candidate.oof, reference, seed, device, report),
        "augment": augment_part(found),
    }


def _score(
    home: Home, found: Gathered, candidates: list[Candidate], seed: int, report: Progress
) -> list[EnsembleResult]:
    """One result per candidate; the single members and the mean are scored once for all."""
    table, metric = found.table, found.metric
    singles = [
        Predictions(title, "single", single_oof(table, m), single_predict(found.test_logits, m, table.multilabel))
        for m, title in enumerate(found.titles)
    ]
    mean = Predictions("mean", "mean", mean_oof(table), mean_predict(found.test_logits, table.multilabel))
    ensembles = [_predictions(candidate) for candidate in candidates]
    optimistic = any(member.trial.optimistic for member in found.members)
    rows = []
    everything = [*singles, mean, *ensembles]
    for done, one in enumerate(everything, start=1):
        # stage 1 has scored these very out-of-fold predictions of the single members
        stage_1 = found.members[done - 1].trial.oof if done <= len(singles) else None
        rows.append(score_row(one, found.development, found.test, seed, stage_1, optimistic))
        report("intervals", done, len(everything))
    beside, own = rows[: len(singles) + 1], rows[len(singles) + 1 :]
    single = singles[best_single(beside, metric)]
    return [
        EnsembleResult(
            study=found.studies[0].name,
            method=ensemble.name,
            bundle=home.bundles(found.studies[0].name) / f"{ensemble.name}-top{found.top}",
            members=[member.number for member in found.members],
            rows=[*beside, row],
            delta_vs_single=difference(metric, ensemble, single, found.test, seed),
            delta_vs_mean=difference(metric, ensemble, mean, found.test, seed),
            metric=metric,
        )
        for ensemble, row in zip(ensembles, own, strict=True)
    ]


def _log(home: Home, found: Gathered, result: EnsembleResult, folder: Path, seed: int) -> None:
    study = found.studies[0]
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
    }
    numbers = ",".join(str(number) for number in result.members)
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
    )
