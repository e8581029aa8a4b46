"""What each factor of an ablation gives, with an interval that counts both kinds of chance: patients and seeds.

Every arm is trained S times on the same folds, with the same S training seeds, and scored on the same patients. That is
the design of a reader study in radiology, with arms for modalities, seeds for readers and patients for cases, and it is
analysed as such: the model of Obuchowski and Rockette (1995) with random readers and random cases and Hillis's degrees
of freedom (2007). The variance of a difference of two arms is

    2 / S * (MS + S * max(0, Cov2 - Cov3))

MS: mean square of arms x seeds (a two-way analysis of variance over all arms: three seeds of one arm say too little).
Cov2, Cov3: covariance, over the drawing of patients, of the metrics of two seeds of one arm, and of two seeds of two
arms, by the group bootstrap: what the two arms do differently for the same patients whatever the seed.

Percentile bootstraps are not used. Of patients alone, it calls equal arms different in 6% to 49% of simulated studies,
depending on what seeds change; of patients and seeds, in 0.3% (what seeds change patient by patient is counted twice)
to 12% (three seeds drawn from three have two thirds of their variance, and no t-like tails).
All arms and seeds are trained on the same rows, so the drawing of training rows is no part of this variance: intervals
and p-values hold for the training rows of this data set, scored on other patients and trained with other seeds, and not
for recipes trained on other data. In such a design nothing observed tells how large that part is (Bengio and Grandvalet
2004).
Knows arrays only: no folds, no files, no torch.

A: arms, S: seeds, N: rows, C: classes, B: bootstrap replicates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.metrics import METRICS, mean_over_folds
from harness.stats.intervals import LEVEL, weight_blocks
from harness.types import Difference

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Effects:
    """The numbers of an ablation table."""

    values: Floats
    """(A, S) the metric of each arm and seed"""
    differences: list[Difference]
    """one for each pair of arms"""
    noise_floor: float
    """what two arms that do the same differ by at most, 95% of the time, by the noise of S trainings each"""
    seed_sd: float
    """standard deviation of the metric between seeds of one arm, pooled over arms"""


def ablation_effects(
    metric: str,
    y: NDArray[np.int64],
    p: Floats,
    groups: NDArray[np.str_],
    pairs: Sequence[tuple[int, int]],
    seed: int,
    reps: int = 1000,
    fold: NDArray[np.int64] | None = None,
) -> Effects:
    """For each pair (without, with) of arms: the metric with the factor minus the metric without it, over S seeds.

    y (N,) or (N, C), p (A, S, N, C) probabilities, groups (N,). fold (N,): where given, the metric is its mean over the
    folds, else that of all rows. Intervals and p-values are NaN where the metric is
    undefined, on more than half of the replicates too, or where there is a single group. Raises ValueError for fewer
    than two arms or two seeds.
    """
    arms, seeds = p.shape[:2]
    if arms < 2 or seeds < 2:
        raise ValueError(f"an ablation needs two arms and two seeds at least, not {arms} and {seeds}")
    values = np.array([[_scored(metric, y, one, fold, None)[0] for one in arm] for arm in p])
    floor, seed_sd = noise_floor(values)
    deltas = [float((values[b] - values[a]).mean()) for a, b in pairs]
    replicates = _replicates(metric, y, p, groups, seed, reps, fold)
    if len(replicates) < max(2, reps / 2) or not np.isfinite(values).all():
        nothing = float("nan")
        return Effects(values, [Difference(delta, nothing, nothing, nothing) for delta in deltas], floor, seed_sd)
    mean_square, covariance = _mean_square(values), _between_seeds(replicates, len(np.unique(groups)))
    found = []
    for delta, (a, b) in zip(deltas, pairs, strict=True):
        shared = float((covariance[a, a] + covariance[b, b]) / 2 - covariance[a, b])
        if mean_square == 0.0:  # seeds change no count of a coarse metric: what is left is the drawing of patients
            shared = float((replicates[:, b] - replicates[:, a]).mean(axis=1).var() / 2)
        found.append(random_seeds_and_patients(delta, mean_square, shared, arms, seeds))
    return Effects(values, found, floor, seed_sd)


def random_seeds_and_patients(delta: float, mean_square: float, shared: float, arms: int, seeds: int) -> Difference:
    """The difference of two arms' means over seeds, as a draw of both seeds and patients.

    mean_square: of arms x seeds; shared: Cov2 - Cov3. Obuchowski and Rockette 1995, with the degrees of freedom of
    Hillis 2007, "A comparison of denominator degrees of freedom methods for multiple observer ROC analysis".
    """
    from scipy.stats import t as student

    total = mean_square + seeds * max(0.0, shared)
    if total == 0.0:  # the same for every seed and every drawing of patients
        return Difference(delta, delta, delta, 1.0 if delta == 0.0 else float("nan"))
    freedom = (arms - 1) * (seeds - 1) * (total / mean_square) ** 2 if mean_square else np.inf
    error = float(np.sqrt(2 / seeds * total))
    half = float(student.ppf((1 + LEVEL) / 2, freedom)) * error
    return Difference(delta, delta - half, delta + half, float(2 * student.sf(abs(delta) / error, freedom)))


def noise_floor(values: Floats) -> tuple[float, float]:
    """From the metric by arm and seed, (A, S): what the means of two arms that do the same differ by at most, 95% of
    the time, with the same S seeds (from the mean square of arms x seeds); and the standard deviation between seeds of
    one arm, pooled over arms. No row within the first is significant: its interval is at least as wide."""
    from scipy.stats import t as student

    arms, seeds = values.shape
    reach = float(student.ppf((1 + LEVEL) / 2, (arms - 1) * (seeds - 1)))
    return reach * float(np.sqrt(2 / seeds * _mean_square(values))), float(np.sqrt(values.var(axis=1, ddof=1).mean()))


def _mean_square(values: Floats) -> float:
    """What neither arm nor seed explains of (A, S) values, per degree of freedom."""
    arms, seeds = values.shape
    left = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    found = float((left**2).sum() / ((arms - 1) * (seeds - 1)))
    return found if found > 1e-24 else 0.0  # below it: rounding


def _between_seeds(replicates: Floats, groups: int) -> Floats:
    """(A, A) covariance of two arms' metrics, each with another seed, over the drawing of `groups` groups."""
    reps, arms, seeds = replicates.shape
    covariance = np.cov(replicates.reshape(reps, -1), rowvar=False) * groups / (groups - 1)
    by_seed = covariance.reshape(arms, seeds, arms, seeds)
    same_seed = np.einsum("asbs->ab", by_seed)
    return np.asarray((by_seed.sum(axis=(1, 3)) - same_seed) / (seeds * (seeds - 1)))


def _scored(metric: str, y: NDArray[np.int64], p: Floats, fold: NDArray[np.int64] | None, w: Floats | None) -> Floats:
    """(R,)"""
    return METRICS[metric].of(y, p, w) if fold is None else mean_over_folds(metric, y, p, fold, w)


def _replicates(
    metric: str,
    y: NDArray[np.int64],
    p: Floats,
    groups: NDArray[np.str_],
    seed: int,
    reps: int,
    fold: NDArray[np.int64] | None,
) -> Floats:
    """(B, A, S) the metric under each drawing of groups; drawings where it is undefined for an arm are left out, and
    with a single group there are none."""
    arms, seeds = p.shape[:2]
    if len(np.unique(groups)) < 2:
        return np.empty((0, arms, seeds))
    blocks = [
        np.array([[_scored(metric, y, one, fold, w) for one in arm] for arm in p]).transpose(2, 0, 1)
        for w in weight_blocks(groups, reps, seed)
    ]
    found = np.concatenate(blocks)
    return np.asarray(found[np.isfinite(found).all(axis=(1, 2))])
