"""What a file says without anybody looking for disease in it, and how well that alone tells two classes apart.

`recording`: size, shape, mode, compression and sharpness, which no illness changes. `grey`: how bright and how black
the picture is. That follows from window and cropping, but also from what is drawn: a bleeding is bright and a slice
high up in the head is small. So what `grey` predicts is an upper limit of a shortcut and not one found. The same goes
for grain and bytes per pixel once pictures are equalised: what is left to differ then is mostly what is drawn.

N: images.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier

from benchmarks._equalised import sharpness
from harness.config.data import Data
from harness.data.shortcuts import INVERTED
from harness.ensemble.heads import fit_logistic
from harness.images.decode import decode
from harness.stats.intervals import intervals
from harness.types import Dataset, Folds

Floats = NDArray[np.float64]
Fit = Callable[[Floats, NDArray[np.int64]], Callable[[Floats], Floats]]
"""fit(x (n, F), y) -> (m, F) -> (m, 2) probabilities"""
BLACK = 10
"""of 255, and what is darker: JPEG leaves no clean zeros"""
KINDS = {
    "recording": (
        "width",
        "height",
        "aspect ratio",
        "alpha",
        "inverted",
        "bytes per pixel",
        "sharpness (log)",
        "fine grain (log)",
        "JPEG blocks (log)",
    ),
    "grey": ("mean grey", "sd of grey", "share of black", "black border"),
}
SEED = 0


def read_grey(file: str, data: Data) -> NDArray[np.uint8]:
    """(H, W): the picture at its own size, as the study's own decoding reads it (window, frame)."""
    how = data.decode.model_copy(update={"size": "native", "channels": 1, "longest": 4096})
    if isinstance(how.window, tuple) and len(how.window) == 3:
        how = how.model_copy(update={"window": how.window[0]})
    return decode(Path(file), how)[..., 0]


def file_facts(manifest: pd.DataFrame, dataset: Dataset, data: Data) -> pd.DataFrame:
    """(N, ...) numbers by name, in the order of `dataset`; those that are the same everywhere are left out."""
    rows = manifest.set_index("id").loc[dataset.ids.tolist()]
    width, height = rows["width"].astype(float), rows["height"].astype(float)
    table = pd.DataFrame(
        {
            "width": width,
            "height": height,
            "aspect ratio": width / height,
            "alpha": rows["mode"].isin(["RGBA", "LA", "PA"]).astype(float),
            "inverted": rows["mode"].eq(INVERTED).astype(float),
            "bytes per pixel": rows["size_bytes"] / (width * height),
        }
    ).reset_index(drop=True)
    seen = pd.DataFrame([_of_pixels(read_grey(file, data)) for file in dataset.files])
    table = pd.concat([table, seen], axis=1)
    return table.loc[:, table.nunique() > 1]


def _of_pixels(picture: NDArray[np.uint8]) -> dict[str, float]:
    grey = picture.astype(np.float64)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return {
        "sharpness (log)": float(np.log(sharpness(grey) + 1)),
        "fine grain (log)": _grain(grey),
        "JPEG blocks (log)": _blocks(grey),
        "mean grey": float(grey.mean()),
        "sd of grey": float(grey.std()),
        "share of black": float((grey < BLACK).mean()),
        "black border": float((border < BLACK).mean()),
    }


def _grain(grey: Floats) -> float:
    """The mean step between neighbours where it is not black, edges counted as small steps: noise, interpolation."""
    steps = np.abs(np.diff(grey, axis=1))[grey[:, 1:] >= BLACK]
    return float(np.log(np.mean(np.minimum(steps, 16.0)) + 1)) if len(steps) else 0.0


def _blocks(grey: Floats) -> float:
    """How much larger the steps at every eighth column and row are than at the others, wherever the grid begins."""
    found = []
    for picture in (grey, grey.T):
        steps = np.abs(np.diff(picture, axis=1)).mean(axis=0)
        phases = np.array([steps[start::8].mean() for start in range(min(8, len(steps)))])
        found.append(np.log((phases.max() + 1e-3) / (np.median(phases) + 1e-3)))
    return float(np.mean(found))


def logistic(x: Floats, y: NDArray[np.int64]) -> Callable[[Floats], Floats]:
    """On features standardised with the fitted rows."""
    return fit_logistic(x, y, 2, strength=1.0).predict


def trees(x: Floats, y: NDArray[np.int64]) -> Callable[[Floats], Floats]:
    """Few and shallow, for what is not monotone: all widths but one."""
    model = GradientBoostingClassifier(n_estimators=50, max_depth=2, subsample=0.7, random_state=SEED)
    model.fit(x, y)

    def predict(new: Floats) -> Floats:
        return np.asarray(model.predict_proba(new))

    return predict


MODELS: dict[str, Fit] = {"logistic": logistic, "trees": trees}


def out_of_fold(fit: Fit, x: Floats, y: NDArray[np.int64], fold: NDArray[np.int64]) -> Floats:
    """(n, 2) probabilities of each row by a fit on the other folds."""
    p = np.full((len(y), 2), np.nan)
    for held_out in np.unique(fold):
        scored = fold == held_out
        p[scored] = fit(x[~scored], y[~scored])(x[scored])
    return p


def chosen(table: pd.DataFrame, kinds: tuple[str, ...]) -> list[str]:
    """The facts of these kinds that the table has."""
    return [name for kind in kinds for name in KINDS[kind] if name in table]


def predicted_by_facts(table: pd.DataFrame, dataset: Dataset, folds: Folds) -> list[dict[str, Any]]:
    """For each fact alone and for all together: AUROC out of fold with its interval, by both models.

    Development rows only. A fact that says nothing comes out a little below one half: what the other folds have more
    of, the held-out one has less of.
    """
    rows = folds.development_rows()
    y, fold, groups = dataset.y[rows], folds.fold[rows], dataset.groups[rows]
    sets = {name: (kind, [name]) for kind in KINDS for name in chosen(table, (kind,))}
    sets["all of the recording"] = ("recording", chosen(table, ("recording",)))
    sets["all together"] = ("both", chosen(table, tuple(KINDS)))
    found = []
    for name, (kind, columns) in sets.items():
        if not columns:
            continue
        x = table[columns].to_numpy(dtype=np.float64)[rows]
        scores = {
            model: asdict(intervals(y, out_of_fold(fit, x, y, fold), groups, SEED)["auroc"])
            for model, fit in MODELS.items()
        }
        found.append({"facts": name, "kind": kind, **scores})
    return found
