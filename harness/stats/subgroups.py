"""How well a bundle does for each kind of patient, scanner or site, beside everybody else.

A column becomes a handful of kinds: sexes, age bands, scanners. Kinds with fewer than SMALLEST groups (patients) are
put together and not named: their score would be noise, and a handful of people could be recognised. Each kind is
compared with all other rows (stats.unpaired), and p-values are Holm's over all kinds: with twenty of them, one is far
off by chance. Knows arrays only.

N: rows.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import RequestError, nearest
from harness.metrics import METRICS
from harness.numbering import by_appearance
from harness.stats.compare import holm
from harness.stats.intervals import Spread, spread
from harness.stats.unpaired import Sample, apart, with_dealt_groups
from harness.types import Difference, Interval

SMALLEST = 5
"""groups; fewer are not shown by themselves"""
MOST_KINDS = 20
AGE_BANDS = ((0, 17), (18, 39), (40, 59), (60, 79), (80, 150))
NAMED = {"sex", "gender", "age", "ethnicity", "race", "skin", "scanner", "manufacturer", "vendor", "model", "device"}
NAMED |= {"site", "hospital", "center", "centre", "institution", "view", "position", "localization"}
"""a column is looked at unasked where its name holds one of these as a word"""
OTHER, UNKNOWN_KIND = "other (few each)", "not known"


@dataclass(frozen=True)
class Subgroup:
    column: str
    kind: str
    n: int
    groups: int
    positives: list[int]
    """rows of each class (of several labels: with each)"""
    score: Interval
    """the metric among these rows"""
    versus_rest: Difference
    """minus that of all other rows; NaN where one of the two has no score"""
    p_holm: float


def chosen_columns(attributes: pd.DataFrame, asked: list[str], private: tuple[str, ...]) -> list[str]:
    """The columns to divide by: those asked for, or those whose names say what they are and that have two kinds.

    Raises RequestError for a column that there is not, that tells people apart, or that has too many kinds.
    """
    known = [str(name) for name in attributes if name not in private]
    if not asked:
        return [name for name in known if _is_named(name) and _divides(attributes[name])]
    for name in asked:
        if name in private:
            raise RequestError(f"--by {name}: this is the study's label or group, which says who somebody is or has.")
        if name not in known:
            raise RequestError(
                f"--by {name}: there is no such column.{nearest(name, known)} There are {', '.join(known)}."
            )
        if kinds(name, attributes[name]) is None:
            raise RequestError(
                f"--by {name}: {attributes[name].nunique()} different values that are no numbers: too many for kinds "
                f"(at most {MOST_KINDS}), and they may tell people apart."
            )
    return list(dict.fromkeys(asked))


def _is_named(name: str) -> bool:
    words = re.split(r"[\W_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    return bool(NAMED & set(words))


def _divides(cells: "pd.Series[str]") -> bool:
    found = kinds(str(cells.name), cells)
    return found is not None and len(set(found.tolist()) - {UNKNOWN_KIND}) > 1


def kinds(name: str, cells: "pd.Series[str]") -> NDArray[np.str_] | None:
    """(N,) the kind of each row: the cell itself, bands of ages, quarters of other numbers; None where the cells are
    too many words."""
    text = cells.fillna("").astype(str).str.strip()
    empty = (text == "").to_numpy()
    if "age" in re.split(r"[\W_]+", name.lower()):
        years = pd.to_numeric(text.str.replace(r"[yY]$", "", regex=True), errors="coerce").to_numpy(np.float64)
        if np.isfinite(years[~empty]).mean() > 0.9 if (~empty).any() else False:
            return _bands(years, [(low, high + 1, f"{low}-{high}") for low, high in AGE_BANDS])
    if text[~empty].nunique() <= MOST_KINDS:
        return np.where(empty, UNKNOWN_KIND, text.to_numpy(dtype=np.str_))
    numbers = pd.to_numeric(text, errors="coerce").to_numpy(np.float64)
    if not np.isfinite(numbers[~empty]).all():
        return None
    cuts = np.unique(np.quantile(numbers[~empty], [0, 0.25, 0.5, 0.75, 1]))
    last = len(cuts) - 2
    spans = [
        (low, np.inf if i == last else high, f"{low:g} to {high:g}") for i, (low, high) in enumerate(pairwise(cuts))
    ]
    return _bands(numbers, spans)


def _bands(numbers: NDArray[np.float64], spans: list[tuple[float, float, str]]) -> NDArray[np.str_]:
    found = np.full(len(numbers), UNKNOWN_KIND, dtype=object)
    for low, high, name in spans:
        found[(numbers >= low) & (numbers < high)] = name
    return found.astype(np.str_)


def subgroups(sample: Sample, columns: dict[str, NDArray[np.str_]], metric: str, seed: int) -> list[Subgroup]:
    """Every kind of every column (name -> (N,) kinds), in order of name. seed: of the groups that are dealt anew for
    p-values."""
    made = []
    for column, of_row in columns.items():
        merged = _merge_small(of_row, sample.groups)
        for kind in sorted(set(merged.tolist())):
            inside = merged == kind
            if len(np.unique(sample.groups[inside])) >= SMALLEST and not inside.all():
                made.append(_subgroup(column, kind, inside, sample, metric, seed))
    corrected = holm(np.array([one.versus_rest.p for one in made]))
    return [Subgroup(**{**vars(one), "p_holm": float(p)}) for one, p in zip(made, corrected, strict=True)]


def _merge_small(of_row: NDArray[np.str_], groups: NDArray[np.str_]) -> NDArray[np.str_]:
    small = [kind for kind in np.unique(of_row) if len(np.unique(groups[of_row == kind])) < SMALLEST]
    return np.where(np.isin(of_row, small), OTHER, of_row).astype(np.str_)


def _subgroup(column: str, kind: str, inside: NDArray[np.bool_], sample: Sample, metric: str, seed: int) -> Subgroup:
    y, p, groups = sample.y, sample.p, by_appearance(sample.groups)
    mine, rest = (spread(metric, y[rows], p[rows], groups[rows]) for rows in (inside, ~inside))
    classes = range(p.shape[1])
    counts = [int((y[inside] == c).sum() if y.ndim == 1 else (y[inside, c] == 1).sum()) for c in classes]
    difference = apart(mine, rest, _correlation(mine, rest, groups, inside))
    difference = with_dealt_groups(difference, metric, y, p, groups, inside, seed)
    count = len(np.unique(groups[inside]))
    return Subgroup(column, kind, int(inside.sum()), count, counts, mine.interval(), difference, float("nan"))


def _correlation(mine: Spread, rest: Spread, groups: NDArray[np.int64], inside: NDArray[np.bool_]) -> float:
    """Of a metric on these rows and on all others: 0 unless groups have rows in both."""
    if mine.reason or rest.reason or not (mine.variance > 0 and rest.variance > 0):
        return 0.0
    names = [list(dict.fromkeys(groups[rows].tolist())) for rows in (inside, ~inside)]  # by first appearance, as moved
    moves = [
        dict(zip(known, side.moved.tolist(), strict=True)) for known, side in zip(names, (mine, rest), strict=True)
    ]
    covariance = sum(move * moves[1].get(name, 0.0) for name, move in moves[0].items())
    return float(np.clip(covariance / np.sqrt(mine.variance * rest.variance), -1, 1))


def worst(found: list[Subgroup], metric: str) -> Subgroup | None:
    """The kind with the worst score; None where there are not two to compare."""
    scored = [one for one in found if np.isfinite(one.score.value)]
    if len(scored) < 2:
        return None
    pick: Callable[..., Subgroup] = min if METRICS[metric].higher_is_better else max
    return pick(scored, key=lambda one: one.score.value)
