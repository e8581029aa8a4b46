"""The simple mean of the members' probabilities: always computed, and what every other method has to beat.

A member's probability is itself the mean over its K fold models, so the mean of members is the mean over all
K x M fold models: every network has the same say. Nothing is fitted, so nothing can leak: the out-of-fold
probability of a row is the mean over members of the one fold model's that never saw the row's group.
Source: the linear opinion pool (Stone 1961); deep ensembles (Lakshminarayanan et al. 2017).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.oof import Embed, Fitted, OofTable, check_table, mean_oof, mean_predict
from harness.types import Progress


@dataclass(frozen=True)
class MeanModel:
    def predict(self, logits: NDArray[np.float32], embed: Embed | None = None) -> NDArray[np.float64]:
        return mean_predict(logits)

    def files(self) -> dict[str, bytes]:
        return {}


def fit(table: OofTable, embed: Embed | None = None, seed: int = 0, progress: Progress | None = None) -> Fitted:
    """Raises HarnessError when a member lacks a row."""
    check_table(table)
    oof = mean_oof(table)
    return Fitted(MeanModel(), oof, oof)


def load(files: Mapping[str, bytes]) -> MeanModel:
    return MeanModel()
