"""Whether a running trial is worth its remaining folds.

A step is a FOLD, and what is reported at it is that fold's held-out score. All trials share the folds, so the scores
of two trials are paired by step. Epochs are never compared: schedules of different length would not be comparable.
"""

import optuna

from harness.study.spec import Search


def build_pruner(search: Search) -> optuna.pruners.BasePruner:
    """wilcoxon: signed-rank test of fold differences to the best trial (Wilcoxon 1945); median: of trials at the fold."""
    if search.pruner == "wilcoxon":
        import warnings

        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.pruners.WilcoxonPruner(p_threshold=search.pruner_p)
    if search.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=search.startup, n_warmup_steps=1)
    return optuna.pruners.NopPruner()


def report_fold(study: optuna.Study, trial: optuna.Trial, fold: int, value: float, folds: int) -> bool:
    """Report a finished fold; True when the trial should stop. The last fold is never worth stopping at."""
    if fold not in study.storage_intermediate(trial) if hasattr(study, "storage_intermediate") else True:
        trial.report(value, step=fold)
    return fold + 1 < folds and bool(trial.should_prune())
