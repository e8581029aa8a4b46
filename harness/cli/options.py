"""Arguments that commands share, and their completion.

Arguments that several commands share, each with what a shell may offer for it.

What a shell offers where a name is wanted: studies, bundles, backbones, keys and their values.

Called while somebody types, so it imports little, and nothing that goes wrong here may be seen.
"""

from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Annotated

import typer

Offer = Callable[[str], list[str]]
BASH = r"""_harness() {
    local line=${COMP_LINE:0:COMP_POINT} IFS=$' \t\n'
    local words=($line) at reply
    at=$((${#words[@]} - 1))
    [[ $line == *[[:space:]] ]] && at=${#words[@]}
    local word=${words[at]:-}
    IFS=$'\n'
    COMPREPLY=($(COMP_WORDS="$line" COMP_CWORD=$at _HARNESS_COMPLETE=complete_bash "$1" 2>/dev/null))
    # bash takes what stands behind = and : for a word of its own
    [[ $word == *[=:]* ]] && COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*[=:]}"}"}")
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=/] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o default -F _harness harness
"""
WHERE = {
    "bash": "~/.local/share/bash-completion/completions/harness",
    "zsh": "~/.zfunc/_harness",
    "fish": "~/.config/fish/completions/harness.fish",
}
"""where each shell looks; zsh needs fpath+=~/.zfunc before compinit in ~/.zshrc"""


def script(shell: str) -> str:
    """What a shell has to read for completion."""
    if shell == "bash":
        return BASH
    from typer._completion_shared import get_completion_script

    return get_completion_script(prog_name="harness", complete_var="_HARNESS_COMPLETE", shell=shell) + "\n"


def answer(command: object, instruction: str) -> int:
    """Answer a shell that asks what could come next (the variable _HARNESS_COMPLETE)."""
    from typer._completion_classes import completion_init
    from typer.completion import shell_complete

    completion_init()
    return shell_complete(command, {}, "harness", "_HARNESS_COMPLETE", instruction)  # type: ignore[arg-type]


def _quiet(offer: Offer) -> Offer:
    """Names that begin with what is typed; none where anything is wrong."""

    @wraps(offer)
    def call(incomplete: str) -> list[str]:
        try:
            return [name for name in offer(incomplete) if name.startswith(incomplete)]
        except Exception:  # a broken study file or home is told by the command itself
            return []

    return call


@_quiet
def study_files(incomplete: str) -> list[str]:
    """Studies that can be run, and YAML files."""
    from harness.config.load import list_study_files

    return [*(path.stem for path in list_study_files()), *_files(incomplete)]


@_quiet
def studies(incomplete: str) -> list[str]:
    """Studies that ran."""
    return [path.parent.name for path in sorted(_home().glob("work/*/study.json"))]


@_quiet
def sides(incomplete: str) -> list[str]:
    """Studies, and behind the slash their trials."""
    name, slash, _ = incomplete.partition("/")
    if not slash:
        return studies(incomplete)
    return [f"{name}/{int(path.stem)}" for path in sorted(_home().glob(f"work/{name}/trials/[0-9]*[0-9].json"))]


@_quiet
def bundles(incomplete: str) -> list[str]:
    """STUDY/NAME of every finished ensemble."""
    return sorted(f"{done.parent.parent.name}/{done.parent.name}" for done in _home().glob("bundles/*/[!.]*/DONE"))


@_quiet
def backbones(incomplete: str) -> list[str]:
    from harness.models.catalog import known_rows

    names = [row.name for row in known_rows()]
    return names if "/" in incomplete else [*dict.fromkeys(name.rpartition("/")[2] for name in names), *names]


@_quiet
def families(incomplete: str) -> list[str]:
    from harness.models.catalog import known_rows

    return sorted({row.family for row in known_rows()})


@_quiet
def methods(incomplete: str) -> list[str]:
    from harness.ensemble.names import KNOWN

    return [*KNOWN, "all"]


@_quiet
def settings(incomplete: str) -> list[str]:
    """Keys of the study file, each with its =, and behind that the values that a key may have."""
    from harness.config.reference import key_values

    key, equals, _ = incomplete.partition("=")
    values = key_values()
    if not equals:
        return [f"{name}=" for name in values]
    known: Iterable[str] = backbones("") if key == "model.backbone" else values.get(key, ())
    return [f"{key}={value}" for value in known]


def _home() -> Path:
    import os

    return Path(os.environ.get("HARNESS_HOME") or "mlruns")


def _files(incomplete: str) -> list[str]:
    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    found = [path for path in folder.glob("*") if path.is_dir() or path.suffix in (".yaml", ".yml")]
    return [f"{path}/" if path.is_dir() else str(path) for path in sorted(found)] if incomplete else []


Bundle = Annotated[
    str,
    typer.Argument(metavar="BUNDLE", autocompletion=bundles, help="STUDY/NAME (harness ensemble list), or a folder."),
]
Backbone = Annotated[
    str,
    typer.Argument(metavar="NAME", autocompletion=backbones, help="A backbone, as `harness models list` names it."),
]
StudyFile = Annotated[
    str,
    typer.Argument(
        metavar="NAME|FILE", autocompletion=study_files, help="A study's name, or the path of its YAML file."
    ),
]
NewestStudy = Annotated[
    str | None,
    typer.Argument(metavar="[NAME]", autocompletion=studies, help="The study; left out: the newest completed one."),
]


Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        autocompletion=settings,
        help="Set one key of the study file, e.g. optim.lr=1e-3. Repeatable.",
    ),
]
Jobs = Annotated[int, typer.Option("--jobs", metavar="N", min=1, help="Trials trained at the same time.")]
Device = Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu, cuda, or cuda:0,cuda:1.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
