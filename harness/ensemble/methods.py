"""The table of ensemble methods. Adding one: a file with `fit` and `load`, and one line here."""

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
)
from harness.ensemble.labels import fit_labels, load_labels
from harness.ensemble.oof import Embed, Fitted, Model, OofTable
from harness.errors import RequestError, nearest
from harness.records import Progress


@dataclass(frozen=True)
class Method:
    fit_classes: Callable[..., Fitted]
    """fit(table, embed, seed, progress), and device=... where the fit itself can use a GPU"""
    load_classes: Callable[[Mapping[str, bytes]], Model]
    embeddings: Literal["none", "held_out", "all"]
    """what an encoder's embeddings are needed of: nothing, the development rows that it held out, or all of them"""
    says: str
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
    "mean": Method(mean.fit, mean.load, "none", "the average of all fold models"),
    "weighted": Method(weighted.fit, weighted.load, "none", "the members' average by their most likely weights"),
    "greedy": Method(greedy.fit, greedy.load, "none", "members taken one by one, with replacement, while it helps"),
    "bagging": Method(bagging.fit, bagging.load, "held_out", "that average, with bootstrapped heads on the embeddings"),
    "boosting": Method(boosting.fit, boosting.load, "all", "XGBoost on the embeddings, per encoder", True),
    "adaboost": Method(adaboost.fit, adaboost.load, "all", "a vote of stumps on the embeddings, per encoder"),
    "stacking": Method(stacking.fit, stacking.load, "none", "a logistic regression on the members' predictions"),
    "stacking-boosted": Method(
        stacking_boosted.fit, stacking_boosted.load, "none", "XGBoost on the members' predictions, from their mean on"
    ),
    "stacking-levels": Method(
        stacking_levels.fit,
        stacking_levels.load,
        "none",
        "a logistic regression on what four other methods say",
        few=3,  # each fit is one of every pair of folds
    ),
    "stacking-embeddings": Method(
        stacking_embeddings.fit,
        stacking_embeddings.load,
        "held_out",
        "stacking with heads on the embeddings beside it",
    ),
}

NETWORK_METHODS = {
    "soup": "one network: the mean of the weights of fine-tunes that share a start",
    "soup-greedy": "the same, of those that do each other no harm",
    "bagging-retrained": "the best trial trained anew on bootstrap resamples of the groups",
}
"""Methods that make networks of their own, whose mean predicts (build.py)."""
KNOWN = (*METHODS, *NETWORK_METHODS)
WITHOUT_TRAINING = tuple(name for name in KNOWN if name != "bagging-retrained")
"""what `--method all` builds"""


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
