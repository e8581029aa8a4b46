"""Every command of the program: a purpose, examples that parse, --json; completion and the schema of a study file."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
from cli_program import Place, environment

from harness.cli.app import app
from harness.cli.examples import EXAMPLES
from harness.cli.help import broken
from harness.cli.options import settings, study_files
from harness.config.load import _read, list_study_files, load_study
from harness.config.reference import study_schema
from harness.ensemble.methods import METHODS
from harness.ensemble.names import FITTED

WITHOUT_JSON = {
    "ui": "serves pages until it is stopped",
    "study reference": "prints a page, which is its result",
    "study schema": "prints JSON always",
    "ensemble diagram": "prints a drawing as text, which is its result",
    "models diagram": "prints a drawing as text, which is its result",
    "completion": "prints what a shell reads",
}
ROOT: Any = typer.main.get_command(app)


def commands(group: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    yield " ".join(path), group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


def make_context(path: str, command: Any) -> Any:
    """As the program makes it: a command's context inside those of its groups."""
    kind = type(ROOT.make_context("harness", ["doctor"]))
    context, node = kind(ROOT, info_name="harness"), ROOT
    for word in path.split():
        node = node.commands[word]
        context = kind(node, info_name=word, parent=context)
    assert node is command
    return context


LEAVES = [(path, command) for path, command in commands() if not hasattr(command, "commands")]


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[path for path, _ in LEAVES])
def test_a_command_has_a_purpose_json_and_examples_that_parse(path: str, command: Any) -> None:
    assert len(LEAVES) > 25
    purpose = command.get_short_help_str(80)
    assert purpose and not purpose.endswith("..."), "one line: give it a short_help"
    has_json = any("--json" in param.opts for param in command.params)
    assert has_json != (path in WITHOUT_JSON)
    examples = [example for example in EXAMPLES[path] if example.startswith("harness ")]
    assert 1 <= len(examples) <= 4
    for example in examples:
        words = shlex.split(example.partition(" > ")[0])
        assert words[: len(path.split()) + 1] == ["harness", *path.split()]
        command.make_context(path, words[len(path.split()) + 1 :], resilient_parsing=False)


def test_groups_have_examples_of_their_own_commands() -> None:
    groups = [path for path, command in commands() if hasattr(command, "commands")]
    assert len(groups) >= 5
    for path in groups:
        assert all(example.startswith(f"harness {path}".rstrip() + " ") for example in EXAMPLES[path]), path


@pytest.mark.parametrize("columns", ["60", "80"])
def test_help_fits_the_window(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for path, command in commands():
        lines = command.get_help(make_context(path, command)).splitlines()
        shown = [line for line in lines if "/completions/" not in line]  # a path has no blanks to break at
        assert max(map(len, shown)) <= int(columns), path
        assert "Examples:" in lines


def test_a_broken_example_is_the_same_command() -> None:
    command = "harness ensemble build --method greedy --top 10 --decide sensitivity=.95 > out"
    lines = list(broken(command, 40))
    assert len(lines) > 1 and all(len(line) <= 40 for line in lines)
    assert " ".join(line.removesuffix(chr(92)).strip() for line in lines) == command


WRONG = {
    "run tiny": "There is: harness study run",
    "stuyd": "Did you mean study?",
    "help": "Type: harness --help",
    "study run tiny --jbos 2": "Did you mean --jobs",
    "study run tiny --trials 5": "--set search.trials=VALUE",
    "study compare tiny": "For example: harness study compare my_study my_sgd",
    "models list --family resnt": "Did you mean resnet",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_line_is_told_what_to_type(words: str, place: Place) -> None:
    done = place.harness(*words.split())
    assert done.returncode == 2 and done.stdout == ""
    assert WRONG[words] in " ".join(done.stderr.split())


def test_names_of_methods_are_those_of_the_table() -> None:
    assert tuple(METHODS) == tuple(FITTED)


def test_bash_completes(place: Place, tmp_path: Path) -> None:
    """The real script in a real bash, asking the real program; words are split as bash splits them, at = too."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "harness").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m harness "$@"\n')
    (bin_ / "harness").chmod(0o755)
    (place.home / "bundles/tiny/mean-top5").mkdir(parents=True)
    (place.home / "bundles/tiny/mean-top5/DONE").touch()
    asked = {
        "harness stu": ["study"],
        "harness study run ti": ["tiny"],
        "harness predict ti": ["tiny/mean-top5"],
        "harness study run tiny --set train.sel": ["train.select="],
        "harness study run tiny --set train.select=": ["last", "inner", "scored_fold"],
        "harness ensemble build --method soup-": ["soup-greedy"],
    }
    script = ["source <(harness completion bash)"]
    for line in asked:
        script += [
            f"COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; _harness harness; (IFS=,; echo \"${{COMPREPLY[*]}}\")"
        ]
    path = f"{bin_}:{environment(place.home)['PATH']}"
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        capture_output=True,
        text=True,
        cwd=place.cwd,
        env=environment(place.home, PATH=path),
    )
    assert [line.split(",") for line in done.stdout.splitlines()] == list(asked.values()), done.stderr


def test_completion_never_raises_and_imports_little(place: Place, monkeypatch: Any) -> None:
    monkeypatch.chdir(place.cwd)
    place.study.write_text("name: [")
    assert "tiny" in study_files("")
    assert "optim.lr=" in settings("opt")
    code = "import sys, harness.cli.options as c; c.settings('optim.'); c.bundles(''); c.methods(''); c.backbones('r')"
    code += "; print(sorted({'torch', 'mlflow', 'pandas', 'sklearn', 'timm'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


VALIDATOR = jsonschema.Draft7Validator(study_schema())
REFUSED = {
    "unknown key": {"train": {"epoch": 3}},
    "unknown block": {"trian": {"epochs": 3}},
    "wrong type": {"train": {"epochs": "many"}},
    "below its least": {"train": {"epochs": 0}},
    "unknown word": {"search": {"metric": "auc"}},
    "a range where none may stand": {"data": {"root": "phantom", "group": "patient", "folds": {"int": [2, 5]}}},
    "a range of one end": {"optim": {"lr": {"float": [0.1]}}},
    "a range with an unknown part": {"optim": {"lr": {"float": [0.1, 0.2], "steps": 2}}},
    "a range beyond its key": {"model": {"dropout": {"float": [0.0, 2.0]}}},
    "a choice of no word": {"optim": {"schedule": {"choice": ["cosine", "stairs"]}}},
    "a condition on no key": {"optim": {"momentum": {"float": [0.1, 0.9], "when": {"optim.nmae": "sgd"}}}},
    "a name that is no name": {"name": "a/b"},
}


def test_the_schema_takes_every_shipped_study(place: Place) -> None:
    jsonschema.Draft7Validator.check_schema(VALIDATOR.schema)
    files = list_study_files()
    assert len(files) >= 8
    for path in [*files, place.study]:
        assert [error.message for error in VALIDATOR.iter_errors(_read(path))] == [], path
    assert json.loads(place.harness("study", "schema").stdout) == VALIDATOR.schema


@pytest.mark.parametrize("fault", REFUSED)
def test_the_schema_refuses_what_the_program_refuses(fault: str, tmp_path: Path) -> None:
    from harness.errors import RequestError

    tree = {"data": {"root": "phantom", "group": "patient"}, "search": {"trials": 1}}
    assert VALIDATOR.is_valid(tree)
    (tmp_path / "good.yaml").write_text(json.dumps(tree))
    load_study(str(tmp_path / "good.yaml"))
    wrong = {**tree, **REFUSED[fault]}
    assert not VALIDATOR.is_valid(wrong)
    (tmp_path / "wrong.yaml").write_text(json.dumps(wrong))
    with pytest.raises(RequestError):
        load_study(str(tmp_path / "wrong.yaml"))
