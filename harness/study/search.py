"""How a study spends its trials: the keys under `search:` of a study file."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from harness.errors import nearest
from harness.study.part import Part, Positive

Cost = Literal["latency_ms", "megabytes", "parameters"]
COSTS: tuple[str, ...] = ("latency_ms", "megabytes", "parameters")


@dataclass(frozen=True)
class Constraint:
    """What a trial's cost may be at most, or must be at least."""

    text: str
    """as it was written, which is also its name"""
    cost: str
    at_most: bool
    bound: float

    def violation(self, costs: dict[str, float]) -> float:
        """By how much the bound is missed; 0 or less where it is met."""
        return (costs[self.cost] - self.bound) * (1.0 if self.at_most else -1.0)


class Search(Part):
    """How the study spends its trials. Nothing here changes what one trial computes."""

    trials: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """the TOTAL number of trials of the study"""
    metric: Literal["auroc", "auprc", "accuracy", "balanced_accuracy", "log_loss", "brier"] = "auroc"
    sampler: Literal["tpe", "gp", "cmaes", "random", "qmc", "grid"] = "tpe"
    """who proposes the next trial; docs/searching.md says when to take which"""
    startup: Annotated[int, Field(ge=1)] = 5
    """random trials before tpe and gp start to model"""
    enqueue: tuple[dict[str, bool | int | float | str | None], ...] = ()
    """points to begin with, such as [{optim.lr: 1.0e-3}]; what a point leaves out is drawn"""
    costs: tuple[Cost, ...] = ()
    """of latency_ms, megabytes, parameters: made small beside the metric; the study then has a front of best trials"""
    constraints: tuple[str, ...] = ()
    """such as ["megabytes <= 20", "latency_ms <= 5"]: a trial that breaks one is not trained and never the best"""
    pruner: Literal["race", "wilcoxon", "median", "none"] = "race"
    """what stops a hopeless trial: race: its chance to overtake the best one, inside the first fold and after each fold
    (docs/searching.md); wilcoxon: folds that are worse than the best trial's, paired; median: worse than most trials"""
    race_p: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """race stops a trial whose chance to overtake is below this, times the share of its training that is done; larger
    is cheaper and loses the best trial more often"""
    pruner_p: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.13
    """threshold of the wilcoxon pruner; .13 stops a trial after three folds that are all worse"""
    timeout_minutes: Positive | None = None
    """the TOTAL time of the study over all of its runs: no trial starts after it"""
    trial_minutes: Positive | None = None
    """a trial that has trained for longer is pruned at the end of the epoch"""
    max_failures: Annotated[int, Field(ge=1)] = 3
    """stop the study after this many failed trials in a row"""

    @field_validator("enqueue", "costs", "constraints", mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @field_validator("constraints")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_constraint(text)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.costs)) < len(self.costs):
            raise ValueError("search.costs names a cost twice")
        if self.costs and self.pruner != "none":
            raise ValueError(
                "search.costs: a trial whose folds are worse may still be the smallest or the fastest, so none can be "
                "stopped early: set search.pruner: none as well"
            )
        if self.costs and self.sampler == "cmaes":
            raise ValueError("search.costs: cmaes follows one objective; set search.sampler: tpe or gp")
        if self.enqueue and self.sampler == "grid":
            raise ValueError("search.enqueue: a grid visits every point anyway; leave enqueue out")
        return self


def parse_constraint(text: str) -> Constraint:
    """'megabytes <= 20' as data. Raises ValueError with how it is written."""
    found = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*([-+0-9.eE_]+)\s*", text)
    if not found:
        raise ValueError(f"{text!r}: write a cost, <= or >=, and a number, such as 'megabytes <= 20'")
    name, sign, number = found.groups()
    if name not in COSTS:
        raise ValueError(f"{text!r}: {name} is no cost.{nearest(name, COSTS)} Costs are {', '.join(COSTS)}")
    try:
        return Constraint(text, name, sign == "<=", float(number))
    except ValueError:
        raise ValueError(f"{text!r}: {number} is no number") from None


def violations(search: Search, costs: dict[str, float]) -> dict[str, float]:
    """By how much each constraint is missed, by its text; 0 or less where it is met."""
    return {text: parse_constraint(text).violation(costs) for text in search.constraints}


def is_infeasible(search: Search, costs: dict[str, float]) -> bool:
    """Whether measured costs break a constraint."""
    return bool(costs) and any(by > 0 for by in violations(search, costs).values())
