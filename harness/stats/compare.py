"""Is one set of predictions better than another on the same rows? Paired differences, and Holm's correction.

Both are scored under the same bootstrap replicates, so what makes a patient easy or hard for both cancels out. Knows
arrays only: no folds, no files, no torch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError, nearest
from harness.metrics import METRICS, Metric
from harness.records import Difference
from harness.stats.intervals import percentiles, weight_blocks

Floats = NDArray[np.float64]


def paired_difference(
    metric: str,
    y: NDArray[np.int64],
    p_a: Floats,
    p_b: Floats,
    groups: NDArray[np.str_],
    seed: int,
    reps: int = 2000,
) -> Difference:
    """The metric of a minus that of b, with its 95% interval and two-sided p-value, by the paired group bootstrap.

    y (N,), p_a and p_b (N, C) probabilities for the same rows, groups (N,). The sign is that of a - b for every
    metric, also where lower is better. The p-value inverts the percentile interval (Efron and Tibshirani 1993,
    section 15.4): twice the smaller share of replicates on either side of 0, each side counted with one more
    (Davison and Hinkley 1997, section 4.2), so it is never 0, and it is 1 for predictions that never differ.
    NaN where the metric is undefined, on more than half of the replicates, or when there is a single group.
    Raises RequestError for a metric that does not exist.
    """
    return paired_differences(metric, y, [(p_a, p_b)], groups, seed, reps)[0]


def paired_differences(
    metric: str,
    y: NDArray[np.int64],
    pairs: Sequence[tuple[Floats, Floats]],
    groups: NDArray[np.str_],
    seed: int,
    reps: int = 2000,
) -> list[Difference]:
    """paired_difference for each pair, all under the same replicates. An array that is in several pairs is scored
    once."""
    of = require_metric(metric).of
    distinct = {id(p): p for pair in pairs for p in pair}
    values = {key: float(of(y, p, None)[0]) for key, p in distinct.items()}
    if len(np.unique(groups)) < 2:
        nothing = float("nan")
        return [Difference(values[id(a)] - values[id(b)], nothing, nothing, nothing) for a, b in pairs]
    blocks: dict[int, list[Floats]] = {key: [] for key in distinct}
    for w in weight_blocks(groups, reps, seed):
        for key, p in distinct.items():
            blocks[key].append(of(y, p, w))
    scored = {key: np.concatenate(found) for key, found in blocks.items()}
    return [of_replicates(values[id(a)] - values[id(b)], scored[id(a)] - scored[id(b)]) for a, b in pairs]


def require_metric(name: str) -> Metric:
    """Raises RequestError with the nearest name and those there are."""
    if name not in METRICS:
        raise RequestError(f"metric {name!r} does not exist.{nearest(name, METRICS)} Known: {', '.join(METRICS)}.")
    return METRICS[name]


def of_replicates(value: float, replicates: Floats) -> Difference:
    """A difference with its percentile interval and the p-value described above, from bootstrap replicates (R,) of
    it; NaN where more than half of them, or the difference itself, are not defined."""
    lo, hi = percentiles(replicates)
    if not (np.isfinite(lo) and np.isfinite(value)):
        return Difference(value, float("nan"), float("nan"), float("nan"))
    defined = replicates[np.isfinite(replicates)]
    below, above = int((defined <= 0).sum()), int((defined >= 0).sum())
    return Difference(value, lo, hi, min(1.0, 2.0 * (min(below, above) + 1) / (len(defined) + 1)))


def holm(p_values: Floats) -> Floats:
    """(n,) p-values corrected for their number (Holm 1979, step-down). NaN stays NaN and is not counted as a test.
    Raises ValueError for what is no p-value."""
    p = np.asarray(p_values, dtype=np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p-values lie between 0 and 1, not at {np.nanmin(p)} or {np.nanmax(p)}")
    corrected = np.full(p.shape, np.nan)
    tests = np.flatnonzero(~np.isnan(p))
    order = tests[np.argsort(p[tests], kind="stable")]
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected
