"""Simulated ablations: what arms, seeds, folds and patients do to predictions, with and without a true effect."""

import numpy as np


def ablation(
    rng: np.random.Generator,
    groups: int = 100,
    arms: int = 8,
    seeds: int = 3,
    folds: int = 5,
    by_fold: float = 0.3,
    by_row: float = 0.4,
    by_patient: float = 0.0,
    effect: float = 0.0,
):
    """y (N,), p (A, S, N, 2), groups (N,) of patients with 1 to 4 images.

    Every arm sees the same patients, some of them hard. Each training (arm, seed, fold) shifts and scales its fold's
    logits (`by_fold`) and errs by patient and row (`by_row`). `by_patient`: what an arm does differently for a patient
    with every seed; it averages to nothing, so arms stay equal. `effect`: added signal of arm 1.
    """
    of_row = np.repeat(np.arange(groups), rng.integers(1, 5, groups))
    n = len(of_row)
    of_group = (rng.random(groups) < 0.4).astype(np.int64)
    of_group[:2] = 0, 1
    y, fold = of_group[of_row], rng.integers(0, folds, groups)[of_row]
    signal = 2.0 * (y - 0.5)
    common = 0.9 * signal + 0.7 * rng.normal(size=groups)[of_row] + 0.7 * rng.normal(size=n)
    p = np.empty((arms, seeds, n, 2))
    for arm in range(arms):
        own = by_patient * rng.normal(size=groups)[of_row] + effect * signal * (arm == 1)
        for seed in range(seeds):
            scale, shift = np.exp(by_fold / 3 * rng.normal(size=folds)), by_fold * rng.normal(size=folds)
            noise = by_row * (0.6 * rng.normal(size=groups)[of_row] + rng.normal(size=n))
            q = 1 / (1 + np.exp(-((common + own) * scale[fold] + shift[fold] + noise)))
            p[arm, seed] = np.stack([1 - q, q], axis=1)
    return y, p, of_row.astype(str)
