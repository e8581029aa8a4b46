"""The search in a report: what was tried, what was stopped, which keys mattered, and how sure that is.

Turns records into the plain rows that search.py draws.
"""

import math

from harness.config.space import Choice
from harness.output.documents import Section, Table
from harness.output.format import interval, number, plural, value
from harness.report.collect import Collected
from harness.report.search import Axis, Row, Search, history_plot, importance_plot, importance_table, parallel_plot
from harness.search.optuna_export import caution, importances, scored_trials
from harness.types import TrialRecord, not_ranked, rank_value

MOST_KEYS = 8
"""searched keys in the table of trials; the rest stands in the plot and in the trial's own report"""


def searched(found: Collected) -> Search:
    """What search.py draws."""
    study, metric = found.study, found.metric
    axes = [
        Axis(key, False, tuple(str(option) for option in range_.options))
        if isinstance(range_, Choice)
        else Axis(key, range_.log, ())
        for key, range_ in study.space.items()
    ]
    scored = scored_trials(found.trials, metric)
    rows = [Row(one.number, one.params, one.cv[metric]) for one in scored]
    stopped = [(one, so_far(found, one)) for one in found.trials if one.state == "pruned" and one.same_as is None]
    ranked = [(one.name, one.value, one.trials) for one in importances(study, found.trials, "ped_anova")]
    return Search(
        metric,
        found.higher,
        axes,
        rows,
        [Row(one.number, one.params, score) for one, score in stopped if score is not None],
        ranked,
        caution(study, found.trials),
    )


def so_far(found: Collected, trial: TrialRecord) -> float | None:
    """The mean over the folds that a stopped trial finished; where it finished none, its last epoch on the first."""
    values = [one for one in trial.fold_values if math.isfinite(one)]
    if values:
        return sum(values) / len(values)
    epochs = found.epochs.get(trial.number, [])
    last = epochs[-1].report.val.get(found.metric) if epochs else None
    return last if last is not None and math.isfinite(last) else None


def search_section(found: Collected) -> Section:
    if not found.study.space:
        answer = "Nothing was searched: the study's file has no range."
        return Section("search", "The search", answer, "", (_trials(found),))
    search = searched(found)
    states = {state: sum(one.state == state for one in found.trials) for state in ("complete", "pruned", "failed")}
    running = sum(one.state == "running" for one in found.trials)
    said = f"{plural(len(found.trials), 'trial')}: {states['complete']} complete"
    said += f", {states['pruned']} stopped early" if states["pruned"] else ""
    said += f", {states['failed']} failed" if states["failed"] else ""
    said += f", {running} not ended" if running else ""
    ranked = [name for name, share, _ in search.importances if share is not None]
    said += ". " + (search.caution or (f"{ranked[0]} made most of the difference." if ranked else ""))
    body = "".join([history_plot(search), parallel_plot(search), importance_plot(search)]) if search.rows else ""
    return Section("search", "The search", said.strip(), body, (_trials(found), importance_table(search)))


def _trials(found: Collected) -> Table:
    """Every trial, the best first, with its score or why it has none."""
    keys = list(found.study.space)[:MOST_KEYS]
    first = found.complete
    rest = [one for one in found.trials if one.number not in {other.number for other in first}]
    rows = []
    for one in [*first, *rest]:
        settings = [value(one.params[key]) if key in one.params else "-" for key in keys]
        rows.append((str(one.number), *settings, *_scores(one, found.metric), _state(found, one)))
    short = {key: key.rsplit(".", 1)[-1] for key in keys}
    names = [short[key] if list(short.values()).count(short[key]) == 1 else key for key in keys]
    more = len(found.study.space) - len(keys)
    note = (
        "cv: the mean over folds with its standard error, by which trials are ranked. Pooled: over the out-of-fold "
        "predictions of all rows, with its 95% interval, which does not correct for the choice."
    )
    note += f" {plural(more, 'more key')} were searched." if more > 0 else ""
    columns = ("trial", *names, f"{found.metric} cv", "pooled [95%]", "remark")
    return Table("Trials, the best first", columns, rows, f"l{'r' * len(keys)}rrl", note)


def _scores(trial: TrialRecord, metric: str) -> tuple[str, str]:
    if not math.isfinite(rank_value(trial, metric)):
        return "-", interval(trial.oof.get(metric), trial.optimistic) if trial.state == "complete" else "-"
    cv = f"{number(trial.cv[metric])} ± {number(trial.cv_se.get(metric))}" + "*" * trial.optimistic
    return cv, interval(trial.oof.get(metric), trial.optimistic)


def _state(found: Collected, trial: TrialRecord) -> str:
    if trial.same_as is not None:
        return f"the same as trial {trial.same_as}"
    if trial.state == "complete":
        why = not_ranked(trial, found.metric)
        return f"not ranked: {why}" if why else ""
    if trial.state == "pruned":
        return f"stopped at {number(so_far(found, trial))} after {plural(len(trial.fold_values), 'fold')}"
    reason = trial.reason.strip().splitlines()
    return f"{trial.state}: {reason[0]}" if reason else trial.state
