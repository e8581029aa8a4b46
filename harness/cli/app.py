"""The command line: arguments in, one call into a stage, a result out, an exit code.

Exit codes: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted. Nothing heavy is imported before a
command runs: `harness --help` must answer at once. This file knows commands and exit codes, never stages.
"""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from harness.cli import analysis, data, ensemble, models, predict, setup, study
from harness.cli.help import Commands, Group
from harness.cli.streams import flush_results, hoisted
from harness.errors import HarnessError, Interrupted
from harness.interrupt import catch_signals
from harness.output.terminal import COLORS, escape_control, in_color, set_manner

ORDER = ("init", "study", "ensemble", "predict", "evaluate", "data", "models", "ui", "doctor", "completion")


class _InOrder(Group):
    """Commands in the order in which a person needs them, not typer's."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name in ORDER if name in self.commands]


app = Commands(
    name="harness",
    cls=_InOrder,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Honest hyperparameter search and ensembles for image classification.",
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(study.app, name="study")
study.app.command("ablate", short_help="What each setting of a trial gives.")(analysis.ablate)
study.app.command("importance", short_help="Which searched keys made the difference.")(analysis.importance)
study.app.command("plots", short_help="A search's plots, as one page.")(analysis.plots)
study.app.command("report", short_help="Everything about a study, as one page.")(analysis.report)
study.app.command("compare", short_help="Is one study or trial better than another?")(analysis.compare)
study.app.command("schema", short_help="For editors: completes and checks a study file.")(setup.schema)
app.add_typer(ensemble.app, name="ensemble")
ensemble.app.command("register", short_help="A bundle as a model in MLflow.")(ensemble.register)
ensemble.app.command("diagram", short_help="How a bundle answers, as a flowchart.")(ensemble.diagram)
app.add_typer(data.app, name="data")
app.add_typer(models.app, name="models")
app.command("init", short_help="A first study file for a folder of images.")(setup.init)
app.command("predict", short_help="Probabilities for new images.")(predict.predict)
app.command("evaluate", short_help="An ensemble on another data set.")(predict.evaluate)
app.command("ui", short_help="MLflow's pages: trials to sort and compare.")(setup.ui)
app.command("doctor", short_help="What this machine has, and what to type next.")(setup.doctor)
app.command("completion", short_help="Completion for bash, zsh and fish.")(setup.completion)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        from harness.hardware import commit

        typer.echo(f"harness {version('harness')} (commit {commit()})")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Results and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Each fold too, and what libraries log.")] = False,
    color: Annotated[
        str, typer.Option("--color", metavar="WHEN", help=f"{', '.join(COLORS)}; auto heeds NO_COLOR and FORCE_COLOR.")
    ] = "auto",
) -> None:
    # Options of the program itself, which may also stand after a command; everything else belongs to a command.
    del version
    set_manner(quiet, verbose, color)


def main() -> None:
    """Entry point of the program."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code."""
    catch_signals()
    set_manner()
    if sys.stderr is None:  # started with stderr closed
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        code = _invoke(hoisted(arguments))
        flush_results()
        return code
    except BrokenPipeError:
        # The reader of our output has had enough (`harness study list | head -1`): that is not a failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", Interrupted.exit_code)
    except HarnessError as error:
        return _fail(str(error), error.exit_code)
    except Exception as error:
        return _fail(_unexpected(error), 1)


def _invoke(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    if asked := os.environ.get("_HARNESS_COMPLETE"):
        from harness.cli.options import answer

        return answer(command, asked)
    try:
        with command.make_context("harness", arguments) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    except Exception as error:
        # typer's own usage errors, whichever click it carries: message, hint, and the code 2.
        if hasattr(error, "format_message") and hasattr(error, "show"):
            from harness.cli.usage import explain

            said = explain(error, command)
            error.format_message = lambda: said
            error.show()
            return 2
        raise
    return 0


def _fail(message: str, code: int) -> int:
    if os.environ.get("HARNESS_DEBUG") == "1":
        import traceback

        traceback.print_exc()
    try:
        flush_results()
        label = "" if code == 130 else "\x1b[1;31merror:\x1b[0m " if in_color(sys.stderr) else "error: "
        sys.stderr.write(f"{label}{escape_control(message)}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    return code


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{place}"
    text = str(error).strip() or "no message"
    return f"{type(error).__name__}: {text}\nThis is not expected. HARNESS_DEBUG=1 shows where it happened."
