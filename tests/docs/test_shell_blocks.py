"""Every command of the documentation is one that the program knows; the slow test runs them all."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer
from shell_blocks import Block, commands, inline_commands, shell_blocks, stray_commands

from harness.cli.app import app
from harness.config.load import list_study_files

NOT_RUN = {
    "CONTRIBUTING.md": 2,
    "bundles.md": 2,
    "cluster.md": 6,
    "container.md": 3,
    "tutorial.md": 1,
}
"""blocks that only a person can run: one more is one more that may grow stale"""


def parse(arguments: list[str]) -> tuple[str, dict[str, Any]]:
    """The command that these arguments reach and its options. Raises what the program would show."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("harness", list(arguments), resilient_parsing=False)
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        if not rest:  # `harness study` is a command to look at
            return context.command_path, {}
        name, command, rest = command.resolve_command(context, rest)
        if rest in (["--help"], []) and hasattr(command, "commands"):
            return f"{context.command_path} {name}", {}
        if rest == ["--help"]:
            return f"{context.command_path} {name}", {}
        context = command.make_context(name, rest, parent=context)
    return context.command_path, context.params


def problem(arguments: list[str]) -> str | None:
    try:
        parse(arguments)
    except typer.Exit:
        return None
    except Exception as error:
        return str(error.format_message()) if hasattr(error, "format_message") else repr(error)
    return None


BLOCKS = shell_blocks()


def test_the_check_finds_what_it_should() -> None:
    assert len(BLOCKS) >= 25
    assert sum(len(commands(block.text)) for block in BLOCKS) >= 40
    assert problem(["study", "run", "x", "--jbos", "2"]) is not None
    assert problem(["study", "rnu", "x"]) is not None
    assert problem(["ensemble", "build", "--top", "many"]) is not None
    assert problem(["predict", "a/b", "scans/", "--tta", "2"]) is None
    assert commands("find . | harness predict a - --json > x  # said\nexport A=1") == [["predict", "a", "-", "--json"]]


def test_every_command_in_a_block_parses() -> None:
    found = {
        f"{block.page}:{block.line}: harness {' '.join(arguments)}": problem(arguments)
        for block in BLOCKS
        for arguments in commands(block.text)
    }
    assert {command: said for command, said in found.items() if said} == {}


def test_every_command_in_running_text_parses() -> None:
    """A command without its arguments (`harness data audit`) only names it; its options have to exist all the same."""
    found = inline_commands()
    assert len(found) > 40
    wrong = {f"{page}: harness {' '.join(arguments)}": problem(arguments) for page, arguments in found}
    assert {command: said for command, said in wrong.items() if said and not said.startswith("Missing")} == {}


def test_every_study_that_a_command_runs_is_shipped() -> None:
    shipped = {path.stem for path in (Path(__file__).parents[2] / "studies").glob("*.yaml")}
    assert shipped <= {path.stem for path in list_study_files()}
    made = {"tutorial.md": {"my-images"}}
    checked = 0
    for block in BLOCKS:
        for arguments in commands(block.text):
            if arguments[:2] == ["study", "run"]:
                checked += 1
                name = arguments[2].removesuffix(".yaml").removeprefix("studies/")
                assert name in shipped | made.get(block.page, set()), (block.page, block.line, arguments)
    assert checked >= 4


def test_commands_stand_in_shell_blocks() -> None:
    assert stray_commands() == []


def test_what_is_not_run_has_a_reason_and_is_counted() -> None:
    assert Counter(block.page for block in BLOCKS if block.reason) == NOT_RUN
    for block in BLOCKS:
        assert not block.reason or len(block.reason.split()) >= 3, block


RUN = sorted({block.page for block in BLOCKS if not block.reason})


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", RUN)
def test_every_block_of_the_page_runs(page: str, documented_place: Any) -> None:
    """As one script in one folder, as a reader would; studies of the shipped names are small there (conftest.py)."""
    blocks: list[Block] = [block for block in BLOCKS if block.page == page and not block.reason]
    done = documented_place.run(page, "\n".join(block.text for block in blocks))
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
