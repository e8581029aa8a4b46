"""Ensembles against what they must beat: single members and the plain mean, with intervals; what each member gives.

Everything is read from what bundles say of themselves. p-values are corrected again, for the ensembles shown together.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from harness.metrics import METRICS
from harness.records import Difference
from harness.report.forest import forest
from harness.report.numbers import bare_p, read_interval, signed
from harness.report.predicted import Built, best_built, scored
from harness.report.section import Section, Table
from harness.stats.compare import holm
from harness.words import NO_TEST, interval, judged, number

BELIEVED = 0.05
PARTLY = "~"


def ensembles_section(built: Sequence[Built], left_out: Sequence[str], metric: str, name: str) -> Section:
    """`metric`: that the study chose by; `name`: of the study."""
    built = [one for one in built if one.about["metric"] == metric]
    if not built:
        said = " ".join(left_out)
        answer = f"No ensemble has been built. Type: harness ensemble build --method all --study {name}"
        return Section("ensembles", "Ensembles against their members", answer, f"<p>{escape(said)}</p>" if said else "")
    compared = {key: _differences(built, key) for key in ("delta_vs_mean", "delta_vs_single")}
    best = best_built(built, metric)
    tables = [_scores(built, metric), _every_metric(built, best), _compared(built, compared, metric)]
    tables.append(_members(built, metric))
    on = built[0].on
    lines = [(_name(row), read_interval(scored(row, on, metric))) for row in _beside(built)]
    lines += [(one.name, read_interval(scored(one.row, on, metric))) for one in built if one.method != "mean"]
    deltas = [
        (one.name, delta)
        for one, (delta, _) in zip(built, compared["delta_vs_mean"], strict=True)
        if one.method != "mean"
    ]
    better = "right" if METRICS[metric].higher_is_better else "left"
    said = "Bars: 95% intervals. Those that overlap are not equal by that: the differences below are paired."
    body = forest(lines, f"{metric} {judged(on)}", metric, said)
    if deltas:
        body += forest(
            deltas, f"Minus the plain mean of the same members, {judged(on)}", f"difference of {metric}",
            f"Paired by group; better than the mean is to the {better} of 0. A bar across 0 may be chance.", 0.0,
        )  # fmt: skip
    notes = [*left_out, *([] if best is None else _reads(built))]
    tables = [table for table in tables if table.rows]
    if notes:
        tables[0] = Table(**{**vars(tables[0]), "note": " ".join([tables[0].note, *notes])})
    answer = _answer(built, best, compared, metric)
    return Section("ensembles", "Ensembles against their members", answer, body, tuple(tables))


def _differences(built: Sequence[Built], key: str) -> list[tuple[Difference, float]]:
    """Each ensemble's difference, and its p-value after Holm over those shown; the mean against itself is no test."""
    found = []
    for one in built:
        said = one.about[key]
        p = said.get("p")
        ends = read_interval(said)
        found.append(Difference(ends.value, ends.lo, ends.hi, math.nan if p is None else float(p)))
    tests = [key == "delta_vs_single" or one.method != "mean" for one in built]
    p = np.array([one.p if test else math.nan for one, test in zip(found, tests, strict=True)])
    return list(zip(found, holm(p).tolist(), strict=True))


def _answer(
    built: Sequence[Built],
    best: Built | None,
    compared: Mapping[str, list[tuple[Difference, float]]],
    metric: str,
) -> str:
    if best is None:
        return "Only the plain mean has been built; no other ensemble stands beside it."
    place = [one.name for one in built].index(best.name)
    parts = []
    for key, other in (("delta_vs_mean", "the plain mean"), ("delta_vs_single", "the best single member")):
        delta, p = compared[key][place]
        good = (delta.value > 0) == METRICS[metric].higher_is_better
        word = "not distinguishable from" if not p < BELIEVED else "better than" if good else "worse than"
        parts.append(f"{word} {other} ({signed(delta)}, p {bare_p(p)})")
    score = interval(read_interval(scored(best.row, best.on, metric)))
    return f"{best.name}, best by its nested score, has {metric} {score} {judged(best.on)}: {' and '.join(parts)}."


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
    rows = [[_name(row), *_of_row(row, metric, built[0].on), "-", "-", "-"] for row in _beside(built)]
    for one in built:
        if one.method != "mean":
            rows.append([one.name, *_of_row(one.row, metric, one.on), *_cost(one.about.get("cost") or {})])
    note = "Selection: on the rows that chose it, which flatters. Nested: on the same rows, members and fit chosen "
    note += "without each fold. "
    note += "Test: on the held-out split, the number to report." if built[0].on == "test" else NO_TEST
    if any(PARTLY in row[2] for row in rows):
        note += f" {PARTLY} fitted without each fold, its members chosen with it."
    if any("*" in row[1] + row[2] for row in rows):
        note += " * optimistic: each fold's epoch was picked on the rows that it is scored on."
    scores = ("nested", f"{metric} test [95%]") if built[0].on == "test" else (f"{metric} nested [95%]",)
    columns = ("model", "selection", *scores, "networks", "ms an image", "fit, s")
    return Table(f"Scores, {metric}", columns, rows, note=note)


def _every_metric(built: Sequence[Built], best: Built | None) -> Table:
    """Of the models that the answer is about: what was chosen by one metric, in all."""
    shown = [row for row in _beside(built) if best is None or row["top"] in (None, best.about.get("top"))]
    named = [(_name(row), row) for row in shown] + ([] if best is None else [(best.name, best.row)])
    rows = [
        [metric, *(interval(read_interval(scored(row, built[0].on, metric))) for _, row in named)] for metric in METRICS
    ]
    return Table(f"In every metric, {judged(built[0].on)}", ("metric", *(name for name, _ in named)), rows)


def _of_row(row: Mapping[str, Any], metric: str, on: str) -> list[str]:
    star = "*" if row.get("optimistic") else ""
    chosen = row.get("selection")
    nested = row.get("nested")
    flattered = number(chosen[metric]["value"]) + star if chosen else "-"
    honest, partly = (nested or row["oof"])[metric], ("" if nested else PARTLY) + star
    if on != "test":
        return [flattered, interval(read_interval(honest)) + partly]
    return [flattered, number(honest["value"]) + partly, interval(read_interval(row["test"][metric]))]


def _cost(found: Mapping[str, float | None]) -> list[str]:
    networks, seconds = found.get("networks"), found.get("seconds_per_image")
    return [
        "-" if networks is None else f"{int(networks)}",
        "-" if seconds is None else f"{1000 * seconds:,.1f}",
        number(found.get("fit_seconds"), 1),
    ]


def _compared(built: Sequence[Built], compared: Mapping[str, list[tuple[Difference, float]]], metric: str) -> Table:
    rows = []
    for place, one in enumerate(built):
        (mean, p_mean), (single, p_single) = (compared[key][place] for key in ("delta_vs_mean", "delta_vs_single"))
        of_mean = ["-", "-"] if one.method == "mean" else [signed(mean), bare_p(p_mean)]
        rows.append([one.name, *of_mean, signed(single), bare_p(p_single)])
    columns = ("ensemble", "minus the plain mean [95%]", "p", "minus the best single [95%]", "p")
    where = "On the test split" if built[0].on == "test" else "Out of fold, nested"
    note = f"{where}, paired by group; p after Holm over the {len(rows)} rows."
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
