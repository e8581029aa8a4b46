"""Does the file itself tell the class? Format, mode, polarity, size and the scanner's name say nothing about a patient,
but they often say which hospital or download a class came from, and a network learns that first.

Two looks at each column: how well a simple rule predicts the class of rows it was not made from, and whether one value
belongs to nearly one class alone, which may be too rare to move the first. Knows the manifest's columns, no pixels.

N: rows, C: classes.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.metrics import METRICS
from harness.stats.intervals import group_weights, percentiles
from harness.types import Dataset, Folds

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LEAST_AUROC = 0.65
"""a rule this good on rows it was not made from is worth a warning, if its 95% interval also stays above one half"""
LEAST_GROUPS, SIGNIFICANT = 5, 0.01
"""one value: at least so many groups, and a two-sided binomial p below this after multiplying by the values tried"""
INVERTED, HEADER = "MONOCHROME1", "dicom."
"""the mode of DICOM files that are stored bright for dark; what names of columns from DICOM headers begin with"""
BINS = 8
"""numbers are cut at these quantiles of the rows that the rule is made from"""


@dataclass(frozen=True)
class Shortcut:
    rows: Ints
    """the rows concerned; empty where it is the column as a whole"""
    message: str


def find_shortcuts(manifest: pd.DataFrame, dataset: Dataset, folds: Folds) -> list[Shortcut]:
    """Columns and values of the manifest that tell the class. Columns that are not there are not looked at."""
    found: list[Shortcut] = []
    columns = _columns(manifest)
    for name, values in columns.items():
        auroc, lo, hi = _cross_validated(values, dataset, folds)
        if auroc >= LEAST_AUROC and lo > 0.5:
            message = (
                f"the {name} of the file predicts the class with AUROC {auroc:.2f} ({lo:.2f} to {hi:.2f}) without "
                "looking at the image: a network may learn that instead. Look for how the classes were collected; "
                "decode.fit and decode.size decide how much of it stays visible."
            )
            found.append(Shortcut(np.empty(0, dtype=np.int64), message))
    told = [(name, values) for name, values in columns.items() if values.dtype == object]
    return found + _telling_values(told, dataset)


def _columns(manifest: pd.DataFrame) -> dict[str, NDArray[np.generic]]:
    """(N,) values by name, of the columns that vary: objects for categories, floats for numbers.

    Columns that part the rows just as an earlier one does are left out: they would say the same again.
    """
    columns: dict[str, NDArray[np.generic]] = {}
    for name in ("format", "mode"):
        if name in manifest:
            columns[name] = manifest[name].astype(str).to_numpy(dtype=object)
    if "mode" in manifest:
        modes = columns["mode"].tolist()
        columns["number of channels"] = np.array([_channels(mode) for mode in modes], dtype=object)
        columns["polarity"] = np.array(["inverted" if m == INVERTED else "plain" for m in modes], dtype=object)
    if "width" in manifest and "height" in manifest:
        width = manifest["width"].to_numpy(dtype=np.float64)
        height = manifest["height"].to_numpy(dtype=np.float64)
        pairs = zip(width.tolist(), height.tolist(), strict=True)
        columns["size"] = np.array([f"{w:.0f} x {h:.0f}" for w, h in pairs], dtype=object)
        columns |= {"width": width, "height": height, "aspect ratio": width / np.maximum(height, 1)}
    for column in map(str, manifest.columns):
        if column.startswith(HEADER):
            columns[column.removeprefix(HEADER)] = manifest[column].fillna("").astype(str).to_numpy(dtype=object)
    kept: dict[str, NDArray[np.generic]] = {}
    known: set[tuple[int, ...]] = set()
    for name, values in columns.items():
        codes = {value: code for code, value in enumerate(dict.fromkeys(values.tolist()))}
        parted = tuple(codes[value] for value in values.tolist())
        if len(codes) > 1 and (values.dtype != object or parted not in known):
            kept[name] = values
            known.add(parted)
    return kept


def _channels(mode: str) -> str:
    """How many numbers a pixel of such a file has, as its mode (Pillow) or photometric interpretation (DICOM) says."""
    if mode.startswith(("MONOCHROME", "I;", "PALETTE")) or mode in ("1", "L", "P", "I", "F"):
        return "1"
    return {"LA": "2", "PA": "2", "RGBA": "4", "CMYK": "4", "RGBX": "4"}.get(mode, "3")


def _cross_validated(values: NDArray[np.generic], dataset: Dataset, folds: Folds) -> tuple[float, float, float]:
    """AUROC with its interval of a table of class frequencies by value, made from the other folds (never from test)."""
    rows = folds.development_rows()
    p = np.full((len(values), len(dataset.classes)), np.nan)
    for fold in range(folds.k):
        made_from, scored = folds.train_rows(fold), folds.held_out_rows(fold)
        p[scored] = _frequencies(values, made_from, scored, dataset)
    y, groups = dataset.y[rows], dataset.groups[rows]
    auroc = METRICS["auroc"].of
    lo, hi = percentiles(auroc(y, p[rows], group_weights(groups, 200, 0)))
    return float(auroc(y, p[rows], None)[0]), lo, hi


def _frequencies(values: NDArray[np.generic], made_from: Ints, scored: Ints, dataset: Dataset) -> Floats:
    """(n, C) class frequencies of each scored row's value, pulled towards the overall ones by one row's weight."""
    if values.dtype == object:
        codes = {value: code for code, value in enumerate(dict.fromkeys(values[made_from].tolist()))}
        code = np.array([codes.get(value, len(codes)) for value in values.tolist()])
    else:
        numbers = values.astype(np.float64)
        code = np.searchsorted(np.quantile(numbers[made_from], np.arange(1, BINS) / BINS), numbers, side="right")
    counts = np.zeros((int(code.max()) + 1, len(dataset.classes)))
    np.add.at(counts, (code[made_from], dataset.y[made_from]), 1)
    overall = counts.sum(axis=0) / counts.sum()
    table = (counts + overall) / (counts.sum(axis=1, keepdims=True) + 1)
    return np.asarray(table[code[scored]])


def _telling_values(columns: list[tuple[str, NDArray[np.generic]]], dataset: Dataset) -> list[Shortcut]:
    """Values whose groups are of one class far more often than chance would have it."""
    groups = pd.DataFrame({"group": dataset.groups, "y": dataset.y, **dict(columns)})
    tried: list[tuple[float, str, str, int, int, int]] = []
    for name, _ in columns:
        # one vote per group, value and class: ten images of one patient are one observation
        votes = groups[["group", "y", name]].drop_duplicates()
        share = votes["y"].value_counts(normalize=True)
        for value in dict.fromkeys(votes[name].tolist()):
            of_value = votes.loc[votes[name] == value, "y"]
            if LEAST_GROUPS <= len(of_value) < len(votes):
                c = int(np.bincount(of_value.to_numpy()).argmax())
                hits = int((of_value == c).sum())
                tried.append((_binomial_p(hits, len(of_value), float(share[c])), name, value, c, hits, len(of_value)))
    found = []
    for p, name, value, c, hits, n in tried:
        if p * len(tried) * len(dataset.classes) < SIGNIFICANT:
            rows = np.flatnonzero((groups[name] == value).to_numpy())
            message = (
                f"{hits} of {n} groups whose {name} is {value} are of class {dataset.classes[c]!r}: the file tells the "
                "class. Look for how they were collected, or leave them out."
            )
            found.append(Shortcut(rows, message))
    return found


def _binomial_p(hits: int, n: int, share: float) -> float:
    """Twice the probability of at least `hits` of n at the given share, at most 1."""
    if not 0 < share < 1:
        return 1.0
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    k = np.arange(hits, n + 1)
    log_pmf = (
        log_factorial[n] - log_factorial[k] - log_factorial[n - k] + k * np.log(share) + (n - k) * np.log1p(-share)
    )
    return float(min(1.0, 2 * np.exp(log_pmf).sum()))
