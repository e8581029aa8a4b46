"""What each setting gives: the study's ablations as a table and a forest plot. Draws; the numbers are search's."""

from collections.abc import Mapping
from html import escape
from typing import Any

import plotly.graph_objects as go

from harness.output.documents import Section, Table
from harness.output.format import number, p_value, plural, value
from harness.output.plots import COLOURS, label, plot
from harness.report.collect import Collected


def ablation_section(found: Collected) -> Section:
    tables = [table for table in found.ablations if not found.asked or _of_chosen(found, table)]
    if not tables:
        return Section("ablation", "What each setting gives", _without(found), _how(found))
    return Section(
        "ablation",
        "What each setting gives",
        " ".join(map(_answer, tables)),
        "".join(forest(table) for table in tables),
        tuple(map(ablation_table, tables)),
    )


def _of_chosen(found: Collected, table: Mapping[str, Any]) -> bool:
    return found.chosen is not None and table["trial"] == found.chosen.number


def _without(found: Collected) -> str:
    varied = len(found.study.space)
    if not varied:
        return "This study varies nothing, and no ablation has been run: what a setting gives is not known."
    return (
        f"Not known: no ablation has been run. Its trials differ in up to {plural(varied, 'key')} at once and were "
        "trained with one seed each, so they cannot tell what a single setting gives."
    )


def _how(found: Collected) -> str:
    trial = f" --trial {found.chosen.number}" if found.asked and found.chosen else ""
    return f"<p>To find out: <code>harness study ablate {escape(found.name)}{trial}</code></p>"


def _answer(table: Mapping[str, Any]) -> str:
    rows = [row for row in table["rows"] if row["delta"] is not None]
    clear = [row for row in rows if row["verdict"] in ("better", "worse")]
    head = f"Around trial {table['trial']}, {plural(int(table['seeds']), 'seed')} each: "
    floor = f"the noise floor is {number(table['noise_floor'])} {table['metric']}"
    if not clear:
        count = plural(len(rows), "setting")
        return f"{head}none of {count} makes a difference that can be told from chance ({floor})."
    said = [f"{row['factor']} {_change(row)} is {row['verdict']} ({row['delta']:+.3f})" for row in clear]
    rest = len(rows) - len(clear)
    others = f"; {plural(rest, 'other')} cannot be told from chance" if rest else ""
    return f"{head}{', '.join(said)}{others} ({floor})."


def _change(row: Mapping[str, Any]) -> str:
    return f"{value(row['from'])} -> {value(row['to'])}"


def ablation_table(table: Mapping[str, Any]) -> Table:
    rows = []
    for row in table["rows"]:
        ends = "-" if row["lo"] is None else f"[{row['lo']:+.3f}, {row['hi']:+.3f}]"
        delta = "-" if row["delta"] is None else f"{row['delta']:+.3f}"
        p = "-" if row["p_holm"] is None else p_value(row["p_holm"]).removeprefix("p ").removeprefix("= ")
        rows.append((row["factor"], _change(row), delta, ends, p, row["verdict"]))
    note = (
        f"delta: {table['metric']} with the second value minus with the first, means over "
        f"folds and {plural(int(table['seeds']), 'seed')}; 95% intervals over groups and seeds; p corrected for "
        f"{plural(len(rows), 'row')} (Holm). Base: {number(table['base'])}{'*' if table['optimistic'] else ''}. "
        f"Noise floor: {number(table['noise_floor'])}. Between seeds, the standard deviation of one training is "
        f"{number(table['seed_sd'])}."
    )
    caption = f"Ablation of trial {table['trial']}: {table['metric']}"
    return Table(caption, ("factor", "from -> to", "delta", "95%", "p (Holm)", "verdict"), rows, "llrrrl", note)


def forest(table: Mapping[str, Any]) -> str:
    """One row for each factor: its difference with its interval, beside zero and the noise floor."""
    rows = [row for row in reversed(table["rows"]) if row["delta"] is not None]
    if not rows:
        return ""
    names = [f"{label(row['factor'])} {label(_change(row))}" for row in rows]
    figure = go.Figure()
    floor = table["noise_floor"]
    if floor is not None:
        figure.add_vrect(x0=-floor, x1=floor, fillcolor=COLOURS[5], opacity=0.2, line_width=0)
    figure.add_vline(x=0, line={"color": COLOURS[5], "width": 1})
    for verdicts, name, colour, symbol in (
        (("better",), "better", COLOURS[2], "circle"),
        (("worse",), "worse", COLOURS[1], "square"),
        (("inside the noise", "not distinguishable"), "may be chance", COLOURS[0], "diamond-open"),
    ):
        of = [i for i, row in enumerate(rows) if row["verdict"] in verdicts]
        if not of:
            continue
        upper, lower = ([_gap(rows[i], end) for i in of] for end in ("hi", "lo"))
        ends = {"type": "data", "symmetric": False, "array": upper, "arrayminus": lower}
        figure.add_scatter(
            x=[rows[i]["delta"] for i in of], y=[names[i] for i in of], mode="markers", name=name,
            marker={"color": colour, "symbol": symbol, "size": 9}, error_x={**ends, "color": colour},
        )  # fmt: skip
    figure.update_yaxes(categoryorder="array", categoryarray=names)
    figure.update_layout(xaxis_title=f"difference in {table['metric']}", height=150 + 34 * len(rows))
    said = "Difference that each setting makes, with its 95% interval"
    said += "." if floor is None else "; the grey band is the noise floor."
    return plot(figure, f"Ablation of trial {table['trial']}", said, ablation_table(table))


def _gap(row: Mapping[str, Any], end: str) -> float:
    return 0.0 if row[end] is None else abs(row[end] - row["delta"])
