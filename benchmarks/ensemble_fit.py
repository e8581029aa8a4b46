"""How long ensembles over many members take to fit: 50 members, 5 folds, 10,000 development rows, two classes.

Fitted as `harness ensemble build` fits them, cross-fitted score, selection score and final model, and asked of 2,500
test rows by all 250 networks. Mean, greedy and stacking together are held to ten seconds; every other method that works
on predictions alone stands beside them, and the three again with seven classes, where stacking has 350 features.
Predictions are simulated: members share half of their errors. Reading and scoring are not part of it.

    python -m benchmarks.ensemble_fit --json
"""

import time
from collections.abc import Sequence

import numpy as np

from benchmarks._report import arguments, publish
from harness.ensemble.methods import METHODS
from harness.ensemble.oof import OofTable

GOAL_SECONDS = 10.0
HELD = ("mean", "greedy", "stacking")
ROWS, TEST, MEMBERS, FOLDS = 10_000, 2_500, 50, 5
METHODS_ON_PREDICTIONS = [name for name, method in METHODS.items() if method.embeddings == "none"]


def simulated(classes: int) -> tuple[OofTable, np.ndarray]:
    """The out-of-fold table, and test logits (M, K, T, C)."""
    rng = np.random.default_rng(0)

    def logits(y: np.ndarray, networks: int) -> np.ndarray:
        truth, shared = 1.2 * np.eye(classes)[y][:, None], rng.normal(size=(len(y), 1, classes))
        return (truth + shared + rng.normal(size=(len(y), networks, classes))).astype(np.float32)

    y, y_test = rng.integers(0, classes, ROWS), rng.integers(0, classes, TEST)
    ids = tuple(tuple(f"member-{m}-{k}" for k in range(FOLDS)) for m in range(MEMBERS))
    table = OofTable(y, np.arange(ROWS).astype(str), rng.integers(0, FOLDS, ROWS), logits(y, MEMBERS), ids)
    test = logits(y_test, MEMBERS * FOLDS).reshape(TEST, MEMBERS, FOLDS, classes)
    return table, np.ascontiguousarray(test.transpose(1, 2, 0, 3))


def seconds(classes: int, methods: Sequence[str]) -> dict[str, float]:
    table, test = simulated(classes)
    found = {}
    for name in methods:
        start = time.perf_counter()
        METHODS[name].fit(table, None, 0, None).model.predict(test, None)
        found[name] = round(time.perf_counter() - start, 2)
    return found


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    two, seven = seconds(2, METHODS_ON_PREDICTIONS), seconds(7, HELD)
    together = sum(two[name] for name in HELD)
    publish(
        "ensemble_fit",
        GOAL_SECONDS / together,
        1.0,
        options,
        seconds=round(together, 2),
        methods=list(HELD),
        members=MEMBERS,
        folds=FOLDS,
        rows=ROWS,
        each_two_classes=two,
        each_seven_classes=seven,
    )


if __name__ == "__main__":
    main()
