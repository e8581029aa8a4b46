"""Tables of records for a terminal of 80 columns or less. Pure: records in, something to print out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

from harness.cli.output import escape_control
from harness.types import TrialRecord
from harness.words import compact_params, coverage_note, interval, number, plural, switched_off, value

if TYPE_CHECKING:
    from rich.table import Table

OWN_COLUMNS = 2
"""searched numbers with a column of their own; the rest shares one"""
TEXT_WIDTH = 10
"""room that a column of text is given at least"""


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = (), width: int | None = None
) -> Table:
    """A plain table: no frame, numbers to the right, long texts folded and never cut.

    Numbers stay on one line. Where that needs more than `width`, an interval goes below its value. Without a `width`,
    a column that holds words as well as numbers is a column of text.
    """
    from rich.table import Table
    from rich.text import Text

    if width is not None and _least_width(columns, rows) > width:
        columns = [name.replace(" [", "\n[").replace(" ", "\n") for name in columns]
        rows = [[cell.replace(" [", "\n[") if _is_numeric(cell) else cell for cell in row] for row in rows]
    made = Table(show_header=any(columns), box=None, padding=(0, 2, 0, 0), pad_edge=False)
    numbers = [_numbers_width([row[index] for row in rows]) for index in range(len(columns))]
    if width is None:
        numbers = [whole if all(_is_numeric(row[i]) for row in rows) else 0 for i, whole in enumerate(numbers)]
    for name, whole in zip(columns, numbers, strict=True):
        # rich makes only the other columns narrower, and would cut these off at the window's edge otherwise
        justify: Literal["left", "right"] = "right" if name in right else "left"
        made.add_column(Text(name), justify=justify, overflow="fold", header_style="bold", no_wrap=whole > 0)
    for row in rows:
        cells = [
            fill(escape_control(cell), max(whole, TEXT_WIDTH))
            if whole and not _is_numeric(cell)
            else escape_control(cell)
            for cell, whole in zip(row, numbers, strict=True)
        ]
        made.add_row(*(Text(cell) for cell in cells))
    if note := coverage_note(rows):
        made.caption, made.caption_justify = Text(note), "left"
    return made


def _is_numeric(cell: str) -> bool:
    """Numbers and intervals: what must stay on one line."""
    return cell.lstrip("+-.")[:1].isdigit() and len(cell) <= 25


def _numbers_width(cells: Sequence[str]) -> int:
    return max([len(line) for cell in cells if _is_numeric(cell) for line in cell.split("\n")], default=0)


def _least_width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """What numbers, and some room for each text, need."""
    numbers = [_numbers_width([row[index] for row in rows]) for index in range(len(columns))]
    return sum(found or TEXT_WIDTH for found in numbers) + 2 * (len(columns) - 1)


def best_first(trials: Sequence[TrialRecord], metric: str) -> list[TrialRecord]:
    """Trials as they are ranked (ledger.ranked), then the others by number."""
    from harness.ledger import ranked

    first = ranked(trials, metric)
    places = {trial.number: place for place, trial in enumerate(first)}
    return sorted(trials, key=lambda trial: (places.get(trial.number, len(places)), trial.number))


def trials_table(trials: Sequence[TrialRecord], metric: str, width: int, marked: Collection[int] = ()) -> Table:
    """Every trial, best first: number, searched values, mean over folds ± standard error, by which they are ranked,
    pooled out-of-fold value with its interval, seconds. The `marked` ones, on the front of several objectives, have a +
    behind their number."""
    from harness.types import rank_value

    own = _own_columns(trials) if width >= 78 else []
    rows = []
    for trial in best_first(trials, metric):
        rest = {name: setting for name, setting in trial.params.items() if name not in own}
        cv = f"{number(trial.cv.get(metric))} ±{number(trial.cv_se.get(metric)).removeprefix('0')}"
        rows.append(
            [
                str(trial.number) + "+" * (trial.number in marked),
                *(value(trial.params[name]) if name in trial.params else "-" for name in own),
                _switches(rest),
                (cv + "*" * trial.optimistic) if math.isfinite(rank_value(trial, metric)) else "-",
                _outcome(trial, metric),
                number(trial.seconds, 0),
            ]
        )
    names = [name.rsplit(".", 1)[-1] for name in own]
    with_name = "augment" if _only_augments(trials, own) else "with"
    columns = ["#", *names, with_name, f"{metric} cv", "out-of-fold [95%]", "s"]
    if all(set(trial.params) <= set(own) for trial in trials):  # nothing else was varied
        columns.remove(with_name)
        rows = [row[: len(own) + 1] + row[len(own) + 2 :] for row in rows]
    return table(columns, rows, right=["#", *names, "s"], width=width)


def front_table(trials: Sequence[TrialRecord], metric: str, costs: Sequence[str]) -> Table:
    """Trials of a front by their first cost: number, metric as mean over folds and pooled, costs."""
    rows = [
        [
            str(trial.number),
            number(trial.cv.get(metric)),
            interval(trial.oof.get(metric)),
            *(f"{trial.costs[name]:,.4g}" for name in costs),
        ]
        for trial in sorted(trials, key=lambda trial: trial.costs[costs[0]])
    ]
    return table(["#", f"{metric} cv", "out-of-fold [95%]", *costs], rows, right=["#", *costs])


def _own_columns(trials: Sequence[TrialRecord]) -> list[str]:
    """The searched numbers that are not switches, such as the learning rate."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    found = []
    for name in names:
        settings = [trial.params[name] for trial in trials if name in trial.params]
        numbers = all(isinstance(s, int | float) and not isinstance(s, bool) for s in settings)
        if numbers and not name.startswith("augment."):
            found.append(name)
    return found[:OWN_COLUMNS]


def _only_augments(trials: Sequence[TrialRecord], own: Sequence[str]) -> bool:
    return all(name.startswith("augment.") for trial in trials for name in trial.params if name not in own)


def _switches(params: Mapping[str, Any]) -> str:
    """Augmentations that are on, by name; everything else with its value."""
    on = [
        setting if isinstance(setting, str) else name.removeprefix("augment.")
        for name, setting in params.items()
        if name.startswith("augment.") and not switched_off(name, setting)
    ]
    rest = compact_params({name: s for name, s in params.items() if not name.startswith("augment.")})
    return "  ".join(part for part in (rest, " ".join(on)) if part) or "none"


def _outcome(trial: TrialRecord, metric: str) -> str:
    from harness.types import not_ranked

    if trial.same_as is not None:
        return f"{trial.state}: the same as trial {trial.same_as}"
    if trial.state == "complete":
        why = not_ranked(trial, metric)
        return f"not ranked: {why}" if why else interval(trial.oof.get(metric), trial.optimistic)
    if trial.state == "pruned" and not trial.reason:
        return f"pruned after {plural(len(trial.fold_values), 'fold')}"
    reason = trial.reason.strip().splitlines()
    return f"{trial.state}: {reason[0]}" if reason else trial.state


def studies_table(rows: Sequence[tuple[str, str, str, str, str]]) -> Table:
    """name, state, trials, best, description"""
    return table(["study", "state", "trials", "best", "what"], rows, right=["trials"])


NULLABLE = ("coverage", "reason")
"""fields of an interval or a difference in which null is not NaN"""


def numbers_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an interval or a difference in JSON; where a number is null it is NaN again."""
    return {name: math.nan if found is None and name not in NULLABLE else found for name, found in node.items()}


def short_path(path: Path) -> str:
    """Relative to the working directory where that is shorter."""
    try:
        relative = path.relative_to(Path.cwd())
    except ValueError:
        return str(path)
    return str(relative)
