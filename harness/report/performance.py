"""Performance in a report: curves, confusion, calibration, subgroups.

How well models tell classes apart: ROC and precision-recall curves with bands, and the areas below them.

Knows predictions and names, no files.

What is taken for what: confusion matrices, and for each class what is found and what a call is worth.

Knows predictions and names, no files.

Are the probabilities true? Reliability diagrams with calibration error and Brier score, raw and calibrated.

Knows predictions, what bundles say of their calibration, and names; no files.

For whom it works less well: scores per kind of patient, scanner or site; and per patient where one has many images.

Names no group. Kinds with few groups are put together (stats.subgroups). Knows predictions and columns, no files.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from harness.calibration.operating_points import rates
from harness.output.documents import Section, Table
from harness.output.format import BELIEVABLE_P, bare_p, called, interval, number, plural, read_interval, signed
from harness.output.plots import COLOURS, DASHES, SCALE, SYMBOLS, forest, label, plot, side_by_side
from harness.report.collect import OUT_OF_FOLD, TEST, Built, Predicted
from harness.stats.calibration import Bin, Reliability, reliability
from harness.stats.calibration import questions as calibration_questions
from harness.stats.curves import Curve, Question, areas, precision_recall, questions, roc
from harness.stats.intervals import PREFIX, How, all_intervals, intervals
from harness.stats.subgroups import SMALLEST, Sample, Subgroup, subgroups, worst
from harness.types import Interval

MOST_CLASSES = 8
"""drawn beside the mean over all; the tables have every one"""
RANKING_FEW = 10
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
            if _with(question, one) < RANKING_FEW:
                few.add(f"{of} ({one.part})")
        answer.append(_told(one, scores["auroc"], len(asked) > 1))
    note = (
        "AUROC: how often a random positive is put above a random negative, .5 is chance. AUPRC: mean precision over "
    )
    note += "the share found; chance is the share of positives. Intervals: 95%, over groups."
    if few:
        note += f" Fewer than {RANKING_FEW} positive groups, so believe little: {', '.join(sorted(few))}."
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
            made.append(_ranking_figure(name, part, curves, singles, float(np.mean(chance))))
    return made


def _ranking_figure(
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


MOST_DRAWN = 20
"""classes of a matrix that is drawn; larger ones are told as the commonest mistakes"""
COMMONEST = 20
CLASSES_FEW = 20
"""images of a class; below this its numbers are marked"""


def confusion(y: NDArray[np.int64], said: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(C, C + 1) rows of true class i that are said to be class j; the last column: not exactly one class was said."""
    count = said.shape[1]
    one = said.sum(axis=1) == 1
    column = np.where(one, said.argmax(axis=1), count)
    return np.bincount(y * (count + 1) + column, minlength=count * (count + 1)).reshape(count, count + 1)


def classes_section(models: Sequence[Predicted], classes: tuple[str, ...], seed: int) -> Section:
    """`models`: the best trial out of fold, and what decides on the test split, if anything does."""
    body, tables = [], []
    for one in models:
        if one.y.ndim == 1:
            matrix = confusion(one.y, one.said)
            drawn = len(classes) <= MOST_DRAWN
            body += [_classes_figure(one, matrix, classes)] if drawn else []
            tables.append(_matrix_table(one, matrix, classes) if drawn else _commonest(one, matrix, classes))
        tables.append(_per_class(one, classes, seed))
    return Section(
        "classes", "Mistakes by class", _classes_answer(models[0], classes), side_by_side(body), tuple(tables)
    )


def _classes_answer(one: Predicted, classes: tuple[str, ...]) -> str:
    """The class that is found least often, by name."""
    found = []
    for c, name in enumerate(classes):
        has = one.y == c if one.y.ndim == 1 else one.y[:, c] == 1
        if has.any():
            found.append((float(one.said[has, c].mean()), int(has.sum()), name))
    if not found:
        return "No image here has any class."
    share, n, name = min(found)
    small = " (few images: this is a guess)" if n < CLASSES_FEW else ""
    return f"{one.title}: {called(name)} is found least often, {100 * share:.0f}% of its {n:,} images{small}."


def _classes_figure(one: Predicted, matrix: NDArray[np.int64], classes: tuple[str, ...]) -> str:
    names = [label(name) for name in classes]
    columns = [*names, "none or several"] if matrix[:, -1].any() else names
    cells = matrix[:, : len(columns)]
    shares = _shares(cells)
    text = [
        [f"{n:,}<br>{100 * s:.0f}%" if np.isfinite(s) else "" for n, s in zip(*both, strict=True)]
        for both in zip(cells.tolist(), shares.tolist(), strict=True)
    ]
    figure = go.Figure(
        go.Heatmap(
            x=columns,
            y=names,
            z=np.where(np.isfinite(shares), shares, 0.0).round(4).tolist(),
            zmin=0,
            zmax=1,
            colorscale=SCALE,
            text=text,
            texttemplate="%{text}",
            showscale=False,  # the cells say it
        )
    )
    figure.update_xaxes(title="said", type="category").update_yaxes(title="true", type="category", autorange="reversed")
    said = f"Rows: the true class; columns: what was said; counts and shares of the row. Decided by {one.rule}."
    return plot(figure, f"Confusion, {one.title}", said, _matrix_table(one, matrix, classes), 170 + 44 * len(classes))


def _shares(cells: NDArray[np.int64]) -> NDArray[np.float64]:
    total = cells.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(cells, total, out=np.full(cells.shape, np.nan), where=total > 0))


def _matrix_table(one: Predicted, matrix: NDArray[np.int64], classes: tuple[str, ...]) -> Table:
    several = [len(classes)] if matrix[:, -1].any() else []
    columns = [*range(len(classes)), *several]
    shares = _shares(matrix)
    rows = [
        [name, *(f"{matrix[c, j]:,} ({100 * shares[c, j]:.0f}%)" if matrix[c].any() else "-" for j in columns)]
        for c, name in enumerate(classes)
    ]
    heads = [f"said {classes[j]}" if j < len(classes) else "none or several" for j in columns]
    return Table(f"Confusion, {one.title}", ("true class", *heads), rows, note=f"Decided by {one.rule}.")


def _commonest(one: Predicted, matrix: NDArray[np.int64], classes: tuple[str, ...]) -> Table:
    wrong = matrix[:, :-1].copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:COMMONEST]
    places = [divmod(int(place), len(classes)) for place in order if wrong.flat[place]]
    rows = [
        [classes[i], classes[j], f"{wrong[i, j]:,}", f"{100 * wrong[i, j] / matrix[i].sum():.0f}%"] for i, j in places
    ]
    columns = ("true class", "said", "images", "of the class")
    return Table(f"Commonest mistakes, {one.title}", columns, rows, "llrr", f"Decided by {one.rule}.")


def _per_class(one: Predicted, classes: tuple[str, ...], seed: int) -> Table:
    rows, small = [], False
    asked = {question.of: question for question in questions(one.y, one.p, classes)}
    for c, name in enumerate(classes):
        if name not in asked:  # the negative of two classes: its sensitivity is the other's specificity
            continue
        known = np.ones(len(one.y), dtype=bool) if one.y.ndim == 1 else one.y[:, c] >= 0
        answer = ((one.y if one.y.ndim == 1 else one.y[:, c]) == (c if one.y.ndim == 1 else 1))[known].astype(np.int64)
        n = int(answer.sum())
        small |= n < CLASSES_FEW
        found = rates(answer, one.said[known, c], one.groups[known])
        area = areas(asked[name], one.groups, seed, one.fold)[0]
        cells = [interval(found[rate]) for rate in ("sensitivity", "specificity", "ppv")]
        rows.append([name, f"{n:,}{'*' if n < CLASSES_FEW else ''}", *cells, interval(area)])
    note = (
        "Sensitivity: of the class's images, the share found. Specificity: of the others, the share left alone. PPV: "
    )
    note += f"of the calls, the share that is right; it depends on how common the class is. Decided by {one.rule}."
    note += f" * fewer than {CLASSES_FEW} images." if small else ""
    columns = ("class", "images", "sensitivity", "specificity", "PPV", "AUROC")
    return Table(f"Each class, {one.title}", columns, rows, note=note)


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
        for of, rows, y, p in calibration_questions(one.y, one.p, classes, one.y.ndim == 2)
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
    body = side_by_side(_trust_figure([one for one in models if one.title == title], most) for title in titles)
    return Section("trust", "Can the probabilities be believed", _trust_answer(models), body, (table,))


def _trust_answer(models: Sequence[Measured]) -> str:
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


def _trust_figure(states: Sequence[Measured], most: int) -> str:
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


GROUPS_FEW = 20
"""groups; below this a kind's row is marked"""
ALWAYS = "accuracy"
"""defined where a class has no image too, which a kind of few people may lack"""


def groups_section(
    one: Predicted, columns: Mapping[str, NDArray[np.str_]], metric: str, per_group: How, group: str, seed: int
) -> Section:
    """`columns`: name -> (n,) the kind of each row of `one`; `group`: what the study's groups are called."""
    sample = Sample(one.y, one.p, one.groups)
    found = subgroups(sample, dict(columns), metric, seed)
    scored = {metric: found}
    if any(np.isnan(sub.score.value) for sub in found):
        scored[ALWAYS] = subgroups(sample, dict(columns), ALWAYS, seed)
    body = "".join(_forest(made, name, one) for name, made in scored.items())
    tables = [_table(made, name, one) for name, made in scored.items() if made]
    pooled = _per_group(one, per_group, group, seed)
    tables += [pooled] if pooled else []
    return Section("groups", "For whom it works less well", _groups_answer(found, metric), body, tuple(tables))


def _groups_answer(found: Sequence[Subgroup], metric: str) -> str:
    if not found:
        return (
            "The study's table has no column of sex, age, scanner or site that divides its images, so whether it "
            "works alike for everybody is not known."
        )
    bad = worst(list(found), metric)
    if bad is None:
        return f"Too few kinds of images have every class, so {metric} cannot be compared between them."
    known = sum(bool(np.isfinite(sub.score.value)) for sub in found)
    beyond = "beyond" if bad.p_holm < BELIEVABLE_P else "within"
    return (
        f"Worst: {bad.column} {bad.kind} with {metric} {interval(bad.score)} on {plural(bad.groups, 'group')}. Of "
        f"{known} kinds one is always the worst; its distance from the rest is {beyond} noise."
    )


def _forest(found: Sequence[Subgroup], metric: str, one: Predicted) -> str:
    lines = [(f"{sub.column}: {sub.kind}", sub.score) for sub in found if np.isfinite(sub.score.value)]
    return forest(lines, f"{metric} by kind, {one.title}", metric, "Bars: 95% intervals.") if len(lines) > 1 else ""


def _table(found: Sequence[Subgroup], metric: str, one: Predicted) -> Table:
    rows = [
        [
            f"{sub.column}: {sub.kind}",
            f"{sub.n:,}",
            f"{sub.groups:,}{'*' if sub.groups < GROUPS_FEW else ''}",
            interval(sub.score),
            signed(sub.versus_rest),
            bare_p(sub.p_holm),
        ]
        for sub in found
    ]
    tests = sum(bool(np.isfinite(sub.p_holm)) for sub in found)
    note = (
        f"Minus the rest: {metric} here minus that of all other images; p: Holm's, over {plural(tests, 'comparison')}. "
    )
    note += f"Kinds of fewer than {SMALLEST} groups are put together."
    if any(np.isnan(sub.score.value) for sub in found):
        note += f" A dash: a class has no image there, so {metric} is not defined."
    if any(sub.groups < GROUPS_FEW for sub in found):
        note += f" * fewer than {GROUPS_FEW} groups: believe little."
    heads = ("kind", "images", "groups", f"{metric} [95%]", "minus the rest", "p")
    return Table(f"{metric} by kind of image, {one.title}", heads, rows, note=note)


def _per_group(one: Predicted, how: How, group: str, seed: int) -> Table | None:
    """Each metric per image and per patient (lesion, case); nothing where every group has one image."""
    found = all_intervals(one.y, one.p, one.groups, seed, how, one.fold)
    names = [name for name in found if not name.startswith(PREFIX)]
    if not any(name.startswith(PREFIX) for name in found):
        return None
    rows = [[name, interval(found[name]), interval(found[PREFIX + name])] for name in names]
    note = f"A {group}'s probability is the {how} over its images."
    count = len(np.unique(one.groups))
    heads = ("metric", f"per image ({len(one.y):,})", f"per {group} ({count:,})")
    return Table(f"Per image and per {group}, {one.title}", heads, rows, note=note)
