"""Results on stdout, everything else on stderr; JSON that every reader accepts; text that no file name can upset.

Knows rich and the two streams; knows no stage.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from harness.cli.manner import in_color, is_quiet

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


def show(*parts: RenderableType) -> None:
    """Print results, one below the other. In a window text is broken between words; a path or an address never is."""
    from harness.words import wrapped

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


def note(text: str) -> None:
    """One line (or more) on stderr, unless --quiet."""
    if not is_quiet():
        complain(text)


def complain(text: str) -> None:
    """What has to be said on stderr even with --quiet: something that was asked for could not be done."""
    notes().print(escape_control(text), soft_wrap=True)


def print_json(document: Any) -> None:
    """The one JSON document of a `--json` command."""
    stream = claim_stdout()
    stream.write(json.dumps(plain(document), indent=2, allow_nan=False) + "\n")
    stream.flush()


def plain(node: Any) -> Any:
    """Plain JSON data: dataclasses as objects, numpy scalars as numbers, NaN and infinities as null."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {field.name: plain(getattr(node, field.name)) for field in dataclasses.fields(node)}
    if isinstance(node, Mapping):
        return {str(key): plain(child) for key, child in node.items()}
    if isinstance(node, list | tuple | set | frozenset):
        return [plain(child) for child in node]
    if isinstance(node, Path):
        return str(node)
    if hasattr(node, "tolist") and not isinstance(node, str | bytes):
        return plain(node.tolist())
    if isinstance(node, float) and not math.isfinite(node):
        return None
    return node


def escape_control(text: str) -> str:
    """Control characters shown as \\x1b and the like, so that a file name cannot drive the terminal."""
    return "".join(char if char in "\n\t" or (char.isprintable() or char == " ") else repr(char)[1:-1] for char in text)
