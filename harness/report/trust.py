"""Are the probabilities true? Reliability diagrams with calibration error and Brier score, raw and calibrated.

Knows predictions, what bundles say of their calibration, and names; no files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from harness.output.documents import Section, Table
from harness.output.format import interval, number, read_interval
from harness.output.plots import COLOURS, SYMBOLS, label, plot, side_by_side
from harness.report.predicted import OUT_OF_FOLD, TEST, Built, Predicted
from harness.stats.calibration import Bin, Reliability, questions, reliability

DRAWN = 1
"""questions of a model that are drawn: the positive class, or whether the most probable class is the true one"""
SHARED = "networks shared"
"""of a part whose figures are no honest numbers: see ensemble.trust.Development.kind"""
LABELS_DRAWN = 6
"""of several labels"""


@dataclass(frozen=True)
class Measured:
    model: str
    part: str
    state: str
    """raw, calibrated, or how"""
    found: Sequence[Reliability]

    @property
    def title(self) -> str:
        return f"{self.model}, {self.part}"


def measured(one: Predicted, classes: tuple[str, ...], seed: int) -> Measured:
    """Of predictions as they are."""
    found = [
        reliability(of, y, p, one.groups[rows], seed)
        for of, rows, y, p in questions(one.y, one.p, classes, one.y.ndim == 2)
        if len(rows)
    ]
    return Measured(one.model, one.part, "raw", found)


def measured_of_bundle(one: Built) -> list[Measured]:
    """Raw and calibrated, out of fold and on the test split; nothing where the bundle has no calibration."""
    section = one.about.get("calibration")
    if not section:
        return []
    said = section["reliability"]
    shared = section.get("development_kind") == "networks-shared"
    out_of_fold = f"{OUT_OF_FOLD}, {SHARED}" if shared else OUT_OF_FOLD
    return [
        Measured(one.method, part, state, [_read(found) for found in said[key][state]])
        for key, part in (("development", out_of_fold), ("test", TEST))
        for state in ("raw", "calibrated")
        if said[key][state]
        if not (state == "calibrated" and said[key][state] == said[key]["raw"])
    ]


def _read(found: Mapping[str, Any]) -> Reliability:
    intervals = {
        name: read_interval(found[name]) for name in ("error", "brier", "reliability", "resolution", "uncertainty")
    }
    bins = tuple(Bin(one["n"], _value(one["predicted"]), read_interval(one["observed"])) for one in found["bins"])
    return Reliability(found["of"], found["n"], bins, _value(found["ece"]), _value(found["ece_by_chance"]), **intervals)


def _value(found: float | None) -> float:
    return math.nan if found is None else float(found)


def trust_section(models: Sequence[Measured], multilabel: bool) -> Section:
    rows = [
        [
            one.title,
            one.state,
            found.of,
            f"{found.n:,}",
            f"{number(found.ece)} ({number(found.ece_by_chance)})",
            interval(found.error),
            interval(found.brier),
        ]
        for one in models
        for found in one.found
    ]
    columns = ("model", "state", "of", "images", "ECE (by chance)", "calibration error", "Brier score")
    note = (
        "ECE: mean distance between what was said and what was true; perfectly true ones have that in "
        "brackets. Calibration error: root mean square, that chance taken off. Calibrated out of fold: by a map "
        "chosen and fitted without the fold. Networks shared: the networks behind the other folds' predictions, which "
        "members, weights and maps were fitted on, have trained on the fold that is scored: no honest number, hence no "
        "interval."
    )
    table = Table("Calibration", columns, rows, "lllrrrr", note)
    titles = dict.fromkeys(one.title for one in models)
    most = LABELS_DRAWN if multilabel else DRAWN
    body = side_by_side(_figure([one for one in models if one.title == title], most) for title in titles)
    return Section("trust", "Can the probabilities be believed", _answer(models), body, (table,))


def _answer(models: Sequence[Measured]) -> str:
    found = models[-1].found[0] if models and models[-1].found else None
    if found is None:
        return "There are no predictions to judge."
    last = models[-1]
    beyond = math.isfinite(found.error.lo) and found.error.lo > 0
    said = "further from true than chance explains" if beyond else "as true as this many images can tell"
    if last.part.endswith(SHARED):
        said = "judged on images that networks, maps and members were fitted on, which is no honest number"
    ece = f"ECE {number(found.ece)} ({number(found.ece_by_chance)} by chance alone)"
    return f"{last.title} ({last.state}): the probabilities are {said}, {ece}."


def _figure(states: Sequence[Measured], most: int) -> str:
    """One model on one part: each state and question as points, the diagonal is the truth."""
    figure = go.Figure()
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="true", line={"color": "#7d7d7d", "width": 1, "dash": "dot"}
    )
    place, numbers = 0, []
    for one in states:
        for found in one.found[:most]:
            name = one.state if len(one.found) == 1 or most == 1 else f"{found.of}, {one.state}"
            x, y = [b.predicted for b in found.bins], [b.observed.value for b in found.bins]
            up = [b.observed.hi - b.observed.value for b in found.bins]
            down = [b.observed.value - b.observed.lo for b in found.bins]
            colour = COLOURS[place % len(COLOURS)]
            figure.add_scatter(
                x=_rounded(x), y=_rounded(y), mode="lines+markers", name=label(name),
                line={"color": colour, "width": 1.5}, marker={"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 8},
                error_y={"array": _rounded(up), "arrayminus": _rounded(down), "thickness": 1, "width": 0},
            )  # fmt: skip
            numbers += [[name, number(b.predicted), interval(b.observed), f"{b.n:,}"] for b in found.bins]
            place += 1
    first = states[0].found[0].of if states[0].found else ""
    x_title = f"mean probability ({label(first)})" if most == 1 else "mean probability"
    figure.update_xaxes(title=x_title, range=[-0.02, 1.02]).update_yaxes(title="share that has it", range=[-0.02, 1.02])
    columns = ("curve", "mean probability", "share that has it", "images")
    title = f"Reliability, {states[0].title}"
    said = "Bins of equally many images; bars: 95% of the share. On the line what is said is true; below it, less is."
    return plot(figure, title, said, Table(f"{title}: the numbers", columns, numbers), 400)


def _rounded(values: Sequence[float]) -> list[float | None]:
    return [round(value, 4) if math.isfinite(value) else None for value in values]
