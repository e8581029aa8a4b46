"""The search in a report: trials and settings.

One page about a search: how the best score grew, what was tried where, which keys matter. Self-contained.

Figures are made of plain rows; this file knows no store and no sampler.

The search in a report: what was tried, what was stopped, which keys mattered, and how sure that is.

Turns records into the plain rows that search.py draws.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from harness.config.space import Choice
from harness.output.documents import Section, Table, page
from harness.output.format import interval, number, plural, value
from harness.output.plots import COLOURS, SCALE, label, plot, scripts
from harness.report.collect import Collected
from harness.search.optuna_export import caution, importances, scored_trials
from harness.types import TrialRecord, not_ranked, rank_value

MOST_CONTOURS = 4
"""keys of which every pair is drawn, the most important ones"""
BANDS = 5
SHORT = 16
"""characters of an option beside others on one axis"""
BLUE, ORANGE, GREY = COLOURS[0], COLOURS[1], COLOURS[5]


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


@dataclass(frozen=True)
class Search:
    """What a page tells of a search."""

    metric: str
    higher: bool
    """whether a higher metric is better"""
    axes: Sequence[Axis]
    rows: Sequence[Row]
    """the scored trials"""
    stopped: Sequence[Row]
    """trials that were stopped early, with the mean over the folds that they had"""
    importances: Sequence[tuple[str, float | None, int]]
    """name, share of all or None, trials in which the key stands"""
    caution: str
    """why the ranking is not to be trusted; '' where nothing speaks against it"""

    def sorted_axes(self) -> list[Axis]:
        """The most important one first."""
        order = [name for name, value, _ in self.importances if value is not None]
        order += [axis.name for axis in self.axes if axis.name not in order]
        by_name = {axis.name: axis for axis in self.axes}
        return [by_name[name] for name in order]


def search_page(title: str, found: Search) -> str:
    """The whole document: everything that `search_plots` shows, and every key and pair of keys by itself."""
    metric, axes = found.metric, found.sorted_axes()
    better = "higher" if found.higher else "lower"
    lead = f"<p>{len(found.rows)} scored trials, {escape(metric)} as the mean over folds, {better} is better.</p>"
    chosen = axes[:MOST_CONTOURS]
    pairs = [(a, b) for i, a in enumerate(chosen) for b in chosen[i + 1 :]]
    contours = "".join(
        plot(contour(a, b, found.rows, metric, found.higher), f"{a.name} and {b.name}", f"{metric} between the trials.")
        for a, b in pairs
    )
    slices = "".join(
        plot(slice_(axis, found.rows, metric), axis.name, f"{metric} of each trial over {axis.name}.") for axis in axes
    )
    sections = [
        Section("history", "History", "", history_plot(found)),
        Section("importances", "Importances", found.caution, importance_plot(found), (importance_table(found),)),
        Section("parallel", "Parallel coordinates", "", parallel_plot(found)),
        Section("slices", "Slices", "", slices),
        Section("contours", "Contours", "", contours or "<p>They need two searched keys.</p>"),
    ]
    return page(title, lead, sections, scripts())


def history_plot(found: Search) -> str:
    said = f"{found.metric} of each trial in the order of the search; the line is the best so far."
    if found.stopped:
        said += f" Crosses: {len(found.stopped)} stopped early, by the mean over the folds that they had."
    rows = [(row, "complete") for row in found.rows] + [(row, "stopped early") for row in found.stopped]
    numbers = Table(
        "Score by trial",
        ("trial", found.metric, "state"),
        [(str(row.number), f"{row.value:.4f}", state) for row, state in sorted(rows, key=lambda one: one[0].number)],
        "lrl",
    )
    return plot(history(found), "How the best score grew", said, numbers)


def importance_plot(found: Search) -> str:
    if not any(value is not None for _, value, _ in found.importances):
        return ""
    return plot(bars(found.importances), "Which keys made the difference", "Share of all importances of each key.")


def parallel_plot(found: Search) -> str:
    if not found.axes or not found.rows:
        return ""
    names = [axis.name for axis in found.sorted_axes()]
    numbers = Table(
        "What each trial was",
        ("trial", *names, found.metric),
        [
            (str(row.number), *(_cell(row.params.get(name)) for name in names), f"{row.value:.4f}")
            for row in sorted(found.rows, key=lambda row: -row.value if found.higher else row.value)
        ],
    )
    said = f"One line for each trial through its values to its {found.metric}; the best are thick."
    figure = parallel(found.sorted_axes(), found.rows, found.metric, found.higher)
    return plot(figure, "What was tried, and what came of it", said, numbers)


def importance_table(found: Search) -> Table:
    rows = [
        (name, "not ranked" if value is None else f"{value:.3f}", str(trials))
        for name, value, trials in found.importances
    ]
    note = "The share of all importances, and in how many scored trials the key stands. An importance is no effect."
    return Table("Importance of each searched key", ("key", "share", "trials"), rows, note=note)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def history(found: Search) -> go.Figure:
    """Every score by trial number, the best so far, and what was stopped."""
    numbers, values = [row.number for row in found.rows], [row.value for row in found.rows]
    best = (np.maximum if found.higher else np.minimum).accumulate(values).tolist() if values else []
    figure = go.Figure()
    if found.stopped:
        figure.add_scatter(
            x=[row.number for row in found.stopped], y=[row.value for row in found.stopped], mode="markers",
            name="stopped early", marker={"color": GREY, "symbol": "x-thin", "line": {"width": 2, "color": GREY}},
        )  # fmt: skip
    figure.add_scatter(x=numbers, y=values, mode="markers", name="trial", marker={"color": BLUE, "size": 8})
    line = {"shape": "hv", "color": ORANGE}
    figure.add_scatter(x=numbers, y=best, mode="lines", name="best so far", line=line)
    return _laid_out(figure, "trial", found.metric)


def bars(importances: Sequence[tuple[str, float | None, int]]) -> go.Figure:
    known = [(name, value) for name, value, _ in reversed(importances) if value is not None]
    figure = go.Figure(
        go.Bar(x=[v for _, v in known], y=[label(n) for n, _ in known], orientation="h", marker={"color": BLUE})
    )
    return _laid_out(figure, "share of all importances", "", height=120 + 28 * len(known))


def parallel(axes: Sequence[Axis], rows: Sequence[Row], metric: str, higher: bool) -> go.Figure:
    """One line for each trial down all keys to its score, in five bands of equally many trials, the best on top. An
    axis lies across, so that it fits a phone, with its name above it. A line has a gap where a trial lacks a key."""
    score = Axis(metric, False, ())
    columns = [*axes, score]
    table_ = [[*(row.params.get(axis.name) for axis in axes), row.value] for row in rows]
    places = np.array([_heights(axis, [line[i] for line in table_]) for i, axis in enumerate(columns)], float)
    order = np.argsort([row.value if higher else -row.value for row in rows], kind="stable")
    figure = go.Figure()
    for band, members in enumerate(np.array_split(order, BANDS)):
        x: list[float | None] = []
        y: list[float | None] = []
        for member in members:
            x += [None if math.isnan(place) else place for place in places[:, member].tolist()] + [None]
            y += [*(-i for i in range(len(columns))), None]
        name = "best fifth" if band == BANDS - 1 else "worst fifth" if band == 0 else f"fifth {BANDS - band}"
        colour = ORANGE if band == BANDS - 1 else BLUE if band == BANDS - 2 else GREY
        line = {"color": colour, "width": 1 + 0.5 * band}
        figure.add_scatter(x=x, y=y, mode="lines", name=name, line=line, opacity=0.8, hoverinfo="skip")
    for i, axis in enumerate(columns):
        figure.add_shape(type="line", x0=0, x1=1, y0=-i, y1=-i, line={"color": GREY, "width": 1}, layer="below")
        above = {"text": f"<b>{label(axis.name)}</b>", "x": 0, "xanchor": "left", "yshift": 12}
        figure.add_annotation(y=-i, showarrow=False, **above)
        for place, text in _ticks(axis, [line[i] for line in table_]):
            side = "left" if place < 0.1 else "right" if place > 0.9 else "center"
            mark = {"x": place, "xanchor": side, "yshift": -8, "font": {"size": 11}}
            figure.add_annotation(y=-i, text=label(text, SHORT), showarrow=False, **mark)
    figure.update_xaxes(visible=False, range=[-0.03, 1.03])
    figure.update_yaxes(visible=False, range=[0.6 - len(columns), 0.6])
    return _laid_out(figure, "", "", height=60 + 62 * len(columns)).update_layout(
        margin={"l": 10, "r": 10, "t": 30, "b": 5}
    )


def slice_(axis: Axis, rows: Sequence[Row], metric: str) -> go.Figure:
    """The score over one key, coloured by the trial's number."""
    shown = [row for row in rows if axis.name in row.params]
    marker = {
        "color": [row.number for row in shown], "colorscale": SCALE, "colorbar": {"title": "trial"},
        "line": {"width": 0.5, "color": GREY},
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
        update(
            tickvals=[height for height, _ in ticks], ticktext=[label(text) for _, text in ticks], range=[-0.05, 1.05]
        )
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
    return figure.update_layout(height=height, xaxis_title=label(x) or None, yaxis_title=label(y) or None)


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
