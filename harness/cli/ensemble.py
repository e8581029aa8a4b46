"""harness ensemble: build, list, show."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.output import claim_stdout, note, plain, print_json, show
from harness.cli.study import Json, Quiet

if TYPE_CHECKING:
    from harness.ensemble.build import Built
    from harness.home import Home

ALL = "all"
SAID = (
    *("scores", "delta_vs_single", "delta_vs_mean", "selection_minus_nested", "nested_minus_mean"),
    *("notes", "diversity", "contributions", "cost", "test_reads", "calibration", "decisions"),
)
"""what a bundle says of its scores, and how far to trust it"""

app = typer.Typer(help="Combine the saved checkpoints of a study.", no_args_is_help=True)


@app.command("build")
def build(
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="METHOD",
            help="How members are combined: mean, greedy, stacking, ... (an unknown one lists them), or all.",
        ),
    ],
    study: Annotated[
        list[str] | None,
        typer.Option(
            "--study",
            metavar="NAME",
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
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit an ensemble out-of-fold, score it on the held-out test split, save it as a bundle.

    Beside it always stand the simple mean of the same members and the best single member. With --method all, every
    method stands in one table. No backbone is trained, but for bagging-retrained, which `all` leaves out.
    """
    claim_stdout()
    from harness.cli.bundle import register_built
    from harness.cli.ensemble_tables import show_scores
    from harness.cli.progress import step_progress
    from harness.cli.tables import short_path
    from harness.cli.trust import show_trust
    from harness.ensemble.decisions import parse_rule
    from harness.ensemble.methods import WITHOUT_TRAINING, require_method
    from harness.home import open_home, read_json
    from harness.ledger import require_study

    rule = None if decide is None else parse_rule(decide)
    methods = list(WITHOUT_TRAINING) if method == ALL else [method]
    for name in methods:
        require_method(name)
    home = open_home()
    studies: list[str | None] = [*dict.fromkeys(study)] if study else [None]
    records = [require_study(home, name) for name in studies]
    if study is None:
        note(f"study {records[0].name} (the newest completed one)")
    with step_progress(quiet) as progress:
        from harness.ensemble.build import build as build_ensembles

        use_seed = records[0].tree["seed"] if seed is None else seed
        built = build_ensembles(home, records, methods, top, use_seed, device, progress, rule, resamples, reference)
    if built.untracked:
        note(f"MLflow shows none of this: {built.untracked}")
    registered = (
        register_built(home, [result.bundle for result in built.results]) if register and not built.untracked else {}
    )
    documents = [_saved(result.bundle, read_json(result.bundle / "bundle.json")) for result in built.results]
    document = _together(documents, built) if method == ALL else documents[0]
    if json:
        print_json(document)
        return
    show_scores(plain(document))
    if len(built.results) == 1:
        show_trust(documents[0])
    show("\nSaved as")
    for result in built.results:
        show(f"  {short_path(result.bundle)}")
        named = registered.get(result.bundle)
        if named is not None:
            show(f"    in MLflow as {named.name}, version {named.version}")
    show("Next:")
    show(f"  harness predict {built.results[0].study}/{built.results[0].bundle.name} IMAGE_OR_FOLDER...")
    show("  harness ui      to see it beside the trials")


def _saved(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """What `build --json` and `show --json` print of one ensemble, from its bundle.json."""
    same = {name: about[name] for name in ("study", "method", "metric")}
    said = {name: about[name] for name in SAID if name in about}
    return {**same, "bundle": path, "members": about["trials"], **said}


def _together(documents: list[dict[str, Any]], built: "Built") -> dict[str, Any]:
    """What `--method all` prints: the rows of all once, then each ensemble as it would stand alone."""
    from harness.ensemble.verdict import verdict_together

    first = documents[0]
    rows = [*first["scores"], *(document["scores"][-1] for document in documents[1:])]
    return {
        **{name: first[name] for name in ("study", "metric", "members", "diversity", "contributions", "test_reads")},
        "method": ALL,
        "scores": rows,
        "ensembles": documents,
        "notes": verdict_together(first["metric"], built.results),
        "refused": built.refused,
    }


def _bundles(home: "Home", study: str | None) -> list[tuple["Path", dict[str, Any]]]:
    """(folder, bundle.json) of every finished bundle, of one study or of all, oldest first."""
    from harness.errors import HarnessError
    from harness.home import is_done, read_json

    folders = [home.bundles(study)] if study else sorted(home.bundles("any").parent.glob("*"))
    found = [bundle for folder in folders for bundle in folder.glob("*") if is_done(bundle)]
    found.sort(key=lambda bundle: (bundle / "DONE").stat().st_mtime)
    read = []
    for bundle in found:
        try:
            read.append((bundle, read_json(bundle / "bundle.json")))
        except (HarnessError, OSError) as error:  # one damaged bundle does not hide the others
            note(f"left out: {error}")
    return read


@app.command("list")
def list_(
    study: Annotated[str | None, typer.Option("--study", metavar="NAME", help="Only this study's.")] = None,
    json: Json = False,
) -> None:
    """The ensembles that were built, oldest first."""
    claim_stdout()
    from harness.cli.tables import numbers_of, table
    from harness.cli.words import interval
    from harness.home import open_home
    from harness.ledger import require_study
    from harness.records import Interval

    home = open_home()
    if study:
        require_study(home, study)
    bundles = _bundles(home, study)
    if json:
        print_json([_saved(path, about) for path, about in bundles])
        return
    if not bundles:
        show("No ensemble yet. Type: harness ensemble build --method stacking")
        return
    rows = []
    for path, about in bundles:
        score = next(row for row in about["scores"] if row["kind"] == "ensemble")["test"][about["metric"]]
        text = f"{about['metric']} {interval(Interval(**numbers_of(score)))}"
        rows.append([f"{path.parent.name}/{path.name}", str(len(about["members"])), text])
    show(table(["bundle", "members", "test [95%]"], rows, right=["members"]))
    show("\nType: harness ensemble show BUNDLE, or harness predict BUNDLE IMAGE_OR_FOLDER...")


@app.command("show")
def show_(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="STUDY/NAME (harness ensemble list), or a folder.")],
    json: Json = False,
) -> None:
    """What an ensemble is made of and how well it did."""
    claim_stdout()
    from harness.cli.ensemble_tables import show_scores
    from harness.cli.trust import show_trust
    from harness.errors import RequestError, nearest
    from harness.home import open_home

    home = open_home()
    known = {f"{path.parent.name}/{path.name}": (path, about) for path, about in _bundles(home, None)}
    wanted = Path(bundle).resolve()
    found = known.get(bundle.rstrip("/")) or next((pair for pair in known.values() if pair[0] == wanted), None)
    if found is None:
        raise RequestError(
            f"no ensemble {bundle!r} in {home.root}.{nearest(bundle, known)} Known: {', '.join(known) or 'none'}."
        )
    document = _saved(*found)
    if json:
        print_json(document)
    else:
        show_scores(document)
        show_trust(document)
