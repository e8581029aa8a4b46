"""Weight soup: fine-tunes of one start as ONE network, whose pass costs what a single member's does.

`soup` averages the weights of all members that share a start, `soup-greedy` of those that do each other no harm
(soup_choice.py, soup_weights.py: Wortsman et al. 2022).

What is scored out-of-fold is a soup of fold models: soup k, the mean of the members' networks that never saw fold k,
with batch-norm statistics of rows outside of fold k, predicts fold k. The greedy choice for fold k is made on the other
folds' rows. What is kept is, where the members' folds share one start, too, ONE network averaged over the chosen
members and all K folds; the out-of-fold score is then that of its K parts, not its own, and the test split's score is
its own. Where the start differs from fold to fold, the K soups are kept and their mean predicts.
"""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.embed import rows_key
from harness.ensemble.gather import Gathered
from harness.ensemble.made import Made, assemble
from harness.ensemble.oof import check_probabilities
from harness.ensemble.save import Network, NetworkSet
from harness.ensemble.soup_choice import choose_greedily, log_loss
from harness.ensemble.soup_weights import blend, largest_shared_start
from harness.errors import RequestError
from harness.images.pixels import select
from harness.metrics import METRICS, probabilities
from harness.seeds import derive_seed
from harness.store.arrays import pack, unpack
from harness.store.files import write_bytes
from harness.store.home import Home
from harness.train.checkpoint import NO_FOLD, save_weights
from harness.train.inference import infer
from harness.types import Progress, rank_value

FORMAT = 1
"""raise it when a soup of the same checkpoints becomes another one"""


def make_soup(home: Home, found: Gathered, greedy: bool, device: str, progress: Progress) -> Made:
    """Raises RequestError where fewer than two members share a start, HarnessError where a soup gives no finite
    numbers."""
    sign = 1.0 if METRICS[found.metric].higher_is_better else -1.0
    values = [sign * rank_value(member.trial, found.metric) for member in found.members]
    members = largest_shared_start(found.metas, values)
    folds, folder = found.table.k, home.work(found.studies[0].name) / "soups"
    most = (len(members) - 1) * (folds + 1) * folds if greedy else folds
    pots = _Pots(found, folder / "fold_logits", device, most, progress)
    chosen = choose_greedily(members, partial(pots.loss, without=None)) if greedy else tuple(members)
    choices = [choose_greedily(members, partial(pots.loss, without=k)) if greedy else chosen for k in range(folds)]
    oof = pots.out_of_fold(choices)
    selection = pots.out_of_fold([chosen] * folds)
    pots.finished()
    name = "soup-greedy" if greedy else "soup"
    networks = _keep(found, chosen, folder / name, name, device)
    cache = found.outputs.cache(members[0])
    return assemble(networks, oof, selection, cache, found.data.dataset, found.data.folds)


class _Pots:
    """Soups of fold models and what they say of the fold that none of their parts saw, each cooked once and kept."""

    def __init__(self, found: Gathered, folder: Path, device: str, most: int, progress: Progress) -> None:
        """most: soups that will be asked for at most."""
        self._found, self._folder, self._device, self._progress = found, folder, device, progress
        self._known: dict[tuple[tuple[int, ...], int], NDArray[np.float32]] = {}
        self._most = most

    def out_of_fold(self, choices: list[tuple[int, ...]]) -> NDArray[np.float64]:
        """(N, C) probabilities of each fold's rows by the soup of choices[fold] that never saw them."""
        table = self._found.table
        p = np.full((len(table.y), table.classes), np.nan)
        for fold, members in enumerate(choices):
            p[table.fold == fold] = probabilities(self._logits(members, fold), table.multilabel)
        return check_probabilities(p, "soup, out of fold", table.multilabel)

    def loss(self, members: tuple[int, ...], without: int | None) -> float:
        """Log-loss of these members' fold soups over all rows, or those outside of a fold."""
        table = self._found.table
        folds = [fold for fold in range(table.k) if fold != without]
        p = [probabilities(self._logits(members, fold), table.multilabel) for fold in folds]
        y = [table.y[table.fold == fold] for fold in folds]
        return log_loss(np.concatenate(y), np.concatenate(p))

    def finished(self) -> None:
        self._progress("soups of fold models", self._most, self._most)

    def _logits(self, members: tuple[int, ...], fold: int) -> NDArray[np.float32]:
        """(n, C) of the rows of `fold`, in the table's order, by the soup of the members' fold models."""
        if len(members) == 1:
            table = self._found.table
            alone: NDArray[np.float32] = table.logits[table.fold == fold, members[0]]
            return alone
        key = (members, fold)
        if key not in self._known:
            self._known[key] = self._read_or_cook(members, fold)
            self._progress("soups of fold models", len(self._known), self._most)
        return self._known[key]

    def _read_or_cook(self, members: tuple[int, ...], fold: int) -> NDArray[np.float32]:
        found = self._found
        data, pixels = found.data, found.outputs.cache(members[0]).pixels
        rows = data.folds.held_out_rows(fold)
        parts = [found.metas[member][fold].encoder_id for member in members]
        path = self._folder / f"{derive_seed(FORMAT, rows_key(data.dataset, rows), *parts):016x}.npz"
        kept = _read(path, (len(rows), len(data.dataset.classes)))
        if kept is not None:
            return kept
        weights = [found.members[member].weights(fold) for member in members]
        network, meta = blend(weights, pixels, data.folds.train_rows(fold), self._device, fold)
        logits, _ = infer(network, meta, select(pixels, rows), self._device)
        write_bytes(path, pack({"logits": logits}))
        return logits


def _read(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    try:
        logits: NDArray[np.generic] = unpack(path.read_bytes(), str(path))["logits"]
    except (OSError, RequestError, KeyError):
        return None
    return logits.astype(np.float32, copy=False) if logits.shape == shape else None


def _keep(found: Gathered, chosen: tuple[int, ...], folder: Path, name: str, device: str) -> NetworkSet:
    """Write the soup, or one for each fold, under `folder`, in place of an earlier build's."""
    shutil.rmtree(folder, ignore_errors=True)
    folds, pixels = found.data.folds, found.outputs.cache(chosen[0]).pixels
    one_start = len({meta.start_id for meta in found.metas[chosen[0]]}) == 1
    networks = []
    for fold in [NO_FOLD] if one_start else range(folds.k):
        parts = range(folds.k) if fold == NO_FOLD else [fold]
        weights = [found.members[member].weights(part) for member in chosen for part in parts]
        rows = folds.development_rows() if fold == NO_FOLD else folds.train_rows(fold)
        network, meta = blend(weights, pixels, rows, device, fold)
        path = folder / f"{meta.encoder_id}.safetensors"
        save_weights(path, network, meta)
        networks.append(Network(path, meta))
    trials = [found.names[member] for member in chosen]
    return NetworkSet(name, found.studies[0].name, None, {"soup": trials}, tuple(networks))
