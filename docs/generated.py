"""Pages, and parts of pages, that are made from the program itself, so that they cannot grow stale.

    python docs/generated.py      writes all of them; tests/test_docs.py compares

Parts stand between `<!-- NAME:begin -->` and `<!-- NAME:end -->` of a page that is written by hand.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "harness"

COMMANDS_HEAD = """# Commands

This page is made from the program's own help (`python docs/generated.py`). `harness COMMAND --help` says the same.

Results go to stdout, progress and messages to stderr; `--json` prints one JSON document on stdout and nothing
else there. Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted.
"""


def commands() -> Iterator[tuple[str, Any, Any]]:
    """(full name, command, its context) of every command that does something, in the order of the help."""
    import typer

    from harness.cli.app import app

    def walk(name: str, command: Any, parent: Any) -> Iterator[tuple[str, Any, Any]]:
        context = command.context_class(command, info_name=name.split()[-1], parent=parent)
        if hasattr(command, "commands"):
            for each in command.list_commands(context):
                yield from walk(f"{name} {each}", command.commands[each], context)
        else:
            yield name, command, context

    yield from walk("harness", typer.main.get_command(app), None)


def command_page() -> str:
    """docs/commands.md: what each command is for, and its options."""
    lines = [COMMANDS_HEAD]
    for name, command, context in commands():
        usage = " ".join(command.collect_usage_pieces(context))
        lines += [f"## {name}", "", "```text", f"{name} {usage}", "```", "", *_help(command.help or "")]
        lines += _help(command.epilog or "")
        rows = [
            record for record in (param.get_help_record(context) for param in command.get_params(context)) if record
        ]
        if rows:
            lines += ["| option | meaning |", "|---|---|"]
            lines += [f"| `{_cell(left)}` | {_prose(right)} |" for left, right in rows if "--help" not in left]
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _prose(text: str) -> str:
    """Help text inside Markdown: its angle brackets, stars and pipes are themselves; [default: ...] stands apart."""
    plain = _cell(text).replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_").replace("$", "\\$")
    return plain.replace("[", "\\[").replace("]", "\\]")


def _help(text: str) -> list[str]:
    """Paragraphs as Markdown; what the program shows line by line (behind a \\b) as a block."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        if not paragraph.strip():
            continue
        if "\b" in paragraph:
            body = paragraph.replace("\b", "").strip("\n").splitlines()
            indent = min((len(line) - len(line.lstrip()) for line in body if line.strip()), default=0)
            lines += ["```text", *(line[indent:].rstrip() for line in body), "```", ""]
        else:
            lines += [_prose(paragraph), ""]
    return lines


def room_imports(package: Path = PACKAGE) -> dict[str, set[str]]:
    """The rooms (folders of the package) that each room imports from, wherever in a file the import stands."""
    rooms = {folder.name for folder in package.iterdir() if (folder / "__init__.py").is_file()}
    known: dict[str, set[str]] = {room: set() for room in sorted(rooms)}
    for file in package.rglob("*.py"):
        here = file.relative_to(package).parts[0]
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            for module in modules:
                parts = module.split(".")
                if parts[0] == "harness" and len(parts) > 1 and here in rooms and parts[1] in rooms - {here}:
                    known[here].add(parts[1])
    return known


def without_detours(known: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Arrows that do not follow from a way over other rooms: the transitive reduction of a graph without circles."""

    def beyond(room: str) -> set[str]:
        return {further for there in known[room] for further in known[there] | beyond(there)}

    return [(here, there) for here in known for there in sorted(known[here] - beyond(here))]


def rooms() -> str:
    arrows = without_detours(room_imports())
    names = sorted({name for pair in arrows for name in pair})
    lines = ["```mermaid", "flowchart TB", *(f'    {name}["{name}/"]' for name in names)]
    return "\n".join([*lines, *(f"    {here} --> {there}" for here, there in arrows), "```"])


def backbone() -> str:
    """What `harness models diagram resnet10t --channels 1 --size 64` prints."""
    from harness.models.backbones import resolve
    from harness.models.diagram import diagram, mermaid
    from harness.models.network import outline

    drawing = diagram(outline("resnet10t", 2, 1, 64), resolve("resnet10t").name, 1, 64, 1)
    return f"```mermaid\n{mermaid(drawing).rstrip()}\n```"


def study_page() -> str:
    from harness.config.reference import reference_page

    return reference_page()


PAGES: dict[str, Callable[[], str]] = {"commands.md": command_page, "study-file.md": study_page}
PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "rooms": ("architecture.md", rooms),
    "backbone": ("architecture.md", backbone),
}


def with_part(page: str, name: str, text: str) -> str:
    """The page with `text` between the part's markers."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page lacks {begin} or {end}")
    return f"{head}{begin}\n{text}\n{end}{tail}"


def generated() -> dict[str, str]:
    """Every generated page, and every page with a generated part, as it should be."""
    found = {name: made() for name, made in PAGES.items()}
    for name, (page, made) in PARTS.items():
        found[page] = with_part(found.get(page) or (DOCS / page).read_text(), name, made())
    return found


if __name__ == "__main__":
    for name, text in generated().items():
        (DOCS / name).write_text(text)
