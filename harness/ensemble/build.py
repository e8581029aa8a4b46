"""Build an ensemble of a study: gather, fit out-of-fold, score on the test split, save as a bundle, log.

Reads what stage 1 left on disk and trains no network. Everything is fitted and chosen on development rows; the test
split is read to be scored. The bundle appears whole or not at all, after its run is in MLflow.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.columns import to_column
from harness.data.prepare import Prepared, prepare
from harness.ensemble.bundle import FORMAT, link_or_copy, sha256
from harness.ensemble.embed import EncoderCache, StudyOutputs, read_encoders
from harness.ensemble.members import Member, choose_members, read_oof
from harness.ensemble.methods import require_method
from harness.ensemble.oof import (
    Embed,
    OofTable,
    check_probabilities,
    mean_oof,
    mean_predict,
    silent,
    single_oof,
    single_predict,
)
from harness.ensemble.scores import (
    EnsembleResult,
    Predictions,
    Rows,
    ScoreRow,
    as_json,
    best_single,
    difference,
    score_row,
    tracked_metrics,
)
from harness.errors import RequestError
from harness.home import Home, lock, new_folder, write_bytes, write_json
from harness.ledger import StudyRecord, audit_tags
from harness.records import Progress
from harness.stats.grouped import How
from harness.study.load import check_study
from harness.track.mlflow_runs import commit, log_run
from harness.train.checkpoint import FoldMeta
from harness.train.devices import parse_devices

__all__ = ["EnsembleResult", "ScoreRow", "build"]


def build(
    home: Home,
    study: StudyRecord,
    method: str,
    top: int,
    seed: int,
    device: str = "auto",
    progress: Progress | None = None,
) -> EnsembleResult:
    """Fit `method` over the fold checkpoints of the `top` best complete trials, by out-of-fold search metric.

    The bundle is written to home.bundles(study)/METHOD-topN; building the same again replaces it. Raises RequestError
    when there is nothing to build from or the data are not those of the study, HarnessError when a member's files do
    not fit or hide a leak.
    """
    chosen = require_method(method)
    report = progress or silent
    use_device = parse_devices(device)[0]
    spec = check_study(study.tree, f"study {study.name}").spec
    metric = spec.search.metric
    with lock(home.work(study.name) / "ensembles.lock", f"an ensemble of study {study.name!r}"):
        members = choose_members(home, study, metric, top)
        data = prepare(spec.data, spec.seed, home, report)
        _check_same_data(study, data)
        metas = read_encoders(members, study.name, data.dataset, data.folds)
        table = _table(members, metas, data)
        cache = EncoderCache(home, study.name, data.dataset, data.pixels, use_device)
        outputs = StudyOutputs(cache, members, metas, data.folds, table.logits)
        test_logits = outputs.test_logits(report)
        embed: dict[str, Embed | None] = {
            "none": None,
            "held_out": outputs.held_out_embeddings,
            "all": outputs.development_embeddings,
        }
        fitted = chosen.fit(table, embed[chosen.embeddings], seed, report)
        test_p = fitted.model.predict(test_logits, outputs.test_embeddings if chosen.needs_embeddings else None)
        test_p = check_probabilities(test_p, f"{method}, test split", table.multilabel)
        ensemble = Predictions(method, "ensemble", fitted.oof, test_p)
        titles = [_title(member, metas[m]) for m, member in enumerate(members)]
        singles = [
            Predictions(title, "single", single_oof(table, m), single_predict(test_logits, m, table.multilabel))
            for m, title in enumerate(titles)
        ]
        mean = Predictions("mean", "mean", mean_oof(table), mean_predict(test_logits, table.multilabel))
        candidates, per_group = [*singles, mean, ensemble], spec.data.per_group
        result = _score(home, study.name, candidates, members, table, data, top, metric, per_group, seed, report)
        for left_over in result.bundle.parent.glob(f".{result.bundle.name}.*"):
            shutil.rmtree(left_over, ignore_errors=True)  # of a build that was killed: this study's lock is ours
        with new_folder(result.bundle) as folder:
            model_files = fitted.model.files()
            _write_files(folder, model_files, members, data, ensemble)
            about = _about(study, result, members, metas, data, folder, list(model_files), top, seed)
            write_json(folder / "bundle.json", about)
            _log(home, study, result, folder, top, seed)
    return result


def _check_same_data(study: StudyRecord, data: Prepared) -> None:
    if (data.dataset.data_hash, data.folds.folds_hash) != (study.data_hash, study.folds_hash):
        raise RequestError(
            f"the data of study {study.name!r} have changed since it ran, so its folds are no longer these. Bring the "
            f"old files back, or train anew: harness study run {study.name} --as NEWNAME"
        )
    if not len(data.folds.test_rows()):
        raise RequestError(f"study {study.name!r} has no test split to score an ensemble on. Set data.test_fraction.")


def _table(members: list[Member], metas: list[list[FoldMeta]], data: Prepared) -> OofTable:
    rows = data.folds.development_rows()
    return OofTable(
        y=data.dataset.y[rows],
        groups=data.dataset.groups[rows],
        fold=data.folds.fold[rows],
        logits=read_oof(members, data.dataset, data.folds),
        encoder_ids=tuple(tuple(meta.encoder_id for meta in row) for row in metas),
    )


def _score(
    home: Home,
    study: str,
    candidates: list[Predictions],
    members: list[Member],
    table: OofTable,
    data: Prepared,
    top: int,
    metric: str,
    per_group: How,
    seed: int,
    report: Progress,
) -> EnsembleResult:
    """`candidates`: the single members, in order, then the mean, then the ensemble."""
    mean, ensemble = candidates[-2:]
    rows = data.folds.test_rows()
    development = Rows(table.y, table.groups, per_group)
    test = Rows(data.dataset.y[rows], data.dataset.groups[rows], per_group)
    optimistic = any(member.trial.optimistic for member in members)
    scored = []
    for done, candidate in enumerate(candidates, start=1):
        # stage 1 has scored these very out-of-fold predictions of the single members
        stage_1 = members[done - 1].trial.oof if done <= len(members) else None
        scored.append(score_row(candidate, development, test, seed, stage_1, optimistic))
        report("intervals", done, len(candidates))
    single = candidates[best_single(scored, metric)]
    return EnsembleResult(
        study=study,
        method=ensemble.name,
        bundle=home.bundles(study) / f"{ensemble.name}-top{top}",
        members=[member.number for member in members],
        rows=scored,
        delta_vs_single=difference(metric, ensemble, single, test, seed),
        delta_vs_mean=difference(metric, ensemble, mean, test, seed),
        metric=metric,
    )


def _name(member: Member) -> str:
    return f"trial-{member.number:04d}"


def _title(member: Member, metas: list[FoldMeta]) -> str:
    return f"{_name(member)} ({metas[0].model['backbone']})"


def _write_files(
    folder: Path, model_files: dict[str, bytes], members: list[Member], data: Prepared, ensemble: Predictions
) -> None:
    for name, content in model_files.items():
        write_bytes(folder / name, content)
    for member in members:
        for fold in range(data.folds.k):
            link_or_copy(member.weights(fold), folder / _weights_name(member, fold))
    development, test = data.folds.development_rows(), data.folds.test_rows()
    rows = np.concatenate([development, test])
    table = pa.table(
        {
            "id": pa.array(data.dataset.ids[rows].tolist(), pa.string()),
            "group": pa.array(data.dataset.groups[rows].tolist(), pa.string()),
            "y": to_column(data.dataset.y[rows]),
            "split": pa.array(["oof"] * len(development) + ["test"] * len(test), pa.string()),
            "probabilities": to_column(np.concatenate([ensemble.oof, ensemble.test])),
        }
    )
    pq.write_table(table, folder / "predictions.parquet")


def _weights_name(member: Member, fold: int) -> str:
    return f"members/{_name(member)}/fold_{fold}/weights.safetensors"


def _about(
    study: StudyRecord,
    result: EnsembleResult,
    members: list[Member],
    metas: list[list[FoldMeta]],
    data: Prepared,
    folder: Path,
    model_files: list[str],
    top: int,
    seed: int,
) -> dict[str, Any]:
    def fold_entry(member: Member, meta: FoldMeta) -> dict[str, str]:
        name = _weights_name(member, meta.fold)
        return {"weights": name, "sha256": sha256(folder / name), "encoder_id": meta.encoder_id}

    about = {
        "format": FORMAT,
        "study": result.study,
        "method": result.method,
        "metric": result.metric,
        "top": top,
        "seed": seed,
        "classes": list(data.dataset.classes),
        "multilabel": data.dataset.multilabel,
        "decode": metas[0][0].decode,
        "members": [
            {
                "trial": member.number,
                "params": member.trial.params,
                "model": metas[m][0].model,
                "folds": [fold_entry(member, meta) for meta in metas[m]],
            }
            for m, member in enumerate(members)
        ],
        "model": {name: sha256(folder / name) for name in model_files},
        "files": {"predictions.parquet": sha256(folder / "predictions.parquet")},
        "scores": result.rows,
        "delta_vs_single": result.delta_vs_single,
        "delta_vs_mean": result.delta_vs_mean,
        "spec_hash": study.spec_hash,
        "data_hash": study.data_hash,
        "folds_hash": study.folds_hash,
    }
    plain: dict[str, Any] = as_json(about)
    return plain


def _log(home: Home, study: StudyRecord, result: EnsembleResult, folder: Path, top: int, seed: int) -> None:
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
    }
    params = {"ensemble.method": result.method, "ensemble.top": top, "ensemble.members": numbers, "ensemble.seed": seed}
    log_run(
        home,
        study.name,
        result.bundle.name,
        tags,
        params,
        tracked_metrics(result),
        {"bundle": folder / "bundle.json", "predictions": folder / "predictions.parquet"},
    )
