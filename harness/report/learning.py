"""Learning curves: what the best trials' folds learned, epoch by epoch, and whether they went on too long."""

from collections.abc import Callable, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from harness.output.documents import Section, Table
from harness.output.format import number, plural
from harness.output.plots import COLOURS, plot, side_by_side
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
    return Section("learning", "Learning curves", _answer(*known[0]), body, (table,))


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


def _answer(trial: TrialRecord, epochs: list[LoggedEpoch]) -> str:
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
