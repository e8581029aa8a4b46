"""What is happening, on stderr: a live picture on a terminal, a line now and then without one.

Folds the events of `harness.events` into one `Picture`, and draws it. Knows no stage and decides nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.cli.interrupt import check
from harness.cli.manner import is_quiet
from harness.cli.output import escape_control, notes
from harness.events import (
    DataReady,
    EpochDone,
    Event,
    FoldDone,
    Listener,
    Notice,
    SpeedMeasured,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialStarted,
    Working,
)
from harness.records import EpochReport, Progress, TrialRecord
from harness.words import compact_params, duration, number, plural

if TYPE_CHECKING:
    from rich.console import RenderableType

QUIET_SECONDS = 10.0
"""without a terminal: at most one line of passing news in this time; what ends a trial is always said"""


@dataclass
class Picture:
    """Everything that the display needs to know about a running study."""

    metric: str = ""
    folds: int = 0
    total: int = 0
    done: int = 0
    finished_here: int = 0
    started: float = 0.0
    running: dict[int, EpochReport | None] = field(default_factory=dict)
    first_folds: dict[int, int] = field(default_factory=dict)
    params: dict[int, str] = field(default_factory=dict)
    best: TrialRecord | None = None
    work: Working | None = None
    work_began: tuple[float, int] = (0.0, 0)
    """when the work in hand was first heard of, and how much of it was done by then"""

    def progress_of(self, trial: int) -> float:
        """The share of a running trial that this run has done or need not do, 0 to 1."""
        report = self.running.get(trial)
        if report is None:
            return self.first_folds.get(trial, 0) / max(self.folds, 1)
        return (report.fold + (report.epoch + 1) / max(report.epochs, 1)) / max(self.folds, 1)

    def seconds_left(self, now: float) -> float | None:
        """At the pace of this run so far; None before there is a pace."""
        underway = sum(self.progress_of(t) for t in self.running)
        skipped = sum(self.first_folds.get(t, 0) for t in self.running) / max(self.folds, 1)
        trained = self.finished_here + underway - skipped
        left = self.total - self.done - underway
        return (now - self.started) / trained * max(left, 0.0) if trained > 0.02 else None


def absorb(picture: Picture, event: Event, now: float) -> str | None:
    """Take one event into the picture; the line that must be said about it, if any."""
    match event:
        case Working():
            if picture.work is None or picture.work.what != event.what:
                picture.work_began = (now, event.done)
            picture.work = event if event.done < event.total else None
        case Notice():
            return f"note   {event.line}"
        case DataReady():
            picture.work = None
            picture.folds = event.k
            return _data_line(event)
        case SpeedMeasured():
            return f"speed  {event.line}"
        case StudyStarted():
            picture.work = None
            picture.metric, picture.total, picture.done = event.metric, event.trials_total, event.trials_done
            picture.started = now
            return _start_line(event, picture.folds)
        case TrialStarted():
            picture.running[event.number] = None
            picture.first_folds[event.number] = event.first_fold
            picture.params[event.number] = compact_params(event.params)
        case EpochDone():
            picture.running[event.trial] = event.report
        case FoldDone():
            pass
        case TrialEnded():
            picture.running.pop(event.record.number, None)
            picture.best = event.best
            picture.done += 1
            picture.finished_here += 1
            return _trial_line(event, picture, now)
        case StudyEnded():
            picture.running.clear()
            picture.work = None
            if event.trained == 0 and event.state == "complete":
                return (
                    f"study  {event.name} is finished: nothing was left to train. search.trials is the total; "
                    f"a larger one adds trials: --set search.trials=N"
                )
    return None


def _oof(record: TrialRecord, metric: str) -> str:
    found = record.oof.get(metric)
    return number(found.value if found else None) + (" (optimistic)" if record.optimistic else "")


def _data_line(event: DataReady) -> str:
    classes = ", ".join(f"{count} {name}" for name, count in zip(event.classes, event.counts, strict=True))
    grouping = f" of {plural(event.groups, 'group')}" if event.groups != event.rows else ""
    line = (
        f"data   {plural(event.rows, 'image')}{grouping}: {classes}\n"
        f"       {event.development} for development in {event.k} folds, {event.test} held out for testing"
    )
    return "\n".join([line, *(f"note   {warning}" for warning in event.warnings)])


def _start_line(event: StudyStarted, folds: int) -> str:
    precision = ", ".join(dict.fromkeys(event.precision.values()))
    line = (
        f"study  {event.name}: {plural(event.trials_total, 'trial')} x {folds} folds on {event.device}"
        f"{f' in {precision}' if precision else ''}{f', {event.jobs} at a time' if event.jobs > 1 else ''}"
    )
    if event.trials_done:
        line += f"; {event.trials_done} already done"
    if event.resumed:
        line += f"; going on with {', '.join(f'trial {n}' for n in event.resumed)}"
    return line


def _trial_line(event: TrialEnded, picture: Picture, now: float) -> str:
    record = event.record
    metric = picture.metric
    if record.state == "complete":
        what = f"{metric} {_oof(record, metric)} out-of-fold"
    elif record.state == "pruned" and not record.reason:
        what = f"pruned after {plural(len(record.fold_values), 'fold')}"
    else:
        what = f"{record.state}: {record.reason.splitlines()[0] if record.reason else 'no reason given'}"
    best = event.best
    if best is not None and best.number == record.number:
        best_text = ", best so far"
    else:
        best_text = f", best {_oof(best, metric)} (trial {best.number})" if best is not None else ""
    left = picture.seconds_left(now)
    left_text = f", {duration(left)} left" if left is not None and picture.done < picture.total else ""
    return (
        f"trial {record.number:<3} {what}, {duration(record.seconds)}{best_text}{left_text}"
        f"\n          {compact_params(record.params)}"
    )


def status_lines(picture: Picture, now: float) -> list[str]:
    """The state of the study in plain lines: the whole, then one line per running trial."""
    if picture.work is not None:
        return [f"{picture.work.what} {picture.work.done}/{picture.work.total}{_work_left(picture, now)}"]
    if not picture.total:
        return []
    best = ""
    if picture.best is not None:
        best = f"  best {_oof(picture.best, picture.metric)} (trial {picture.best.number})"
    left = picture.seconds_left(now)
    left_text = f"  {duration(left)} left" if left is not None else ""
    lines = [f"{min(picture.done, picture.total)}/{picture.total} trials{best}{left_text}"]
    for trial, report in sorted(picture.running.items()):
        if report is None:
            lines.append(f"trial {trial}  fold {picture.first_folds.get(trial, 0) + 1}/{picture.folds}  first epoch")
        else:
            lines.append(
                f"trial {trial}  fold {report.fold + 1}/{picture.folds}  epoch {report.epoch + 1}/{report.epochs}"
                f"  loss {number(report.train_loss)}  val {number(report.val_loss)}"
                f"  {picture.metric} {number(report.val.get(picture.metric))}"
            )
    return lines


def _work_left(picture: Picture, now: float) -> str:
    """At the pace of the work in hand, once that has taken long enough for anybody to ask."""
    began, before = picture.work_began
    if picture.work is None or picture.work.done <= before or now - began < QUIET_SECONDS:
        return ""
    pace = (now - began) / (picture.work.done - before)
    return f"  {duration(pace * (picture.work.total - picture.work.done))} left"


def _drawing(picture: Picture) -> RenderableType:
    """The live area: a bar for the whole study, then its lines."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    lines = status_lines(picture, time.monotonic())
    texts = [Text(escape_control(line), no_wrap=True, overflow="ellipsis") for line in lines]
    if picture.work is not None:
        bar = ProgressBar(total=max(picture.work.total, 1), completed=picture.work.done)
    elif picture.total:
        share = picture.done + sum(picture.progress_of(trial) for trial in picture.running)
        bar = ProgressBar(total=picture.total, completed=share)
    else:
        return Group(*texts)
    return Group(bar, *texts)


@contextmanager
def study_listener() -> Iterator[Listener]:
    """A listener for one study run, drawing until the block ends. It also passes on an interruption that got lost."""
    with _drawing_listener() as draw:

        def listen(event: Event) -> None:
            if not isinstance(event, StudyEnded):  # said while an interrupted study is being closed
                check()
            draw(event)

        yield listen


@contextmanager
def _drawing_listener() -> Iterator[Listener]:
    if is_quiet():
        yield lambda event: None
    elif sys.stderr.isatty():
        with _live_listener() as listener:
            yield listener
    else:
        yield _plain_listener(Picture(), _say, time.monotonic)


def _say(text: str) -> None:
    # Whoever read our progress may be gone (`2>&1 | head`): the training goes on.
    with suppress(BrokenPipeError):
        print(escape_control(text), file=sys.stderr, flush=True)


def _plain_listener(picture: Picture, say: Callable[[str], None], clock: Callable[[], float]) -> Listener:
    """Lines for a log file: every finished trial, and every now and then how far things are."""
    last = clock()

    def listen(event: Event) -> None:
        nonlocal last
        now = clock()
        line = absorb(picture, event, now)
        if line is not None:
            say(line)
            last = now
        elif now - last >= QUIET_SECONDS:
            lines = status_lines(picture, now)
            if lines:
                say("   ".join(lines))
                last = now

    return listen


@contextmanager
def _live_listener() -> Iterator[Listener]:
    from rich.live import Live

    picture = Picture()
    with Live(
        get_renderable=lambda: _drawing(picture),
        console=notes(),
        refresh_per_second=5,
        transient=True,
        redirect_stdout=False,
        vertical_overflow="crop",
    ) as live:

        def listen(event: Event) -> None:
            line = absorb(picture, event, time.monotonic())
            if line is not None:
                live.console.print(escape_control(line), soft_wrap=True)

        yield listen


@contextmanager
def step_progress() -> Iterator[Progress]:
    """progress(what, done, total) for commands without trials: scan, ensemble, predict."""
    with study_listener() as listener:
        yield lambda what, done, total: listener(Working(what, done, total))
