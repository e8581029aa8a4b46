"""Shares of rows, such as sensitivity, with intervals that hold near 0 and 1 and for several images of one patient.

Wilson's score interval (Wilson 1927; recommended by Brown, Cai and DasGupta 2001) of independent rows. Where groups
have several rows, the number of rows is divided by the design effect, which is how much more the share varies than
that of independent rows would (Rao and Scott 1992, "A simple method for the analysis of clustered binary data"). At a
share of 0 or 1 nothing varies, and every group counts as one row. Knows arrays only.
"""

import math

import numpy as np
from numpy.typing import NDArray

from harness.stats.logit_line import Z
from harness.types import Interval


def share(hit: NDArray[np.bool_], groups: NDArray[np.str_]) -> Interval:
    """The share of True among the rows (n,) with its 95% interval; NaN without rows."""
    n = len(hit)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan)
    value = float(hit.mean())
    lo, hi = wilson(value, effective_size(hit, groups))
    return Interval(value, lo, hi)


def wilson(value: float, n: float) -> tuple[float, float]:
    """The 95% score interval of a share observed over n independent rows (n need not be whole)."""
    center = (value + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * math.sqrt(value * (1 - value) / n + Z**2 / (4 * n**2))
    return max(0.0, center - half), min(1.0, center + half)


def effective_size(hit: NDArray[np.bool_], groups: NDArray[np.str_]) -> float:
    """How many independent rows the rows are worth: n / design effect, at most n."""
    n, value = len(hit), float(hit.mean())
    _, of_row = np.unique(groups, return_inverse=True)
    sizes = np.bincount(of_row)
    count = len(sizes)
    if count == n:
        return float(n)
    if value in (0.0, 1.0) or count < 2:
        return float(count)
    apart = np.bincount(of_row, hit.astype(np.float64)) - value * sizes
    variance = count / (count - 1) * float((apart**2).sum()) / n**2
    return n / max(1.0, variance / (value * (1 - value) / n))
