"""Is one model better than another, judged by the folds? The corrected resampled t-test. Knows arrays only."""

import numpy as np
from numpy.typing import NDArray

from harness.stats.intervals import LEVEL
from harness.types import Difference


def corrected_t(differences: NDArray[np.float64], held_out: float) -> Difference:
    """The mean of paired differences over J folds or splits, with its 95% interval and two-sided p-value.

    Nadeau and Bengio 2003, "Inference for the generalization error": two folds share most of their training rows, so
    their differences vary less than those of independent data would. The variance 1 / J becomes
    1 / J + held_out / (1 - held_out).

    differences (J,); held_out: the share of rows that each split holds out, 1 / K for K folds. NaN below two
    differences, or where one is not defined; p is 1 where all are 0.
    """
    from scipy.stats import t as student

    count = len(differences)
    nothing = float("nan")
    if count < 2 or not np.isfinite(differences).all():
        return Difference(float(np.mean(differences)) if count else nothing, nothing, nothing, nothing)
    value = float(differences.mean())
    error = float(np.sqrt((1 / count + held_out / (1 - held_out)) * differences.var(ddof=1)))
    if error == 0.0:
        return Difference(value, value, value, 1.0 if value == 0.0 else nothing)
    half = float(student.ppf((1 + LEVEL) / 2, count - 1)) * error
    return Difference(value, value - half, value + half, float(2 * student.sf(abs(value) / error, count - 1)))
