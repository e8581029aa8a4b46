"""How far a fitted ensemble can be trusted: the `calibration` and `decisions` sections of its bundle.

Everything is fitted on leak-free development probabilities; the test split is looked at to say how it turned out.
Knows arrays only.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.ensemble.calibration import apply, fit_calibration
from harness.ensemble.decisions import Answers, Rule, fit_decisions
from harness.ensemble.scores import Rows
from harness.stats.reliability import Reliability, questions, reliability

REPS = 200
"""bootstrap replicates of each part of a reliability: there are many parts"""


def trust_sections(
    oof: NDArray[np.float64],
    test: NDArray[np.float64],
    development_rows: Rows,
    test_rows: Rows,
    fold: NDArray[np.int64],
    classes: tuple[str, ...],
    seed: int,
    decide: Rule | None = None,
) -> dict[str, dict[str, Any]]:
    """oof (N, C) nested and test (T, C) probabilities, not calibrated; fold (N,) of the development rows.

    `calibration`: the maps, how the candidates did, and `reliability` by part (development, test) and state (raw,
    calibrated). `decisions`: see decisions.fit_decisions.
    """
    multilabel = development_rows.y.ndim == 2
    calibration = fit_calibration(oof, development_rows.y, development_rows.groups, fold, multilabel)
    calibrated = apply(calibration.about, test)
    parts = {
        "development": (development_rows, {"raw": oof, "calibrated": calibration.oof}),
        "test": (test_rows, {"raw": test, "calibrated": calibrated}),
    }
    measured = {
        part: {state: reliabilities(rows.y, p, rows.groups, classes, multilabel, seed) for state, p in states.items()}
        for part, (rows, states) in parts.items()
    }
    decisions = fit_decisions(
        Answers(development_rows.y, calibration.oof, development_rows.groups, fold),
        Answers(test_rows.y, calibrated, test_rows.groups),
        classes,
        multilabel,
        development_rows.per_group,
        decide,
    )
    return {"calibration": {**calibration.about, "reliability": measured}, "decisions": decisions}


def reliabilities(
    y: NDArray[np.int64],
    p: NDArray[np.float64],
    groups: NDArray[np.str_],
    classes: tuple[str, ...],
    multilabel: bool,
    seed: int,
) -> list[Reliability]:
    """One for each question (see stats.reliability.questions) that has rows."""
    return [
        reliability(name, answer, said, groups[rows], seed, REPS)
        for name, rows, answer, said in questions(y, p, classes, multilabel)
        if len(rows)
    ]
