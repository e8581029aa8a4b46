"""What a study asked, and what came out: what won, by how much, and whether that is more than chance.

Every difference stands with its interval; the best of many with its corrected value; an ensemble beside the best single
member and the simple mean. Makes sentences and tables of numbers that the stages have made.
"""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from harness.config.space import Choice, Range
from harness.ensemble.score_table import PLAIN, of_document, why_recommended
from harness.output.documents import Section, Table
from harness.output.format import (
    BELIEVABLE_P,
    NOT_CORRECTED,
    OPTIMISTIC,
    interval,
    is_chain,
    judged,
    number,
    p_value,
    plural,
    read_interval,
    value,
)
from harness.report.collect import Collected
from harness.report.predicted import Built, best_built, mean_beside, scored
from harness.search.status import trial_notes
from harness.store.records import no_best
from harness.types import Difference, TrialRecord, not_ranked, rank_value

SCORED_ON = {"test": "test split", "nested_full": "nested, networks trained again", "none": "-"}
"""in a table, by predicted.Built.on"""


def question_section(found: Collected) -> Section:
    description = str(found.record.tree["description"]).strip()
    body = f"<p>{escape(description)}</p>" if description else ""
    answer = " ".join([*_state(found), _winner(found)])
    scales = [one["message"] for one in trial_notes(found.trials, found.metric) if not found.asked]
    points = (*_lead(found), *_ensembles(found), *scales, *found.notes)
    tables = [table for table in (_numbers(found), _varied(found)) if table.rows]
    return Section("answer", "Question and answer", answer, body, tuple(tables), points)


def _state(found: Collected) -> list[str]:
    if found.record.state == "complete":
        return []
    total = found.record.tree["search"]["trials"]
    ended = sum(one.state != "running" for one in found.trials)
    return [
        f"This study is not finished ({found.record.state}): {ended} of {total} trials have ended. "
        "What stands here is what there is so far."
    ]


def _winner(found: Collected) -> str:
    best, metric = found.chosen, found.metric
    if best is None:
        return f"There is {no_best(found.trials, metric)} yet, so there is no answer."
    if best.state != "complete":
        return f"Trial {best.number} is {best.state}: it has no score."
    star = ", which is optimistic" if best.optimistic else ""
    pooled = f"{interval(best.oof[metric])} pooled"
    if not math.isfinite(rank_value(best, metric)):
        return (
            f"Trial {best.number} is not ranked: {not_ranked(best, metric)}. Its out-of-fold {metric}: {pooled}{star}."
        )
    said = f"{metric} {number(best.cv[metric])} as the mean over folds, {pooled}{star}"
    if found.asked:
        return f"Trial {best.number}: {said}."
    count, early = len(found.raced), len(found.raced) - len(found.complete)
    honest = _honest(found)
    if len(found.complete) == 1 == count:
        return (
            f"One trial is complete, trial {best.number}: {said}{honest if is_chain(found.record.corrected) else ''}."
        )
    stopped = f" ({early} stopped early)" if early else ""
    return f"Trial {best.number} is the best of {count}{stopped}: {said}{honest}."


def _honest(found: Collected) -> str:
    """The value corrected for the choice, or why there is none."""
    corrected = found.record.corrected
    if not corrected:
        return ""
    chain = ", what it started from included" if is_chain(found.record.corrected) else ""
    if not _known(corrected):
        reason = str(corrected.get("reason") or "")
        why = NOT_CORRECTED.get(reason, reason)
        return f"; it is not corrected for having been chosen{chain}: {why}" if why else ""
    return f"; corrected for having been chosen{chain}, mean over folds, {_json_interval(corrected)}"


def _lead(found: Collected) -> list[str]:
    if found.lead is None or found.runner_up is None or not math.isfinite(found.lead.value):
        return []
    over = f"trial {found.runner_up.number}, {'the best of the others' if found.asked else 'the next'}"
    said = f"Its lead over {over}, is {_difference(found.lead)}: {_judged(found.lead.p)}"
    chosen = not found.asked and len(found.raced) > 2
    said += f", before allowing for a choice among {len(found.raced)}." if chosen else "."
    floor = next((table for table in found.ablations if table["noise_floor"] is not None), None)
    if floor is None:
        return [said + " How much another training seed alone would change was not measured (an ablation does)."]
    inside = abs(found.lead.value) <= floor["noise_floor"]
    return [
        f"{said} Training with other seeds alone moves {found.metric} by up to {number(floor['noise_floor'])}, "
        f"{'more' if inside else 'less'} than this lead."
    ]


def _ensembles(found: Collected) -> list[str]:
    if found.asked:
        return []
    best, mean = best_built(found.built, found.metric), mean_beside(found.built, None)
    one = best or mean
    if one is None:
        if found.data is not None and not len(found.data.folds.test_rows()):
            return ["No ensemble has been built, and nothing is held out as a test split."]
        return ["No ensemble has been built, so nothing has been scored on the held-out test split."]
    why = why_recommended([of_document(each.about) for each in found.built], one.method)
    if one.on == "none":
        return [f"The recommended ensemble is the {_named(one)}: {why}."]
    score, single = _json_interval(scored(one.row, one.on, found.metric)), one.about["delta_vs_single"]
    return [
        f"The recommended ensemble is the {_named(one)} of {len(one.about['members'])} members: {why}. It scores "
        f"{score} {judged(one.on)}, {_signed(single)} against the best single member: {_judged(single['p_holm'])}."
    ]


def _named(one: Built) -> str:
    return "simple mean" if one.method == PLAIN else one.method


def _numbers(found: Collected) -> Table:
    metric, best, rows = found.metric, found.chosen, []
    if best is not None and best.state == "complete":
        star = "*" if best.optimistic else ""
        rows += _of_trial(best, metric, star)
        if not found.asked and _known(found.record.corrected):
            among = (found.record.corrected or {}).get("among") or len(found.raced)
            name = f"the best of {among}, corrected for that"
            rows.append((name, "mean over folds", _json_interval(found.record.corrected), ""))
    if found.runner_up is not None:
        rows += _of_trial(found.runner_up, metric)
        if found.lead is not None:
            name = f"trial {found.chosen.number if found.chosen else ''} minus trial {found.runner_up.number}"
            rows.append((name, "mean over folds, paired", _difference(found.lead), _p(found.lead.p)))
    if not found.asked:
        rows += _ensemble_rows(found)
    note = "95% intervals over groups; ± is the standard error of a mean over folds. "
    note += "The p of an ensemble is corrected over all comparisons of its build (Holm)."
    if best is not None and best.optimistic:
        note += f" {OPTIMISTIC}"
    return Table(f"The answer in numbers: {metric}", ("what", "scored on", f"{metric} [95%]", "p"), rows, "llrr", note)


def _of_trial(trial: TrialRecord, metric: str, star: str = "") -> list[tuple[str, str, str, str]]:
    """What it is ranked by, and the estimate that is reported."""
    error = trial.cv_se.get(metric, math.nan)
    cv = f"{number(rank_value(trial, metric))}{star}" + (f" ± {number(error)}" if math.isfinite(error) else "")
    name = f"trial {trial.number}"
    return [
        (name, "mean over folds", cv, ""),
        (name, "out of fold, pooled", interval(trial.oof[metric]) + star, ""),
    ]


def _ensemble_rows(found: Collected) -> list[tuple[str, str, str, str]]:
    metric, rows = found.metric, []
    best = best_built(found.built, metric)
    mean = mean_beside(found.built, best)
    some = best or mean
    if some is None or some.on == "none":
        return []
    singles = [row for row in some.about["scores"] if row["kind"] == "single"]
    single = next((row for row in singles if row.get("selection")), singles[0] if singles else None)
    if single:
        score = _json_interval(scored(single, some.on, metric))
        rows.append((f"best single member: {single['name']}", SCORED_ON[some.on], score, ""))
    for row in (row for row in some.about["scores"] if row["kind"] == "mean"):
        rows.append(("simple mean", SCORED_ON[some.on], _json_interval(scored(row, some.on, metric)), ""))
    if best is not None:
        rows += _of_ensemble(best, metric)
    return rows


def _of_ensemble(one: Built, metric: str) -> list[tuple[str, str, str, str]]:
    rows = [(one.method, SCORED_ON[one.on], _json_interval(scored(one.row, one.on, metric)), "")]
    for name, key in (("best single member", "delta_vs_single"), ("simple mean", "delta_vs_mean")):
        delta = one.about[key]
        rows.append((f"{one.method} minus {name}", f"{SCORED_ON[one.on]}, paired", _signed(delta), _p(delta["p_holm"])))
    return rows


def _varied(found: Collected) -> Table:
    """The question: what was searched, and what the chosen trial has."""
    own = found.chosen.params if found.chosen else {}
    whose = f"trial {found.chosen.number}" if found.chosen else "-"
    rows = [
        (name, told_range(range_), value(own[name]) if name in own else "-")
        for name, range_ in found.study.space.items()
    ]
    caption = f"What was varied, in {plural(int(found.record.tree['search']['trials']), 'trial')}"
    return Table(caption, ("key", "from", whose), rows, "lll")


def told_range(range_: Range) -> str:
    """1e-05 to 1e-02, on a log scale; 0 or 0.5"""
    if isinstance(range_, Choice):
        return " or ".join(value(option) for option in range_.options)
    step = f", in steps of {value(range_.step)}" if range_.step not in (None, 1) else ""
    return f"{value(range_.low)} to {value(range_.high)}{', on a log scale' if range_.log else step}"


def _judged(p: float | None) -> str:
    if p is None or not math.isfinite(p):
        return "no test was possible"
    return f"{p_value(p)}, more than chance" if p < BELIEVABLE_P else f"{p_value(p)}, this may be chance"


def _difference(delta: Difference) -> str:
    return f"{delta.value:+.3f} [{delta.lo:+.3f}, {delta.hi:+.3f}]"


def _p(p: float | None) -> str:
    """.41, < .001"""
    return "-" if p is None else p_value(p).removeprefix("p ").removeprefix("= ")


def _known(found: Mapping[str, Any] | None) -> bool:
    return bool(found) and found is not None and found["value"] is not None


def _signed(found: Mapping[str, Any]) -> str:
    if found["value"] is None:
        return "-"
    ends = "" if found["lo"] is None else f" [{found['lo']:+.3f}, {found['hi']:+.3f}]"
    return f"{found['value']:+.3f}{ends}"


def _json_interval(found: Mapping[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    return interval(read_interval(found))
