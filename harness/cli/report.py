"""harness study report: everything about a study, or about one of its trials, as one file."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.output import claim_stdout, print_json, show
from harness.cli.study import Device, Json
from harness.output.terminal import note


def report(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The study; left out: the newest completed one.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it there; else beside the study's records.")
    ] = None,
    trial: Annotated[int | None, typer.Option("--trial", metavar="N", help="Only this trial.")] = None,
    format_: Annotated[str, typer.Option("--format", metavar="F", help="html, or the tables as md or latex.")] = "html",
    no_images: Annotated[bool, typer.Option("--no-images", help="No picture of the data in the file.")] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """What a study asked and what came out, with its data, curves, ensembles, mistakes and cost, as one HTML file.

    It opens without a network, and MLflow's page of the study has it too. Works while the study still runs.
    """
    claim_stdout()
    from harness.output.progress import step_progress
    from harness.report.study_report import make_report
    from harness.store.home import open_home

    with step_progress() as progress:
        document = make_report(open_home(), name, out, trial, format_, not no_images, device, progress)
    if json:
        print_json(document)
        return
    show(document["answer"], *document["points"])
    show(f"\n{document['report']}")
    if format_ == "html" and not document["in_mlflow"]:
        note("MLflow does not answer, so its page of the study has not got the report.")
