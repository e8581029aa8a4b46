"""harness ensemble: build, list, show."""

from typing import Annotated

import typer

from harness.cli.complete import methods, studies
from harness.cli.help import Commands
from harness.cli.options import Bundle
from harness.cli.output import claim_stdout, print_json, results, show, show_command
from harness.cli.study import Json
from harness.ensemble.results import find_saved, make, saved_bundles, saved_document
from harness.output.result import plain

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
    from harness.cli.ensemble_tables import show_scores
    from harness.cli.trust import show_trust
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
    from harness.cli.ensemble_tables import show_scores
    from harness.cli.trust import show_trust
    from harness.store.home import open_home

    document = saved_document(*find_saved(open_home(), bundle))
    if json:
        print_json(document)
    else:
        show_scores(document)
        show_trust(document)
