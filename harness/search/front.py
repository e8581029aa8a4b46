"""Which trials nothing beats in every objective at once. Pure functions; no Optuna."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.ledger import ranked
from harness.metrics import METRICS
from harness.types import TrialRecord, rank_value


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
    known = [record for record in ranked(records, metric) if all(name in record.costs for name in costs)]
    known.sort(key=lambda record: record.number)
    if not costs or not known:
        return []
    losses = np.array(
        [[sign * rank_value(record, metric), *(record.costs[name] for name in costs)] for record in known]
    )
    return [record for record, on in zip(known, is_on_front(losses), strict=True) if on]
