"""An ensemble's scores, or those of all methods, for a terminal of 80 columns: from plain data as `--json` has it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.cli.output import results, show
from harness.cli.tables import is_higher_better, numbers_of, table
from harness.records import Difference, Interval
from harness.words import NO_TEST, OPTIMISTIC, difference, duration, interval, judged, number, p_value, plural

if TYPE_CHECKING:
    from rich.table import Table

Row = Mapping[str, Any]


def show_scores(document: Mapping[str, Any]) -> None:
    """Methods, how they compare, what must be said of them, and the members. `document`: of one ensemble or of all."""
    metric, ensembles = document["metric"], document.get("ensembles", [document])
    members = ", ".join(str(member) for member in document["members"])
    s = "s" if len(document["members"]) > 1 else ""
    what = document["method"] if "ensembles" not in document else f"{len(ensembles)} methods"
    named = members if isinstance(document["members"][0], str) else f"trial{s} {members}"
    width = results().width
    show(f"study {document['study']}: {what} of {named}\n")
    on = document["judged_on"]
    show(methods_table(document["scores"], ensembles, metric, width, on))
    show(f"\n{HOW_TO_READ if on == 'test' else HOW_TO_READ_NESTED}")
    if any(row["kind"] != "single" and not row.get("nested") for row in document["scores"]):
        show(f"\n{PARTLY_NESTED}")
    if any(row.get("optimistic", False) for row in document["scores"]):
        show(f"\n{OPTIMISTIC}")
    if len(ensembles) > 1:
        show(f"\nDifferences of {metric} {judged(on)}, paired by group; p after Holm over the methods:\n")
        show(differences_table(ensembles, width))
    else:
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


HOW_TO_READ = (
    "selection: on the rows that chose it. nested: on the same rows, members and fit chosen without each fold. "
    "test: on the held-out split; this is the number to report."
)
HOW_TO_READ_NESTED = f"{HOW_TO_READ.partition(' test:')[0]} {NO_TEST}"


PARTLY = "~"
PARTLY_NESTED = "~ fitted without each fold, its members chosen with it."


def methods_table(rows: Sequence[Row], ensembles: Sequence[Row], metric: str, width: int, on: str = "test") -> Table:
    """Best single member, simple mean, every method: selection, nested and test score, and what fitting it cost. `on`:
    what they are judged on, `test`, or `nested` where there is no test split."""
    costs = {one["method"]: one.get("cost", {}) for one in ensembles}
    beside = [row for row in rows if row["kind"] == "mean" or (row["kind"] == "single" and row.get("nested"))]
    built = [row for row in rows if row["kind"] == "ensemble" and row["name"] != "mean"]
    body = []
    for row in [*beside, *built]:
        name = "best single" if row["kind"] == "single" else row["name"]
        cost = costs.get(row["name"], {}) if row["kind"] != "single" else {}
        body.append([name, *_scores(row, metric, on), _seconds(cost.get("fit_seconds"))])
    scores = (
        ["selection", "nested", f"{metric} test [95%]"] if on == "test" else ["selection", f"{metric} nested [95%]"]
    )
    return table(["model", *scores, "fit"], body, right=["selection", "nested", "fit"], width=width)


def _scores(row: Row, metric: str, on: str) -> list[str]:
    star = "*" if row.get("optimistic", False) else ""
    selection, nested = row.get("selection"), row.get("nested")
    said = number(_of(nested, metric)) if nested else number(_of(row["oof"], metric)) + PARTLY
    chosen = number(_of(selection, metric)) + star if selection else "-"
    if on != "test":
        whole = interval(Interval(**numbers_of((nested or row["oof"])[metric])))
        return [chosen, whole + ("" if nested else PARTLY) + star]
    return [chosen, said + star, interval(Interval(**numbers_of(row["test"][metric])))]


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


def differences_table(ensembles: Sequence[Row], width: int) -> Table:
    """Each method minus the mean and minus the best single member."""
    body = []
    for one in ensembles:
        single, mean = one["delta_vs_single"], one["delta_vs_mean"]
        against_mean = ["-", "-"] if one["method"] == "mean" else _delta(mean)
        body.append([one["method"], *against_mean, *_delta(single)])
    columns = ["method", "minus mean [95%]", "p", "minus single [95%]", "p"]
    return table(columns, body, width=width)


def _delta(found: Row) -> list[str]:
    delta = numbers_of(found)
    p = p_value(delta["p_holm"]).removeprefix("p ").removeprefix("= ")
    return [signed(Interval(delta["value"], delta["lo"], delta["hi"])), p]


def signed(found: Interval) -> str:
    """+.021 [-.010, +.052]"""
    if not math.isfinite(found.value):
        return "-"
    value, lo, hi = (f"{one:+.3f}".replace("0.", ".", 1) for one in (found.value, found.lo, found.hi))
    return f"{value} [{lo}, {hi}]" if math.isfinite(found.lo) and math.isfinite(found.hi) else value


def _show_differences(document: Mapping[str, Any]) -> None:
    metric, method = document["metric"], document["method"]
    on = judged(document["judged_on"])
    show(f"\n{method} minus the others, {metric} {on}, paired by group:")
    for other, name in {"best single": "delta_vs_single", "simple mean": "delta_vs_mean"}.items():
        if not (method == "mean" and name == "delta_vs_mean"):
            found = {key: value for key, value in numbers_of(document[name]).items() if key != "p_holm"}
            show(f"  {other}  {difference(Difference(**found), is_higher_better(metric))}")


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
