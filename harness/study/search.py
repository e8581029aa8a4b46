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
    pruner: Literal["wilcoxon", "median", "none"] = "wilcoxon"
    """wilcoxon: stop a trial whose finished folds are worse than the best trial's, paired by fold"""
    pruner_p: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.13
    """threshold of the wilcoxon pruner; .13 kept the winner in simulations and used 70% of the folds"""
    timeout_minutes: Positive | None = None
    """start no further trial after this time"""
    max_failures: Annotated[int, Field(ge=1)] = 3
    """stop the study after this many failed trials in a row"""
