"""A forest plot: one line for each name, its value and its 95% interval."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from harness.report.figure import COLOURS, label, plot
from harness.report.numbers import signed
from harness.report.section import Table
from harness.types import Difference, Interval
from harness.words import interval

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
