"""The table of ensemble methods. Adding one: a file with `fit` and `load`, one line here, and its name in names.py.

Ensembles of a multi-label task: any method, fitted once for each label as a question of two classes.

Label c of a row with logit z becomes the two-class logits (0, z), whose softmax is the sigmoid of z. A method sees the
rows whose answer to c is known; the others get the members' mean, which nothing scores. Knows arrays only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from harness.ensemble import adaboost, averaging, bagging, boosting, stacking
from harness.ensemble.names import KNOWN, NETWORK_METHODS
from harness.ensemble.oof import Embed, Fitted, Model, OofTable, check_table, mean_oof
from harness.errors import HarnessError, RequestError, nearest
from harness.metrics import UNKNOWN
from harness.types import Progress, silent


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
    "mean": Method(averaging.fit_mean, averaging.load_mean, "none"),
    "weighted": Method(averaging.fit_weighted, averaging.load_weights, "none"),
    "greedy": Method(averaging.fit_greedy, averaging.load_weights, "none"),
    "bagging": Method(bagging.fit, bagging.load, "held_out"),
    "boosting": Method(boosting.fit, boosting.load, "all", True),
    "adaboost": Method(adaboost.fit, adaboost.load, "all"),
    "stacking": Method(stacking.fit_stacking, stacking.load_stacking, "none"),
    "stacking-boosted": Method(stacking.fit_stacking_boosted, stacking.load_stacking_boosted, "none"),
    "stacking-levels": Method(
        stacking.fit_stacking_levels, stacking.load_stacking_levels, "none", few=3
    ),  # each fit is one of every pair of folds
    "stacking-embeddings": Method(stacking.fit_stacking_embeddings, stacking.load_stacking_embeddings, "held_out"),
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


Floats = NDArray[np.float64]
Fit = Callable[[OofTable, Embed | None, int, Progress | None], Fitted]
Load = Callable[[Mapping[str, bytes]], Model]


@dataclass(frozen=True)
class LabelModels:
    """One fitted model per label."""

    models: tuple[Model, ...]

    def predict(self, logits: NDArray[np.float32], embed: Embed | None) -> NDArray[np.float64]:
        """(M, K, n, C) -> (n, C): each label's own probability of yes."""
        each = [model.predict(pair(logits[..., c]), embed)[:, 1] for c, model in enumerate(self.models)]
        return np.stack(each, axis=1)

    def files(self) -> dict[str, bytes]:
        return {
            f"label_{c}/{name}": data for c, model in enumerate(self.models) for name, data in model.files().items()
        }


def pair(z: NDArray[np.float32]) -> NDArray[np.float32]:
    """(...) logits of yes -> (..., 2) two-class logits."""
    return np.stack([np.zeros_like(z), z], axis=-1)


def fit_labels(fit: Fit, table: OofTable, embed: Embed | None, seed: int, progress: Progress | None) -> Fitted:
    """Fit a method for each label of table.y (N, C). Raises HarnessError when a member lacks a row or a label has no
    known answer in some fold."""
    check_table(table)
    report = progress or silent
    oof = mean_oof(table)
    selection = oof.copy()
    models = []
    for c in range(table.classes):
        known = table.y[:, c] != UNKNOWN
        if len(np.unique(table.fold[known])) < table.k:
            raise HarnessError(f"label number {c} has no known answer in one of the folds: nothing is fitted on it.")
        part = replace(
            table,
            y=table.y[known, c],
            groups=table.groups[known],
            fold=table.fold[known],
            logits=pair(table.logits[known][..., c]),
        )
        fitted = fit(part, _only(embed, known), seed, None)
        models.append(fitted.model)
        oof[known, c] = fitted.oof[:, 1]
        selection[known, c] = fitted.selection[:, 1]
        report("labels", c + 1, table.classes)
    return Fitted(LabelModels(tuple(models)), oof, selection)


def _only(embed: Embed | None, rows: NDArray[np.bool_]) -> Embed | None:
    if embed is None:
        return None
    whole = embed

    def some(m: int, k: int) -> NDArray[np.float32]:
        return whole(m, k)[rows]

    return some


def load_labels(load: Load, files: Mapping[str, bytes], classes: int) -> LabelModels:
    """Raises RequestError when the files are not of that many labels."""
    own: list[dict[str, bytes]] = [{} for _ in range(classes)]
    for name, data in files.items():
        label, _, rest = name.partition("/")
        number = label.removeprefix("label_")
        if not rest or not number.isdecimal() or int(number) >= classes:
            raise RequestError(f"{name} is of none of the bundle's {classes} labels. Build the ensemble again.")
        own[int(number)][rest] = data
    return LabelModels(tuple(load(part) for part in own))


PER_ENCODER = ("heads", "boosters")
"""attributes of a fitted method that hold one fit for each encoder (m, k)"""


def by_fold_index(model: Model, logits: NDArray[np.float32], embed: Embed | None) -> Floats:
    """(K, n, C) probabilities of new rows by the networks of one fold index at a time, from logits (M, K, n, C). Their
    mean is what `model.predict` says by all of them."""
    return np.stack(
        [_only_fold_index(model, k).predict(logits[:, [k]], _of_index(embed, k)) for k in range(logits.shape[1])]
    ).astype(np.float64)


def _of_index(embed: Embed | None, k: int) -> Embed | None:
    return None if embed is None else lambda m, _: embed(m, k)


def _only_fold_index(model: Model, k: int) -> Model:
    """The fitted method for the networks of fold index k alone, which are then its index 0."""
    if isinstance(model, LabelModels):
        return LabelModels(tuple(_only_fold_index(one, k) for one in model.models))
    for name in PER_ENCODER:
        fits = getattr(model, name, None)
        if fits is not None:
            own = {(m, 0): fit for (m, index), fit in fits.items() if index == k}
            return cast(Model, replace(cast(Any, model), **{name: own}))
    return model
