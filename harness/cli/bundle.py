"""harness ensemble register, diagram: what can be done with a bundle that was built."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.cli.options import Bundle
from harness.cli.output import claim_stdout, print_json, show, show_command
from harness.cli.study import Json

if TYPE_CHECKING:
    from harness.store.home import Home
    from harness.track.mlflow_registry import Registered


def register(
    bundle: Bundle,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Of the model; left out: harness-STUDY-METHOD.")
    ] = None,
    json: Json = False,
) -> None:
    """Make a bundle the next version of a model in MLflow's registry, to be served over HTTP.

    `harness ensemble build` does it by itself. No second copy of a checkpoint is made.
    """
    claim_stdout()
    from harness.ensemble.bundle import load_bundle
    from harness.ensemble.results import register as register_bundle
    from harness.predict.predict import find_bundle
    from harness.store.home import open_home

    home = open_home()
    path = find_bundle(bundle, home)
    load_bundle(path)  # a stranger's is checked before it is served
    found = register_bundle(home, path, name)
    if json:
        print_json({"name": found.name, "version": found.version})
        return
    show(f"Registered as {found.name}, version {found.version}.")
    if found.copied:
        show(f"{found.copied / 2**20:.0f} MB had to be copied: no hard links lead from the bundle to the home.")
    show_serving(home, found)


def show_serving(home: "Home", found: "Registered") -> None:
    show("Serve it:")
    show_command(f"export MLFLOW_TRACKING_URI={home.mlflow_uri}")
    show_command(f"mlflow models serve -m models:/{found.name}/{found.version} --env-manager local --port 5001")


def diagram(
    bundle: Bundle,
    format_: Annotated[Literal["mermaid", "plantuml"], typer.Option("--format", help="Language.")] = "mermaid",
) -> None:
    """How a bundle answers, as a flowchart: decoding, members, method, calibration, decision."""
    stream = claim_stdout()
    from harness.ensemble.bundle import ensemble_diagram
    from harness.ensemble.bundle_files import read_about
    from harness.models.diagram import mermaid, plantuml
    from harness.predict.predict import find_bundle
    from harness.store.home import open_home

    drawing = ensemble_diagram(*read_about(find_bundle(bundle, open_home())))
    stream.write(mermaid(drawing) if format_ == "mermaid" else plantuml(drawing))
