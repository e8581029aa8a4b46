"""Progress of a running study: on a terminal, or as lines.

What is happening, on stderr: a live picture on a terminal, a line now and then without one.

Folds the events of `harness.types` into a picture, and shows it. Knows no stage and decides nothing.

What is said about events: the lines that stay, and the state of things in lines that are drawn again.

Pure text of a picture and an event: no streams, no terminal, no stage.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from harness.interrupt import check
from harness.output.format import bytes_, compact_params, duration, number, plural, span, wrapped
from harness.output.progress_bar import Picture, absorb
from harness.output.terminal import escape_control, is_quiet, is_verbose, notes
from harness.types import (
    DataReady,
    Estimated,
    Event,
    FoldDone,
    Listener,
    Notice,
    PrecisionChosen,
    Progress,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialRecord,
    Working,
    not_ranked,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

FIRST_SECONDS, LAST_SECONDS = 10.0, 300.0
"""without a terminal: passing news every ten seconds at first, every five minutes in the end; what ends a trial is
always said"""
SHARE = 0.05
"""... and in between as seldom as this share of the time that has passed"""


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
def step_progress(kept: str = "") -> Iterator[Progress]:
    """progress(what, done, total) for commands without trials: scan, ensemble, predict. An interruption says where it
    came, and what is `kept` for the next time."""
    from harness.errors import Interrupted

    at: list[str] = []
    with study_listener() as listener:

        def progress(what: str, done: int, total: int) -> None:
            at[:] = [f" at {what} {done:,}/{total:,}" if total else f" at {what} {done:,}"]
            listener(Working(what, done, total))

        try:
            yield progress
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted{''.join(at)}.{f' {kept}' if kept else ''}") from None


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
    """Lines for a log file: every finished trial, and now and then, by time, how far things are."""
    began = last = clock()

    def listen(event: Event) -> None:
        nonlocal last
        now = clock()
        line = line_of(picture, event, now, is_verbose())
        absorb(picture, event, now)
        if line is not None:
            if isinstance(event, TrialEnded):
                first, _, rest = line.partition("\n")
                line = f"{first}   {status_lines(picture, now, width=40)[0]}\n{rest}"
            say(line)
            last = now
        elif now - last >= min(max(FIRST_SECONDS, SHARE * (now - began)), LAST_SECONDS):
            lines = status_lines(picture, now, width=1000)
            if lines:
                say("   ".join(lines))
                last = now

    return listen


@contextmanager
def _live_listener() -> Iterator[Listener]:
    from rich.live import Live

    picture, console = Picture(), notes()
    with Live(
        get_renderable=lambda: _drawing(picture, console.width),
        console=console,
        refresh_per_second=4,
        transient=True,
        redirect_stdout=False,
        vertical_overflow="crop",
    ) as live:

        def listen(event: Event) -> None:
            now = time.monotonic()
            line = line_of(picture, event, now, is_verbose())
            absorb(picture, event, now)
            if line is not None:
                live.console.print(_styled(escape_control(wrapped(line, console.width, INDENT))))

        yield listen


def _drawing(picture: Picture, width: int) -> RenderableType:
    """The live area: a bar for the whole, then its lines."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    lines = status_lines(picture, time.monotonic(), width) or (["starting"] if not picture.began else [])
    texts = [Text(escape_control(line), no_wrap=True, overflow="ellipsis") for line in lines]
    if picture.work is not None and picture.work.total:
        bar = ProgressBar(total=picture.work.total, completed=picture.work.done)
    elif picture.total and picture.work is None:
        bar = ProgressBar(total=picture.total, completed=picture.share_done())
    else:
        return Group(*texts)
    return Group(Padding(bar, 0), *texts)  # a bar alone ends no line: what follows would be cut off


def _styled(text: str) -> RenderableType:
    """The label in bold, a warning's in yellow, a failed trial's in red, the best so far in green; without colours the
    same text."""
    from rich.text import Text

    label, _, rest = text.partition(" ")
    styles = {"note": "bold yellow"}
    found = Text(text)
    style = "bold red" if label == "trial" and " failed: " in rest else styles.get(label, "bold")
    if label:
        found.stylize(style, 0, len(label))
    found.highlight_words([", best so far"], "green")
    return found


INDENT = 7
"""where the text of a line begins, behind its label"""
STATES = (("complete", "complete"), ("pruned", "stopped early"), ("failed", "failed"))
A_FEW = 9.95
ASKED_SECONDS = 5.0
"""work that has taken less says nothing of the time left"""


def line_of(picture: Picture, event: Event, now: float, verbose: bool = False) -> str | None:
    """What must be said of an event that the picture has not taken in yet; None of passing news."""
    match event:
        case Notice():
            return _labelled("note", event.line)
        case DataReady():
            return _data(event)
        case PrecisionChosen():
            return _labelled("format", event.line)
        case Estimated():
            return _labelled("time", estimate_line(event))
        case StudyStarted():
            return _started(event, picture.folds)
        case FoldDone() if verbose:
            return _fold(picture, event)
        case TrialEnded():
            return _trial(picture, event, now)
        case StudyEnded():
            return _ended(picture, event)
    return None


def status_lines(picture: Picture, now: float, width: int = 80) -> list[str]:
    """The state of things, at most `width` wide: the whole, the best so far, then one line per running trial."""
    work = picture.work
    if work is not None:
        left = picture.work_left(now)
        asked = left is not None and now - picture.work_began[0] >= ASKED_SECONDS
        counted = f"{work.done:,}/{work.total:,}" if work.total else f"{work.done:,}"
        left_text = f"{duration(left)} left" if asked and left is not None else ""
        return [fitted([f"{work.what} {counted}", left_text], width)]
    if not picture.total:
        return []
    left = picture.seconds_left(now)
    early = picture.ended.get("pruned", 0)
    failed = picture.ended.get("failed", 0)
    whole = [
        f"{min(picture.done, picture.total)}/{picture.total} trials",
        _left(left) if picture.done < picture.total else "",
        f"{early} stopped early" if early else "",
        f"{failed} failed" if failed else "",
        f"{len(picture.running)} running" if picture.jobs > 1 else "",
    ]
    lines = [fitted(whole, width)]
    if picture.best is not None:
        best = picture.best
        lines.append(fitted([f"best {_score(best, picture.metric)}", f"(trial {best.number})"], width))
    for trial, one in sorted(picture.running.items()):
        report = one.report
        if report is None:
            parts = [f"trial {trial}", f"fold {one.first_fold + 1}/{picture.folds}", "first epoch"]
        else:
            parts = [f"trial {trial}", f"fold {report.fold + 1}/{picture.folds}"]
            parts += [f"epoch {report.epoch + 1}/{report.epochs}"]
            parts += [f"{picture.metric} {number(report.val.get(picture.metric))}"]
            parts += [f"loss {number(report.train_loss)}", f"val {number(report.val_loss)}"]
        lines.append(fitted(parts, width))
    return lines


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"about {duration(seconds)} left" if seconds >= A_FEW else "a few seconds left"


def fitted(parts: list[str], width: int) -> str:
    """As many of the parts, in their order, as fit into a line; the first whatever it is."""
    kept = ""
    for part in filter(None, parts):
        longer = f"{kept}  {part}" if kept else part
        if kept and len(longer) > width:
            break
        kept = longer
    return kept


def estimate_line(event: Estimated) -> str:
    """'8 trials will take 3 to 7 min; 20 to 49 MB of checkpoints, 24 GB are free'"""
    found = event.estimate
    at_once = f", {found.jobs} at a time," if found.jobs > 1 else ""
    return (
        f"{plural(found.trials, 'trial')}{at_once} will take {span(found.low, found.high)}; "
        f"checkpoints {_bytes_span(found.disk_low, found.disk_high)}, {bytes_(event.free)} are free"
    )


def _bytes_span(low: int, high: int) -> str:
    return bytes_(high) if bytes_(low) == bytes_(high) else f"{bytes_(low)} to {bytes_(high)}"


def _labelled(label: str, text: str) -> str:
    return f"{label:<{INDENT}}{text}"


def _score(record: TrialRecord, metric: str) -> str:
    """'auroc 0.912 ±0.011': the mean over folds, by which trials are ranked, with its standard error"""
    if why := not_ranked(record, metric):
        return f"not ranked: {why}"
    error = record.cv_se.get(metric)
    said = f"{metric} {number(record.cv.get(metric))}"
    said += f" ±{number(error).removeprefix('0')}" if error is not None and math.isfinite(error) else ""
    return said + (" (optimistic)" if record.optimistic else "")


def _data(event: DataReady) -> str:
    classes = ", ".join(f"{count:,} {name}" for name, count in zip(event.classes, event.counts, strict=True))
    grouping = f" of {plural(event.groups, 'group')}" if event.groups != event.rows else ""
    held_out = f"{event.test:,}" if event.test else "none"
    lines = [
        _labelled("data", f"{plural(event.rows, 'image')}{grouping}: {classes}"),
        _labelled("", f"{event.development:,} for development in {event.k} folds, {held_out} held out for testing"),
        *(_labelled("note", warning) for warning in event.warnings),
    ]
    return "\n".join(lines)


def _started(event: StudyStarted, folds: int) -> str:
    precision = ", ".join(dict.fromkeys(event.precision.values()))
    lines = [
        f"{event.name}: {plural(event.trials_total, 'trial')} x {folds} folds on {event.device}"
        f"{f' in {precision}' if precision else ''}{f', {event.jobs} at a time' if event.jobs > 1 else ''}"
    ]
    if event.trials_done:
        best = f", best {_score(event.best, event.metric)} (trial {event.best.number})" if event.best else ""
        lines.append(f"{event.trials_done} already done{_by_state(_count(event.past))}{best}")
    if event.resumed:
        lines.append(f"going on with {', '.join(f'trial {n}' for n in event.resumed)}")
    return "\n".join(_labelled("" if row else "study", line) for row, line in enumerate(lines))


def _fold(picture: Picture, event: FoldDone) -> str:
    one = picture.running.get(event.trial)
    seconds = f", {duration(one.fold_seconds)}" if one and one.fold_seconds else ", from an earlier run"
    place = f"trial {event.trial}, fold {event.fold + 1}/{picture.folds}"
    return _labelled("fold", f"{place}: {picture.metric} {number(event.value)}{seconds}")


def _trial(picture: Picture, event: TrialEnded, now: float) -> str:
    record = event.record
    if record.state == "complete":
        what = f"{_score(record, picture.metric)} in {duration(record.seconds)}"
    elif record.state == "pruned":
        why = record.reason.splitlines()[0] if record.reason else f"after {plural(len(record.fold_values), 'fold')}"
        what = f"stopped early: {why}, {duration(record.seconds)}"
    else:
        what = f"{record.state}: {record.reason.splitlines()[0] if record.reason else 'no reason given'}"
    best = event.best
    if best is not None and best.number == record.number:
        what += ", best so far"
    elif best is not None:
        what += f"; best {number(best.cv[picture.metric])} (trial {best.number})"
    return f"trial {record.number:<3} {what}\n          {compact_params(record.params)}"


def _ended(picture: Picture, event: StudyEnded) -> str | None:
    if event.state == "complete" and event.trained == 0:
        return _labelled(
            "study",
            f"{event.name} is finished: nothing was left to train. search.trials is the total; "
            "a larger one adds trials: --set search.trials=N",
        )
    if event.state != "complete":
        return None
    took = f"{plural(picture.done, 'trial')}{_by_state(picture.ended)} in {duration(event.seconds)}"
    found = event.estimate
    said = f"; estimated before trial 0: {span(found.low, found.high)}" if found else ""
    return _labelled("study", f"{event.name}: {took}{said}")


def _count(records: tuple[TrialRecord, ...]) -> dict[str, int]:
    states = [record.state for record in records]
    return {state: states.count(state) for state in states}


def _by_state(counts: dict[str, int]) -> str:
    """' (3 complete, 5 stopped early)'; '' where all are complete"""
    if set(counts) <= {"complete"}:
        return ""
    return f" ({', '.join(f'{counts[state]} {word}' for state, word in STATES if counts.get(state))})"
