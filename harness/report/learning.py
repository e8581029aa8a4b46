"""Learning curves and the ablation in a report.

Learning curves: what the best trials' folds learned, epoch by epoch, and whether they went on too long.

What each setting gives: the study's ablations as a table and a forest plot. Draws; the numbers are search's.
"""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from harness.output.documents import Section, Table
from harness.output.format import number, p_value, plural, value
from harness.output.plots import COLOURS, label, plot, side_by_side
from harness.report.collect import Collected
from harness.store.records import LoggedEpoch
from harness.types import EpochReport, TrialRecord

MOST_TRIALS = 3
"""whose curves are shown, the best first"""
WORSE = 0.05
"""rise of the validation loss since its lowest, as a share of it, that is called over-fitting"""
FEW_EPOCHS = 12
"""each of which has its tick"""
Floats = NDArray[np.float64]
Value = Callable[[EpochReport], float]


def learning_section(found: Collected) -> Section:
    shown = [found.chosen] if found.asked and found.chosen else found.complete[:MOST_TRIALS]
    known = [(trial, found.epochs[trial.number]) for trial in shown if trial.number in found.epochs]
    if not known:
        return Section("learning", "Learning curves", "No epoch has been logged.")
    body = "".join(_plots(trial.number, epochs, found.metric) for trial, epochs in known)
    table = Table(
        "The last epoch of each fold, means over folds",
        ("trial", "epochs", "training loss", "validation loss", "lowest validation loss", f"validation {found.metric}"),
        [_row(trial.number, epochs, found.metric) for trial, epochs in known],
        note="The training loss is that of augmented, regularised batches, and may be the higher one for that reason.",
    )
    return Section("learning", "Learning curves", _learning_answer(*known[0]), body, (table,))


def by_fold(epochs: Sequence[LoggedEpoch], of: Value) -> Floats:
    """(K, E) a value by fold and epoch; NaN where a fold did not get so far."""
    folds = sorted({epoch.report.fold for epoch in epochs})
    longest = 1 + max(epoch.report.epoch for epoch in epochs)
    found = np.full((len(folds), longest), np.nan)
    for epoch in epochs:
        found[folds.index(epoch.report.fold), epoch.report.epoch] = of(epoch.report)
    return found


def _mean(values: Floats) -> Floats:
    """(E,) over the folds that got so far."""
    there = np.isfinite(values)
    count = np.where(there.any(axis=0), there.sum(axis=0), np.nan)
    return np.asarray(np.where(there, values, 0.0).sum(axis=0) / count)


def _train(report: EpochReport) -> float:
    return report.train_loss


def _validation(report: EpochReport) -> float:
    return report.val_loss


def _score(metric: str) -> Value:
    return lambda report: report.val.get(metric, float("nan"))


def _learning_answer(trial: TrialRecord, epochs: list[LoggedEpoch]) -> str:
    train, validation = (_mean(by_fold(epochs, of)) for of in (_train, _validation))
    last, lowest = len(validation) - 1, int(np.nanargmin(validation)) if np.isfinite(validation).any() else 0
    said = (
        f"Trial {trial.number} ended with a validation loss of {number(validation[last])} against "
        f"{number(train[last])} in training"
    )
    if lowest == last:
        return f"{said}; it was still falling at the last of {plural(last + 1, 'epoch')}, so more might have helped."
    rise = validation[last] / validation[lowest] - 1
    judged = ", which is over-fitting" if rise > WORSE else ""
    return (
        f"{said}; its lowest was {number(validation[lowest])} after epoch {lowest + 1} of {last + 1}, and it has risen "
        f"by {rise:.0%} since{judged}."
    )


def _row(trial: int, epochs: list[LoggedEpoch], metric: str) -> tuple[str, ...]:
    train, validation, score = (_mean(by_fold(epochs, of)) for of in (_train, _validation, _score(metric)))
    lowest = int(np.nanargmin(validation)) if np.isfinite(validation).any() else 0
    return (
        str(trial),
        str(len(validation)),
        number(float(train[-1])),
        number(float(validation[-1])),
        f"{number(float(validation[lowest]))} (epoch {lowest + 1})",
        number(float(score[-1])),
    )


def _plots(trial: int, epochs: list[LoggedEpoch], metric: str) -> str:
    folds = len({epoch.report.fold for epoch in epochs})
    loss = go.Figure()
    for place, (name, of) in enumerate((("training", _train), ("validation", _validation))):
        _band(loss, by_fold(epochs, of), name, COLOURS[place], "dash" if place else "solid")
    loss.update_layout(xaxis_title="epoch", yaxis_title="loss")
    score = go.Figure()
    _band(score, by_fold(epochs, _score(metric)), f"validation {metric}", COLOURS[2], "solid")
    score.update_layout(xaxis_title="epoch", yaxis_title=metric)
    if len(_mean(by_fold(epochs, _train))) <= FEW_EPOCHS:
        loss.update_xaxes(dtick=1)
        score.update_xaxes(dtick=1)
    over = f"Mean over {plural(folds, 'fold')}, with every fold as a thin line and the band between them."
    return side_by_side(
        [
            plot(loss, f"Trial {trial}: loss", over, height=300),
            plot(score, f"Trial {trial}: {metric} of the held-out fold", over, height=300),
        ]
    )


def _band(figure: go.Figure, values: Floats, name: str, colour: str, dash: str) -> None:
    """Lowest to highest fold as an area, the folds thin, their mean thick."""
    x = list(range(1, values.shape[1] + 1))
    there = np.isfinite(values).any(axis=0)
    filled = [np.where(there, edge(np.where(np.isfinite(values), values, fill), axis=0), np.nan)
              for edge, fill in ((np.min, np.inf), (np.max, -np.inf))]  # fmt: skip
    low, high = (_plain(edge) for edge in filled)
    soft = {"mode": "lines", "showlegend": False, "hoverinfo": "skip"}
    figure.add_scatter(x=x, y=low, line={"width": 0}, **soft)
    figure.add_scatter(x=x, y=high, line={"width": 0}, fill="tonexty", fillcolor=f"{colour}22", **soft)
    for fold in values:
        figure.add_scatter(x=x, y=_plain(fold), line={"color": colour, "width": 0.7}, opacity=0.6, **soft)
    figure.add_scatter(x=x, y=_plain(_mean(values)), mode="lines", name=name, line={"color": colour, "dash": dash})


def _plain(values: Floats) -> list[float | None]:
    return [float(one) if np.isfinite(one) else None for one in values]


def ablation_section(found: Collected) -> Section:
    tables = [table for table in found.ablations if not found.asked or _of_chosen(found, table)]
    if not tables:
        return Section("ablation", "What each setting gives", _without(found), _how(found))
    return Section(
        "ablation",
        "What each setting gives",
        " ".join(map(_ablation_answer, tables)),
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


def _ablation_answer(table: Mapping[str, Any]) -> str:
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
