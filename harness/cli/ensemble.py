"""harness ensemble: build, list, show."""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.output import claim_stdout, note, plain, print_json, results, show
from harness.cli.study import Json, Quiet

if TYPE_CHECKING:
    from harness.home import Home

app = typer.Typer(help="Combine the saved checkpoints of a study.", no_args_is_help=True)


class Method(StrEnum):
    mean = "mean"
    weighted = "weighted"
    greedy = "greedy"
    bagging = "bagging"
    boosting = "boosting"
    adaboost = "adaboost"
    stacking = "stacking"
    stacking_boosted = "stacking-boosted"
    stacking_levels = "stacking-levels"
    stacking_embeddings = "stacking-embeddings"
    soup = "soup"
    soup_greedy = "soup-greedy"
    bagging_retrained = "bagging-retrained"


@app.command("build")
def build(
    method: Annotated[Method, typer.Option("--method", help="How members are combined.")],
    study: Annotated[
        str | None, typer.Option("--study", metavar="NAME", help="The study; left out: the newest completed one.")
    ] = None,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="Members: the N best trials.")] = 5,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="Left out: the study's seed.")] = None,
    resamples: Annotated[
        int, typer.Option("--resamples", metavar="N", min=2, help="bagging-retrained: networks to train.")
    ] = 10,
    device: Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu or cuda.")] = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fit an ensemble out-of-fold, score it on the held-out test split, save it as a bundle.

    Beside it always stand the simple mean of the same members and the best single member. No backbone is trained,
    but for bagging-retrained.
    """
    claim_stdout()
    from harness.cli.progress import step_progress
    from harness.cli.tables import short_path
    from harness.home import open_home
    from harness.ledger import require_study

    home = open_home()
    record = require_study(home, study)
    if study is None:
        note(f"study {record.name} (the newest completed one)")
    with step_progress(quiet) as progress:
        from harness.ensemble.build import build as build_ensemble

        use_seed = record.tree["seed"] if seed is None else seed
        (result,) = build_ensemble(home, [record], [method.value], top, use_seed, device, progress, resamples)
    document = _document(vars(result), result.rows, result.members)
    if json:
        print_json(document)
        return
    _show_scores(plain(document))
    name = f"{result.study}/{result.bundle.name}"
    show(f"\nSaved as {short_path(result.bundle)}. Next:")
    show(f"  harness predict {name} IMAGE_OR_FOLDER...")
    show("  harness ui      to see it beside the trials")


def _document(about: Mapping[str, Any], rows: Any, members: list[int]) -> dict[str, Any]:
    """What `ensemble build --json` and `ensemble show --json` print."""
    same = ("study", "method", "metric", "bundle")
    deltas = ("delta_vs_single", "delta_vs_mean")
    return {
        **{name: about[name] for name in same},
        "members": members,
        "scores": rows,
        **{name: about[name] for name in deltas},
    }


def _show_scores(document: Mapping[str, Any]) -> None:
    """The table and the two comparisons, from plain JSON data."""
    from harness.cli.tables import is_higher_better, numbers_of, scores_table
    from harness.cli.words import OPTIMISTIC, difference
    from harness.records import Difference

    metric, method = document["metric"], document["method"]
    higher = is_higher_better(metric)
    members = ", ".join(str(number) for number in document["members"])
    show(f"study {document['study']}: {method} of trial{'s' if len(document['members']) > 1 else ''} {members}\n")
    show(scores_table(document["scores"], metric, results().width))
    if any(row.get("optimistic", False) for row in document["scores"]):
        show(f"\n{OPTIMISTIC}")
    show(f"\n{method} minus the others, {metric} on the test split, paired by group:")
    others = {"best single": "delta_vs_single", "simple mean": "delta_vs_mean"}
    for other, name in others.items():
        if not (method == "mean" and name == "delta_vs_mean"):
            show(f"  {other}  {difference(Difference(**numbers_of(document[name])), higher)}")


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


def _saved(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    members = [member["trial"] for member in about["members"]]
    return _document({**about, "bundle": path}, about["scores"], members)


@app.command("show")
def show_(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="STUDY/NAME (harness ensemble list), or a folder.")],
    json: Json = False,
) -> None:
    """What an ensemble is made of and how well it did."""
    claim_stdout()
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
        _show_scores(document)
