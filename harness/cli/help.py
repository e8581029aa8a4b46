"""What --help shows of each command: its options in groups where they are many, and examples to copy.

Knows typer and the table of examples; knows no command.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

MANY = 8
"""options from which on they are shown in groups"""
GROUPS = {
    "What": ("--study", "--method", "--set", "--as", "--top", "--trial", "--factor", "--seeds", "--member", "--fold"),
    "How": ("--seed", "--resamples", "--decide", "--abstain", "--raw", "--per", "--tta", "--reference"),
    "Labelled data": ("--data", "--labels", "--map", "--by"),
    "Where it runs": ("--jobs", "--device", "--backend", "--address", "--cpus-per-trial", "--gpus-per-trial"),
    "Results": ("--json", "--out", "--csv", "--explain", "--explain-all", "--register", "--format", "--dry-run"),
}
"""options of a kind, whichever command they belong to"""


class Command(TyperCommand):
    """A command whose help ends in examples."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [re.sub(r"^\{(.*)\}(\.\.\.)?$", r"\1", piece) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        grouped: dict[str, list[tuple[str, str]]] = {}
        params = self.get_params(ctx)
        many = sum(param.param_type_name == "option" for param in params) > MANY
        for param in params:
            record = param.get_help_record(ctx)
            if record is not None:
                is_option = param.param_type_name == "option"
                group = (_group(param.opts) if many else "Options") if is_option else "Arguments"
                name = record[0] if is_option else record[0].split(" <")[0]  # its type in Python helps nobody
                grouped.setdefault(group, []).append((name, record[1]))
        for group in sorted(grouped, key=["Arguments", *GROUPS, "Options"].index):
            with formatter.section(group):
                formatter.write_dl(grouped[group])

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(ctx, formatter)


class Group(TyperGroup):
    """A command with commands in it, whose help ends in examples, too."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_examples(ctx, formatter)


class Commands(typer.Typer):
    """A group whose commands all have such help."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"cls": Group, "no_args_is_help": True, **settings})

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        return super().command(name, **{"cls": Command, **settings})


def _group(names: list[str]) -> str:
    return next((group for group, known in GROUPS.items() if any(name in known for name in names)), "Options")


def _write_examples(ctx: Any, formatter: Any) -> None:
    from harness.cli.examples import EXAMPLES

    examples = EXAMPLES.get(ctx.command_path.removeprefix("harness").strip(), ())
    if not examples:
        return
    with formatter.section("Examples"):
        for example in examples:
            indent = " " * formatter.current_indent
            for line in broken(example, formatter.width - len(indent)):
                formatter.write(f"{indent}{line}\n")


def broken(command: str, width: int) -> Iterator[str]:
    """A command in lines that a shell reads as one, each no longer than `width` where its words allow that."""
    line = ""
    for part in _parts(command):
        if line and len(line) + 1 + len(part) + 2 > width:
            yield f"{line} \\"
            line = f"    {part}"
        else:
            line = f"{line} {part}" if line else part
    yield line


def _parts(command: str) -> list[str]:
    """Its words; an option and its value, or > and a file, are one."""
    found: list[str] = []
    for word in shlex.split(command, posix=False):
        leads = bool(found) and found[-1].startswith(("-", ">")) and " " not in found[-1]
        if leads and not word.startswith(("-", ">")):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found
