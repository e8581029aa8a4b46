"""Pruners replayed over full cross-validation: what each saves, how often it keeps the winner, and what it loses.

benchmarks/racing_table.py trained every configuration on every fold, once for each seed. Here each pruner sees what it
would have seen, trial by trial in the study's own order: the same points for all. The rule and its threshold were
chosen on simulations (tests/search/test_racing.py) and on the phantom's table; what is reported is BreastMNIST.

The noise floor is what one configuration's score varies by from seed to seed (standard deviation of the score minus
the seed's mean over all configurations, for the better half of them): closer than that, two are the same. `ratio` is
.6, the share of fold trainings that racing may use, over the share it used, and 0 where it lost more than the noise
floor in any seed. With --data, a study of one seed is raced for real as well, and has to decide as its replay does.

    python -m benchmarks.racing [--table breastmnist] [--metric auroc] [--data PATH/breastmnist.npz] [--json]
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._report import arguments, publish
from benchmarks.racing_table import study_of, table_path
from harness.config.spec import Search
from harness.metrics import METRICS
from harness.search.pruners import Field, Runner, make_field, stop_after_epoch, stop_after_folds
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.records import read_trials

K = 5
SHARE = 0.6
"""of the fold trainings: the bar"""
RULES: dict[str, dict[str, Any]] = {
    "none": {"pruner": "none"},
    "race": {},
    "race, p .05": {"race_p": 0.05},
    "race, p .2": {"race_p": 0.2},
    "wilcoxon": {"pruner": "wilcoxon"},
    "wilcoxon, p .26": {"pruner": "wilcoxon", "pruner_p": 0.26},
    "median": {"pruner": "median"},
}
"""by name, the keys of `search` that differ from the defaults"""


@dataclass(frozen=True)
class Full:
    """One configuration, trained on every fold. Higher is better."""

    params: dict[str, Any]
    folds: list[float]
    curves: list[list[float]]

    @property
    def score(self) -> float:
        """What trials are ranked by: the mean over folds."""
        return float(np.mean(self.folds))


@dataclass(frozen=True)
class Replayed:
    ends: list[str]
    """for each trial why it was stopped; '' where it was completed"""
    winner: int
    folds: float
    """share of the fold trainings, parts of the first fold included"""
    epochs: float
    """share of the epochs"""


def read_table(name: str, metric: str) -> list[list[Full]]:
    """The trials of each seed in the order in which they ran."""
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    seeds = json.loads(table_path(name).read_text())["seeds"]
    return [[_full(row["params"], row[metric], sign) for row in seed["trials"]] for seed in seeds]


def _full(params: dict[str, Any], row: dict[str, Any], sign: float) -> Full:
    curves = [[sign * value for value in curve] for curve in row["curves"]]
    return Full(params, [sign * value for value in row["folds"]], curves)


def replay(search: Search, trials: list[Full]) -> Replayed:
    """What a pruner does with trials whose every fold is known."""
    past: list[Runner] = []
    ends: list[str] = []
    folds = epochs = 0.0
    for number, trial in enumerate(trials):
        field = make_field(past, K)
        first = trial.curves[0]
        trained, why = _first_fold(search, first, field)
        folds, epochs = folds + trained / len(first), epochs + trained
        n = 0 if trained < len(first) else 1
        while n and n < K and not (why := stop_after_folds(search, trial.folds[:n], field)):
            folds, epochs, n = folds + 1, epochs + len(trial.curves[n]), n + 1
        ends.append(why)
        if n:
            score = trial.score if n == K else float("nan")
            past.append(Runner(number, tuple(trial.folds[:n]), score, tuple(first), len(first)))
    all_epochs = sum(len(curve) for trial in trials for curve in trial.curves)
    field = make_field(past, K)
    assert field is not None
    return Replayed(ends, field.rival.number, folds / (K * len(trials)), epochs / all_epochs)


def _first_fold(search: Search, curve: list[float], field: Field | None) -> tuple[int, str]:
    """Epochs of the first fold that are trained, and why no more."""
    for epoch, value in enumerate(curve):
        if why := stop_after_epoch(search, value, epoch, len(curve), field):
            return epoch + 1, why
    return len(curve), ""


def noise_floor(seeds: list[list[Full]]) -> float:
    """Standard deviation of a good configuration's score over seeds, what all have in common removed."""
    by_params = [{json.dumps(trial.params, sort_keys=True): trial.score for trial in trials} for trials in seeds]
    table = np.array([[scores[key] for key in sorted(by_params[0])] for scores in by_params])
    table -= table.mean(axis=1, keepdims=True)
    better = np.argsort(-table.mean(axis=0))[: table.shape[1] // 2]
    return float(np.sqrt(table[:, better].var(axis=0, ddof=1).mean()))


def summary(search: Search, seeds: list[list[Full]]) -> dict[str, float]:
    results = [replay(search, trials) for trials in seeds]
    best = [max(trial.score for trial in trials) for trials in seeds]
    lost = [top - trials[result.winner].score for top, trials, result in zip(best, seeds, results, strict=True)]
    return {
        "folds": round(float(np.mean([result.folds for result in results])), 3),
        "epochs": round(float(np.mean([result.epochs for result in results])), 3),
        "same_winner": round(float(np.mean([value == 0 for value in lost])), 2),
        "regret_mean": round(float(np.mean(lost)), 5),
        "regret_largest": round(float(np.max(lost)), 5),
    }


def shuffled(seeds: list[list[Full]], times: int) -> list[list[Full]]:
    """Each seed's trials in `times` random orders: how much of a result is luck of the order."""
    draw = np.random.default_rng(0)
    return [[trials[i] for i in draw.permutation(len(trials))] for trials in seeds for _ in range(times)]


def raced_for_real(name: str, data: str, seed: int, trials: list[Full]) -> dict[str, Any]:
    """Run the study of one seed with racing, and compare every trial's end with its replay."""
    with tempfile.TemporaryDirectory() as folder:
        study = study_of(name, data, seed, pruner="race")
        run_study(study, Home(Path(folder)), 1, "cpu", lambda event: None)
        records = read_trials(Home(Path(folder)), study.name)
    replayed = replay(study.spec.search, trials)
    equal = [record.reason == end for record, end in zip(records, replayed.ends, strict=True)]
    stopped = sum(record.state == "pruned" for record in records)
    return {"seed": seed, "trials": len(records), "stopped": stopped, "as_replayed": sum(equal)}


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__ or "")
    parser.add_argument("--table", default="breastmnist")
    parser.add_argument("--metric", default="auroc")
    parser.add_argument("--data", help="race the study of one seed for real: the .npz file, or phantom")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--orders", type=int, default=20, help="random orders of each seed's trials")
    options = parser.parse_args()
    seeds = read_table(options.table, options.metric)
    floor = noise_floor(seeds)
    rules = {name: summary(Search(**keys), seeds) for name, keys in RULES.items()}
    orders = shuffled(seeds, options.orders)
    real = raced_for_real(options.table, options.data, options.seed, seeds[options.seed]) if options.data else None
    race = rules["race"]
    publish(
        "racing" if (options.table, options.metric) == ("breastmnist", "auroc") else f"racing_{options.table}",
        SHARE / race["folds"] if race["regret_largest"] <= floor else 0.0,
        1.0,
        options,
        table=options.table,
        metric=options.metric,
        seeds=len(seeds),
        configurations=len(seeds[0]),
        noise_floor=round(floor, 5),
        rules=rules,
        in_random_orders={name: summary(Search(**RULES[name]), orders) for name in ("race", "wilcoxon", "median")},
        **({"raced_for_real": real} if real else {}),
    )


if __name__ == "__main__":
    main()
