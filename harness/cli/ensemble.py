"""harness ensemble: build, list, show."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.output import claim_stdout, note, print_json, show

if TYPE_CHECKING:
    from harness.home import Home

app = typer.Typer(help="Ensembles over the saved fold checkpoints of a study.", no_args_is_help=True)


class Method(StrEnum):
    mean = "mean"
    bagging = "bagging"
    boosting = "boosting"
    stacking = "stacking"


@app.command("build")
def build(
    method: Annotated[Method, typer.Option("--method", help="How members are combined.")],
    study: Annotated[
        str | None, typer.Option("--study", metavar="NAME", help="The study; left out: the newest completed one.")
    ] = None,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="Members: the N best trials.")] = 5,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", min=0, help="Left out: the study's seed.")] = None,
    device: Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu or cuda.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Fit an ensemble out-of-fold, score it on the held-out test split, save it as a bundle.

    Beside it always stand the simple mean of the same members and the best single member. No backbone is trained.
    """
    claim_stdout()
    from harness.cli.progress import step_progress
    from harness.home import open_home
    from harness.ledger import require_study

    home = open_home()
    record = require_study(home, study)
    if study is None:
        note(f"study {record.name} (the newest completed one)")
    with step_progress(quiet) as progress:
        from harness.ensemble.build import build as build_ensemble

        use_seed = record.tree["seed"] if seed is None else seed
        result = build_ensemble(home, record, method.value, top, use_seed, device, progress)
    if json:
        print_json(
            {
                "study": result.study,
                "method": result.method,
                "metric": result.metric,
                "bundle": result.bundle,
                "members": result.members,
                "scores": result.rows,
                "delta_vs_single": result.delta_vs_single,
                "delta_vs_mean": result.delta_vs_mean,
            }
        )
    else:
        _show_result(result)


def _show_result(result: Any) -> None:
    from harness.cli.tables import is_higher_better, scores_table, short_path
    from harness.cli.words import difference

    higher = is_higher_better(result.metric)
    members = ", ".join(str(number) for number in result.members)
    show(f"study {result.study}, {result.method} of trial{'s' if len(result.members) > 1 else ''} {members}\n")
    show(scores_table(result.rows, result.metric))
    show(f"\n{result.method} against the others, {result.metric} on the test split, paired:")
    show(f"  {difference(result.delta_vs_single, 'the best single model', higher)}")
    show(f"  {difference(result.delta_vs_mean, 'the simple mean', higher)}")
    bundle = short_path(result.bundle)
    show(f"\nSaved as {bundle}. Next:")
    show(f"  harness predict {bundle} IMAGE_OR_FOLDER...")
    show("  harness ui      to see it beside the trials")


def _bundles(home: "Home", study: str | None) -> list[dict[str, Any]]:
    """Every finished bundle of one study or of all, as `ensemble list --json` shows them."""
    from harness.home import is_done, read_json

    folders = [home.bundles(study)] if study else sorted(home.bundles("x").parent.glob("*"))
    found = []
    for folder in folders:
        for bundle in sorted(folder.glob("*")) if folder.is_dir() else []:
            if is_done(bundle):
                about = read_json(bundle / "bundle.json")
                found.append({"study": folder.name, "name": bundle.name, "bundle": bundle, "about": about})
    return found


@app.command("list")
def list_(
    study: Annotated[str | None, typer.Option("--study", metavar="NAME", help="Only this study's.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """The ensembles that were built."""
    claim_stdout()
    raise NotImplementedError
