"""How well models tell classes apart: ROC and precision-recall curves with bands, and the areas below them.

Knows predictions and names, no files.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from harness.output.documents import Section, Table
from harness.output.format import interval, plural
from harness.output.plots import COLOURS, DASHES, label, plot, side_by_side
from harness.report.predicted import OUT_OF_FOLD, Predicted
from harness.stats.curves import Curve, Question, areas, precision_recall, questions, roc
from harness.stats.intervals import intervals
from harness.types import Interval

MOST_CLASSES = 8
"""drawn beside the mean over all; the tables have every one"""
FEW = 10
"""positive groups; below this an area says little"""
TOLD = slice(0, None, 10)
"""places of a curve that its table of numbers has"""
HEIGHT = 420
Named = tuple[str, Curve]


def ranking_section(models: Sequence[Predicted], classes: tuple[str, ...], seed: int) -> Section:
    """`models`: the best trial out of fold first, then what there is of the test split."""
    rows, few = [], set()
    answer = []
    for one in models:
        asked = questions(one.y, one.p, classes)
        scores = intervals(one.y, one.p, one.groups, seed, fold=one.fold)
        if len(asked) > 1:
            rows.append(
                [one.title, "mean over all", *_counts(None, one), interval(scores["auroc"]), interval(scores["auprc"])]
            )
        for question in asked:
            of, both = question.of, areas(question, one.groups, seed, one.fold)
            rows.append([one.title, of, *_counts(question, one), *map(interval, both)])
            if _with(question, one) < FEW:
                few.add(f"{of} ({one.part})")
        answer.append(_told(one, scores["auroc"], len(asked) > 1))
    note = (
        "AUROC: how often a random positive is put above a random negative, .5 is chance. AUPRC: mean precision over "
    )
    note += "the share found; chance is the share of positives. Intervals: 95%, over groups."
    if few:
        note += f" Fewer than {FEW} positive groups, so believe little: {', '.join(sorted(few))}."
    table = Table(
        "Areas under the curves", ("model", "of", "positive", "images", "AUROC", "AUPRC"), rows, "llrrrr", note
    )
    body = side_by_side(_figures(models, classes, seed))
    return Section("ranking", "Telling classes apart", " ".join(dict.fromkeys([answer[0], answer[-1]])), body, (table,))


def _told(one: Predicted, found: Interval, many: bool) -> str:
    if not np.isfinite(found.value):
        return f"The AUROC of {one.title} is not defined: a class has no image there, or all of them."
    of = " on average over the classes" if many else ""
    where = "Out of fold" if one.part == OUT_OF_FOLD else "On the test split"
    return f"{where} {one.model} has an AUROC of {interval(found)}{of}."


def _counts(question: Question | None, one: Predicted) -> list[str]:
    return (
        ["", f"{len(one.y):,}"]
        if question is None
        else [f"{int(question.positive.sum()):,}", f"{len(question.rows):,}"]
    )


def _with(question: Question, one: Predicted) -> int:
    return len(np.unique(one.groups[question.rows[question.positive]]))


def _figures(models: Sequence[Predicted], classes: tuple[str, ...], seed: int) -> list[str]:
    """ROC and precision-recall: of the first model with its classes, then of all models of the test split together."""
    made = []
    parts = [[one] for one in models if one.part == OUT_OF_FOLD]
    parts += [tests] if (tests := [one for one in models if one.part != OUT_OF_FOLD]) else []
    for part in parts:
        asked = [questions(one.y, one.p, classes) for one in part]
        if any(not (0 < one.positive.sum() < len(one.rows)) for one in asked[0]):
            continue  # said in the answer and the table
        for name, of in (("ROC", roc), ("Precision and recall", precision_recall)):
            curves: list[Named] = [
                (f"{one.model}{', mean over classes' if len(q) > 1 else ''}", of(q, one.groups, seed))
                for one, q in zip(part, asked, strict=True)
            ]
            singles: list[Named] = []
            if len(part) == 1 and 1 < len(asked[0]) <= MOST_CLASSES:
                singles = [(q.of, of([q], part[0].groups, seed)) for q in asked[0]]
            chance = [q.positive.mean() for q in asked[0]]
            made.append(_figure(name, part, curves, singles, float(np.mean(chance))))
    return made


def _figure(
    name: str, part: Sequence[Predicted], curves: Sequence[Named], singles: Sequence[Named], chance: float
) -> str:
    is_roc = name == "ROC"
    figure = go.Figure()
    for place, (of, curve) in enumerate(curves):
        if place == 0:
            _band(figure, curve)
        _line(figure, of, curve, place, 2.5)
    for place, (of, curve) in enumerate(singles, start=len(curves)):
        _line(figure, of, curve, place, 1.2)
    ends = ([0, 1], [0, 1]) if is_roc else ([0, 1], [chance, chance])
    figure.add_scatter(
        x=ends[0], y=ends[1], name="chance", mode="lines", line={"color": "#7d7d7d", "width": 1, "dash": "dot"}
    )
    axes = ("share of negatives called positive", "share of positives found")
    x, y = axes if is_roc else ("share of positives found (recall)", "share of calls that are right (precision)")
    figure.update_xaxes(title=x, range=[-0.01, 1.01]).update_yaxes(title=y, range=[0, 1.02])
    where = part[0].part
    of_all = plural(len(part[0].y), "image")
    said = f"Each point is a threshold. Band: 95% interval of {curves[0][0]}, place by place, on {of_all}."
    numbers = Table(
        f"{name}, {where}: the numbers",
        ("curve", x, y),
        [
            [of, f"{curve.x[i]:.1f}", interval(Interval(curve.y[i], curve.lo[i], curve.hi[i]))]
            for of, curve in [*curves, *singles]
            for i in range(*TOLD.indices(len(curve.x)))
        ],
    )
    return plot(figure, f"{name}, {where}", said, numbers, HEIGHT + 14 * (len(curves) + len(singles)))


def _band(figure: go.Figure, curve: Curve) -> None:
    if not np.isfinite(curve.lo).all():
        return
    around = np.concatenate([curve.x, curve.x[::-1]]), np.concatenate([curve.hi, curve.lo[::-1]])
    figure.add_scatter(
        x=around[0].round(3).tolist(),
        y=around[1].round(4).tolist(),
        fill="toself",
        fillcolor="rgba(0, 114, 178, 0.2)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )


def _line(figure: go.Figure, name: str, curve: Curve, place: int, width: float) -> None:
    figure.add_scatter(
        x=curve.x.round(3).tolist(),
        y=curve.y.round(4).tolist(),
        name=label(name),
        mode="lines",
        line={
            "color": COLOURS[place % len(COLOURS)],
            "dash": DASHES[(place + place // len(COLOURS)) % len(DASHES)],
            "width": width,
        },
    )
