"""Does calibration fit what is deployed: maps, thresholds and abstention of K fold models, in simulation.

The truth is known: a patient's latent log-odds, images that vary about it, labels drawn from it. A fold model says
scale * (latent + noise), and the noise of two fold models is the same to .9 (correlated), .5 or 0 (independent).
Development rows are predicted by one fold index, new rows by the mean over K. Maps, thresholds and abstention are
fitted by the functions that `harness ensemble build` uses, with a test split of a quarter as many patients, whose
labels are read by its own figures alone; then they are judged on a large new sample.

A cell is good where, over its simulations,

- the median calibration slope on new rows is within .85 to 1.18;
- a sensitivity (specificity) of .95 is promised and on average within .03 of that is found;
- what a point's threshold is worth on new rows is inside the point's test interval in 93% of the simulations;
- where .05 (.2) of the images are to be left to a human reader, .04 to .07 (.17 to .23) are;

each to within 2.5 Monte-Carlo errors. `ratio` is the share of good cells. `before`: the slope where the map is applied
to the mean of the raw probabilities; `per_fold`: where it acts per fold model and nothing is known of how alike these
are (a study that holds nothing out); `full`: with labelled rows predicted by networks trained without pairs of folds.

    python -m benchmarks.calibration_shift [--json] [--save] [--reps 24] [--patients 100,250,1000]
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks._report import arguments, publish
from harness.calibration.maps import FOLD_MODELS, answer, apply, choose_map, fit_after
from harness.calibration.operating_points import parse_rule, rates, threshold
from harness.calibration.uncertainty import abstains, confidence, describe_doubt
from harness.ensemble.postprocess import halves
from harness.metrics import logit, sigmoid
from harness.seeds import derive_seed
from harness.stats.calibration import fit_line

SIGNAL, NOISE, MEAN = 1.5, 1.5, -0.7
"""standard deviations of the latent log-odds and of a fold model's error, and the mean of the former: AUROC about .8,
a third of the patients positive"""
SAME_PATIENT = 0.7
"""share of the latent variance that images of one patient have in common; half of the noise is"""
NEW = 8_000
RULES = ("sensitivity=.95", "specificity=.95")
SHARES = {0.05: (0.04, 0.07), 0.2: (0.17, 0.23)}


@dataclass(frozen=True)
class Cell:
    patients: int
    images: int
    folds: int
    members: int
    alike: float
    """correlation of the noise of two fold models"""
    scale: float


@dataclass(frozen=True)
class Drawn:
    y: NDArray[np.int64]
    each: NDArray[np.float64]
    """(K, n, 2) by the networks of each fold index"""
    groups: NDArray[np.str_]


def draw(cell: Cell, patients: int, rng: np.random.Generator, folds: int | None = None) -> Drawn:
    of = np.repeat(np.arange(patients), cell.images)
    n, together = len(of), SAME_PATIENT if cell.images > 1 else 1.0

    def varied(share: float, *shape: int) -> NDArray[np.float64]:
        common = rng.standard_normal((*shape, patients))[..., of]
        own = rng.standard_normal((*shape, n)) if share < 1 else 0.0
        return np.asarray(np.sqrt(share) * common + np.sqrt(1 - share) * own)

    latent = MEAN + SIGNAL * varied(together)
    half = 0.5 if cell.images > 1 else 1.0
    same, apart = varied(half, 1, 1), varied(half, folds or cell.folds, cell.members)
    noise = NOISE * (np.sqrt(cell.alike) * same + np.sqrt(1 - cell.alike) * apart)
    p = sigmoid(cell.scale * (latent + noise)).mean(axis=1)
    y = (rng.random(n) < sigmoid(latent)).astype(np.int64)
    return Drawn(y, np.stack([1 - p, p], axis=-1), np.array([f"g{one:06d}" for one in range(patients)])[of])


def simulated(cell: Cell, rng: np.random.Generator) -> dict[str, float]:
    """What one study's bundle is worth on new rows."""
    # the further fold indices are those of networks trained without pairs of folds: none of them saw the row
    many = draw(cell, cell.patients, rng, 2 * cell.folds - 1)
    test = draw(cell, max(cell.patients // 4, 10), rng)
    new = draw(cell, NEW // cell.images, rng)
    patient_fold = rng.permutation(cell.patients) % cell.folds
    fold = np.repeat(patient_fold, cell.images).astype(np.int64)
    oof = many.each[fold, np.arange(len(fold))]
    found, _ = choose_map(oof, many.y, many.groups, fold)
    section: dict[str, Any] = {"multilabel": False, "maps": [found], "after": [{"method": "none"}]}
    about, deployed = fit_after(section, oof, many.y, test.each)
    p = answer(about, new.each)
    full, _ = fit_after(section, oof, many.y, None, many.each[cell.folds :])
    out = {
        "slope": _line(new, p)[1],
        "intercept": _line(new, p)[0],
        "before": _line(new, apply(section, new.each.mean(axis=0)))[1],
        "per_fold": _line(new, answer(section, new.each))[1],
        "full": _line(new, answer(full, new.each))[1],
    }
    parts = []
    for here, read in halves(test.groups, True):
        own, like = fit_after(section, oof, many.y, test.each[:, read])
        parts.append((here, answer(own, test.each[:, here]), like))
    for text in RULES:
        rule = parse_rule(text)
        yes = p[:, 1] >= threshold(rule, many.y, deployed[:, 1])
        worth = float(yes[new.y == 1].mean() if rule.kind == "sensitivity" else (~yes[new.y == 0]).mean())
        said = np.zeros(len(test.y), dtype=bool)
        for here, of_half, like in parts:
            said[here] = of_half[:, 1] >= threshold(rule, many.y, like[:, 1])
        there = rates(test.y, said, test.groups)[rule.kind]
        out[rule.kind] = worth
        out[f"{rule.kind}_held"] = float(there.lo <= worth <= there.hi) if there.lo == there.lo else np.nan
    doubt = describe_doubt(confidence(deployed, False), None)
    for share in SHARES:
        out[f"left_{share}"] = float(abstains(confidence(p, False), None, doubt, share).mean())
    return out


def _line(new: Drawn, p: NDArray[np.float64]) -> tuple[float, float]:
    return fit_line(logit(p[:, 1]), new.y.astype(np.float64))


def judged(cell: Cell, reps: int, seed: int = 0) -> dict[str, Any]:
    """A cell's row: its numbers, their Monte-Carlo errors, and which bounds they break."""
    rng = np.random.default_rng(derive_seed(seed, *map(str, vars(cell).values())))
    runs = [simulated(cell, rng) for _ in range(reps)]
    values = {key: np.array([run[key] for run in runs]) for key in runs[0]}
    mean = {key: float(np.nanmean(one)) for key, one in values.items()}
    error = {key: float(np.nanstd(one, ddof=1) / np.sqrt(reps)) for key, one in values.items()}
    medians = {key: float(np.nanmedian(values[key])) for key in ("slope", "before", "per_fold", "full")}
    within = {"slope": (medians["slope"], 0.85, 1.18, 1.25 * error["slope"])}
    for kind in ("sensitivity", "specificity"):
        within[kind] = (mean[kind], 0.92, 0.98, error[kind])
        held = mean[f"{kind}_held"]
        within[f"{kind}_held"] = (held, 0.93, 1.0, np.sqrt(0.93 * 0.07 / reps))
    for share, (low, high) in SHARES.items():
        within[f"left_{share}"] = (mean[f"left_{share}"], low, high, error[f"left_{share}"])
    broken = [key for key, (value, low, high, e) in within.items() if not low - 2.5 * e <= value <= high + 2.5 * e]
    return {
        **vars(cell),
        **{key: round(value, 3) for key, value in (mean | medians).items()},
        "error": {key: round(value, 4) for key, value in error.items()},
        "broken": broken,
    }


def cells(patients: list[int]) -> Iterator[Cell]:
    shapes = [(3, 1), (5, 1), (5, 4), (10, 1)]
    for count, images, (folds, members), alike, scale in product(patients, (1, 4), shapes, (0.9, 0.5, 0.0), (1.0, 3.0)):
        yield Cell(count, images, folds, members, alike, scale)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--reps", type=int, default=24)
    parser.add_argument("--patients", default="100,250,1000")
    options = parser.parse_args()
    start = time.monotonic()
    rows = [judged(cell, options.reps) for cell in cells([int(one) for one in options.patients.split(",")])]
    ranges = {
        key: [min(row[key] for row in rows), max(row[key] for row in rows)]
        for key in ("slope", "before", "per_fold", "full", "sensitivity", "specificity", "left_0.05", "left_0.2")
    }
    held = {
        kind: round(float(np.mean([row[f"{kind}_held"] for row in rows])), 3) for kind in ("sensitivity", "specificity")
    }
    columns = [
        *vars(next(cells([1]))),
        "slope",
        "before",
        "per_fold",
        "full",
        "sensitivity",
        "specificity",
        "left_0.05",
    ]
    lines = ["  ".join(columns)]
    lines += [
        "  ".join(f"{row[name]:>{len(name)}g}" for name in columns) + "  " + ", ".join(row["broken"]) for row in rows
    ]
    publish(
        "calibration_shift",
        sum(not row["broken"] for row in rows) / len(rows),
        1.0,
        options,
        "\n".join([*lines, f"ranges: {ranges}", f"points inside their test interval: {held}"]),
        basis_unknown=FOLD_MODELS,
        ranges=ranges,
        inside_test_interval=held,
        reps=options.reps,
        seconds=round(time.monotonic() - start),
        cells=rows,
    )


if __name__ == "__main__":
    main()
