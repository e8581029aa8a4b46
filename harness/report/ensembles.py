"""Ensembles against what they must beat: single members and the plain mean, with intervals; what each member gives.

Everything is read from what bundles say of themselves, p-values (after Holm over the table of their build) and verdicts
included: the same that `ensemble show` and MLflow have.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from harness.ensemble.score_table import OPTIMISM, PLAIN, of_document, why_recommended
from harness.metrics import METRICS
from harness.output.documents import Section, Table
from harness.output.format import bare_p, interval, judged, number, read_interval, signed
from harness.output.plots import forest
from harness.report.collect import Built, best_built, scored
from harness.types import Difference

PARTLY = "~"


def ensembles_section(built: Sequence[Built], left_out: Sequence[str], metric: str, name: str) -> Section:
    """`metric`: that the study chose by; `name`: of the study."""
    built = [one for one in built if one.about["metric"] == metric]
    if not built:
        said = " ".join(left_out)
        answer = f"No ensemble has been built. Type: harness ensemble build --method all --study {name}"
        return Section("ensembles", "Ensembles against their members", answer, f"<p>{escape(said)}</p>" if said else "")
    best = best_built(built, metric)
    on = built[0].on
    judged_ones = [one for one in built if one.on == on]
    tables = [_scores(built, metric), _every_metric(judged_ones, best), _compared(built, metric)]
    tables.append(_members(built, metric))
    body = ""
    if on != "none":
        named = [(_name(row), scored(row, on, metric)) for row in _beside(judged_ones)]
        named += [(one.name, scored(one.row, on, metric)) for one in judged_ones if one.method != PLAIN]
        lines = [(name, read_interval(score)) for name, score in named if score]
        said = "Bars: 95% intervals. Those that overlap are not equal by that: the differences below are paired."
        body = forest(lines, f"{metric} {judged(on)}", metric, said)
        deltas = [(one.name, _delta(one, "delta_vs_mean")[0]) for one in judged_ones if one.method != PLAIN]
        better = "right" if METRICS[metric].higher_is_better else "left"
        if deltas:
            body += forest(
                deltas, f"Minus the plain mean of the same members, {judged(on)}", f"difference of {metric}",
                f"Paired by group; better than the mean is to the {better} of 0. A bar across 0 may be chance.", 0.0,
            )  # fmt: skip
    notes = [*left_out, *_reads(built), *dict.fromkeys(note for one in built for note in one.about.get("notes") or [])]
    tables = [table for table in tables if table.rows]
    if notes:
        tables[0] = Table(**{**vars(tables[0]), "note": " ".join([tables[0].note, *notes])})
    answer = _answer(built, best, metric)
    return Section("ensembles", "Ensembles against their members", answer, body, tuple(tables))


def _delta(one: Built, key: str) -> tuple[Difference, float]:
    """A stored difference and its p-value after Holm over the table that it was built in."""
    said = one.about[key]
    ends = read_interval(said)
    p = math.nan if said.get("p_holm") is None else float(said["p_holm"])
    return Difference(ends.value, ends.lo, ends.hi, p), p


def _answer(built: Sequence[Built], best: Built | None, metric: str) -> str:
    shown = best or next((one for one in built if one.method == PLAIN), None)
    name = "the plain mean" if best is None else best.name
    why = why_recommended([of_document(one.about) for one in built], PLAIN if best is None else best.method)
    score = None if shown is None else scored(shown.row, shown.on, metric)
    if shown is None or score is None:
        return f"Recommended: {name} ({why})."
    return f"Recommended: {name} ({why}); its {metric} {judged(shown.on)}: {interval(read_interval(score))}."


def _beside(built: Sequence[Built]) -> list[Mapping[str, Any]]:
    """Rows that are no ensemble's own: the best single member and the plain mean, of each set of members once."""
    found: dict[str, Mapping[str, Any]] = {}
    for one in built:
        for row in one.about["scores"]:
            if row["kind"] == "mean" or (row["kind"] == "single" and row.get("selection")):
                found.setdefault(repr(row), {**row, "top": one.about.get("top")})
    tops = {one.about.get("top") for one in built}
    return [row if len(tops) > 1 else {**row, "top": None} for row in found.values()]


def _name(row: Mapping[str, Any]) -> str:
    name = f"best single: {row['name']}" if row["kind"] == "single" else "plain mean"
    return name if row["top"] is None else f"{name}, top {row['top']}"


def _scores(built: Sequence[Built], metric: str) -> Table:
    rows = [[_name(row), *_of_row(row, metric), "-", "-", "-"] for row in _beside(built)]
    for one in built:
        if one.method != "mean":
            rows.append([one.name, *_of_row(one.row, metric), *_cost(one.about.get("cost") or {})])
    note = (
        f"Selection: on the rows that chose it. {OPTIMISM[0].upper()}{OPTIMISM[1:]} Nested full: by networks trained "
    )
    note += "again without each pair of folds (--nested full). Test: on the held-out split, the number to report."
    if any(PARTLY in row[2] for row in rows):
        note += f" {PARTLY} fitted without each fold, its members chosen with it."
    if any("*" in row[1] + row[2] for row in rows):
        note += " * optimistic: each fold's epoch was picked on the rows that it is scored on."
    scores = ("cross-fitted", f"{metric} nested full [95%]", f"{metric} test [95%]")
    columns = ("model", "selection", *scores, "networks", "ms an image", "fit, s")
    empty = [place for place in (3, 4) if all(row[place] == "-" for row in rows)]
    rows = [list(_without(row, empty)) for row in rows]
    return Table(f"Scores, {metric}", _without(columns, empty), rows, note=note)


def _without(row: Sequence[str], places: Sequence[int]) -> tuple[str, ...]:
    return tuple(cell for place, cell in enumerate(row) if place not in places)


def _every_metric(built: Sequence[Built], best: Built | None) -> Table:
    """Of the models that the answer is about: what was chosen by one metric, in all."""
    on = built[0].on
    shown = [row for row in _beside(built) if best is None or row["top"] in (None, best.about.get("top"))]
    named = [(_name(row), row) for row in shown] + ([] if best is None else [(best.name, best.row)])
    named = [(name, row) for name, row in named if scored(row, on, "auroc")]
    rows = [
        [metric, *(interval(read_interval(scored(row, on, metric) or {})) for _, row in named)] for metric in METRICS
    ]
    note = (
        "Of the probabilities as the networks give them, not calibrated, like every score of ensembles: log-loss and "
        "Brier score of calibrated ones stand in the section on calibration."
    )
    caption = f"In every metric, {judged(on)}, probabilities not calibrated"
    return Table(caption, ("metric", *(name for name, _ in named)), rows if named else [], note=note)


def _of_row(row: Mapping[str, Any], metric: str) -> list[str]:
    """Selection, cross-fitted, nested full, test."""
    star = "*" if row.get("optimistic") else ""
    chosen, fitted, full = row.get("selection"), row.get("cross_fitted"), row.get("nested_full")
    value = (fitted or row["oof"])[metric]["value"]
    test = read_interval(row["test"][metric])
    return [
        number(chosen[metric]["value"]) + star if chosen else "-",
        number(value) + ("" if fitted else PARTLY) + star,
        interval(read_interval(full[metric])) if full else "-",
        interval(test),
    ]


def _cost(found: Mapping[str, float | None]) -> list[str]:
    networks, seconds = found.get("networks"), found.get("seconds_per_image")
    return [
        "-" if networks is None else f"{int(networks)}",
        "-" if seconds is None else f"{1000 * seconds:,.1f}",
        number(found.get("fit_seconds"), 1),
    ]


def _compared(built: Sequence[Built], metric: str) -> Table:
    rows = []
    for one in built:
        if one.on == "none":
            continue
        (mean, p_mean), (single, p_single) = (_delta(one, key) for key in ("delta_vs_mean", "delta_vs_single"))
        of_mean = ["-", "-", "-"]
        if one.method != PLAIN:
            of_mean = [signed(mean), bare_p(p_mean), one.about["delta_vs_mean"]["verdict"] or "-"]
        rows.append([one.name, *of_mean, signed(single), bare_p(p_single), judged(one.on)])
    columns = ("ensemble", "minus the plain mean [95%]", "p", "", "minus the best single [95%]", "p", "judged")
    note = "Paired by group; p after Holm over all comparisons of the build that an ensemble is of."
    return Table(f"Paired differences of {metric}", columns, rows, note=note)


def _members(built: Sequence[Built], metric: str) -> Table:
    """Of the largest set of members: each alone, and what the plain mean would lose without it."""
    one = max(built, key=lambda bundle: len(bundle.about["members"]))
    singles = [row for row in one.about["scores"] if row["kind"] == "single"]
    gives = one.about.get("contributions") or [{}] * len(singles)
    rows = [
        [
            row["name"],
            interval(read_interval(row["oof"][metric])),
            interval(read_interval(row["test"][metric])),
            signed(read_interval(given["to_mean"])) if given.get("to_mean") else "-",
        ]
        for row, given in zip(singles, gives, strict=False)
    ]
    columns = ["member", f"{metric} out of fold", "test split", "gives the mean [95%]"]
    if one.on != "test":
        columns, rows = [*columns[:2], columns[3]], [[*row[:2], row[3]] for row in rows]
    return Table(f"Members, {one.name}", columns, rows, note=_diversity(one.about.get("diversity") or {}))


def _diversity(found: Mapping[str, Any]) -> str:
    if found.get("disagreement") is None:
        return ""
    said = f"Out of fold two members differ on {100 * found['disagreement']:.1f}% of answers"
    if found.get("error_correlation") is not None:
        said += f", their errors correlate by {found['error_correlation']:.2f}"
    if found.get("ambiguity") is not None and found.get("members_brier") is not None:
        said += f"; averaging takes {found['ambiguity']:.3f} off their mean Brier score of {found['members_brier']:.3f}"
    return said + "."


def _reads(built: Sequence[Built]) -> list[str]:
    """The last one built knows of all."""
    reads = max(one.about.get("test_reads") or 0 for one in built)
    return (
        [f"The test split has been scored for {reads} ensembles by now: choose none of them by it."]
        if reads > 1
        else []
    )
