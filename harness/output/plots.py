"""Plotly figures in the colours of the page, and the forest plot.

Plots on a page: a plotly figure in the page's own colours, with its numbers as a table for who cannot see it.

The figure is drawn by one script that a page holds once (`scripts`), after the text is there, plot by plot. Text, axes
and grid follow the page's light and dark colours by CSS (html.STYLE); COLOURS keep a contrast of 3:1 on both. Names
from the data must pass `label` before they stand in a figure, whose texts are markup.

A forest plot: one line for each name, its value and its 95% interval.
"""

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from harness.output.documents import Table, table_html
from harness.output.format import interval, signed
from harness.types import Difference, Interval

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b85c93", "#8a7a00", "#7d7d7d", "#8a63d2")
"""Okabe and Ito's, those too pale for a white page darkened; use dashes or symbols beside them"""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "solid")
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "star")
SCALE = "Cividis"
"""of heat maps and of everything coloured by a number"""
HEIGHT = 360
MOST_NUMBERS = 200
"""rows of a plot's own table of numbers; more are thinned out evenly"""
LONGEST = 40
"""characters of a name in a plot"""

DRAW = """
const waiting = [];
function draw(made) {
  const place = document.currentScript.previousElementSibling;
  waiting.push(() => Plotly.newPlot(place, made.data, made.layout, {displayModeBar: false, responsive: true}));
}
function next() {
  const one = waiting.shift();
  if (one) { one(); setTimeout(next, 0); } else document.body.dataset.drawn = "all";
}
document.addEventListener("DOMContentLoaded", () => setTimeout(next, 0));
window.addEventListener("beforeprint", () => { while (waiting.length) waiting.shift()(); });
"""


def scripts() -> str:
    """What a page with plots needs once, before the first of them."""
    return f"<script>{get_plotlyjs()}</script>\n<script>{DRAW}</script>"


def plot(
    figure: go.Figure, title: str, description: str, numbers: Table | None = None, height: int | None = None
) -> str:
    """A figure under its title, a sentence that says what it shows, and its numbers, folded away. Texts are text.

    `numbers`: the table to show; left out, it is read from the traces' x and y. `height` in pixels is fixed, so that
    nothing jumps while plots are drawn; left out: the figure's own, or HEIGHT.
    """
    tall = height or figure.layout.height or HEIGHT
    figure = go.Figure(figure).update_layout(
        template="none", height=tall, autosize=True, dragmode=False, title=None, font={"size": 13},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", colorway=list(COLOURS),
        hoverlabel={"font": {"size": 13}},
    )  # fmt: skip
    figure.update_xaxes(automargin=True, fixedrange=True, zeroline=False, ticks="outside", ticklen=3)
    figure.update_yaxes(automargin=True, fixedrange=True, zeroline=False, ticks="outside", ticklen=3)
    if figure.layout.margin.to_plotly_json() == {}:
        figure.update_layout(margin={"l": 50, "r": 16, "t": 16, "b": 44})
    if figure.layout.legend.to_plotly_json() == {}:
        figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0})
    made = json.dumps(json.loads(figure.to_json(validate=False, engine="json"))).replace("<", "\\u003c")
    table = numbers or _numbers(figure, title)
    return (
        f'<figure class="plot"><figcaption><h3>{escape(title)}</h3></figcaption>'
        f'<div class="drawing" role="img" aria-label="{escape(f"{title}. {description}")}" style="height:{tall}px">'
        f"</div><script>draw({made})</script>"
        f'<p class="soft">{escape(description)}</p>'
        f"<details><summary>The numbers</summary>{table_html(table)}</details></figure>"
    )


def side_by_side(plots: Iterable[str]) -> str:
    """Two plots in a row where there is room."""
    return f'<div class="plots">{"".join(plots)}</div>'


def label(name: object, longest: int = LONGEST) -> str:
    """Text from the data as a plot's markup shows it, of a bearable length."""
    text = " ".join(str(name).split())
    if len(text) > longest:
        text = f"{text[: longest * 2 // 3]}...{text[3 - longest // 3 :]}"
    return escape(text, quote=False)


def _numbers(figure: go.Figure, title: str) -> Table:
    """x and y of every trace that has both, thinned out evenly; a heat map's cells."""
    rows: list[tuple[str, str, str]] = []
    for number, trace in enumerate(figure.data):
        name = str(trace.name or f"series {number + 1}")
        rows += [(name, _told(x), _told(y)) for x, y in _points(trace) if x is not None and y is not None]
    kept: list[int] = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_NUMBERS)).astype(int)).tolist()
    x, y = (str(axis.title.text or name) for axis, name in ((figure.layout.xaxis, "x"), (figure.layout.yaxis, "y")))
    note = f"{len(kept)} of {len(rows)} points." if len(kept) < len(rows) else ""
    return Table(f"{title}: the numbers", ("series", x, y), [rows[i] for i in kept], note=note)


def _points(trace: Any) -> Iterable[tuple[Any, Any]]:
    found = trace.to_plotly_json()
    x, y, z = found.get("x"), found.get("y"), found.get("z")
    if z is not None and x is not None and y is not None:
        return [(f"{a}, {b}", z[j][i]) for j, b in enumerate(y) for i, a in enumerate(x)]
    if x is None or y is None:
        return []
    return zip(x, y, strict=False)


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)


Line = tuple[str, Interval | Difference]


def forest(lines: Sequence[Line], title: str, axis: str, description: str, at: float | None = None) -> str:
    """`at`: where a dashed line stands for what is compared with."""
    value, up, down = [], [], []
    for _, one in lines:
        value.append(_plain(one.value))
        up.append(_plain(one.hi - one.value))
        down.append(_plain(one.value - one.lo))
    bars = {"array": up, "arrayminus": down, "thickness": 1.5, "width": 0}
    # places are numbers, for two lines may have one name
    places = list(range(len(lines)))
    marks = go.Scatter(x=value, y=places, mode="markers", marker={"size": 9, "color": COLOURS[0]}, error_x=bars)
    figure = go.Figure(marks.update(showlegend=False))
    names = [label(name) for name, _ in lines]
    figure.update_yaxes(tickvals=places, ticktext=names, range=[len(lines) - 0.5, -0.5], showgrid=False)
    figure.update_xaxes(title=axis)
    if at is not None:
        figure.add_vline(x=at, line={"color": COLOURS[5], "width": 1, "dash": "dash"})
    told = [[name, signed(one) if at == 0 else interval(Interval(one.value, one.lo, one.hi))] for name, one in lines]
    numbers = Table(f"{title}: the numbers", ("name", f"{axis} [95%]"), told)
    return plot(figure, title, description, numbers, 100 + 27 * len(lines))


def _plain(value: float) -> float | None:
    return round(value, 5) if math.isfinite(value) else None
