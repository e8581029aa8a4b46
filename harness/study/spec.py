"""The typed configuration of one trial: every key of a study file, what it means and what it may be.

A study file holds the same keys; where a search range stands in place of a value, `study.space` draws it.
This file knows no YAML, no Optuna and no torch.
"""

import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from harness.study.dataset import Data
from harness.study.part import Part
from harness.study.search import Search
from harness.study.training import Augment, Model, Optim, Train

NAME = "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
"""of a study: it is a folder and an experiment, too"""


class Spec(Part):
    """One trial, whole."""

    name: str
    """of the Optuna study and the MLflow experiment; the file's own name when left out"""
    description: str = ""
    """one line for lists and for MLflow"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """the start of every random decision: folds, weights, order, augmentation, proposals"""
    data: Data
    model: Model = Model()
    optim: Optim = Optim()
    train: Train = Train()
    augment: Augment = Augment()
    search: Search = Search()

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not re.fullmatch(NAME, value):
            raise ValueError(
                "use letters, digits, '_', '-' and '.', at most 64 of them, starting with a letter or digit"
            )
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "Spec":
        if list(self.optim.step_at) != sorted(self.optim.step_at):
            raise ValueError("optim.step_at must rise, e.g. [0.6, 0.85]")
        train = self.train
        if train.ema and train.swa:
            raise ValueError("train.ema and train.swa both average the weights: set one of them to 0")
        if train.patience and train.select == "last":
            raise ValueError("train.patience stops by train.select's choice of epoch: set train.select: inner as well")
        if train.swa and train.select != "last":
            raise ValueError("train.swa keeps an average of the last epochs: set train.select: last")
        if train.unfreeze_every and not train.freeze:
            raise ValueError("train.unfreeze_every: nothing is frozen: set train.freeze as well")
        return self
