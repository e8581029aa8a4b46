"""The smallest real study: a tiny network on the built-in data set, for benchmarks and tests that need one to run."""

from typing import Any

from harness.config.load import Study, check_study
from harness.config.space import fill

TREE: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "root": "phantom",
        "classes": ["normal", "bleed"],
        "group": "patient",
        "folds": 3,
        "decode": {"size": 32, "channels": 1},
    },
    "model": {"backbone": "test_resnet"},
    "optim": {"lr": {"float": [1e-4, 1e-2], "log": True}},
    "train": {"epochs": 2, "precision": "fp32"},
    "search": {"trials": 2, "pruner": "none"},
}


def tiny_tree(**values: Any) -> dict[str, Any]:
    """The study file as plain data, with `values` in their places: train__epochs=4 is train.epochs."""
    return fill(TREE, {name.replace("__", "."): value for name, value in values.items()})


def tiny(**values: Any) -> Study:
    return check_study(tiny_tree(**values), "test")
