"""Do the same study file, data and seed give the same numbers in every home?

A home hashes who belongs together with a random salt of its own. One study is run in two homes, all ensembles are
built of it, a second study is compared with it and a bundle is evaluated on other images. Then every value of every
JSON document and array, and every byte of every file that should be the same, are compared. ratio: the share that is
equal; the goal is all of them. What by nature differs is left out (DIFFERS): times, speeds, random names of runs, and
where a home lies.
"""

import io
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks._report import arguments, publish
from benchmarks._tiny_study import tiny_tree
from harness.config.load import check_study
from harness.data.phantom import ensure_phantom
from harness.ensemble.build import build
from harness.ensemble.names import KNOWN
from harness.predict.evaluate import evaluate
from harness.search.compare import compare_sides, find_side
from harness.search.run import run_study
from harness.store.files import read_json
from harness.store.home import Home
from harness.store.records import read_trials, require_study

DIFFERS = {
    "seconds", "images_per_second", "started", "finished", "ended", "spent", "estimate", "run_id", "bundle", "path",
    "caches", "fit_seconds", "seconds_per_image",
    "commit",
}  # fmt: skip
"""keys of JSON whose values are times, speeds, random names or places, or say what code was run"""
FOLLOW = {"history.json": "the seconds of its epochs", "bundle.json": "the seconds of its fit"}
"""files whose bytes differ for one such key: their values are compared instead"""
METHODS = tuple(KNOWN)
OTHER_PATIENTS = 60


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


def _told(home: Home, studies: list[str]) -> Iterator[tuple[str, Any]]:
    """What commands say of the studies: a comparison of two, on images and per group, and a bundle on other images."""
    sides = [find_side(home, name) for name in studies]
    for per_group in (False, True):
        found = compare_sides(home, sides[0], sides[1], per_group=per_group)
        told = {"lines": [asdict(line) for line in found.lines], "corrected": found.corrected, "delong": found.delong}
        yield from _leaves(f"compare, per group: {per_group}", told)
    images = ensure_phantom(home, lambda what, done, total: None, OTHER_PATIENTS)
    sets = ["data.label=label", "data.group=patient"]
    found = evaluate(f"{studies[0]}/mean-top5", str(images), home, sets, device="cpu")
    yield from _leaves("evaluate", {key: value for key, value in asdict(found).items() if key != "data"})


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    tree = tiny_tree(name="first", data__folds=3, train__epochs=1, data__decode__size=32)
    second = tiny_tree(name="second", data__folds=3, train__epochs=1, data__decode__size=24)
    differing: list[str] = []
    compared = 0
    with tempfile.TemporaryDirectory() as folder:
        homes = [Home(Path(folder) / name) for name in ("a", "b")]
        told = []
        for home in homes:
            run_home(home, tree, METHODS, resamples=2)
            run_study(check_study(second, "two homes"), home, 1, "cpu", lambda event: None)
            told.append(dict(_told(home, ["first", "second"])))
        for study in ("first", "second"):
            count, bad = difference(homes[0], homes[1], study)
            compared, differing = compared + count, differing + bad
        compared += len(told[0].keys() | told[1].keys())
        differing += [place for place in told[0].keys() | told[1].keys() if told[0].get(place) != told[1].get(place)]
        salts = len({home.salt() for home in homes})
    listed = "".join(f"\n  {place}" for place in differing[:40])
    text = (
        f"{compared - len(differing)} of {compared} values and files are equal in two homes ({salts} different salts); "
        f"{len(METHODS)} ensembles.{listed}"
    )
    ratio = 1 - len(differing) / compared if salts == 2 else 0.0
    publish(
        "two_homes", ratio, 1.0, options, text, compared=compared, differing=differing[:100], ensembles=list(METHODS)
    )


if __name__ == "__main__":
    main()
