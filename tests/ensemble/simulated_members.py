"""Members whose truth is known: logits and embeddings drawn from labels, one space per encoder, no network."""

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.oof import Embed, OofTable
from harness.seeds import derive_seed


class Simulated:
    """`signal` is how far a class shifts what an encoder sees; 0 means that nothing can be learned.

    Encoders memorise: on the rows that an encoder trained on, its embedding gives the label away; on the fold it held
    out and on test rows it holds `signal` only. A method that fits or scores on the wrong rows scores far too well.
    """

    def __init__(
        self,
        seed: int,
        signal: float,
        groups: int = 120,
        members: int = 3,
        classes: int = 2,
        k: int = 4,
        test: int = 200,
        memory: float = 5.0,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.memory = memory
        self.seed, self.signal, self.members, self.classes, self.k = seed, signal, members, classes, k
        label_of_group = rng.permutation(np.arange(groups) % classes)
        fold_of_group = np.empty(groups, dtype=np.int64)
        for c in range(classes):  # stratified: each class is dealt out over the folds
            own = np.flatnonzero(label_of_group == c)
            fold_of_group[own] = (np.arange(len(own)) + c) % k
        sizes = rng.integers(1, 4, groups)
        group_of_row = np.repeat(np.arange(groups), sizes)
        self.y = label_of_group[group_of_row].astype(np.int64)
        self.fold = fold_of_group[group_of_row]
        self.groups = np.array([f"g{g:04d}" for g in group_of_row])
        self.y_test = rng.integers(0, classes, test)
        self.encoder_ids = tuple(tuple(f"encoder-{m}-{f}" for f in range(k)) for m in range(members))
        logits = [self._look(rng, self.y, m, spread=1.0) for m in range(members)]
        self.table = OofTable(
            self.y, self.groups, self.fold, np.stack(logits, axis=1).astype(np.float32), self.encoder_ids
        )
        test_logits = [[self._look(rng, self.y_test, m, spread=1.0) for _ in range(k)] for m in range(members)]
        self.test_logits = np.array(test_logits, dtype=np.float32)

    def _look(self, rng: np.random.Generator, y: NDArray[np.int64], member: int, spread: float) -> NDArray[np.float64]:
        """(n, C) noisy logits; later members are a little better."""
        return self.signal * (1 + 0.3 * member) * np.eye(self.classes)[y] + spread * rng.normal(
            size=(len(y), self.classes)
        )

    def _embed(
        self, m: int, k: int, y: NDArray[np.int64], memorised: NDArray[np.bool_], what: str
    ) -> NDArray[np.float32]:
        rng = np.random.default_rng(derive_seed(self.seed, self.encoder_ids[m][k], what))
        size = 6 + 2 * m  # encoders differ in the size of their embedding
        basis = np.random.default_rng(derive_seed(self.seed, self.encoder_ids[m][k])).normal(size=(self.classes, size))
        x = np.where(memorised, self.memory, self.signal)[:, None] * basis[y] + rng.normal(size=(len(y), size))
        return x.astype(np.float32)

    @property
    def embed(self) -> Embed:
        """Embeddings of the development rows."""
        return lambda m, k: self._embed(m, k, self.y, self.fold != k, "development")

    @property
    def embed_test(self) -> Embed:
        return lambda m, k: self._embed(m, k, self.y_test, np.zeros(len(self.y_test), dtype=bool), "test")


def permuted(simulated: Simulated, order: list[int]) -> tuple[OofTable, NDArray[np.float32], Embed, Embed]:
    """The same members in another order: table, test logits, embeddings of development and of test rows."""
    table = simulated.table
    moved = OofTable(
        table.y, table.groups, table.fold, table.logits[:, order], tuple(table.encoder_ids[m] for m in order)
    )
    embed, embed_test = simulated.embed, simulated.embed_test
    return (
        moved,
        simulated.test_logits[order],
        lambda m, k: embed(order[m], k),
        lambda m, k: embed_test(order[m], k),
    )
