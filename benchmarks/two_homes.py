"""Do the same study file, data and seed give the same numbers in every home?

A home hashes who belongs together with a random salt of its own. One study is run in two homes, all ensembles are built
of it, a second study is compared with it, a bundle is evaluated on other images; then every value of every JSON document
and every array, and every byte of every file that should be the same, are compared. ratio: the share that is equal; the
goal is all of them. What by nature differs is listed in DIFFERS and left out: times, speeds, random names of runs, the
salt and what is hashed with it, and where the home lies.
"""

import io
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.ensemble.build import build
from harness.ensemble.names import KNOWN
from harness.home import Home, read_json
from harness.ledger import read_trials, require_study
from harness.search.run import run_study
from harness.study.load import check_study

DIFFERS = {
    "seconds", "images_per_second", "started", "finished", "ended", "spent", "estimate", "run_id", "bundle", "path",
    "caches", "fit_seconds",
}  # fmt: skip
"""keys of JSON whose values are times, speeds, random names or places"""
FOLLOW = {"history.json": "the seconds of its epochs", "bundle.json": "the seconds of its fit"}
"""files whose bytes differ for one such key: their values are compared instead"""
METHODS = tuple(KNOWN)
EVALUATED = "phantom:40"


def run_home(home: Home, tree: dict[str, Any], methods: tuple[str, ...], resamples: int) -> None:
    """A study in a new home, and every ensemble of its trials."""
    home.root.mkdir(parents=True, exist_ok=True)
    record = run_study(check_study(tree, "two homes"), home, 1, "cpu", lambda event: None)
    built = build(home, [record], list(methods), 5, 0, "cpu", resamples=resamples)
    if built.refused:
        raise SystemExit(f"not every ensemble could be built: {built.refused}")


def difference(a: Home, b: Home, study: str) -> tuple[int, list[str]]:
    """(values and files that were compared, the places of those that differ)."""
    one, other = dict(_values(a, study)), dict(_values(b, study))
    differing = [place for place in one.keys() | other.keys() if one.get(place, ()) != other.get(place, ())]
    return len(one.keys() | other.keys()), sorted(differing)


def _values(home: Home, study: str) -> Iterator[tuple[str, Any]]:
    """Every value and every file's bytes that should be the same in every home, by place."""
    yield from _leaves("study.json", asdict(require_study(home, study)))
    for trial in read_trials(home, study):
        yield from _leaves(f"trial {trial.number}", asdict(trial))
        yield from _files(f"trial {trial.number}", home.run_artifacts(study, trial.run_id))
    yield from _files("bundles", home.bundles(study))


def _files(place: str, folder: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = f"{place}/{path.relative_to(folder).as_posix()}"
        content = path.read_bytes()
        if path.name not in FOLLOW:
            yield f"{name} (bytes)", content
        if path.suffix == ".json":
            yield from _leaves(name, read_json(path))
        elif path.suffix == ".npz":
            with np.load(io.BytesIO(content)) as arrays:
                for key in arrays:
                    yield from _numbers(f"{name}/{key}", arrays[key])
        elif path.suffix == ".parquet":
            table = pd.read_parquet(path)
            for column in table:
                yield from _numbers(f"{name}/{column}", np.stack(table[column].tolist()))


def _numbers(place: str, values: np.ndarray) -> Iterator[tuple[str, Any]]:
    for number, value in enumerate(values.ravel().tolist()):
        yield f"{place}[{number}]", repr(value)


def _leaves(place: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, child in node.items():
            if key not in DIFFERS:
                yield from _leaves(f"{place}/{key}", child)
    elif isinstance(node, list | tuple):
        for number, child in enumerate(node):
            yield from _leaves(f"{place}[{number}]", child)
    else:
        yield place, repr(node)
