"""How a study spends its trials: the keys under `search:` of a study file."""

from typing import Annotated, Literal

from pydantic import Field

from harness.study.part import Part, Positive


class Search(Part):
    """How the study spends its trials. Nothing here changes what one trial computes."""

    trials: Annotated[int, Field(ge=1, le=1_000_000)] = 20
    """the TOTAL number of trials of the study"""
    metric: Literal["auroc", "auprc", "accuracy", "balanced_accuracy", "log_loss", "brier"] = "auroc"
    sampler: Literal["tpe", "random", "grid", "qmc"] = "tpe"
    startup: Annotated[int, Field(ge=1)] = 5
    """random trials before tpe starts to model"""
    pruner: Literal["race", "wilcoxon", "median", "none"] = "race"
    """what stops a hopeless trial: race: its chance to overtake the best one, inside the first fold and after each fold
    (docs/search.md); wilcoxon: folds that are worse than the best trial's, paired; median: worse than most trials"""
    race_p: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """race stops a trial whose chance to overtake is below this, times the share of its training that is done; larger
    is cheaper and loses the best trial more often"""
    pruner_p: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.13
    """threshold of the wilcoxon pruner; .13 stops a trial after three folds that are all worse"""
    timeout_minutes: Positive | None = None
    """start no further trial after this time"""
    max_failures: Annotated[int, Field(ge=1)] = 3
    """stop the study after this many failed trials in a row"""
