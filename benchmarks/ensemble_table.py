"""How long the whole table of an ensemble takes as arrays: 50 members, 5 folds, 10,000 development and 2,500 test rows.

Mean, greedy and stacking fitted, then everything that `harness ensemble build` says of them: members chosen again
without each fold, selection, cross-fitted and test scores with their bootstrap intervals, paired differences, diversity
and what each of the 50 members gives. Reading files and running networks are not part of it. The fits and the table
together are held to the ten seconds that ensemble_fit gives the fits alone.

    python -m benchmarks.ensemble_table --json
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._report import arguments, publish
from benchmarks.ensemble_fit import FOLDS, GOAL_SECONDS, HELD, MEMBERS, ROWS, TEST, simulated
from harness.ensemble.diversity import contributions, diversity, means_without
from harness.ensemble.methods import METHODS
from harness.ensemble.nested import best, values_without
from harness.ensemble.oof import mean_oof, mean_predict, single_oof, single_predict
from harness.ensemble.scores import Predictions, Rows, compare, score_table
from harness.metrics import METRICS
from harness.types import Interval

METRIC = "auroc"


def main() -> None:
    options = arguments(__doc__.splitlines()[0]).parse_args()
    table, test_logits = simulated(2)
    y_test = np.random.default_rng(1).integers(0, 2, TEST)
    development = Rows(table.y, table.groups, "none", table.fold)
    test = Rows(y_test, np.arange(TEST).astype(str), "none")
    # stage 1 has scored the single members out of fold: their intervals are read, not made
    read = [dict.fromkeys(METRICS, Interval(0.5, 0.4, 0.6))] * MEMBERS
    spent: dict[str, float] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = work()
        spent[what] = round(time.perf_counter() - start, 2)
        return found

    fitted = timed("fits", lambda: {name: METHODS[name].fit(table, None, 0, None) for name in HELD})
    p = [single_oof(table, m) for m in range(MEMBERS)]
    values = timed("members chosen again", lambda: values_without(METRIC, table.y, p, table.fold, FOLDS))
    assert all(len(best(METRIC, values[:, k], [""] * MEMBERS, MEMBERS)) == MEMBERS for k in range(FOLDS))
    singles = [Predictions(str(m), "single", p[m], single_predict(test_logits, m)) for m in range(MEMBERS)]
    of_mean = mean_oof(table)
    mean = Predictions("mean", "mean", of_mean, mean_predict(test_logits), of_mean, of_mean)
    ensembles = [
        Predictions(name, "ensemble", one.oof, one.model.predict(test_logits, None), one.selection, one.oof)
        for name, one in fitted.items()
    ]
    timed("scores", lambda: score_table([*singles, mean, *ensembles], development, test, 0, read))
    timed("differences", lambda: compare(METRIC, ensembles, mean, singles[0], development, test, 0))
    stacked = np.stack(p, axis=1)
    timed("diversity", lambda: diversity(table.y, stacked))
    without = list(means_without(stacked))
    timed("contributions", lambda: contributions(METRIC, table.y, of_mean, without, table.groups, 0))
    together = sum(spent.values())
    publish(
        "ensemble_table",
        GOAL_SECONDS / together,
        1.0,
        options,
        seconds=round(together, 2),
        each=spent,
        methods=list(HELD),
        members=MEMBERS,
        folds=FOLDS,
        rows=ROWS,
    )


if __name__ == "__main__":
    main()
