"""How much of a study's score could be a shortcut: what the files alone predict, and what remains beside that.

    python -m benchmarks.shortcuts STUDY                      Markdown tables; --json, --save as everywhere
    python -m benchmarks.shortcuts STUDY --equalise FOLDER    and write the images equalised, and measure those files
    python -m benchmarks.shortcuts STUDY --root FOLDER        only what the files of another folder predict

A study of two classes in HARNESS_HOME (or mlruns/). Three questions, on its development rows and its own folds:
what do size, mode, sharpness and the like predict, out of fold? What is left of the networks' AUROC when a positive
and a negative are compared only where these facts say nearly the same of both (the covariate-adjusted AUROC of Janes
and Pepe 2009, in fifths of the facts' own out-of-fold probability)? Do the networks add to the facts, and the facts to
the networks (nested logistic regressions, paired differences)? The last is answered by training again:

    harness study run STUDY --as STUDY_equalised --set data.root=FOLDER

Pictures that lie on each other once they are equalised are one picture under two names, or neighbouring slices. A table
of labels in FOLDER keeps them together, for the equalised images and for those as they were:

    harness study run STUDY --as STUDY_copies --set data.labels=FOLDER/labels_copies.csv --set data.group=copy

The ratio is the share of the mean network's lead over chance that is left after adjusting for the recording's facts.
A network may use a shortcut and still keep its lead: what is left says that it does not rest on one that is measured
here. The strata are fixed under the bootstrap; what they leave of the facts' own AUROC says how fine they are.
"""

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks._copies import leaking, same_picture, write_grouped
from benchmarks._equalised import write_equalised
from benchmarks._file_facts import (
    KINDS,
    MODELS,
    SEED,
    Floats,
    chosen,
    file_facts,
    logistic,
    out_of_fold,
    predicted_by_facts,
    read_grey,
)
from benchmarks._report import arguments, publish
from harness.config.data import Data
from harness.config.load import check_study
from harness.config.spec import Spec
from harness.data.manifest import root_of
from harness.data.prepare import Prepared, look, scan
from harness.data.sources import read_source
from harness.ensemble.members import complete_members, read_oof
from harness.errors import HarnessError, RequestError
from harness.images.npz import is_archive
from harness.metrics import METRICS, logit, softmax
from harness.output.format import interval, number, p_value
from harness.stats.intervals import group_weights, intervals, percentiles
from harness.stats.paired import of_replicates, paired_differences
from harness.store.files import without_nan
from harness.store.home import Home, open_home
from harness.store.records import StudyRecord, require_study
from harness.types import Difference, Interval

Ints = NDArray[np.int64]
STRATA, REPS = 5, 2000
GROUPED = "labels_copies.csv"
ADJUSTED_FOR = {"recording": ("recording",), "recording and grey": tuple(KINDS)}


def files_of(data: Data, spec: Spec, home: Home) -> tuple[Prepared, pd.DataFrame]:
    """The data set and the facts of its files. Raises RequestError where it is no task of two classes."""
    prepared = look(data, spec.seed, home, _silent)
    if prepared.dataset.multilabel or len(prepared.dataset.classes) != 2:
        raise RequestError(f"study {spec.name}: shortcuts are looked for between two classes, and it has others.")
    return prepared, file_facts(scan(data, home, _silent), prepared.dataset, data)


def adjusted_auroc(y: Ints, p: Floats, stratum: Ints, w: Floats | None = None) -> Floats:
    """(R,) AUROC within strata, averaged with the weight of their positives (Janes and Pepe 2009): the probability that
    a positive scores higher than a negative of its own stratum. Strata without both classes have no say.

    y (n,), p (n, 2), stratum (n,), w (R, n) row weights.
    """
    weights = np.ones((1, len(y))) if w is None else w
    total, positives = np.zeros(len(weights)), np.zeros(len(weights))
    for one in np.unique(stratum):
        inside = stratum == one
        auroc = METRICS["auroc"].of(y[inside], p[inside], weights[:, inside])
        count = np.where(np.isfinite(auroc), weights[:, inside] @ (y[inside] == 1), 0.0)
        total += count * np.where(count > 0, auroc, 0.0)
        positives += count
    return np.divide(total, positives, out=np.full(len(weights), np.nan), where=positives > 0)


def fifths(score: Floats) -> Ints:
    """(n,) 0..4; no label is looked at."""
    return np.searchsorted(np.quantile(score, np.arange(1, STRATA) / STRATA), score, side="right").astype(np.int64)


def shortcut_score(table: pd.DataFrame, kinds: tuple[str, ...], y: Ints, fold: Ints, rows: Ints) -> Floats:
    """(n, 2) the facts' own out-of-fold probabilities, by whichever model predicts better: the harder adjustment."""
    x = table[chosen(table, kinds)].to_numpy(dtype=np.float64)[rows]
    tried = [out_of_fold(fit, x, y, fold) for fit in MODELS.values()]
    return max(tried, key=lambda p: float(METRICS["auroc"].of(y, p, None)[0]))


def networks(home: Home, study: StudyRecord, spec: Spec, prepared: Prepared) -> dict[str, Floats]:
    """(n, 2) out-of-fold probabilities of the best trial, and of the mean of all complete ones."""
    if prepared.dataset.data_hash != study.data_hash or prepared.folds.folds_hash != study.folds_hash:
        raise RequestError(f"the data of study {study.name} have changed since it ran. Bring the old files back.")
    members = complete_members(home, study, spec.search.metric)
    p = softmax(read_oof(members, prepared.dataset, prepared.folds))
    return {f"best trial ({members[0].number})": p[:, 0], f"mean of {len(members)} trials": p.mean(axis=1)}


def adjusted(y: Ints, p: Floats, score: Floats, groups: NDArray[np.str_]) -> dict[str, Any]:
    """The crude AUROC and the adjusted one of p, their paired difference, and what is in the strata."""
    stratum, w = fifths(score[:, 1]), group_weights(groups, REPS, SEED)
    value, drawn = float(adjusted_auroc(y, p, stratum)[0]), adjusted_auroc(y, p, stratum, w)
    crude = float(METRICS["auroc"].of(y, p, None)[0])
    lost = of_replicates(value - crude, drawn - METRICS["auroc"].of(y, p, w))
    inside = [stratum == one for one in np.unique(stratum)]
    return {
        "auroc": asdict(intervals(y, p, groups, SEED)["auroc"]),
        "adjusted": asdict(Interval(value, *percentiles(drawn))),
        "difference": asdict(lost),
        "strata": [
            {
                "images": int(rows.sum()),
                "positives": int((y[rows] == 1).sum()),
                "auroc": float(METRICS["auroc"].of(y[rows], p[rows], None)[0]),
            }
            for rows in inside
        ],
    }


def nested(y: Ints, net: Floats, x: Floats, fold: Ints, groups: NDArray[np.str_]) -> dict[str, Any]:
    """Logistic regressions on the network's logit, on the facts and on both, each out of fold."""
    own = logit(net[:, 1])[:, None]
    p = {
        name: out_of_fold(logistic, one, y, fold)
        for name, one in (("network", own), ("facts", x), ("both", np.hstack([own, x])))
    }
    pairs = {"network adds to facts": ("both", "facts"), "facts add to network": ("both", "network")}
    found: dict[str, Any] = {}
    for metric in ("auroc", "log_loss"):
        apart = paired_differences(metric, y, [(p[a], p[b]) for a, b in pairs.values()], groups, SEED)
        found[metric] = {name: asdict(intervals(y, one, groups, SEED)[metric]) for name, one in p.items()}
        found[metric] |= {name: asdict(one) for name, one in zip(pairs, apart, strict=True)}
    return found


def measure(home: Home, study: StudyRecord, spec: Spec) -> tuple[dict[str, Any], Prepared, dict[str, Floats]]:
    prepared, table = files_of(spec.data, spec, home)
    dataset, rows = prepared.dataset, prepared.folds.development_rows()
    y, fold, groups = dataset.y[rows], prepared.folds.fold[rows], dataset.groups[rows]
    said: list[dict[str, Any]] = []
    predictions = networks(home, study, spec, prepared)
    for kind, kinds in ADJUSTED_FOR.items():
        score = shortcut_score(table, kinds, y, fold, rows)
        x = table[chosen(table, kinds)].to_numpy(dtype=np.float64)[rows]
        for name, p in {"the facts themselves": score, **predictions}.items():
            one = {"model": name, "adjusted_for": kind, **adjusted(y, p, score, groups)}
            said.append(one if p is score else {**one, "nested": nested(y, p, x, fold, groups)})
    result = {
        "study": study.name,
        "images": len(rows),
        "positives": int((y == 1).sum()),
        "folds": prepared.folds.k,
        "folds_hash": prepared.folds.folds_hash,
        "audit": [one.message.partition(" Acknowledged")[0] for one in prepared.findings if one.kind == "shortcut"],
        "files": predicted_by_facts(table, dataset, prepared.folds),
        "networks": said,
    }
    return result, prepared, predictions


def of_folder(home: Home, spec: Spec, folder: Path) -> dict[str, Any]:
    """What the files of another folder predict, with the study's labels, seed and number of folds."""
    data = spec.data.model_copy(update={"root": str(folder.absolute())})
    prepared, table = files_of(data, spec, home)
    files = predicted_by_facts(table, prepared.dataset, prepared.folds)
    return {"folds_hash": prepared.folds.folds_hash, "files": files}


def equalise(
    home: Home, spec: Spec, prepared: Prepared, folder: Path
) -> tuple[list[NDArray[np.uint8]], dict[str, float]]:
    """The pictures written, what they were brought to. Beside them the labels, and the labels with their copies."""
    root = root_of(spec.data, home, _silent)
    if is_archive(root):
        raise RequestError(f"--equalise: {root.name} is one file; only folders of images are written again.")
    source = read_source(spec.data, root, home)
    pictures, made = write_equalised(
        prepared.dataset, lambda file: read_grey(file, spec.data), source.place, spec.data.labels, folder.absolute()
    )
    if source.place.is_file():
        write_grouped(source, prepared.dataset, same_picture(pictures)[0], folder / GROUPED)
    return pictures, made


def copies(pictures: list[NDArray[np.uint8]], prepared: Prepared, p: dict[str, Floats]) -> dict[str, Any]:
    """How many pictures are copies of others, and what is left of the networks' AUROC without the development rows of
    which a copy is in another fold."""
    copy, pairs = same_picture(pictures)
    dataset, rows = prepared.dataset, prepared.folds.development_rows()
    fold, leaks = prepared.folds.fold, leaking(copy, prepared.folds)
    keep = ~leaks[rows]
    y, groups = dataset.y[rows], dataset.groups[rows]
    return {
        "pairs": pairs,
        "images": int((np.bincount(copy)[copy] > 1).sum()),
        "different": len(np.unique(copy)),
        "leaking": int(leaks.sum()),
        "test_copies": int(np.isin(copy[fold < 0], copy[fold >= 0]).sum()),
        "auroc": {
            name: {
                "all": asdict(intervals(y, one, groups, SEED)["auroc"]),
                "without": asdict(intervals(y[keep], one[keep], groups[keep], SEED)["auroc"]),
            }
            for name, one in p.items()
        },
    }


def markdown(result: dict[str, Any]) -> str:
    """The tables that people read."""
    lines = [
        f"AUROC of {result['study']} by the files alone, out of fold: {result['images']} development images "
        f"({result['positives']} positive), {result['folds']} folds.\n",
        *_files_table(result["files"], result.get("equalised", {}).get("files")),
        "\nWhat is left of the networks' AUROC within fifths of what the facts predict:\n",
        "| model | adjusted for | AUROC [95%] | adjusted [95%] | difference [95%] | each fifth (positives of all) |",
        "|---|---|---|---|---|---|",
    ]
    for one in result["networks"]:
        cells = [one["model"], one["adjusted_for"], _interval(one["auroc"]), _interval(one["adjusted"])]
        strata = ", ".join(f"{number(s['auroc'], 2)} ({s['positives']}/{s['images']})" for s in one["strata"])
        lines.append(f"| {' | '.join([*cells, _difference(one['difference']), strata])} |")
    lines += [
        "\nLogistic regressions out of fold, on the network's logit, on the facts and on both:\n",
        "| network | facts | | network | facts | both | network adds to facts | facts add to network |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in (one for one in result["networks"] if "nested" in one):
        for metric, found in one["nested"].items():
            scores = [_interval(found[name]) for name in ("network", "facts", "both")]
            apart = [_difference(found[name]) for name in ("network adds to facts", "facts add to network")]
            lines.append(f"| {' | '.join([one['model'], one['adjusted_for'], metric, *scores, *apart])} |")
    if "copies" in result:
        lines += _copies_table(result["copies"])
    return "\n".join(lines)


def _copies_table(found: dict[str, Any]) -> list[str]:
    return [
        f"\n{found['images']} images are copies of others, in {found['pairs']} pairs that lie on each other once "
        f"they are equalised. {found['leaking']} development images have one in another fold, {found['test_copies']} "
        "of the test split one among the development images.\n",
        "| model | AUROC [95%] | without images that have a copy in another fold |",
        "|---|---|---|",
        *(
            f"| {name} | {_interval(one['all'])} | {_interval(one['without'])} |"
            for name, one in found["auroc"].items()
        ),
    ]


def _files_table(files: list[dict[str, Any]], equalised: list[dict[str, Any]] | None) -> list[str]:
    there = {one["facts"]: one for one in equalised or ()}
    models = [(said, rows) for said, rows in (("", files), ("equalised, ", equalised)) if rows is not None]
    columns = ["fact", "kind", *(f"{said}{model}" for said, _ in models for model in MODELS)]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for one in files:
        cells = [_interval(one[model]) for model in MODELS]
        if equalised is not None:
            other = there.get(one["facts"])
            cells += [_interval(other[model]) if other else "the same for all" for model in MODELS]
        lines.append(f"| {' | '.join([one['facts'], one['kind'], *cells])} |")
    return lines


def _interval(node: dict[str, float | None]) -> str:
    return interval(Interval(**_numbers(node)))


def _difference(node: dict[str, float | None]) -> str:
    found = Difference(**_numbers(node))
    return f"{found.value:+.3f} [{found.lo:+.3f}, {found.hi:+.3f}], {p_value(found.p)}"


def _numbers(node: dict[str, float | None]) -> dict[str, float]:
    """As they were before JSON, which has null where there is none."""
    return {name: math.nan if value is None else value for name, value in node.items()}


def share_left(result: dict[str, Any]) -> float:
    """Of the mean network's lead over chance, after adjusting for the facts of the recording."""
    mean = next(
        one for one in result["networks"] if one["model"].startswith("mean") and one["adjusted_for"] == "recording"
    )
    return (mean["adjusted"]["value"] - 0.5) / (mean["auroc"]["value"] - 0.5)


def _silent(what: str, done: int, total: int) -> None: ...


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("study", nargs="?", help="left out: the newest completed one")
    parser.add_argument("--equalise", type=Path, metavar="FOLDER", help="write the data set there, equalised")
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="only what the files of this folder predict")
    options = parser.parse_args()
    home = open_home()
    try:
        study = require_study(home, options.study)
        spec = check_study(study.tree, f"study {study.name}").spec
        if options.root is not None:
            found = of_folder(home, spec, options.root)
            print(json.dumps(without_nan(found)) if options.json else "\n".join(_files_table(found["files"], None)))
            return
        result, prepared, predictions = measure(home, study, spec)
        if options.equalise is not None:
            pictures, made = equalise(home, spec, prepared, options.equalise)
            result["copies"] = copies(pictures, prepared, predictions)
            result["equalised"] = {**made, **of_folder(home, spec, options.equalise)}
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    publish(f"shortcuts_{study.name}", share_left(result), 0.9, options, text=markdown(result), **without_nan(result))


if __name__ == "__main__":
    main()
