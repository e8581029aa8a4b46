"""Write an ensemble as a bundle: one directory that predicts by itself. bundle.py says what is in it, and reads it."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.ensemble.about import FORMAT, sha256
from harness.ensemble.gather import Gathered
from harness.ensemble.oof import Model
from harness.ensemble.scores import EnsembleResult, Predictions, as_json, result_json
from harness.hardware import commit
from harness.numbering import as_text
from harness.store.files import link_or_copy, write_bytes, write_json
from harness.store.predictions import to_column
from harness.train.checkpoint import FoldMeta

PACKAGES = ("harness", "torch", "timm", "torchvision", "numpy", "scikit-learn", "xgboost")
"""whose versions a bundle names"""


@dataclass(frozen=True)
class Part:
    """A section of bundle.json, and the files that go with it."""

    about: dict[str, Any]
    """plain JSON"""
    files: dict[str, bytes] = field(default_factory=dict)
    """by name, in a folder named after the part"""


@dataclass(frozen=True)
class Network:
    """One checkpoint that a bundle keeps."""

    weights: Path
    meta: FoldMeta


@dataclass(frozen=True)
class NetworkSet:
    """The checkpoints of one member of the bundle."""

    name: str
    """such as trial-0007: the folder under members/"""
    study: str
    trial: int | None
    """None where the checkpoint was made from several trials"""
    params: dict[str, Any]
    networks: tuple[Network, ...]


def own_networks(found: Gathered) -> list[NetworkSet]:
    """The members' own checkpoints."""
    return [
        NetworkSet(
            name,
            member.study,
            member.number,
            member.trial.params,
            tuple(Network(member.weights(meta.fold), meta) for meta in metas),
        )
        for name, member, metas in zip(found.names, found.members, found.metas, strict=True)
    ]


def write_bundle(
    folder: Path,
    found: Gathered,
    result: EnsembleResult,
    model: Model,
    predictions: Predictions,
    members: list[NetworkSet],
    parts: Mapping[str, Part],
    seed: int,
) -> None:
    """Fill the empty `folder`; bundle.json comes last."""
    model_files = model.files()
    for name, content in model_files.items():
        write_bytes(folder / name, content)
    decodes: list[dict[str, Any]] = []
    entries = [_member(folder, member, decodes) for member in members]
    _write_predictions(folder / "predictions.parquet", found, predictions)
    others = ["predictions.parquet"]
    for part, content_of in parts.items():
        for name, content in content_of.files.items():
            write_bytes(folder / part / name, content)
            others.append(f"{part}/{name}")
    first = found.studies[0]
    about = {
        "format": FORMAT,
        "study": result.study,
        "studies": [study.name for study in found.studies],
        "method": result.method,
        "metric": result.metric,
        "trials": result.members,
        "top": found.top,
        "seed": seed,
        "classes": list(found.data.dataset.classes),
        "multilabel": found.data.dataset.multilabel,
        "decodes": decodes,
        "members": entries,
        "model": {name: sha256(folder / name) for name in model_files},
        "files": {name: sha256(folder / name) for name in others},
        **result_json(result),
        "spec_hash": first.spec_hash,
        "data_hash": first.data_hash,
        "folds_hash": first.folds_hash,
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        **{part: content_of.about for part, content_of in parts.items()},
    }
    write_json(folder / "bundle.json", as_json(about))


def _member(folder: Path, member: NetworkSet, decodes: list[dict[str, Any]]) -> dict[str, Any]:
    """What bundle.json says of a member; its decoding is added to `decodes` where that is new."""
    decode = member.networks[0].meta.decode
    if decode not in decodes:
        decodes.append(decode)
    folds = []
    for number, network in enumerate(member.networks):
        name = f"members/{member.name}/fold_{number}/weights.safetensors"
        link_or_copy(network.weights, folder / name)
        folds.append({"weights": name, "sha256": sha256(folder / name), "encoder_id": network.meta.encoder_id})
    return {
        "name": member.name,
        "study": member.study,
        "trial": member.trial,
        "params": member.params,
        "model": member.networks[0].meta.model,
        "decode": decodes.index(decode),
        "folds": folds,
    }


def _write_predictions(path: Path, found: Gathered, predictions: Predictions) -> None:
    """A bundle travels, so it names no file and nobody: rows by their number in the study's manifest, groups by theirs.
    The home of the study alone can say who they are (data/people.py)."""
    data = found.data
    development, test = data.folds.development_rows(), data.folds.test_rows()
    rows = np.concatenate([development, test])
    table = pa.table(
        {
            "id": pa.array(as_text(rows, "r").tolist(), pa.string()),
            "group": pa.array(data.dataset.groups[rows].tolist(), pa.string()),
            "y": to_column(data.dataset.y[rows]),
            "split": pa.array(["oof"] * len(development) + ["test"] * len(test), pa.string()),
            "probabilities": to_column(np.concatenate([predictions.oof, predictions.test])),
        }
    )
    pq.write_table(table, path)
