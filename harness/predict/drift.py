"""What has changed between a bundle's home and another place: scores, calibration, prevalence, distribution of scores.

Both sides are independent samples, the bundle's own held-out test split and the new data. Nothing is fitted here.
Knows arrays only.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.calibration.operating_points import Answers, Unit, kept, parse_rule, pooled, rates
from harness.ensemble.postprocess import bare, reliabilities, without_intervals
from harness.metrics import METRICS
from harness.stats.calibration import Line, Reliability, calibration_line, questions
from harness.stats.intervals import How, all_intervals, share
from harness.stats.subgroups import Sample, Shift, kolmogorov_smirnov, share_difference, unpaired_differences
from harness.types import Difference, Interval


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
