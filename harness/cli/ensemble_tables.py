"""Tables of ensembles, and how far their answers can be trusted.

An ensemble's scores, or those of all methods, for a terminal of 80 columns: from plain data as `--json` has it.

What a bundle says of its probabilities and its thresholds, in a few lines. From plain JSON data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.cli.streams import results, show
from harness.ensemble.score_table import OPTIMISM, of_document, why_recommended
from harness.metrics import is_higher_better
from harness.output.format import OPTIMISTIC, difference, duration, interval, judged, number, p_value, plural
from harness.output.tables import numbers_of, table
from harness.types import Difference, Interval

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]


def show_scores(document: Mapping[str, Any]) -> None:
    """Methods, how they compare, what must be said of them, the members, and the recommended method. `document`: of one
    ensemble or of all."""
    metric, ensembles = document["metric"], document.get("ensembles", [document])
    members = ", ".join(str(member) for member in document["members"])
    s = "s" if len(document["members"]) > 1 else ""
    what = document["method"] if "ensembles" not in document else f"{len(ensembles)} methods"
    named = members if isinstance(document["members"][0], str) else f"trial{s} {members}"
    width = results().width
    show(f"study {document['study']}: {what} of {named}\n")
    on = document["judged_on"]
    show(methods_table(document["scores"], ensembles, metric, width, on))
    show(f"\n{how_to_read(document['scores'], ensembles, on)}")
    if any(row.get("optimistic", False) for row in document["scores"]):
        show(f"\n{OPTIMISTIC}")
    if len(ensembles) == 1 and on != "none":
        _show_differences(document)
    refused = [f"{method}: not built. {why}" for method, why in document.get("refused", {}).items()]
    reads = document.get("test_reads", 0)
    picked = reads > 1 and on == "test"
    often = [f"The test split has been scored for {reads} ensembles by now: pick none of them by it."] * picked
    for line in [*document.get("notes", []), *refused, *cost_lines(ensembles), *often]:
        show(f"\n{line}")
    show("")
    show(members_table(document["scores"], document.get("contributions", []), metric, width, on))
    if len(document["members"]) > 1 and document.get("diversity"):
        show(f"\n{diversity_line(document['diversity'])}")
    show(f"\n{answer_line(document)}")


PARTLY = "~"
PARTLY_FITTED = "~ fitted without each fold, its members chosen with it."


def how_to_read(rows: Sequence[Row], ensembles: Sequence[Row], on: str) -> str:
    """What the columns are, and which of them is no estimate."""
    said = [f"selection: on the rows that chose it. {OPTIMISM}"]
    if any(row["kind"] != "single" and not row.get("cross_fitted") for row in rows):
        said.append(PARTLY_FITTED)
    if any(row.get("nested_full") for row in rows):
        said.append("nested full: networks trained again without each pair of folds.")
    if on == "test":
        said.append("test: on the held-out split; the number to report.")
    if len(ensembles) > 1 and on != "none":
        count = ensembles[0].get("comparisons", 0)
        said.append(f"- mean: minus the mean {judged(on)}, paired by group; p after Holm over {count} comparisons.")
    return " ".join(said)


def methods_table(rows: Sequence[Row], ensembles: Sequence[Row], metric: str, width: int, on: str = "test") -> Table:
    """Best single member, simple mean, every method: the values of selection and cross-fitted score, nested_full and
    test where they are, the difference from the mean where several methods are shown, and what fitting cost. `on`: what
    they are judged on."""
    by_method = {one["method"]: one for one in ensembles}
    beside = [row for row in rows if row["kind"] == "mean" or (row["kind"] == "single" and row.get("selection"))]
    built = [row for row in rows if row["kind"] == "ensemble" and row["name"] != "mean"]
    nested = any(row.get("nested_full") for row in rows)
    compared = len(ensembles) > 1 and on != "none"
    columns = ["model", "selection", "cross-f."]
    columns += [f"{metric} nested full" + (" [95%]" if on == "nested_full" else "")] * nested
    columns += [f"{metric} test [95%]"] * (on == "test") + ["- mean", "p"] * compared + ["fit"]
    body = []
    for row in [*beside, *built]:
        single = row["kind"] == "single"
        one = {} if single else by_method.get(row["name"], {})
        star = "*" if row.get("optimistic", False) else ""
        cells = ["best single" if single else row["name"]]
        cells.append(number(_of(row["selection"], metric)) + star if row.get("selection") else "-")
        said = row.get("cross_fitted")
        cells.append((number(_of(said, metric)) if said else number(_of(row["oof"], metric)) + PARTLY) + star)
        if nested:
            full = row.get("nested_full")
            cells.append("-" if not full else interval(Interval(**numbers_of(full[metric]))))
        if on == "test":
            cells.append(interval(Interval(**numbers_of(row["test"][metric]))))
        if compared:
            cells += ["-", "-"] if single or row["name"] == "mean" else _short_delta(one.get("delta_vs_mean"))
        body.append([*cells, _seconds(one.get("cost", {}).get("fit_seconds"))])
    return table(columns, body, right=["selection", "cross-f.", "- mean", "p", "fit"], width=width)


def _short_delta(found: Row | None) -> list[str]:
    if found is None:
        return ["-", "-"]
    delta = numbers_of(found)
    return [signed(Interval(delta["value"], math.nan, math.nan)), _p(delta["p_holm"])]


def _p(p: float) -> str:
    return p_value(p).removeprefix("p ").removeprefix("= ")


def answer_line(document: Mapping[str, Any]) -> str:
    """The recommended method, why, and its number."""
    ensembles, metric, on = document.get("ensembles", [document]), document["metric"], document["judged_on"]
    best = document["recommended"]
    why = why_recommended([of_document(one) for one in ensembles], best)
    row = next((row for row in reversed(document["scores"]) if row["kind"] != "single" and row["name"] == best), None)
    score = None if row is None or on == "none" else (row.get(on) or {}).get(metric)
    if score is None:
        return f"Recommended: {best} ({why})."
    return f"Recommended: {best} ({why}); its {metric} {judged(on)}: {interval(Interval(**numbers_of(score)))}."


def _of(scores: Row, metric: str) -> float:
    return float(numbers_of(scores[metric])["value"])


def _seconds(value: float | None) -> str:
    return "-" if value is None else duration(value)


def cost_lines(ensembles: Sequence[Row]) -> list[str]:
    """What an image costs; one line where it is the same for all methods, as it is where all keep the same networks."""
    found: dict[str, list[str]] = {}
    for one in ensembles:
        cost = one.get("cost", {})
        if cost.get("seconds_per_image") is not None:
            text = (
                f"{1000 * cost['seconds_per_image']:,.1f} ms and {cost['megabytes']:,.1f} MB of weights "
                f"({plural(int(cost['networks']), 'network')})"
            )
            found.setdefault(text, []).append(one["method"])
    return [
        f"An image costs {text}{': ' + ', '.join(names) if len(found) > 1 else ''}." for text, names in found.items()
    ]


def signed(found: Interval) -> str:
    """+.021 [-.010, +.052]"""
    if not math.isfinite(found.value):
        return "-"
    value, lo, hi = (f"{one:+.3f}".replace("0.", ".", 1) for one in (found.value, found.lo, found.hi))
    return f"{value} [{lo}, {hi}]" if math.isfinite(found.lo) and math.isfinite(found.hi) else value


def _show_differences(document: Mapping[str, Any]) -> None:
    """With the p-values after Holm over the table that it was built in, as everywhere."""
    metric, method, count = document["metric"], document["method"], document.get("comparisons", 0)
    on = judged(document["judged_on"])
    show(f"\n{method} minus the others, {metric} {on}, paired by group; p after Holm over {count}:")
    for other, name in {"best single": "delta_vs_single", "simple mean": "delta_vs_mean"}.items():
        if not (method == "mean" and name == "delta_vs_mean"):
            found = numbers_of({key: document[name][key] for key in ("value", "lo", "hi", "p_holm")})
            delta = Difference(found["value"], found["lo"], found["hi"], found["p_holm"])
            show(f"  {other}  {difference(delta, is_higher_better(metric))}")


def members_table(
    rows: Sequence[Row], contributions: Sequence[Row], metric: str, width: int, on: str = "test"
) -> Table:
    """Each single member: out of fold, test, and what the mean of all would lose out of fold without it."""
    singles = [row for row in rows if row["kind"] == "single"]
    gives = [one.get("to_mean") for one in contributions] or [None] * len(singles)
    body = []
    for row, to_mean in zip(singles, gives, strict=True):
        oof, test = (Interval(**numbers_of(row[part][metric])) for part in ("oof", "test"))
        given = "-" if to_mean is None else signed(Interval(**numbers_of(to_mean)))
        body.append([row["name"], interval(oof, row.get("optimistic", False)), number(test.value), given])
    columns = ["member", f"{metric} out-of-fold", "test", "gives the mean [95%]"]
    if on != "test":
        columns, body = [*columns[:2], columns[3]], [[*row[:2], row[3]] for row in body]
    return table(columns, body, right=["test"], width=width)


def diversity_line(found: Mapping[str, Any]) -> str:
    """How different the members are, and what averaging takes off their error."""
    values = numbers_of({name: value for name, value in found.items() if name != "pairs"})
    parts = [f"two members differ on {100 * values['disagreement']:.1f}% of answers"]
    if math.isfinite(values["error_correlation"]):
        parts.append(f"their errors correlate by {values['error_correlation']:.2f} (Q {number(values['q'], 2)})")
    parts.append(
        f"averaging takes {values['ambiguity']:.3f} off their mean Brier score of {values['members_brier']:.3f}"
    )
    return f"Out of fold {', '.join(parts)}."


MOST_CLASSES = 3
"""each with its own thresholds; of more, the JSON document tells"""

OUT_OF_FOLD = {
    "nested": "Out of fold, nested",
    "nested_full": "Out of fold, by networks trained without each pair of folds",
    "networks-shared": "Out of fold, by networks that have trained on the scored fold (no honest number)",
}
"""what development figures are, by `development_kind`"""
UNKNOWN_MEAN = {
    "no-held-out-rows": (
        "Fitted on one fold model of each member, but the mean of them all answers, which is less extreme: by how much "
        "nothing here can tell, for no image was held out from all of them (data.test_fraction)."
    ),
    "few-held-out-rows": (
        "Fitted on one fold model of each member, but the mean of them all answers, which is less extreme: by how much "
        "so few held-out images cannot tell."
    ),
    "one-network": (
        "Fitted on networks of one fold each, but one network made of them all answers: nothing here can tell how much "
        "they differ."
    ),
}
"""by the section's `reason`"""


def show_trust(about: Mapping[str, Any]) -> None:
    """`about`: bundle.json, or what of it there is; nothing is said of a section that is missing."""
    if about.get("calibration"):
        _show_calibration(about["calibration"])
    if about.get("decisions"):
        _show_decisions(about["decisions"])


def _show_calibration(section: Mapping[str, Any]) -> None:
    from harness.output.format import number

    chosen = [one["method"] for one in section["maps"]]
    named = ", ".join(dict.fromkeys("not calibrated" if method == "none" else method for method in chosen))
    tested = section["judged_on"] == "test"
    where = "On the test split" if tested else OUT_OF_FOLD[section["development_kind"]]
    show(f"\nProbabilities: {named} (chosen out of fold). {where}:")
    measured = section["reliability"]["test" if tested else "development"]
    for raw, one in zip(measured["raw"], measured["calibrated"], strict=True):
        before = "" if raw["ece"] == one["ece"] else f"; {number(raw['ece'])} without calibration"
        chance = number(one["ece_by_chance"])
        show(f"  {one['of']}: calibration error {number(one['ece'])} ({chance} by chance alone){before}")

    if section["fitted_on"] == "fold models":
        show(f"  {UNKNOWN_MEAN[section['reason']]}")


def _show_decisions(section: Mapping[str, Any]) -> None:
    from harness.output.format import interval, number
    from harness.output.tables import numbers_of
    from harness.types import Interval

    rule = section["default"]
    points = [point for point in section["points"] if point["rule"] == rule]
    classes = list(dict.fromkeys(point["class"] for point in section["points"]))
    shown = points if len(classes) <= MOST_CLASSES else []
    tested = section["judged_on"] == "test"
    out_of_fold = OUT_OF_FOLD[section["development_kind"]]
    part, where = ("test", "on the test split") if tested else ("development", out_of_fold[0].lower() + out_of_fold[1:])
    show(f"\nDecides by {rule}{f', {where}:' if shown else '; --json has every threshold.'}")
    for point in shown:
        found = {name: interval(Interval(**numbers_of(point[part][name]))) for name in ("sensitivity", "specificity")}
        show(
            f"  {point['class']} at p >= {number(point['threshold'])} per {point['unit']}: "
            f"sensitivity {found['sensitivity']}, specificity {found['specificity']}"
        )
    for point in section["points"]:
        if point["promise"] == "missed":
            kind = point["rule"].partition("=")[0]
            there = interval(Interval(**numbers_of(point["test"][kind])))
            show(f"  NOT KEPT: {point['rule']} of {point['class']} per {point['unit']}, {there} there")
        if point["promise"] == "trivial":
            who = f"{point['rule']} of {point['class']} per {point['unit']}"
            show(f"  TRIVIAL: {who}: every test row gets one and the same answer at this threshold")
