"""Methods that fit something of their own to every encoder: who is fitted on what, and how encoders are put together.

Encoder (m, k), fold model k of member m, has an embedding space of its own, so each gets a fit of its own (honesty
rule 5): on the embeddings of the rows that the encoder trained on (folds other than k), scored on the held-out fold k,
applied to new rows. Neither encoder nor fit saw fold k. Probabilities are averaged over encoders.

Nothing is chosen on the rows that are scored: from its held-out embedding a row is only ever predicted by fits without
it, so what the final model says of development rows is the out-of-fold prediction itself. Knows arrays only.
"""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.oof import Embed, OofTable, check_probabilities, check_table
from harness.errors import HarnessError
from harness.seeds import derive_seed
from harness.types import Progress, silent


class OfEncoder(Protocol):
    """What is fitted to one encoder."""

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n, D) embeddings -> (n, C) probabilities."""
        ...


One = TypeVar("One", bound=OfEncoder)
FitOne = Callable[[NDArray[np.float32], NDArray[np.int64], NDArray[np.str_], int], One]
"""fit(x (n, D), y (n,), groups (n,), seed)"""


def require_embeddings(embed: Embed | None, what: str) -> Embed:
    """Raises HarnessError where there are none."""
    if embed is None:
        raise HarnessError(f"{what} works on embeddings, and none were given.")
    return embed


def fit_encoders(
    fit_one: FitOne[One],
    what: str,
    table: OofTable,
    embed: Embed | None,
    seed: int,
    progress: Progress | None = None,
    jobs: int = 8,
) -> tuple[dict[tuple[int, int], One], NDArray[np.float64]]:
    """One fit for every encoder (m, k), and the (N, C) out-of-fold probabilities, averaged over members.

    embed(m, k) gives the (N, D) embeddings of the development rows by encoder (m, k). The seed of a fit is made of
    the encoder's name. At most `jobs` fits at a time. Raises HarnessError when a member lacks a row or an embedding is
    not finite.
    """
    check_table(table)
    given = require_embeddings(embed, what)
    report = progress or silent
    encoders = [(m, k) for m in range(table.members) for k in range(table.k) if (table.fold == k).any()]

    def one(encoder: tuple[int, int]) -> tuple[One, NDArray[np.float64]]:
        m, k = encoder
        x, name = given(m, k), table.encoder_ids[m][k]
        if not np.isfinite(x).all():
            raise HarnessError(f"the embeddings of {name} are not finite. Leave that trial out.")
        train = table.fold != k
        fitted = fit_one(x[train], table.y[train], table.groups[train], derive_seed(seed, what, name))
        return fitted, fitted.predict(x[~train])

    found: dict[tuple[int, int], One] = {}
    oof = np.zeros((len(table.y), table.classes))
    # the libraries let go of the interpreter while they work, so threads share the machine without copying embeddings
    pool = ThreadPoolExecutor(min(len(encoders), os.cpu_count() or 1, jobs))
    try:
        for done, (encoder, (fitted, p)) in enumerate(zip(encoders, pool.map(one, encoders), strict=True), start=1):
            found[encoder] = fitted
            oof[table.fold == encoder[1]] += p
            report(what, done, len(encoders))
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C only the fits underway are waited for
    return found, check_probabilities(oof / table.members, f"{what}, out of fold")


def mean_of_encoders(
    fitted: Mapping[tuple[int, int], OfEncoder], shape: tuple[int, ...], embed: Embed | None, what: str
) -> NDArray[np.float64]:
    """Of new rows, whose embeddings embed(m, k) gives; shape is (n, C)."""
    given = require_embeddings(embed, what)
    total = np.zeros(shape)
    for m, k in sorted(fitted):
        total += fitted[m, k].predict(given(m, k))
    return total / len(fitted)
