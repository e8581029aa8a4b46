"""What is happening, on stderr: a live picture on a terminal, a line now and then without one.

Folds the events of `harness.types` into a picture, and shows it. Knows no stage and decides nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from harness.cli.manner import is_quiet, is_verbose
from harness.cli.output import escape_control, notes
from harness.cli.picture import Picture, absorb
from harness.cli.said import INDENT, line_of, status_lines
from harness.interrupt import check
from harness.types import Event, Listener, Progress, StudyEnded, TrialEnded, Working
from harness.words import wrapped

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
