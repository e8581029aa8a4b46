"""Do two models differ in how often they are right on the same rows? McNemar's test, exact, mid-p, and by groups.

Only rows that one model has right and the other wrong say anything. The exact and the mid-p test take rows for
independent draws, which images of one patient are not: where groups have several images, `clustered` is the one to
read. Knows arrays only.

N: rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class McNemar:
    """How often only one of two models is right."""

    only_a: int
    """rows that a has right and b wrong"""
    only_b: int
    exact: float
    """two-sided binomial p-value; as if rows were independent"""
    mid_p: float
    """the same, with half the weight on what was observed (Fagerland, Lydersen and Laake 2013), which they recommend;
    as if rows were independent"""
    clustered: float
    """p-value that lets images of one group depend on each other (Durkalski et al. 2003); each group counts alike,
    however many images it has. NaN below two groups"""
    statistic: float
    """of `clustered`: chi-squared with one degree of freedom"""


def mcnemar(right_a: NDArray[np.bool_], right_b: NDArray[np.bool_], groups: NDArray[np.str_]) -> McNemar:
    """right_a and right_b (N,): whether each model has the row right; groups (N,)."""
    from scipy.stats import binom, chi2

    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    discordant, fewer = only_a + only_b, min(only_a, only_b)
    exact = min(1.0, 2 * float(binom.cdf(fewer, discordant, 0.5)))
    mid_p = 1.0 if only_a == only_b else exact - float(binom.pmf(fewer, discordant, 0.5))
    _, of_row = np.unique(groups, return_inverse=True)
    sizes = np.bincount(of_row)
    if len(sizes) < 2:
        return McNemar(only_a, only_b, exact, mid_p, float("nan"), float("nan"))
    shares = np.bincount(of_row, right_a.astype(np.float64) - right_b) / sizes
    spread = float((shares**2).sum())
    statistic = float(shares.sum()) ** 2 / spread if spread else 0.0
    return McNemar(only_a, only_b, exact, mid_p, float(chi2.sf(statistic, 1)), statistic)
