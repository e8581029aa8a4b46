"""What is taken for what: confusion matrices, and for each class what is found and what a call is worth.

Knows predictions and names, no files.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from harness.calibration.operating_points import rates
from harness.output.documents import Section, Table
from harness.output.format import called, interval
from harness.output.plots import SCALE, label, plot, side_by_side
from harness.report.predicted import Predicted
from harness.stats.curves import areas, questions

MOST_DRAWN = 20
"""classes of a matrix that is drawn; larger ones are told as the commonest mistakes"""
COMMONEST = 20
FEW = 20
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
            body += [_figure(one, matrix, classes)] if drawn else []
            tables.append(_matrix_table(one, matrix, classes) if drawn else _commonest(one, matrix, classes))
        tables.append(_per_class(one, classes, seed))
    return Section("classes", "Mistakes by class", _answer(models[0], classes), side_by_side(body), tuple(tables))


def _answer(one: Predicted, classes: tuple[str, ...]) -> str:
    """The class that is found least often, by name."""
    found = []
    for c, name in enumerate(classes):
        has = one.y == c if one.y.ndim == 1 else one.y[:, c] == 1
        if has.any():
            found.append((float(one.said[has, c].mean()), int(has.sum()), name))
    if not found:
        return "No image here has any class."
    share, n, name = min(found)
    small = " (few images: this is a guess)" if n < FEW else ""
    return f"{one.title}: {called(name)} is found least often, {100 * share:.0f}% of its {n:,} images{small}."


def _figure(one: Predicted, matrix: NDArray[np.int64], classes: tuple[str, ...]) -> str:
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
        small |= n < FEW
        found = rates(answer, one.said[known, c], one.groups[known])
        area = areas(asked[name], one.groups, seed, one.fold)[0]
        cells = [interval(found[rate]) for rate in ("sensitivity", "specificity", "ppv")]
        rows.append([name, f"{n:,}{'*' if n < FEW else ''}", *cells, interval(area)])
    note = (
        "Sensitivity: of the class's images, the share found. Specificity: of the others, the share left alone. PPV: "
    )
    note += f"of the calls, the share that is right; it depends on how common the class is. Decided by {one.rule}."
    note += f" * fewer than {FEW} images." if small else ""
    columns = ("class", "images", "sensitivity", "specificity", "PPV", "AUROC")
    return Table(f"Each class, {one.title}", columns, rows, note=note)
