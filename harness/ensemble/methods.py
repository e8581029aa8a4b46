"""The table of ensemble methods. Adding one: a file with `fit` and `load`, one line here, and its name in names.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from harness.ensemble import (
    adaboost,
    bagging,
    boosting,
    greedy,
    mean,
    stacking,
    stacking_boosted,
    stacking_embeddings,
    stacking_levels,
    weighted,
    weights,
)
from harness.ensemble.labels import fit_labels, load_labels
from harness.ensemble.names import KNOWN, NETWORK_METHODS
from harness.ensemble.oof import Embed, Fitted, Model, OofTable
from harness.errors import RequestError, nearest
from harness.types import Progress


@dataclass(frozen=True)
class Method:
    fit_classes: Callable[..., Fitted]
    """fit(table, embed, seed, progress), and device=... where the fit itself can use a GPU"""
    load_classes: Callable[[Mapping[str, bytes]], Model]
    embeddings: Literal["none", "held_out", "all"]
    """what an encoder's embeddings are needed of: nothing, the development rows that it held out, or all of them"""
    takes_device: bool = False
    few: int = 10
    """members up to which it is fitted again without each of them, to tell what each gives"""

    def fit(
        self, table: OofTable, embed: Embed | None, seed: int, progress: Progress | None, device: str = "cpu"
    ) -> Fitted:
        """Over classes, or in a multi-label task once for each label. device: cpu, cuda or cuda:N."""
        fit = partial(self.fit_classes, device=device) if self.takes_device else self.fit_classes
        return fit_labels(fit, table, embed, seed, progress) if table.multilabel else fit(table, embed, seed, progress)

    def load(self, files: Mapping[str, bytes], classes: int, multilabel: bool) -> Model:
        return load_labels(self.load_classes, files, classes) if multilabel else self.load_classes(files)

    @property
    def needs_embeddings(self) -> bool:
        return self.embeddings != "none"


METHODS = {
    "mean": Method(mean.fit, mean.load, "none"),
    "weighted": Method(weighted.fit, weights.load, "none"),
    "greedy": Method(greedy.fit, weights.load, "none"),
    "bagging": Method(bagging.fit, bagging.load, "held_out"),
    "boosting": Method(boosting.fit, boosting.load, "all", True),
    "adaboost": Method(adaboost.fit, adaboost.load, "all"),
    "stacking": Method(stacking.fit, stacking.load, "none"),
    "stacking-boosted": Method(stacking_boosted.fit, stacking_boosted.load, "none"),
    "stacking-levels": Method(
        stacking_levels.fit, stacking_levels.load, "none", few=3
    ),  # each fit is one of every pair of folds
    "stacking-embeddings": Method(stacking_embeddings.fit, stacking_embeddings.load, "held_out"),
}


def reader(name: str) -> Method | None:
    """What reads and applies a stored method; None where there is no such method."""
    return METHODS["mean"] if name in NETWORK_METHODS else METHODS.get(name)


def require_method(name: str) -> Method | None:
    """The method; None for one of NETWORK_METHODS. Raises RequestError with the methods there are."""
    if name in NETWORK_METHODS:
        return None
    if name not in METHODS:
        raise RequestError(f"--method {name}: no such method.{nearest(name, KNOWN)} Known: {', '.join(KNOWN)}.")
    return METHODS[name]
