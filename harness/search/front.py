"""Which trials nothing beats in every objective at once. Pure functions; no Optuna."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.metrics import METRICS
from harness.records import TrialRecord


def is_on_front(losses: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) of (n, objectives), all to be small: True where no other is as small everywhere and smaller somewhere."""
    on = np.ones(len(losses), bool)
    for index, row in enumerate(losses):
        on[index] = not ((losses <= row).all(axis=1) & (losses < row).any(axis=1)).any()
    return on


def front(records: Iterable[TrialRecord], metric: str, costs: Sequence[str]) -> list[TrialRecord]:
    """The Pareto-optimal trials in metric and costs, by number; none in a study of the metric alone. Of trials with
    the same configuration the first one stands."""
    sign = -1.0 if METRICS[metric].higher_is_better else 1.0
    known = [
        record
        for record in records
        if record.state == "complete"
        and not record.infeasible
        and record.same_as is None
        and np.isfinite(record.oof[metric].value)
        and all(name in record.costs for name in costs)
    ]
    if not costs or not known:
        return []
    losses = np.array([[sign * record.oof[metric].value, *(record.costs[name] for name in costs)] for record in known])
    return [record for record, on in zip(known, is_on_front(losses), strict=True) if on]
