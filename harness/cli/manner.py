"""How much a command says, and in colour or not: -q, -v and --color, which work before and after any subcommand.

Kept once for the process, because it is a property of the terminal and not of any stage. Knows no stage.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

from harness.errors import RequestError, nearest

FLAGS = ("-q", "--quiet", "-v", "--verbose")
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


def hoisted(arguments: Sequence[str]) -> list[str]:
    """The same words with these options in front, where the program itself takes them: `study run NAME -q`."""
    ours: list[str] = []
    others: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word == "--":
            return [*ours, *others, word, *words]
        if word in FLAGS or word.startswith("--color="):
            ours.append(word)
        elif word == "--color" and words:
            ours += [word, words.pop(0)]
        else:
            others.append(word)
    return ours + others


def _show_logs() -> None:
    """What libraries log, from INFO up, on stderr. Those that are told to be silent for privacy (pydicom) stay so."""
    import logging

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
