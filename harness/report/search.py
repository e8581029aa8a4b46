"""One page about a search: how the best score grew, what was tried where, which keys matter. Self-contained.

Figures are made of plain rows; this file knows no store and no sampler.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from harness.report.html import page, table

MOST_CONTOURS = 4
"""keys of which every pair is drawn, the most important ones"""
BANDS = 5
SCALE = "Cividis"
COLOURS = ("#00224e", "#35456c", "#666970", "#a69d75", "#fee838")
"""of that scale, from bad to good"""


@dataclass(frozen=True)
class Axis:
    """One searched key."""

    name: str
    log: bool
    options: tuple[str, ...]
    """of a choice, in order; empty for numbers"""


@dataclass(frozen=True)
class Row:
    """One scored trial."""

    number: int
    params: Mapping[str, Any]
    value: float


def search_page(
    title: str,
    metric: str,
    higher: bool,
    axes: Sequence[Axis],
    rows: Sequence[Row],
    importances: Sequence[tuple[str, float | None, int]],
    caution: str,
) -> str:
    """The whole document, with plotly's script in it once. `importances`: name, share or None, trials."""
    order = [name for name, value, _ in importances if value is not None]
    order += [axis.name for axis in axes if axis.name not in order]
    by_name = {axis.name: axis for axis in axes}
    sorted_axes = [by_name[name] for name in order]
    better = "higher" if higher else "lower"
    lead = f"<p>{len(rows)} scored trials, out-of-fold {escape(metric)}, {better} is better.</p>"
    lead += f'<div class="finding"><p>{escape(caution)}</p></div>' if caution else ""
    chosen = sorted_axes[:MOST_CONTOURS]
    pairs = [(a, b) for i, a in enumerate(chosen) for b in chosen[i + 1 :]]
    contours = "".join(_html(contour(a, b, rows, metric, higher)) for a, b in pairs)
    sections = [
        ("History", _html(history(rows, metric, higher))),
        ("Importances", _html(bars(importances)) + _importance_table(importances)),
        ("Parallel coordinates", _html(parallel(sorted_axes, rows, metric, higher))),
        ("Slices", "".join(_html(slice_(axis, rows, metric)) for axis in sorted_axes)),
        ("Contours", contours or "<p>They need two searched keys.</p>"),
    ]
    return page(title, f"<script>{get_plotlyjs()}</script>{lead}", sections, scripts=True)


def _importance_table(importances: Sequence[tuple[str, float | None, int]]) -> str:
    rows = [
        [escape(name), "not ranked" if value is None else f"{value:.3f}", str(trials)]
        for name, value, trials in importances
    ]
    caption = "Share of all importances, and in how many scored trials the key stands"
    return table(caption, ["key", "share", "trials"], rows)


def history(rows: Sequence[Row], metric: str, higher: bool) -> go.Figure:
    """Every score by trial number, and the best so far."""
    numbers, values = [row.number for row in rows], [row.value for row in rows]
    best = (np.maximum if higher else np.minimum).accumulate(values).tolist() if values else []
    figure = go.Figure(
        [
            go.Scatter(x=numbers, y=values, mode="markers", name="trial", marker={"color": COLOURS[1]}),
            go.Scatter(x=numbers, y=best, mode="lines", name="best so far", line={"shape": "hv", "color": "#d55e00"}),
        ]
    )
    return _laid_out(figure, "trial", metric)


def bars(importances: Sequence[tuple[str, float | None, int]]) -> go.Figure:
    known = [(name, value) for name, value, _ in reversed(importances) if value is not None]
    figure = go.Figure(
        go.Bar(x=[v for _, v in known], y=[n for n, _ in known], orientation="h", marker={"color": COLOURS[1]})
    )
    return _laid_out(figure, "share of all importances", "", height=120 + 28 * len(known))


def parallel(axes: Sequence[Axis], rows: Sequence[Row], metric: str, higher: bool) -> go.Figure:
    """One line for each trial over all keys and its score, in five bands of equally many trials, the best on top. A
    line has a gap where a key does not stand in its trial."""
    score = Axis(metric, False, ())
    columns = [*axes, score]
    table_ = [[*(row.params.get(axis.name) for axis in axes), row.value] for row in rows]
    heights = np.array([_heights(axis, [line[i] for line in table_]) for i, axis in enumerate(columns)], float)
    order = np.argsort([row.value if higher else -row.value for row in rows], kind="stable")
    figure = go.Figure()
    for band, members in enumerate(np.array_split(order, BANDS)):
        x: list[float | None] = []
        y: list[float | None] = []
        for member in members:
            x += [*range(len(columns)), None]
            y += [None if math.isnan(h) else h for h in heights[:, member].tolist()] + [None]
        name = "best fifth" if band == BANDS - 1 else "worst fifth" if band == 0 else f"fifth {BANDS - band}"
        line = {"color": COLOURS[band], "width": 1 + 0.4 * band}
        figure.add_scatter(x=x, y=y, mode="lines", name=name, line=line, opacity=0.75, hoverinfo="skip")
    for i, axis in enumerate(columns):
        for height, text in _ticks(axis, [line[i] for line in table_]):
            place = {"x": i, "y": height, "xanchor": "left", "xshift": 4}
            figure.add_annotation(
                text=text, showarrow=False, font={"size": 11}, bgcolor="rgba(255,255,255,.8)", **place
            )
        figure.add_vline(x=i, line={"color": "#999", "width": 1})
    names = [axis.name for axis in columns]
    figure.update_xaxes(tickvals=list(range(len(columns))), ticktext=names, range=[-0.2, len(columns) - 0.5])
    figure.update_yaxes(visible=False)
    return _laid_out(figure, "", "", height=520)


def slice_(axis: Axis, rows: Sequence[Row], metric: str) -> go.Figure:
    """The score over one key, coloured by the trial's number."""
    shown = [row for row in rows if axis.name in row.params]
    marker = {
        "color": [row.number for row in shown], "colorscale": SCALE, "colorbar": {"title": "trial"},
        "line": {"width": 0.5, "color": "#555"},
    }  # fmt: skip
    x = [_told(axis, row.params[axis.name]) for row in shown]
    figure = go.Figure(go.Scatter(x=x, y=[row.value for row in shown], mode="markers", marker=marker))
    _scale(figure.update_xaxes, axis)
    return _laid_out(figure, axis.name, metric, height=300)


def contour(a: Axis, b: Axis, rows: Sequence[Row], metric: str, higher: bool) -> go.Figure:
    """The score between the trials over two keys, linearly interpolated inside of what was tried, never beyond."""
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    shown = [row for row in rows if a.name in row.params and b.name in row.params]
    values = np.array([row.value for row in shown])
    xy = np.array([_heights(axis, [row.params[axis.name] for row in shown]) for axis in (a, b)]).T
    figure = go.Figure()
    side = np.linspace(0, 1, 40)
    if len(shown) >= 4:
        try:
            surface = griddata(xy, values, tuple(np.meshgrid(side, side)), method="linear")
            figure.add_contour(
                x=side, y=side, z=[[None if math.isnan(z) else z for z in line] for line in surface.tolist()],
                colorscale=SCALE, reversescale=not higher, colorbar={"title": metric}, line={"width": 0.3},
            )  # fmt: skip
        except QhullError:
            pass  # all on one line: there is no surface to draw
    text = [f"trial {row.number}: {row.value:.4g}" for row in shown]
    marker = {"color": "black", "size": 5, "line": {"width": 1, "color": "white"}}
    if shown:
        figure.add_scatter(x=xy[:, 0], y=xy[:, 1], mode="markers", text=text, marker=marker, hoverinfo="text")
    for update, axis in ((figure.update_xaxes, a), (figure.update_yaxes, b)):
        ticks = _ticks(axis, [row.params[axis.name] for row in shown])
        update(tickvals=[height for height, _ in ticks], ticktext=[text for _, text in ticks], range=[-0.05, 1.05])
    return _laid_out(figure, a.name, b.name, height=420)


def _heights(axis: Axis, values: Sequence[Any]) -> list[float]:
    """Each value's place between 0 and 1 on its axis; NaN where there is none."""
    if axis.options:
        last, known = max(len(axis.options) - 1, 1), dict(zip(axis.options, range(len(axis.options)), strict=True))
        return [known.get(str(value), math.nan) / last for value in values]
    numbers = [math.nan if value is None else math.log10(value) if axis.log else float(value) for value in values]
    there = [number for number in numbers if not math.isnan(number)]
    low, high = (min(there), max(there)) if there else (0.0, 1.0)
    return [(number - low) / (high - low) if high > low else 0.5 + 0 * number for number in numbers]


def _ticks(axis: Axis, values: Sequence[Any]) -> list[tuple[float, str]]:
    """(height, text): the options, or the ends and the middle of what was tried."""
    if axis.options:
        return list(zip(_heights(axis, axis.options), axis.options, strict=True))
    known = [value for value in values if value is not None]
    if not known:
        return []
    low, high = min(known), max(known)
    middle = math.sqrt(low * high) if axis.log else (low + high) / 2
    marks = [low, middle, high] if high > low else [low]
    return [(index / 2 if len(marks) == 3 else 0.5, f"{mark:.3g}") for index, mark in enumerate(marks)]


def _told(axis: Axis, value: Any) -> Any:
    return str(value) if axis.options else value


def _scale(update: Any, axis: Axis) -> None:
    if axis.options:
        update(type="category", categoryorder="array", categoryarray=list(axis.options))
    elif axis.log:
        update(type="log")


def _laid_out(figure: go.Figure, x: str, y: str, height: int = 360) -> go.Figure:
    return figure.update_layout(
        template="plotly_white", height=height, margin={"l": 60, "r": 30, "t": 20, "b": 50},
        xaxis_title=x or None, yaxis_title=y or None, legend={"orientation": "h", "y": 1.08},
    )  # fmt: skip


def _html(figure: go.Figure) -> str:
    config = {"displaylogo": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, config=config))
