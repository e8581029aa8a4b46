"""A small space, and a search over it without any training: propose, tell a made-up score, propose again."""

from harness.config.load import check_study
from harness.search.proposals import Proposals
from harness.search.storage import open_optuna
from harness.types import TrialRecord

TREE = {
    "name": "s",
    "seed": 3,
    "data": {"root": "phantom", "group": "patient"},
    "optim": {"lr": {"float": [1e-5, 1e-2], "log": True}},
    "train": {"epochs": {"int": [2, 6]}},
    "augment": {"rotate": {"choice": [0.0, 15.0]}},
}


def make(**search):
    return check_study({**TREE, "search": {"trials": 50, **search}}, "test")


def score(params):
    return params["train.epochs"] - params["optim.lr"]


def run(home, trials, study):
    """Propose and tell until there are `trials` of them, as a driver does; every point that was ever proposed."""
    source = Proposals(study, home)
    assert source.begun({}) == []
    while source.asked < trials:
        point = source.next()
        value = score(point.params)
        for fold in range(3):
            source.fold(point.number, fold, value)
        cv = {study.spec.search.metric: value}
        source.ended(TrialRecord(point.number, "complete", point.params, "run", cv=cv))
    return [trial.params for trial in open_optuna(home, "s", study.spec.search).get_trials()]
