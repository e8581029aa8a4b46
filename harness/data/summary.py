"""A data set in numbers: sizes, grey levels, counts by class and part.

What a data set looks like, in numbers: sizes, formats, modes and grey levels, whole and by class.

Pure functions of the manifest and the pixels; reads no files. N: rows, C: classes.

A study's images as plain data: `data scan|show|audit --json`. No image and no group is named but in a finding.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.images.pixels import Pixels
from harness.output.progress import step_progress
from harness.types import Dataset

if TYPE_CHECKING:
    from pandas import DataFrame

    from harness.config.load import Study
    from harness.data.prepare import Prepared
    from harness.store.home import Home

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

NOT_DECODED = "cannot be decoded"
BINS, LEVELS = 32, 64
"""of histograms of sizes, and of grey levels"""
MOST_READ = 200
"""images of a class whose grey levels are counted"""


@dataclass(frozen=True)
class Spread:
    """One number of the images, by class."""

    name: str
    low: float
    high: float
    """ends of the histograms"""
    shares: Floats
    """(C, bins) share of the class in each bin; zeros for a class without images"""
    quantiles: Floats
    """(C, 3) the 5%, 50% and 95% quantile; NaN for a class without images"""


def rows_of(dataset: Dataset, c: int) -> Ints:
    """(n,) rows of class c; in a multi-label task those that have label c, among others or not."""
    return np.flatnonzero(dataset.y[:, c] > 0 if dataset.y.ndim == 2 else dataset.y == c)


def usable_rows(manifest: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
    """(N,) the manifest's rows of a data set, in its order."""
    rows: pd.DataFrame = manifest.set_index("id").loc[dataset.ids.tolist()].reset_index()
    return rows


def left_out(manifest: pd.DataFrame, dataset: Dataset) -> dict[str, int]:
    """How many rows were left out, by reason; what only decoding found out goes by NOT_DECODED."""
    bad = manifest[~manifest["id"].isin(dataset.ids.tolist())]
    reasons = bad["problem"].where(bad["problem"] != "", NOT_DECODED)
    return {str(reason): int(count) for reason, count in reasons.value_counts().items()}


def summary(manifest: pd.DataFrame, dataset: Dataset) -> dict[str, Any]:
    """Plain data: `sizes` (smallest, median, largest, how many different), `formats`, `modes`, `left_out`."""
    rows = usable_rows(manifest, dataset)
    sizes: dict[str, Any] = {"different": len(rows[["width", "height"]].drop_duplicates())}
    for name in ("width", "height"):
        low, middle, high = (int(value) for value in np.percentile(rows[name], [0, 50, 100]))
        sizes[name] = {"min": low, "median": middle, "max": high}
    return {
        "sizes": sizes,
        "formats": _counts(rows["format"]),
        "modes": _counts(rows["mode"]),
        "left_out": left_out(manifest, dataset),
    }


def by_class(values: "pd.Series", dataset: Dataset) -> dict[str, list[int]]:
    """How many images of each class (C) have a value, most frequent value first."""
    kinds = values.to_numpy(dtype=object)
    return {
        kind: [int((kinds[rows_of(dataset, c)] == kind).sum()) for c in range(len(dataset.classes))]
        for kind in _counts(values)
    }


def size_spread(name: str, values: "pd.Series", dataset: Dataset) -> Spread:
    """Of widths or heights (N,) in pixels."""
    numbers = values.to_numpy(dtype=np.float64)
    low, high = float(numbers.min()), float(numbers.max())
    edges = np.linspace(low, max(high, low + 1), BINS + 1)
    shares, quantiles = [], []
    for c in range(len(dataset.classes)):
        mine = numbers[rows_of(dataset, c)]
        shares.append(np.histogram(mine, edges)[0] / max(len(mine), 1))
        quantiles.append(np.percentile(mine, [5, 50, 95]) if len(mine) else [np.nan] * 3)
    return Spread(name, low, high, np.array(shares), np.array(quantiles))


def grey_spread(pixels: Pixels, dataset: Dataset) -> Spread:
    """Of the grey levels that the network is shown, over at most MOST_READ images of each class, evenly chosen."""
    shares, quantiles = [], []
    for c in range(len(dataset.classes)):
        rows = rows_of(dataset, c)
        some = (
            rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_READ)).astype(int))] if len(rows) else rows
        )
        counts = np.zeros(256)
        for row in some.tolist():
            counts += np.bincount(np.asarray(pixels[row]).ravel(), minlength=256)
        whole = counts.sum()
        shares.append(counts.reshape(LEVELS, -1).sum(axis=1) / max(whole, 1))
        up_to = np.cumsum(counts) / max(whole, 1)
        quantiles.append([float(np.searchsorted(up_to, q)) for q in (0.05, 0.5, 0.95)] if whole else [np.nan] * 3)
    return Spread("grey level", 0.0, 255.0, np.array(shares), np.array(quantiles))


def samples(dataset: Dataset, rows: Ints, c: int, count: int) -> Ints:
    """Up to `count` of the given rows that are of class c, evenly spread; the same ones every time."""
    mine = np.intersect1d(rows, rows_of(dataset, c))
    at = np.unique(np.linspace(0, len(mine) - 1, min(len(mine), count)).astype(np.int64))
    return np.asarray(mine[at]) if len(mine) else mine


def _counts(values: "pd.Series") -> dict[str, int]:
    return {str(value): int(count) for value, count in values.value_counts().items()}


def scan_document(study: "Study", home: "Home", force: bool = False) -> dict[str, Any]:
    """`data scan`: classes by part, and what cannot be used."""
    found = [finding for finding in findings_of(study, home, force) if finding["kind"] == "unreadable"]
    return {**_parts(study, usable(study, home)), "findings": found}


def files_document(study: "Study", prepared: "Prepared", manifest: "DataFrame") -> dict[str, Any]:
    """`data show`: classes by part, sizes and formats."""

    return {**_parts(study, prepared), **summary(manifest, prepared.dataset)}


def usable(study: "Study", home: "Home") -> "Prepared":
    """The images that can be used, and their folds, whatever data.on_error says of the others and the audit of all."""
    with step_progress() as progress:
        from harness.data.prepare import look

        return look(study.spec.data, study.spec.seed, home, progress)


def manifest_of(study: "Study", home: "Home") -> "DataFrame":
    """Every row and file of the study, those with a problem too."""
    with step_progress() as progress:
        from harness.data.prepare import scan

        return scan(study.spec.data, home, progress)


def findings_of(study: "Study", home: "Home", force: bool = False) -> list[dict[str, Any]]:
    """`data audit`: every finding; files that cannot be used block a study that refuses them."""
    with step_progress() as progress:
        from harness.data.audit import findings_to_json
        from harness.data.prepare import findings

        return findings_to_json(findings(study.spec.data, study.spec.seed, home, progress, force))


def _parts(study: "Study", prepared: "Prepared") -> dict[str, Any]:
    dataset, folds = prepared.dataset, prepared.folds
    parts = [(f"fold {k}", folds.held_out_rows(k)) for k in range(folds.k)] + [("test", folds.test_rows())]
    return {
        "study": study.name,
        "root": study.spec.data.root,
        "rows": len(dataset.y),
        "groups": len(set(dataset.groups.tolist())),
        "classes": list(dataset.classes),
        "filtered": prepared.filtered,
        "parts": [
            {
                "part": part,
                "rows": len(rows),
                "groups": len(set(dataset.groups[rows].tolist())),
                "counts": dict(zip(dataset.classes, dataset.counts(rows), strict=True)),
            }
            for part, rows in parts
        ],
        "data_hash": dataset.data_hash,
        "folds_hash": folds.folds_hash,
    }
