"""harness data: what a study would read, how it is divided, what is wrong with it, what the model would be shown."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.output import claim_stdout, note, print_json, show
from harness.cli.study import Json, Quiet, Sets

if TYPE_CHECKING:
    from harness.data.prepare import Prepared
    from harness.study.load import Study

app = typer.Typer(help="The images and labels of a study.", no_args_is_help=True)

StudyName = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A study's name, or the path of its YAML file.")]


@app.command("scan")
def scan(name: StudyName, set_: Sets = None, json: Json = False, quiet: Quiet = False) -> None:
    """Read every image and label of a study, check them, divide them into folds, and keep the decoded pixels."""
    claim_stdout()
    study, prepared = _prepare(name, set_, quiet)
    document = _document(study, prepared)
    if json:
        print_json(document)
        return
    show(f"{document['rows']} images of {document['groups']} groups in {study.spec.data.root}\n")
    _show_folds(document)
    _show_findings(document["findings"])
    show(f"\nNext: harness study run {name}")


@app.command("show")
def show_(name: StudyName, set_: Sets = None, json: Json = False, quiet: Quiet = False) -> None:
    """How many images of each class stand in each fold and in the test split."""
    claim_stdout()
    study, prepared = _prepare(name, set_, quiet)
    document = _document(study, prepared)
    if json:
        print_json(document)
    else:
        _show_folds(document)


@app.command("audit")
def audit(name: StudyName, set_: Sets = None, json: Json = False, quiet: Quiet = False) -> None:
    """Look for what makes scores lie: groups in two parts, duplicates, conflicting labels, shortcuts.

    Exit code 2 when a finding blocks the study.
    """
    claim_stdout()
    raise NotImplementedError
