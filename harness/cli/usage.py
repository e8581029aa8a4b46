"""What is said of a command line that does not parse: the nearest name, where a command of that name is, an example.

Works on the errors of typer, whichever click it carries, by their attributes. Knows no stage.
"""

from collections.abc import Iterator
from typing import Any

from harness.errors import nearest

KEYS = {
    "trials": "search.trials",
    "epochs": "train.epochs",
    "lr": "optim.lr",
    "seed": "seed",
    "folds": "data.folds",
    "backbone": "model.backbone",
    "metric": "search.metric",
    "batch-size": "train.batch_size",
}
"""what people type as options and what is a key of the study file"""


def explain(error: Any, root: Any) -> str:
    """The message of a usage error, with what to type instead."""
    said = str(error.format_message())
    said = said.replace("Value error, ", "").replace("Input should be", "it should be")  # words of typer's validation
    context = getattr(error, "ctx", None)
    path = context.command_path.removeprefix("harness").strip() if context else ""
    option = getattr(error, "option_name", None)
    if option:
        name, known = option.lstrip("-"), _options(context)
        if name in KEYS and "--set" in known:
            return f"No such option: {option}. It is a key of the study file: --set {KEYS[name]}=VALUE"
        return f"No such option: {option}.{nearest(option, known)}"
    if said.startswith("No such command"):
        wanted = said.partition("'")[2].partition("'")[0]
        places = [known for known in _paths(root) if known.rpartition(" ")[2] == wanted]
        if places:
            return f"No such command '{wanted}' here. There is: {', or '.join(f'harness {one}' for one in places)}"
        if wanted == "help":
            return f"No such command 'help'. Type: harness {path} --help".replace("  ", " ")
        return said.replace("'?", "?").replace("mean '", "mean ").replace("', '", " or ")
    if said.startswith("Missing"):
        from harness.cli.examples import EXAMPLES

        examples = EXAMPLES.get(path)
        return f"{said} For example: {examples[0]}" if examples else said
    return said


def _options(context: Any) -> list[str]:
    found = [name for param in context.command.params for name in param.opts] if context else []
    return [*found, "--help", "--quiet", "--verbose", "--color"]


def _paths(group: Any, path: str = "") -> Iterator[str]:
    """Every command of the program: 'study run', ..."""
    for name, command in group.commands.items():
        yield f"{path}{name}"
        if hasattr(command, "commands"):
            yield from _paths(command, f"{path}{name} ")
