"""A bundle on another labelled data set: scores and drift.

A bundle on another data set, another hospital or scanner: what it is worth there, and what has changed since home.

Home is the held-out test split of the bundle's own study, whose predictions the bundle carries; the two are compared
as independent samples. Probabilities are calibrated as the bundle does it. Nothing is fitted to the new data, and
what is given back names neither files nor groups.

What has changed between a bundle's home and another place: scores, calibration, prevalence, distribution of scores.

Both sides are independent samples, the bundle's own held-out test split and the new data. Nothing is fitted here.
Knows arrays only.
"""

import io
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from harness.calibration.maps import FOLD_MODELS, FULL, answer
from harness.calibration.operating_points import Answers, Unit, kept, parse_rule, pooled, rates
from harness.ensemble.bundle import FILE, Bundle, load_bundle, outputs_of_bundle, seen
from harness.ensemble.postprocess import CALIBRATED, SHARED, bare, reliabilities, without_intervals
from harness.errors import RequestError
from harness.hardware import commit, parse_devices
from harness.metrics import METRICS
from harness.predict.external import External, data_block, read_external
from harness.predict.predict import find_bundle
from harness.stats.calibration import Line, Reliability, calibration_line, questions
from harness.stats.intervals import How, all_intervals, share
from harness.stats.subgroups import (
    Sample,
    Shift,
    Subgroup,
    chosen_columns,
    kinds,
    kolmogorov_smirnov,
    share_difference,
    subgroups,
    unpaired_differences,
    worst,
)
from harness.store.arrays import unpack
from harness.store.home import Home
from harness.store.predictions import from_column
from harness.store.records import read_study
from harness.track.mlflow_store import interval_metrics, log_run
from harness.types import Difference, Interval, Progress


@dataclass(frozen=True)
class Score:
    metric: str
    here: Interval
    home: Interval
    difference: Difference | None
    """here minus home; None for scores per group"""


@dataclass(frozen=True)
class Drift:
    """One question's calibration, here and at home."""

    of: str
    here: Reliability
    home: Reliability
    raw: Reliability
    """here, without the bundle's calibration"""
    line_here: Line
    line_home: Line


@dataclass(frozen=True)
class Prevalence:
    of: str
    here: Interval
    home: Interval
    difference: Interval


@dataclass(frozen=True)
class ScoreShift:
    of: str
    all: Shift
    positive: Shift
    """among the rows that have it: a shift that no prevalence explains"""
    negative: Shift


def scores(here: Sample, home: Sample, per_group: How, seed: int, reason: str = "") -> list[Score]:
    """Every metric per image, then per group where groups have several images on both sides. reason: code of why home
    has no interval, and so no difference has one; '' where it has."""
    mine = all_intervals(here.y, here.p, here.groups, seed, per_group)
    theirs = all_intervals(home.y, home.p, home.groups, seed, per_group)
    apart = unpaired_differences(here, home, seed)
    if reason:
        theirs = {name: bare(one, reason) for name, one in theirs.items()}
        nan = float("nan")
        apart = {name: Difference(one.value, nan, nan, nan, reason=reason) for name, one in apart.items()}
    names = [*METRICS, *(name for name in mine if name not in METRICS and name in theirs)]
    return [Score(name, mine[name], theirs[name], apart.get(name)) for name in names]


def calibration_drift(
    here: Sample,
    home: Sample,
    raw: NDArray[np.float64],
    classes: tuple[str, ...],
    multilabel: bool,
    seed: int,
    reason: str = "",
) -> list[Drift]:
    """For each question; `raw` (N, C) are the probabilities here before the bundle's calibration. reason: as of
    `scores`."""
    tables = [
        {one.of: one for one in reliabilities(side.y, p, side.groups, classes, multilabel, seed)}
        for side, p in ((here, here.p), (home, home.p), (here, raw))
    ]
    lines = [
        {name: calibration_line(y, p, side.groups[rows]) for name, rows, y, p in _questions(side, classes, multilabel)}
        for side in (here, home)
    ]
    common = [name for name in tables[0] if name in tables[1]]
    mine, theirs, unbent = tables
    if reason:
        theirs = {name: without_intervals(one, reason) for name, one in theirs.items()}
        lines[1] = {
            name: Line(bare(one.intercept, reason), bare(one.slope, reason), bare(one.in_the_large, reason))
            for name, one in lines[1].items()
        }
    return [Drift(name, mine[name], theirs[name], unbent[name], lines[0][name], lines[1][name]) for name in common]


def prevalence_shift(here: Sample, home: Sample, classes: tuple[str, ...], multilabel: bool) -> list[Prevalence]:
    found = []
    theirs = {name: (rows, y) for name, rows, y, _ in _of_classes(home, classes, multilabel)}
    for name, rows, y, _ in _of_classes(here, classes, multilabel):
        home_rows, home_y = theirs[name]
        mine, other = share(y == 1, here.groups[rows]), share(home_y == 1, home.groups[home_rows])
        found.append(Prevalence(name, mine, other, share_difference(mine, other)))
    return found


def score_shift(
    here: Sample, home: Sample, classes: tuple[str, ...], multilabel: bool, seed: int, reason: str = ""
) -> list[ScoreShift]:
    """reason: as of `scores`; then no shift has a p-value."""
    found = []
    theirs = {name: one for name, *one in _of_classes(home, classes, multilabel)}
    for name, rows, y, p in _of_classes(here, classes, multilabel):
        home_rows, home_y, home_p = theirs[name]
        shifts = []
        for mine, other in ((y >= 0, home_y >= 0), (y == 1, home_y == 1), (y == 0, home_y == 0)):
            shifts.append(
                kolmogorov_smirnov(p[mine], here.groups[rows][mine], home_p[other], home.groups[home_rows][other], seed)
            )
        if reason:
            shifts = [replace(one, p=float("nan")) for one in shifts]
        found.append(ScoreShift(name, *shifts))
    return found


def operating_points(
    about: dict[str, Any] | None, home: str, here: Sample, classes: tuple[str, ...], multilabel: bool
) -> list[dict[str, Any]]:
    """The bundle's own points (unit, class, rule, threshold, home: its rates there), each with its rates `here` and
    whether what its rule promises is kept; [] where the bundle has none. home: `test`, or `oof` of a bundle without."""
    at_home = "test" if home == "test" else "development"
    found = []
    for point in (about or {}).get("points", []):
        unit: Unit = point["unit"]
        rows = Answers(here.y, here.p, here.groups)
        if unit == "group":
            rows = pooled(rows, (about or {})["per_group"])
        c, cut = classes.index(point["class"]), point["threshold"]
        y = rows.y[:, c] if multilabel else (rows.y == c).astype(np.int64)
        known = y >= 0
        said = np.zeros(int(known.sum()), bool) if cut is None else rows.p[known, c] >= cut
        rated = rates(y[known], said, rows.groups[known])
        same = {key: point[key] for key in ("unit", "class", "rule", "threshold")}
        found.append(
            {**same, "home": point[at_home], "here": rated, "promise": kept(parse_rule(point["rule"]), rated, said)}
        )
    return found


def _questions(side: Sample, classes: tuple[str, ...], multilabel: bool) -> list[tuple[str, Any, Any, Any]]:
    return [one for one in questions(side.y, side.p, classes, multilabel) if len(one[1])]


def _of_classes(side: Sample, classes: tuple[str, ...], multilabel: bool) -> list[tuple[str, Any, Any, Any]]:
    """Questions about a class: without the one about the most probable class."""
    return [one for one in questions(side.y, side.p, classes, multilabel) if one[0] in classes]


@dataclass(frozen=True)
class Evaluation:
    bundle: str
    study: str
    spec_hash: str
    data: str
    metric: str
    """the study's own"""
    classes: tuple[str, ...]
    n: int
    groups: int
    counts: list[int]
    """images of each class"""
    home_part: str
    """what home is: `test`, the bundle's own held-out split; `oof`, its development rows out of fold"""
    home_n: int
    home_groups: int
    left_out: dict[str, int]
    """rows that could not be used, by reason"""
    guessed: list[str]
    """of the data block, where a folder was given"""
    mapped: list[str]
    seen: dict[str, int] | None
    """images that the bundle's own development and test parts hold, pixel by pixel; None where the bundle does not
    know its own"""
    scores: list[Score]
    calibration: list[Drift]
    prevalence: list[Prevalence]
    score_shift: list[ScoreShift]
    points: list[dict[str, Any]]
    default_rule: str | None
    subgroups: list[Subgroup]
    worst: Subgroup | None
    home_reason: str = ""
    """code of why the numbers of home have no interval; '' where they have"""
    warnings: list[dict[str, Any]] = field(default_factory=list)
    """see warnings_of"""


def evaluate(
    bundle_path: Path | str,
    place: str,
    home: Home,
    sets: list[str] | None = None,
    labels: Path | None = None,
    maps: list[str] | None = None,
    by: list[str] | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """See Evaluation. `place`: a folder, an .npz file or a study's YAML file; `maps`: theirs=ours; `by`: columns to
    divide by, or those that are found. Raises RequestError where the request is wrong."""
    report = progress or (lambda what, done, total: None)
    use_device = parse_devices(device)[0]
    bundle = load_bundle(find_bundle(bundle_path, home))
    data, guessed = data_block(place, sets or [], labels, home)
    external = read_external(data, bundle.classes, bundle.multilabel, bundle.decodes, maps or [], home, report)
    columns = chosen_columns(external.attributes, by or [], external.private)
    said = outputs_of_bundle(bundle, external.images, use_device, report)
    raw = said.probabilities
    here = Sample(external.y, answer(bundle.about.get("calibration"), said.each), external.groups)
    there = home_sample(bundle)
    decisions, about = bundle.about.get("decisions"), bundle.about.get("calibration")
    reason = home_reason(bundle)
    per_group: How = decisions["per_group"] if decisions else "mean"
    task = (bundle.classes, bundle.multilabel)
    parts = {name: kinds(name, external.attributes[name]) for name in columns}
    found = subgroups(here, {name: one for name, one in parts.items() if one is not None}, bundle.metric, seed)
    calibration = calibration_drift(here, there, raw, *task, seed, reason)
    points = operating_points(decisions, home_part(bundle), here, *task)
    return Evaluation(
        bundle=f"{bundle.path.parent.name}/{bundle.path.name}",
        study=bundle.study,
        spec_hash=str(bundle.about["spec_hash"]),
        data=place,
        metric=bundle.metric,
        classes=bundle.classes,
        n=len(here.y),
        groups=len(np.unique(here.groups)),
        counts=[int((external.y == c).sum()) for c in range(len(bundle.classes))]
        if external.y.ndim == 1
        else (external.y == 1).sum(axis=0).tolist(),
        home_part=home_part(bundle),
        home_n=len(there.y),
        home_groups=len(np.unique(there.groups)),
        left_out=external.left_out,
        guessed=guessed,
        mapped=external.mapped,
        seen=_seen(bundle, external),
        scores=scores(here, there, per_group, seed, reason),
        calibration=calibration,
        prevalence=prevalence_shift(here, there, *task),
        score_shift=score_shift(here, there, *task, seed, reason),
        points=points,
        default_rule=decisions["default"] if decisions else None,
        subgroups=found,
        worst=worst(found, bundle.metric),
        home_reason=reason,
        warnings=warnings_of(about, calibration, points),
    )


def home_sample(bundle: Bundle) -> Sample:
    """The bundle's own held-out test split, calibrated by fits that did not read it; of a study that holds nothing out,
    its development rows as they were predicted out of fold. Raises RequestError where its predictions are none."""
    table = pq.read_table(io.BytesIO(bundle.read("predictions.parquet")))
    split = pd.Series(table["split"].to_pylist())
    table = table.filter(split.eq(home_part(bundle)).to_list())
    y, p = from_column(table["y"]), from_column(table["probabilities"])
    if y is None or p is None or not len(y) or p.shape[1] != len(bundle.classes):
        raise RequestError(f"{bundle.path}/predictions.parquet holds no test predictions. Build the ensemble again.")
    groups: NDArray[np.str_] = np.asarray(table["group"].to_pylist(), dtype=np.str_)
    name, part = f"calibration/{CALIBRATED}", "test" if home_part(bundle) == "test" else "development"
    if bundle.about.get("calibration") is not None:
        calibrated = unpack(bundle.read(name), name).get(part)
        if calibrated is None or calibrated.shape != p.shape:
            raise RequestError(f"{bundle.path}/{name} does not hold the rows of predictions.parquet. Build it again.")
        p = calibrated
    return Sample(y.astype(np.int64), p.astype(np.float64), groups)


def home_part(bundle: Bundle) -> str:
    """`test` or `oof`: which of its own predictions a bundle is compared with."""
    return "test" if bundle.about["judged_on"] == "test" else "oof"


def home_reason(bundle: Bundle) -> str:
    """Code of why the numbers of home have no interval, '' where they have: out-of-fold predictions that maps and
    thresholds (and maybe members and weights) were fitted on are no sample to compare another one with."""
    decisions = bundle.about.get("decisions") or {}
    return "" if home_part(bundle) == "test" or decisions.get("judged_on") == FULL else SHARED


def warnings_of(
    about: dict[str, Any] | None, calibration: list[Drift], points: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What does not hold on the new data, each with its `code`: calibration-basis (the bundle's map of the mean over
    its fold models was not fitted, for the `reason` it gives), calibration-slope (its interval leaves 1 out),
    promise-missed (a point's sensitivity or specificity, and its interval, lie below what its rule promises)."""
    found: list[dict[str, Any]] = []
    if about is not None and about.get("fitted_on") == FOLD_MODELS:
        found.append({"code": "calibration-basis", "reason": about.get("reason", "")})
    for one in calibration:
        slope = one.line_here.slope
        if slope.lo > 1 or slope.hi < 1:
            found.append({"code": "calibration-slope", "of": one.of, "slope": slope})
    for point in points:
        if point["promise"] == "missed":
            kind = parse_rule(point["rule"]).kind
            same = {key: point[key] for key in ("unit", "class", "rule")}
            found.append({"code": "promise-missed", **same, "here": point["here"][kind]})
    return found


def _seen(bundle: Bundle, external: External) -> dict[str, int] | None:
    about = bundle.about.get("contents")
    if about is None:
        return None
    stored = bundle.read(f"contents/{FILE}")
    return {part: int(mask.sum()) for part, mask in seen(about, stored, external.images[0]).items()}


def log_evaluation(home: Home, found: Evaluation) -> bool:
    """One MLflow run of kind `evaluation` in the experiment of the bundle's study, where this home has that study.
    Whether it was logged."""
    study = read_study(home, found.study)
    if study is None or study.spec_hash != found.spec_hash:
        return False
    metrics: dict[str, float] = {}
    for score in found.scores:
        metrics |= interval_metrics("external", {score.metric: score.here})
        if score.difference is not None:
            metrics[f"drift/{score.metric}"] = score.difference.value
            metrics[f"drift/{score.metric}_p"] = score.difference.p
    tags = {
        "harness.kind": "evaluation",
        "harness.state": "complete",
        "harness.bundle": found.bundle,
        "harness.spec_hash": study.spec_hash,
        "harness.data_hash": study.data_hash,
        "harness.folds_hash": study.folds_hash,
        "harness.commit": commit(),
    }
    place = Path(found.data)
    name = f"evaluate-{found.bundle.rpartition('/')[2]}-{place.stem}"
    params = {"evaluation.data": place.name, "evaluation.images": found.n, "evaluation.groups": found.groups}
    log_run(home, study.name, name, tags, params, {key: one for key, one in metrics.items() if math.isfinite(one)})
    return True
