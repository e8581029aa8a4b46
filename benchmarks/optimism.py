"""Is the best trial's value, corrected for having been chosen, right on average? Simulated studies with known truth.

The product's own parts search: `samplers.propose` proposes, `pruning` with `racing` stops trials after epochs of the
first fold and after folds, `stats.optimism.best_corrected` corrects. What a trial predicts is simulated: three searched
keys, an optimum somewhere, AUROC falling with the distance to it; on every patient a noise that all trials share, a
noise that is smooth in the keys (near configurations err on the same patients), and one of each training. The truth is
the AUROC on infinitely many patients of the trial that was chosen. With a true AUROC of .5 nothing can be learnt.

A cell: sampler, pruner, patients, true AUROC at the optimum, trials. Chains: study A, and then study B, one or three
tiny fine-tunes of A's best, whose rivals A's trials are. `flat` cells have hardly any optimum. `offset`: the scores of
each fold model are shifted by so many standard deviations. For each cell the mean of (corrected - truth) with its
Monte-Carlo error, the same of the uncorrected value, and how often the 95% interval holds the truth. `ratio` is the
share of cells whose mean is within .005 of zero, or not distinguishable from that by two Monte-Carlo errors.

    python -m benchmarks.optimism [--studies 200] [--jobs 2] [--cells tpe/race] [--json] [--save]
"""

import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from benchmarks._report import arguments, publish
from benchmarks._tiny_study import tiny_tree
from harness.config.load import Study, check_study
from harness.config.space import FloatRange
from harness.search.pruners import Field, Runner, make_field, stop_after_epoch, stop_after_folds
from harness.search.samplers import as_past, distribution, propose
from harness.stats.optimism import Search, best_corrected
from harness.types import Interval

Floats = NDArray[np.float64]

GOAL = 0.005
K, EPOCHS = 5, 4
SPACE: dict[str, Any] = {
    "optim__lr": {"float": [1e-5, 1e-1], "log": True},
    "model__dropout": {"float": [0.0, 0.6]},
    "optim__weight_decay": {"float": [1e-6, 1e-1], "log": True},
}
FEATURES = 64
"""of the random Fourier series that the smooth noise is drawn as (Rahimi and Recht 2007)"""
LENGTH = 0.3
"""of the unit cube over which it is alike"""
PATIENT, SMOOTH, OWN = 0.4, 0.3, 0.3
"""shares of the noise's variance"""
TRAINING = 0.1
"""standard deviation, over trainings, of how far a fold model tells the classes apart"""
WIDTH, FLAT = 0.5, 2.0
"""of the optimum"""
TUNED = 0.05
"""share of a fine-tune's noise that is its own"""


@dataclass(frozen=True)
class Cell:
    sampler: str
    pruner: str
    patients: int
    auroc: float
    trials: int
    width: float = WIDTH
    offset: float = 0.0
    tunes: int = 0
    """fine-tunes of the best trial, which are a study of their own"""

    @property
    def name(self) -> str:
        more = f", flat {self.width:g}" if self.width != WIDTH else ""
        more += f", offset {self.offset:g}" if self.offset else ""
        more += f", then {self.tunes} fine-tuned" if self.tunes else ""
        return f"{self.sampler}/{self.pruner}, {self.patients} patients, {self.auroc:g}, {self.trials} trials{more}"


@dataclass(frozen=True)
class Trained:
    """What one trial comes to, were it trained in full."""

    score: Floats
    """(N,)"""
    apart: Floats
    """(K,) by how many standard deviations its fold models tell the classes apart"""

    @property
    def truth(self) -> float:
        from scipy.special import ndtr

        return float(ndtr(self.apart / np.sqrt(2)).mean())


class World:
    """Patients, and what a configuration predicts for them."""

    def __init__(self, draw: np.random.Generator, cell: Cell) -> None:
        from scipy.special import ndtri

        n = cell.patients
        self.draw, self.cell = draw, cell
        self.y, self.fold = np.arange(n) % 2, (np.arange(n) // 2) % K
        self.most = float(np.sqrt(2) * ndtri(cell.auroc))
        self.centre = draw.random(len(SPACE))
        self.patient = draw.normal(size=n)
        self.amounts = draw.normal(size=(n, FEATURES)) * np.sqrt(2 / FEATURES)
        self.waves = draw.normal(size=(FEATURES, len(SPACE))) / LENGTH
        self.phases = draw.random(FEATURES) * 2 * np.pi

    def train(self, cube: Floats) -> Trained:
        apart = np.full(K, self.most * float(np.exp(-((cube - self.centre) ** 2).sum() / (2 * self.cell.width**2))))
        if self.most:
            apart = apart + TRAINING * self.draw.normal(size=K)
        noise = np.sqrt(PATIENT) * self.patient + np.sqrt(OWN) * self.draw.normal(size=len(self.y))
        noise = noise + np.sqrt(SMOOTH) * (self.amounts @ np.cos(self.waves @ cube + self.phases))
        shift = self.cell.offset * self.draw.normal(size=K)
        return Trained(apart[self.fold] * self.y + noise + shift[self.fold], apart)

    def tune(self, one: Trained) -> Trained:
        """A tiny fine-tune: nearly the same predictions, no better in truth."""
        signal = one.apart[self.fold] * self.y
        noise = np.sqrt(1 - TUNED) * (one.score - signal) + np.sqrt(TUNED) * self.draw.normal(size=len(self.y))
        return Trained(signal + noise, one.apart)


@dataclass(frozen=True)
class Simulated:
    y: NDArray[np.int64]
    fold: NDArray[np.int64]
    scores: Floats
    """(M, N) NaN where a fold was not trained"""
    truths: Floats
    points: Floats
    """(M, D)"""


def auroc(y: NDArray[np.int64], s: Floats) -> float:
    above, below = s[y == 1, None], s[None, y == 0]
    return float(((above > below) + 0.5 * (above == below)).mean())


def simulate(seed: int, cell: Cell) -> Simulated:
    """One study as the product would have run it."""
    draw = np.random.default_rng(seed)
    world, study = World(draw, cell), study_of(cell.sampler, cell.pruner, seed)
    past: list[FrozenTrial] = []
    runners: list[Runner] = []
    scores, truths, points = [], [], []
    field: Field | None = None
    for number in range(cell.trials):
        params = propose(study, past, number).params
        points.append(place(study, params))
        one = world.train(points[-1])
        curve, values = raced(world, study, one, field)
        done = len(values) == K
        scores.append(np.where(world.fold < len(values), one.score, np.nan))
        truths.append(one.truth)
        frozen = optuna.trial.create_trial(
            state=TrialState.COMPLETE if done else TrialState.PRUNED,
            params=params,
            distributions={name: distribution(study.space[name]) for name in params},
            values=[float(np.mean(values))] if done else None,
            intermediate_values=dict(enumerate(values)),
        )
        past.append(as_past(study, frozen))
        if values and cell.pruner != "none":
            score = float(np.mean(values)) if done else float("nan")
            runners.append(Runner(number, tuple(values), score, tuple(curve), EPOCHS))
            field = make_field(runners, K)
    if cell.tunes:
        # world.tune needs the chosen trial as it was trained: its predictions and what it is truly worth
        best = chosen(world.y, world.fold, np.array(scores))
        apart = apart_of(truths[best])
        for _ in range(cell.tunes):
            scores.append(world.tune(Trained(scores[best], apart)).score)
            truths.append(truths[best])
            points.append(points[best])
    return Simulated(world.y, world.fold, np.array(scores), np.array(truths), np.array(points))


def apart_of(truth: float) -> Floats:
    """(K,) fold models of one AUROC."""
    from scipy.special import ndtri

    return np.full(K, float(np.sqrt(2) * ndtri(truth)))


def raced(world: World, study: Study, one: Trained, field: Field | None) -> tuple[list[float], list[float]]:
    """(scores of the first fold after each epoch, scores of the finished folds) until the pruner stops the trial."""
    search, here = study.spec.search, world.fold == 0
    curve: list[float] = []
    for epoch in range(EPOCHS if search.pruner == "race" else 0):
        learnt = 1.0 if epoch == EPOCHS - 1 else 1 - float(np.exp(-3 * (epoch + 1) / EPOCHS))
        early = one.score[here] - (1 - learnt) * one.apart[0] * world.y[here]
        early = early + np.sqrt(0.3 * (1 - learnt)) * world.draw.normal(size=here.sum())
        curve.append(auroc(world.y[here], early))
        if stop_after_epoch(search, curve[-1], epoch, EPOCHS, field):
            return curve, []
    values: list[float] = []
    for k in range(K):
        values.append(auroc(world.y[world.fold == k], one.score[world.fold == k]))
        if stop_after_folds(search, values, field):
            break
    return curve, values


@lru_cache(maxsize=1)
def study_of(sampler: str, pruner: str, seed: int) -> Study:
    search = {"search__sampler": sampler, "search__pruner": pruner, "search__trials": 100}
    return check_study(tiny_tree(name="simulated", data__folds=K, seed=seed, **search, **SPACE), "simulated")


def place(study: Study, params: dict[str, Any]) -> Floats:
    """(D,) in the unit cube."""
    found = []
    for name, range_ in study.space.items():
        assert isinstance(range_, FloatRange)
        value, low, high = params[name], range_.low, range_.high
        if range_.log:
            value, low, high = np.log([value, low, high]).tolist()
        found.append((value - low) / (high - low))
    return np.array(found)


def chosen(y: NDArray[np.int64], fold: NDArray[np.int64], scores: Floats) -> int:
    """The complete trial with the best mean over folds."""
    return int(np.argmax([mean_over_folds(y, fold, one) for one in scores]))


def mean_over_folds(y: NDArray[np.int64], fold: NDArray[np.int64], one: Floats) -> float:
    whole = bool(np.isfinite(one).all())
    return float(np.mean([auroc(y[fold == k], one[fold == k]) for k in range(K)])) if whole else -1.0


def judged(found: Simulated, trials: int, tunes: int = 0) -> tuple[float, float, Interval]:
    """(truth, uncorrected, corrected) of the best of the first so many trials, or of the fine-tunes behind them."""
    rows = np.arange(trials + tunes) if tunes else np.arange(trials)
    scores = found.scores[rows]
    may = rows >= trials if tunes else np.ones(len(rows), dtype=bool)
    parents = None
    if tunes:
        parents = np.where(may, chosen(found.y, found.fold, scores[:trials]), -1)
    values = np.array([mean_over_folds(found.y, found.fold, one) for one in scores])
    best = int(np.where(may, values, -2.0).argmax())
    p = 1 / (1 + np.exp(-scores))
    groups = np.arange(len(found.y)).astype(str)
    search = Search(np.stack([1 - p, p], axis=-1), may, found.points[rows], parents)
    return (
        float(found.truths[rows][best]),
        float(values[best]),
        best_corrected("auroc", found.y, found.fold, groups, search),
    )


def _study(cells: tuple[Cell, ...], seed: int) -> list[tuple[float, float, float]]:
    """For each cell (uncorrected - truth, corrected - truth, whether the interval holds the truth); the cells differ in
    the number of trials only, so the longest is simulated."""
    longest = max(cells, key=lambda cell: cell.trials)
    found, results = simulate(seed, longest), []
    for cell in cells:
        truth, raw, corrected = judged(found, cell.trials, cell.tunes)
        results.append((raw - truth, corrected.value - truth, float(corrected.lo <= truth <= corrected.hi)))
    return results


def summary(cell: Cell, results: list[tuple[float, float, float]]) -> dict[str, Any]:
    table = np.array(results)
    table = table[np.isfinite(table[:, 1])]
    bias, error = float(table[:, 1].mean()), float(table[:, 1].std(ddof=1) / np.sqrt(len(table)))
    return {
        "cell": cell.name,
        "studies": len(table),
        "uncorrected": round(float(table[:, 0].mean()), 4),
        "corrected": round(bias, 4),
        "error": round(error, 4),
        "covers": round(float(table[:, 2].mean()), 3),
        "reached": abs(bias) <= GOAL,
        "within_error": abs(bias) <= GOAL + 2 * error,
    }


def families() -> Iterable[tuple[Cell, ...]]:
    """Cells that share their simulated studies."""
    for sampler, pruner in (("tpe", "race"), ("tpe", "none"), ("random", "race"), ("random", "none")):
        for patients in (40, 100, 250):
            for best in (0.5, 0.8, 0.95):
                yield tuple(Cell(sampler, pruner, patients, best, trials) for trials in (10, 30))
    for best in (0.5, 0.8):
        for tunes in (1, 3):
            yield (Cell("tpe", "race", 100, best, 20, tunes=tunes),)
    yield (Cell("tpe", "race", 100, 0.8, 30, width=FLAT),)
    yield (Cell("tpe", "race", 100, 0.8, 30, offset=0.5),)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--studies", type=int, default=200, help="simulated for each cell")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cells", default="", help="only those whose name has this in it, such as tpe/race")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for cells in families():
            wanted = tuple(cell for cell in cells if options.cells in cell.name)
            if not wanted:
                continue
            studies = list(pool.map(partial(_study, wanted), range(options.studies), chunksize=5))
            for place_, cell in enumerate(wanted):
                rows.append(summary(cell, [one[place_] for one in studies]))
                print(_line(rows[-1]), file=sys.stderr, flush=True)
    missed = [row["cell"] for row in rows if not row["within_error"]]
    share = 1 - len(missed) / len(rows)
    text = "\n".join([*map(_line, rows), f"\nbeyond {GOAL} by more than two Monte-Carlo errors: {missed or 'none'}"])
    publish("optimism", share, 1.0, options, text, bound=GOAL, missed=missed, cells=rows)


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['cell']:62} uncorrected {row['uncorrected']:+.4f}  corrected {row['corrected']:+.4f} "
        f"({row['error']:.4f})  covers {row['covers']:.2f}  {'' if row['within_error'] else 'MISSED'}"
    )


if __name__ == "__main__":
    main()
