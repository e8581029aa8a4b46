"""Question and answer of a study, its cost, and how to reproduce it.

What a study asked, and what came out: what won, by how much, and whether that is more than chance.

Every difference stands with its interval; the best of many with its corrected value; an ensemble beside the best single
member and the simple mean. Makes sentences and tables of numbers that the stages have made.

What a study cost: time, images a second, disk; and what stopping trials early saved.

Everything that is needed to run a study again: its file, the command, seeds, hashes, versions, the machine.
"""

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from harness.config.load import dump_yaml
from harness.config.space import Choice, Range
from harness.ensemble.names import WITHOUT_TRAINING
from harness.ensemble.score_table import PLAIN, of_document, why_recommended
from harness.output.documents import Section, Table
from harness.output.format import (
    BELIEVABLE_P,
    NOT_CORRECTED,
    OPTIMISTIC,
    duration,
    interval,
    is_chain,
    judged,
    number,
    p_value,
    plural,
    read_interval,
    value,
)
from harness.report.collect import Built, Collected, best_built, mean_beside, scored
from harness.search.status import trial_notes
from harness.store.home import disk_used
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


def cost_section(found: Collected) -> Section:
    seconds, spent = sum(one.seconds for one in found.trials), found.record.spent
    k = int(found.record.tree["data"]["folds"])
    saved, seconds_saved = saved_folds(found.trials, k)
    answer = f"{plural(len(found.trials), 'trial')} took {duration(seconds)} of training"
    answer += f", {duration(spent)} by the clock" if spent else ""
    if saved:
        answer += f"; stopping trials early saved {saved} of {k * len(found.trials)} fold trainings, about "
        answer += duration(seconds_saved)
    copies = sum(one.same_as is not None for one in found.trials)
    if copies:
        answer += f"; {plural(copies, 'trial')} met an earlier configuration again and cost nothing"
    return Section("cost", "Cost", answer + ".", "", (_trials(found, k), _disk(found)))


def saved_folds(trials: Iterable[TrialRecord], k: int) -> tuple[int, float]:
    """Folds that stopped trials did not finish, and the seconds that these would have taken at the pace of the
    complete trials."""
    complete = [one.seconds / k for one in trials if one.state == "complete" and one.same_as is None]
    pace = sum(complete) / len(complete) if complete else 0.0
    stopped = [one for one in trials if one.state == "pruned" and one.same_as is None]
    left = sum(k - len(one.fold_values) for one in stopped)
    return left, max(0.0, k * len(stopped) * pace - sum(one.seconds for one in stopped))


def _trials(found: Collected, k: int) -> Table:
    rows = []
    for one in found.trials if not found.asked else [found.chosen] if found.chosen else []:
        reports = [epoch.report for epoch in found.epochs.get(one.number, [])]
        trained = sum(report.seconds for report in reports)
        speed = f"{sum(report.images for report in reports) / trained:,.0f}" if trained else "-"
        costs = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in one.costs.items())
        folds = f"{len(one.fold_values)} of {k}" if one.same_as is None else f"as trial {one.same_as}"
        rows.append((str(one.number), one.state, folds, duration(one.seconds), speed, costs or "-"))
    note = "Images a second: training images of all epochs over the seconds that those took, validation included."
    return Table("Time by trial", ("trial", "state", "folds", "time", "images a second", "costs"), rows, "llrrrl", note)


def _disk(found: Collected) -> Table:
    home = found.home
    caches = [home.pixels / name for name in found.record.caches]
    own = [home.study_artifacts(found.name), home.bundles(found.name), home.work(found.name)]
    checkpoints, ensembles, records, *decoded = disk_used([*own, *caches])
    sizes = [
        ("checkpoints and predictions", checkpoints),
        ("ensembles, beyond their members' checkpoints", ensembles),
        ("records, embeddings, states", records),
        ("decoded images, shared with other studies", sum(decoded)),
    ]
    return Table("Disk", ("what", "megabytes"), [(what, f"{size / 1e6:,.1f}") for what, size in sizes])


UNKNOWN = "not recorded by the version that ran it"


def reproduce_section(found: Collected) -> Section:
    record = found.record
    name = found.name
    made = record.made_with
    trial = found.chosen if found.asked else None
    tree = found.study.fill(trial.params) if trial else record.tree
    file = f"{name}-trial-{trial.number}" if trial else name
    tree = {**tree, "name": file}
    if trial:
        tree["search"] = {**tree["search"], "trials": 1, "enqueue": []}
    commands = [f"harness study run {file}.yaml"]
    commands += _ablations(found, file, 0 if trial else None)
    if not trial:
        commands += _builds(found)
    facts = [
        ("study hash", record.spec_hash),
        ("data hash", record.data_hash),
        ("folds hash", record.folds_hash),
        ("audit hash", record.audit_hash or UNKNOWN),
        ("seed", str(record.tree["seed"])),
        *((f"precision of {backbone}", how) for backbone, how in record.precision.items()),
        *((f"weights {start}", meant) for start, meant in record.starts.items() if start != meant),
        *(made.items() if made else (("commit, machine, versions", UNKNOWN),)),
    ]
    if trial:
        facts.insert(0, ("trial hash", trial.tree_hash or UNKNOWN))
    answer = (
        f"Save the file below as {file}.yaml and run it: the same file, data and versions give the same numbers on the "
        "same kind of machine."
    )
    table = Table("What it was made of", ("what", "value"), facts, "ll")
    commands_ = Table("What to type", ("command",), [(command,) for command in commands], "l")
    return Section("reproduce", "Run it again", answer, "", (commands_, table), listing=dump_yaml(tree))


def _ablations(found: Collected, study: str, number: int | None) -> list[str]:
    """What trains the arms of each ablation that has been run; number: what the trial is called in `study`, where that
    is the file of one trial alone."""
    commands = []
    for table in found.ablations:
        asked: dict[str, list[str]] = {}
        for row in table["rows"]:
            other = row["from"] if row["base"] == "to" else row["to"]
            asked.setdefault(row["factor"], []).append(str(other).lower() if isinstance(other, bool) else str(other))
        factors = " ".join(f"--factor {name}={','.join(values)}" for name, values in asked.items())
        trial = table["trial"] if number is None else number
        commands.append(f"harness study ablate {study} --trial {trial} --seeds {table['seeds']} {factors}")
    return commands


def _builds(found: Collected) -> list[str]:
    """What builds the ensembles; every method of one number of members is `all`."""
    tops: dict[int, list[str]] = {}
    for one in found.built:
        tops.setdefault(int(one.about["top"]), []).append(one.method)
    return [
        f"harness ensemble build --method {method} --top {top} --study {found.name}"
        for top, built in tops.items()
        for method in (["all"] if set(WITHOUT_TRAINING) <= set(built) else built)
    ]
