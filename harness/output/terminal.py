"""How much a command says, and in colour or not: -q, -v and --color; notes on stderr that no file name can upset.

Kept once for the process, because it is a property of the terminal and not of any stage. Knows no stage.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from harness.errors import RequestError, nearest

if TYPE_CHECKING:
    from rich.console import Console

COLORS = ("auto", "always", "never")


@dataclass(frozen=True)
class Manner:
    quiet: bool = False
    """results and errors only"""
    verbose: bool = False
    """each fold's line, and what the libraries log"""
    color: str = "auto"


_manner = Manner()


def set_manner(quiet: bool = False, verbose: bool = False, color: str = "auto") -> None:
    """From here on. Raises RequestError for what does not go together or is no colour."""
    global _manner
    if quiet and verbose:
        raise RequestError("--quiet and --verbose together: choose one.")
    if color not in COLORS:
        raise RequestError(f"--color {color}: write {', '.join(COLORS)}.{nearest(color, COLORS)}")
    _manner = Manner(quiet, verbose, color)
    if verbose:
        _show_logs()


@contextmanager
def in_manner(quiet: bool) -> Iterator[None]:
    """For the length of a block; then as a process begins."""
    set_manner(quiet=quiet)
    try:
        yield
    finally:
        set_manner()


def is_quiet() -> bool:
    return _manner.quiet


def is_verbose() -> bool:
    return _manner.verbose


def in_color(stream: TextIO) -> bool:
    """--color decides, then NO_COLOR (no-color.org), then FORCE_COLOR, then whether the stream is a terminal."""
    if _manner.color != "auto":
        return _manner.color == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _show_logs() -> None:
    """What libraries log, from INFO up, on stderr. Those that are told to be silent for privacy (pydicom) stay so."""
    import logging

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")


def notes() -> Console:
    """The console on stderr."""
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    colored = in_color(stream)
    # Markup, emoji codes and highlighting are off: a folder named [red] or :bomb: is printed as it is called.
    return Console(
        file=stream,
        markup=False,
        emoji=False,
        highlight=False,
        soft_wrap=False,
        force_terminal=stream.isatty(),  # FORCE_COLOR asks for colours, not for a terminal's cursor
        color_system="auto" if colored and stream.isatty() else "standard" if colored else None,
        no_color=not colored,
    )


def note(text: str) -> None:
    """One line (or more) on stderr, unless --quiet."""
    if not is_quiet():
        complain(text)


def complain(text: str) -> None:
    """What has to be said on stderr even with --quiet: something that was asked for could not be done."""
    notes().print(escape_control(text), soft_wrap=True)


def escape_control(text: str) -> str:
    """Control characters shown as \\x1b and the like, so that a file name cannot drive the terminal."""
    return "".join(char if char in "\n\t" or (char.isprintable() or char == " ") else repr(char)[1:-1] for char in text)
