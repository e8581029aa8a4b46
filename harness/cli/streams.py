"""Results on stdout, everything else on stderr; JSON that every reader accepts; text that no file name can upset.

Knows rich and the two streams; knows no stage.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from harness.output.result import plain
from harness.output.terminal import _console, escape_control

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_claimed: TextIO | None = None


def claim_stdout() -> TextIO:
    """The stream for results. From the first call on, whatever a library prints goes to stderr instead."""
    global _claimed
    if _claimed is None:
        if sys.stdout is None:  # started with stdout closed
            _claimed = open(os.devnull, "w")  # noqa: SIM115
            return _claimed
        sys.stdout.flush()
        encoding = sys.stdout.encoding or "utf-8"
        # A file name may hold bytes that are no text; they leave as they came.
        errors = "surrogateescape" if encoding.lower().replace("-", "") == "utf8" else "replace"
        _claimed = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding=encoding, errors=errors)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return _claimed


def flush_results() -> None:
    if _claimed is not None:
        _claimed.flush()


def results() -> Console:
    """The console on stdout: COLUMNS or the terminal's width, 80 without a terminal."""
    return _console(claim_stdout())


def show(*parts: RenderableType) -> None:
    """Print results, one below the other. In a window text is broken between words; a path or an address never is."""
    from harness.output.format import wrapped

    console = results()
    window = console.is_terminal or "COLUMNS" in os.environ
    for part in parts:
        with console.capture() as captured:
            if isinstance(part, str):
                text = escape_control(part)
                console.print(wrapped(text, console.width) if window and part[:1] != "/" else text, soft_wrap=True)
            else:
                console.print(part)
        # Tables pad their lines with blanks, which only a terminal's colours need.
        console.file.write("".join(line.rstrip(" ") + "\n" for line in captured.get().removesuffix("\n").split("\n")))
    console.file.flush()


def show_command(*commands: str) -> None:
    """Something to be copied: indented, on one line however long it is."""
    console = results()
    for command in commands:
        console.print(escape_control(f"  {command}"), soft_wrap=True)
    console.file.flush()


def print_json(document: Any) -> None:
    """The one JSON document of a `--json` command."""
    stream = claim_stdout()
    stream.write(json.dumps(plain(document), indent=2, allow_nan=False) + "\n")
    stream.flush()


FLAGS = ("-q", "--quiet", "-v", "--verbose")


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
