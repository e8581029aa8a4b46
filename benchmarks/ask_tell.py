"""Seconds that a study spends on Optuna for one trial, at trial 20 and at trial 2,000: ask, report 5 folds, tell.

A space of seven numbers and choices, in a real journal on disk. The trials in between are written to the journal as
they would be; only their points are drawn at random. `ratio` is twice the latency at trial 20 over that at trial 2,000
with the default sampler: 1 or more means that it has not doubled. Also how long the journal of 2,000 trials takes to
open, its last line torn.

    python -m benchmarks.ask_tell [--trials 2000] [--json]
"""

import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks._report import arguments, publish
from harness.config.load import Study, check_study
from harness.search.proposals import Proposals
from harness.search.samplers import Proposal, random_point, value_at
from harness.store.home import Home
from harness.types import Interval, TrialRecord

FOLDS, EARLY, MEASURED = 5, 20, 11


def study_with(sampler: str, trials: int) -> Study:
    return check_study(
        {
            "name": "asked",
            "data": {"root": "phantom", "group": "patient", "folds": FOLDS},
            "optim": {
                "lr": {"float": [1e-5, 1e-1], "log": True},
                "weight_decay": {"float": [1e-6, 1e-1], "log": True},
                "momentum": {"float": [0.5, 0.99]},
            },
            "model": {"dropout": {"float": [0.0, 0.6]}},
            "train": {"batch_size": {"int": [8, 128], "log": True}, "label_smoothing": {"choice": [0.0, 0.05, 0.1]}},
            "augment": {"rotate": {"choice": [0.0, 15.0]}},
            "search": {"trials": trials + 100, "sampler": sampler, "pruner": "none"},
        },
        "benchmark",
    )


def one_trial(source: Proposals, draw: np.random.Generator) -> float:
    """Seconds of ask, reports and tell."""
    start = time.perf_counter()
    point = source.next()
    assert point is not None
    score = 0.9 - 0.05 * abs(np.log10(point.params["optim.lr"]) + 3) + 0.01 * float(draw.standard_normal())
    for fold in range(FOLDS):
        source.fold(point.number, fold, score)
    source.ended(TrialRecord(point.number, "complete", point.params, "run", oof={"auroc": Interval(score, 0.0, 1.0)}))
    return time.perf_counter() - start


def fill_up(home: Home, study: Study, trials: int) -> None:
    """Trials with random points, written as any other."""
    from harness.search import samplers

    real = samplers.propose

    def at_random(study: Study, past: object, number: int) -> Proposal:
        cube = dict(zip(study.space, random_point(len(study.space), number, 7).tolist(), strict=True))
        return Proposal({name: value_at(range_, cube[name]) for name, range_ in study.space.items()}, {})

    samplers.propose = at_random  # type: ignore[assignment]
    try:
        source, draw = Proposals(study, home), np.random.default_rng(1)
        while source.asked < trials:
            one_trial(source, draw)
    finally:
        samplers.propose = real


def measure(few: Home, many: Home, sampler: str, trials: int, rounds: int) -> tuple[float, float]:
    """Median seconds of a trial in either study, measured in turns: what else runs slows both."""
    draw = np.random.default_rng(2)
    sources = [Proposals(study_with(sampler, 1000 + trials), home) for home in (few, many)]
    for source in sources:
        one_trial(source, draw)  # imports and caches
    pairs = [[one_trial(source, draw) for source in sources] for _ in range(rounds)]
    return median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--trials", type=int, default=2000)
    options = parser.parse_args()
    early: dict[str, float] = {}
    late: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for sampler in ("gp", "cmaes", "random", "qmc", "tpe"):
            rounds = 3 if sampler == "gp" else MEASURED
            few, many = Home(Path(folder) / f"{sampler}-few"), Home(Path(folder) / f"{sampler}-many")
            for home, trials in ((few, EARLY - rounds // 2), (many, options.trials - rounds // 2)):
                home.root.mkdir()
                fill_up(home, study_with("random", trials), trials)
            early[sampler], late[sampler] = measure(few, many, sampler, options.trials, rounds)
        journal = many.optuna_journal
        size = journal.stat().st_size
        with open(journal, "ab") as file:
            file.write(b'{"op_code": 4, "worker')
        start = time.perf_counter()
        Proposals(study_with("tpe", options.trials), many)
        recovery = time.perf_counter() - start
        assert journal.stat().st_size == size or not journal.read_bytes().endswith(b"worker")
    publish(
        "ask_tell",
        2 * early["tpe"] / late["tpe"],
        1.0,
        options,
        trials=options.trials,
        ms_early={name: round(1000 * seconds, 2) for name, seconds in early.items()},
        ms_late={name: round(1000 * seconds, 2) for name, seconds in late.items()},
        times_slower={name: round(late[name] / early[name], 2) for name in early},
        journal_mb=round(size / 1e6, 2),
        recovery_s=round(recovery, 2),
    )


if __name__ == "__main__":
    main()
