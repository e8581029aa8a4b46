"""dev"""
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import TrialState

from benchmarks._tiny_study import tiny_tree
from harness.metrics import METRICS
from harness.search.pruning import stop_after_epoch, stop_after_folds
from harness.search.racing import Runner, make_field
from harness.search.samplers import as_past, distribution, propose
from harness.study.load import Study, check_study

Floats = NDArray[np.float64]

K = 5
EPOCHS = 4
SPACE: dict[str, Any] = {
    "optim__lr": {"float": [1e-5, 1e-1], "log": True},
    "model__dropout": {"float": [0.0, 0.6]},
    "optim__weight_decay": {"float": [1e-6, 1e-1], "log": True},
}
FEATURES = 64
LENGTH = 0.3
WIDTH = 0.5
SHARES = {"patient": 0.4, "field": 0.3, "own": 0.3}
TRAINING = 0.1


@dataclass
class Simulated:
    y: NDArray[np.int64]
    fold: NDArray[np.int64]
    score: Floats
    """(M, N) NaN where a fold was not trained"""
    truth: Floats
    cube: Floats


def study_of(sampler: str, pruner: str, seed: int, trials: int) -> Study:
    tree = tiny_tree(
        name="sim", data__folds=K, search__sampler=sampler, search__pruner=pruner, search__trials=trials,
        seed=seed, **SPACE,
    )
    return check_study(tree, "sim")


def _auroc(y, s):
    pos, neg = s[y == 1], s[y == 0]
    return float((pos[:, None] > neg[None]).mean() + 0.5 * (pos[:, None] == neg[None]).mean())


def _unit(study, params):
    out = []
    for name, r in study.space.items():
        v = params[name]
        lo, hi = r.low, r.high
        if r.log:
            v, lo, hi = np.log(v), np.log(lo), np.log(hi)
        out.append((v - lo) / (hi - lo))
    return np.array(out)


class World:
    """Patients and what a configuration predicts for them."""

    def __init__(self, rng, patients, auroc, width=WIDTH, offset=0.0):
        from scipy.stats import norm
        self.rng, self.n = rng, patients
        self.best = np.sqrt(2) * norm.ppf(auroc)
        self.y = np.arange(patients) % 2
        self.fold = (np.arange(patients) // 2) % K
        self.centre = rng.random(3)
        self.width, self.offset = width, offset
        self.patient = rng.normal(size=patients)
        self.amount = rng.normal(size=(patients, FEATURES))
        self.w = rng.normal(size=(FEATURES, 3)) / LENGTH
        self.b = rng.random(FEATURES) * 2 * np.pi

    def quality(self, cube):
        return self.best * np.exp(-((cube - self.centre) ** 2).sum() / (2 * self.width**2))

    def noise(self, cube):
        field = self.amount @ np.cos(self.w @ cube + self.b) * np.sqrt(2 / FEATURES)
        own = self.rng.normal(size=self.n)
        return (np.sqrt(SHARES["patient"]) * self.patient + np.sqrt(SHARES["field"]) * field
                + np.sqrt(SHARES["own"]) * own)

    def train(self, cube):
        """(scores, true AUROC)"""
        from scipy.stats import norm
        d = self.quality(cube) + (TRAINING * self.rng.normal(size=K) if self.best else np.zeros(K))
        s = d[self.fold] * self.y + self.noise(cube) + self.offset * self.rng.normal(size=K)[self.fold]
        return s, float(norm.cdf(d / np.sqrt(2)).mean()), d


def simulate(seed, trials, patients, auroc, sampler, pruner, width=WIDTH, offset=0.0) -> Simulated:
    rng = np.random.default_rng(seed)
    study = study_of(sampler, pruner, seed, trials)
    search = study.spec.search
    world = World(rng, patients, auroc, width, offset)
    past, runners, scores, truths, cubes = [], [], [], [], []
    field = None
    y, fold = world.y, world.fold
    for number in range(trials):
        params = propose(study, past, number).params
        cube = _unit(study, params)
        s, truth, d = world.train(cube)
        here = fold == 0
        curve, why = [], ""
        if pruner == "race":
            for epoch in range(EPOCHS):
                part = 1 - np.exp(-3 * (epoch + 1) / EPOCHS) if epoch < EPOCHS - 1 else 1.0
                early = s[here] + (part - 1) * d[0] * y[here] + np.sqrt(0.3 * (1 - part)) * rng.normal(size=here.sum())
                curve.append(_auroc(y[here], early))
                why = stop_after_epoch(search, curve[-1], epoch, EPOCHS, field)
                if why:
                    break
        values = []
        if not why:
            for k in range(K):
                values.append(_auroc(y[fold == k], s[fold == k]))
                why = stop_after_folds(search, values, field)
                if why:
                    break
        done = len(values) == K
        s = np.where(fold < len(values), s, np.nan)
        scores.append(s); truths.append(truth); cubes.append(cube)
        state = TrialState.COMPLETE if done else TrialState.PRUNED
        past.append(as_past(study, optuna.trial.create_trial(
            state=state, params=params, distributions={k: distribution(study.space[k]) for k in params},
            values=[float(np.mean(values))] if done else None, intermediate_values=dict(enumerate(values)))))
        if values and pruner != "none":
            runners.append(Runner(number, tuple(values), float(np.mean(values)) if done else float("nan"), tuple(curve), EPOCHS))
            field = make_field(runners, K)
    return Simulated(y, fold, np.array(scores), np.array(truths), np.array(cubes))
