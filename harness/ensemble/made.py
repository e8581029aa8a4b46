"""What a method gives that makes networks of its own, instead of combining what the members' networks say."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.embed import EncoderCache
from harness.ensemble.labels import by_fold_index
from harness.ensemble.methods import METHODS
from harness.ensemble.oof import Model, check_probabilities
from harness.ensemble.save import NetworkSet
from harness.types import Dataset, Folds


@dataclass(frozen=True)
class Made:
    networks: NetworkSet
    """K' checkpoints, whose mean predicts"""
    oof: NDArray[np.float64]
    """(N, C) cross-fitted, as of oof.Fitted; NaN where every network has seen the row"""
    selection: NDArray[np.float64]
    """(N, C) as of oof.Fitted"""
    test: NDArray[np.float64]
    """(T, C) by the networks"""
    model: Model
    """the mean of the networks"""
    each: NDArray[np.float64]
    """(K', T, C) as `test`, by each network alone"""


def assemble(
    networks: NetworkSet,
    oof: NDArray[np.float64],
    selection: NDArray[np.float64],
    cache: EncoderCache,
    dataset: Dataset,
    folds: Folds,
) -> Made:
    """With what the networks say of the test split. Raises HarnessError where that is not finite."""
    model = METHODS["mean"].load({}, len(dataset.classes), dataset.multilabel)
    rows = {"test": folds.test_rows()}
    logits = [cache.outputs(network.meta, network.weights, rows)[0].logits for network in networks.networks]
    said = np.stack(logits)[None]
    test = check_probabilities(model.predict(said, None), f"{networks.name}, test split", dataset.multilabel)
    return Made(networks, oof, selection, test, model, by_fold_index(model, said, None))
