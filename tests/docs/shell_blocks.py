"""The shell blocks of the documentation, each with its place and, where it is not run, the reason that stands there."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = {"commands.md"}  # shows usage, not commands to copy
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    text: str
    reason: str
    """why it is not run; empty where it is"""


def shell_blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for fence in FENCE.finditer(text):
            language, _, rest = fence["info"].partition(" ")
            if language == "sh":
                line = text.count("\n", 0, fence.start()) + 1
                found.append(Block(page.name, line, fence["text"], rest.removeprefix("not-run:").strip()))
    return found


def stray_commands() -> list[str]:
    """Lines that look like commands of harness outside of shell blocks: nobody would check them."""
    found = []
    for page in PAGES:
        if page.name in GENERATED:
            continue
        outside = FENCE.sub(
            lambda fence: "" if fence["info"].startswith(("sh", "text")) else fence[0], page.read_text()
        )
        found += [f"{page.name}: {line}" for line in re.findall(r"^(?: {4})?harness [a-z].*$", outside, re.MULTILINE)]
    return found


def commands(text: str) -> list[list[str]]:
    """The harness commands of a script, as lists of arguments: after pipes, too, without redirections and comments."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("#"):
            continue
        words = list(shlex.shlex(line, posix=True, punctuation_chars="|>;")) if "harness" in line else []
        words = shlex.split(line, comments=True) if words else []
        for start, word in enumerate(words):
            if word == "harness":
                rest = words[start + 1 :]
                ends = [place for place, other in enumerate(rest) if other in ("|", ">", ">>", "2>", ";", "&&", "&")]
                found.append(rest[: ends[0]] if ends else rest)
    return found


def inline_commands() -> list[tuple[str, list[str]]]:
    """(page, arguments) of every command in running text, between backticks; those with ... are only hints."""
    found = []
    for page in PAGES:
        if page.name in GENERATED:
            continue
        prose = FENCE.sub("", page.read_text())
        for span in re.findall(r"`(harness [a-z][^`]*)`", prose):
            if "..." not in span and "[" not in span:
                found.append((page.name, ["3" if word == "N" else word for word in shlex.split(span)][1:]))
    return found
