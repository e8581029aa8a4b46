"""Commands of ensembles: build, list, show, register, diagram.

harness ensemble: build, list, show.

harness ensemble register, diagram: what can be done with a bundle that was built.
"""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.cli.help import Commands
from harness.cli.options import Bundle, Json, methods, studies
from harness.cli.streams import claim_stdout, print_json, results, show, show_command
from harness.output.result import plain

if TYPE_CHECKING:
    from harness.store.home import Home
    from harness.track.mlflow_registry import Registered

SHORT = {"test": "test", "nested_full": "nested full", "none": "nothing"}
"""what an ensemble is judged on, in a table"""
app = Commands(help="Combine the saved checkpoints of a study.")


@app.command("build", short_help="Fit, score on the test split, save as a bundle.")
def build(
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="METHOD",
            autocompletion=methods,
            help="How members are combined: mean (the default), greedy, stacking, ... (an unknown one lists them), or "
            "all.",
        ),
    ] = None,
    study: Annotated[
        list[str] | None,
        typer.Option(
            "--study",
            metavar="NAME",
            autocompletion=studies,
            help="The study; repeat it for members of several. Left out: the newest completed one.",
        ),
    ] = None,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="Members: each study's N best trials.")] = 5,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="Left out: the study's seed.")] = None,
    resamples: Annotated[
        int, typer.Option("--resamples", metavar="N", min=2, help="bagging-retrained: networks to train.")
    ] = 10,
    decide: Annotated[
        str | None,
        typer.Option("--decide", metavar="RULE", help="youden, argmax, sensitivity=.95, specificity=.95, cost=.1."),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu or cuda.")] = "auto",
    register: Annotated[
        bool, typer.Option("--register/--no-register", help="As a new version of a model in MLflow: no second copy.")
    ] = True,
    reference: Annotated[
        bool, typer.Option("--reference/--no-reference", help="Keep what usual images look like, to tell foreign ones.")
    ] = True,
    nested: Annotated[
        str,
        typer.Option(
            "--nested",
            metavar="full",
            help="full: train the members again without each pair of folds, for honest scores without a test split.",
        ),
    ] = "cross-fitted",
    json: Json = False,
) -> None:
    """Fit an ensemble out-of-fold, score it on the held-out test split, save it as a bundle.

    Beside it always stand the simple mean of the same members and the best single member. Without --method the
    mean is built; with --method all, every method stands in one table, with the recommended one below it. No backbone
    is trained, but by --nested full, and for bagging-retrained, which `all` leaves out.
    """
    claim_stdout()
    from harness.cli.ensemble_tables import show_scores, show_trust
    from harness.ensemble.results import make
    from harness.output.tables import short_path
    from harness.store.home import open_home

    made = make(open_home(), method, study or (), top, seed, resamples, decide, device, register, reference, nested)
    built, registered, document = made.built, made.registered, made.document
    if json:
        print_json(document)
        return
    show_scores(plain(document))
    if len(built.results) == 1:
        show_trust(document)
    if len(built.results) == 1:
        show("\nSaved as")
        show_command(short_path(built.results[0].bundle))
        named = registered.get(built.results[0].bundle)
        if named is not None:
            show(f"    in MLflow as {named.name}, version {named.version}")
    else:
        names = ", ".join(result.bundle.name for result in built.results)
        show(f"\nSaved in {short_path(built.results[0].bundle.parent)}: {names}")
    best = next((one for one in built.results if one.method == one.recommended), built.results[0])
    show("Next:")
    show_command(f"harness predict {best.study}/{best.bundle.name} IMAGE_OR_FOLDER...")
    show_command("harness ui  # to see it beside the trials")


@app.command("list")
def list_(
    study: Annotated[
        str | None, typer.Option("--study", metavar="NAME", autocompletion=studies, help="Only this study's.")
    ] = None,
    json: Json = False,
) -> None:
    """The ensembles that were built, oldest first."""
    claim_stdout()
    from harness.ensemble.results import saved_bundles, saved_document
    from harness.output.format import interval
    from harness.output.tables import numbers_of, table
    from harness.store.home import open_home
    from harness.store.records import require_study
    from harness.types import Interval

    home = open_home()
    if study:
        require_study(home, study)
    bundles = saved_bundles(home, study)
    if json:
        print_json([saved_document(path, about) for path, about in bundles])
        return
    if not bundles:
        show("No ensemble yet. Type: harness ensemble build")
        return
    rows = []
    for path, about in bundles:
        row = next(row for row in about["scores"] if row["kind"] == "ensemble")
        on = about["judged_on"]
        score = None if on == "none" else (row[on] or {}).get(about["metric"])
        text = "-" if score is None else interval(Interval(**numbers_of(score)))
        word = about["delta_vs_mean"]["verdict"] if about["method"] != "mean" else ""
        judge = SHORT[on] if on == "none" else f"{about['metric']}, {SHORT[on]}"
        known = word if word in ("better", "worse") else "-"
        rows.append([f"{path.parent.name}/{path.name}", text, judge, known])
    show(table(["bundle", "score [95%]", "judged by", "vs mean"], rows, width=results().width))
    show("\nType: harness ensemble show BUNDLE, or harness predict BUNDLE IMAGE_OR_FOLDER...")


@app.command("show")
def show_(
    bundle: Bundle,
    json: Json = False,
) -> None:
    """What an ensemble is made of and how well it did."""
    claim_stdout()
    from harness.cli.ensemble_tables import show_scores, show_trust
    from harness.ensemble.results import find_saved, saved_document
    from harness.store.home import open_home

    document = saved_document(*find_saved(open_home(), bundle))
    if json:
        print_json(document)
    else:
        show_scores(document)
        show_trust(document)


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
