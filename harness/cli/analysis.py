"""Commands on a study that has run: ablate, compare, importance, plots, report.

harness study ablate: what each setting of a trial gives.

harness study compare: two studies or two trials on the same rows.

harness study importance and plots: what a search tells of its keys. Read-only, also while the study runs.

harness study report: everything about a study, or about one of its trials, as one file.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import Device, Jobs, Json, NewestStudy, sides
from harness.cli.streams import claim_stdout, print_json, results, show, show_command
from harness.output.terminal import note

if TYPE_CHECKING:
    from rich.table import Table as Drawn

    from harness.search.ablation import Plan
    from harness.search.compare import Comparison


def ablate(
    name: NewestStudy = None,
    factor: Annotated[
        list[str] | None,
        typer.Option(
            "--factor",
            metavar="KEY",
            help="Only this factor, or all that begin so (augment); any key with values: optim.lr=1e-4,1e-3.",
        ),
    ] = None,
    trial: Annotated[int | None, typer.Option("--trial", metavar="N", help="Around this trial; else the best.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", metavar="S", help="Trainings of each arm.")] = 3,
    jobs: Jobs = 1,
    device: Device = "auto",
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the table there, too.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be trained, and end.")] = False,
    json: Json = False,
) -> None:
    """What does each setting of a trial give? One at a time is left out, or added, and trained again.

    On the study's folds, over several seeds. Only what is missing is trained; the same command goes on after an
    interruption and shows the table again.
    """
    claim_stdout()
    from harness.errors import Interrupted
    from harness.output.progress import study_listener
    from harness.search.ablation import missing, plan_ablation, train_arms
    from harness.store.home import open_home

    home = open_home()
    plan = plan_ablation(home, name, trial, factor or [], seeds)
    left = missing(plan, home)
    if dry_run:
        _show_plan(plan, left, json)
        return
    note(f"study {plan.base.name}, trial {plan.trial.number}: {left} of {len(plan.params)} trainings are missing")
    with study_listener() as listener:
        try:
            data = train_arms(plan, home, jobs, device, listener)
        except KeyboardInterrupt:
            raise Interrupted("interrupted. The same command goes on from here.") from None
    from harness.search.ablation_table import document, publish, tabulate

    table = tabulate(plan, home, data)
    publish(table, home)
    found = document(table)
    if csv is not None:
        _write_csv(found, csv)
    if json:
        print_json(found)
    else:
        _show_table(found)


def _show_plan(plan: "Plan", left: int, json: bool) -> None:
    from harness.output.format import duration, value

    seconds = left * plan.trial.seconds
    arms = [
        {"factor": arm.factor, "from": arm.before, "to": arm.after, "base": "from" if arm.base == "before" else "to"}
        for arm in plan.arms
    ]
    if json:
        print_json(
            {
                "study": plan.base.name,
                "trial": plan.trial.number,
                "ablation": plan.study.name,
                "arms": arms,
                "seeds": len(plan.seeds),
                "trainings": len(plan.params),
                "missing": left,
                "seconds": seconds,
                "not_factors": plan.not_factors,
            }
        )
        return
    show(f"study {plan.base.name}, around trial {plan.trial.number}; each arm with {len(plan.seeds)} seeds\n")
    for arm in arms:
        own = value(arm[arm["base"]])
        show(f"  {arm['factor']:24}{value(arm['from'])} -> {value(arm['to'])}   (the trial has {own})")
    show(f"\n{left} trainings are missing, about {duration(seconds)} one after the other.")
    if plan.not_factors:
        show(_not_factors(plan.not_factors))


def _not_factors(names: list[str]) -> str:
    return (
        f"Searched, but no factor without values to try: {', '.join(names)}. Such as: --factor {names[0]}=VALUE,VALUE"
    )


def _show_table(found: dict[str, Any]) -> None:
    from harness.output.format import OPTIMISTIC, number, plural, value

    metric, seeds = found["metric"], found["seeds"]
    star = "*" if found["optimistic"] else ""
    base = f"{metric} {number(found['base'])}{star}, mean over folds and {plural(seeds, 'seed')}"
    show(f"study {found['study']}, ablation of trial {found['trial']}: {base}\n")
    show(_table(found["rows"], results().width))
    for row in found["rows"]:
        if row["reason"]:
            show(f"\n{row['factor']} {value(row['from'])} -> {value(row['to'])}: {row['reason'].splitlines()[0]}")
    floor, seed_sd = number(found["noise_floor"], 4), number(found["seed_sd"], 4)
    rows = plural(len(found["rows"]), "row")
    show(
        f"\ndelta: {metric} with `to` minus with `from` (* what the trial has), 95% interval over patients and seeds; "
        f"p is Holm's, for {rows}. Noise floor {floor}: two settings that do the same differ by less than that 95% of "
        f"the time, over {plural(seeds, 'training')} each with the same seeds. Between seeds, one training's {metric} "
        f"has a standard deviation of {seed_sd}."
    )
    if found["optimistic"]:
        show(f"\n{OPTIMISTIC}")
    if found["not_factors"]:
        show(_not_factors(found["not_factors"]))
    show_command("harness ui  # to see it beside the trials")


def _table(rows: list[dict[str, Any]], width: int) -> "Drawn":
    from harness.output.format import value
    from harness.output.tables import table

    body = []
    last = {row["factor"]: row["factor"].rsplit(".", 1)[-1] for row in rows}
    short = {name: end if list(last.values()).count(end) == 1 else name for name, end in last.items()}
    for row in rows:
        before, after = (value(row[end]) + "*" * (row["base"] == end) for end in ("from", "to"))
        interval = f"[{_signed(row['lo'])}, {_signed(row['hi'])}]" if row["lo"] is not None else "-"
        p = "-" if row["p_holm"] is None else "<.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}".lstrip("0")
        body.append([short[row["factor"]], f"{before} -> {after}", _signed(row["delta"]), interval, p, row["verdict"]])
    return table(["factor", "from -> to", "delta", "[95%]", "p", ""], body, right=["delta", "p"], width=width)


def _signed(number: float | None) -> str:
    return "-" if number is None else f"{number:+.3f}"


def _write_csv(found: dict[str, Any], path: Path) -> None:
    import csv
    import io

    from harness.search.ablation_table import COLUMNS
    from harness.store.files import write_text

    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found["rows"])
    write_text(path, text.getvalue())


Operand = typer.Argument(
    metavar="STUDY[/TRIAL]", autocompletion=sides, help="A study (its best trial), or one of its trials: NAME/7."
)


def compare(
    a: Annotated[str, Operand],
    b: Annotated[str, Operand],
    per_group: Annotated[
        bool, typer.Option("--per-group", help="Compare patients (lesions, cases), not images; these may differ.")
    ] = False,
    json: Json = False,
) -> None:
    """Is A better than B? Every metric on the rows that both predicted out of fold, with paired tests.

    Differences are A minus B. The test split is not read.
    """
    claim_stdout()
    from harness.search.compare import compare_sides, comparison_document, find_side
    from harness.store.home import open_home

    home = open_home()
    found = compare_sides(home, find_side(home, a), find_side(home, b), per_group=per_group)
    if json:
        print_json(comparison_document(found))
        return
    _show(found)


def _show(found: "Comparison") -> None:
    from harness.metrics import is_higher_better
    from harness.output.format import OPTIMISTIC, difference, interval, number, p_value
    from harness.output.tables import table

    for letter, side in (("A", found.a), ("B", found.b)):
        how = f", the best of {side.best_of}" if side.best_of > 1 else ""
        show(f"{letter}: trial {side.trial.number} of {side.record.name}{how}")
    rows = "groups, each out of fold" if found.per_group else f"out-of-fold rows, {found.groups} groups"
    show(f"{found.rows} {rows}\n")
    stars = found.a.trial.optimistic, found.b.trial.optimistic
    body = [[line.metric, interval(line.a, stars[0]), interval(line.b, stars[1])] for line in found.lines]
    show(table(["metric", "A [95%]", "B [95%]"], body, width=results().width))
    if any(stars):
        show(f"\n{OPTIMISTIC}")
    show("\nA minus B, paired by group (means over folds):")
    for line in found.lines:
        show(f"  {line.metric:18}{difference(line.delta, is_higher_better(line.metric))}")
    if found.same_folds:
        show("\nA minus B, over the folds (corrected resampled t-test):")
        for line in found.lines:
            if line.folds is not None:
                show(f"  {line.metric:18}{difference(line.folds, is_higher_better(line.metric))}")
    if found.delong is not None or found.mcnemar is not None:
        show("\nOther tests of the same:")
    if found.delong is not None:
        show(f"  auroc, DeLong by group      {difference(found.delong, True)}")
    if found.mcnemar is not None:
        one = found.mcnemar
        counts = f"only A right {one.only_a}, only B right {one.only_b}"
        show(f"  accuracy, McNemar by group  {counts}, {p_value(one.clustered)}")
        show(f"                              as if rows were independent: mid-{p_value(one.mid_p)}")
    if found.corrected is not None:
        a, b, delta = found.corrected
        metric = found.a.record.tree["search"]["metric"]
        show(f"\nCorrected for having been chosen on these rows ({metric}):")
        show(f"  A {interval(a)}   B {interval(b)}")
        show(f"  A minus B {number(delta.value)} [{number(delta.lo)}, {number(delta.hi)}]")
    for text in found.notes:
        show(f"\n{text}")


if TYPE_CHECKING:
    pass

Method = Annotated[str, typer.Option("--method", metavar="M", help="ped_anova or fanova.")]


def importance(name: NewestStudy = None, method: Method = "ped_anova", json: Json = False) -> None:
    """Which searched keys made the difference, from the trials so far."""
    claim_stdout()
    from harness.output.tables import table
    from harness.search.optuna_export import importance_document, read_importances
    from harness.store.home import open_home

    study, _, found, warning = read_importances(open_home(), name, method)
    if json:
        print_json(importance_document(study, method, found, warning))
        return
    rows = [[one.name, "not ranked" if one.value is None else f"{one.value:.3f}", str(one.trials)] for one in found]
    show(f"study {study.name}: importance for {study.spec.search.metric} ({method})")
    show(table(["key", "share", "trials"], rows, right=["share", "trials"]))
    if any(one.value is None for one in found):
        show("\nNot ranked: what stands in some trials only, or never varied.")
    if warning:
        show(f"\n{warning}")
    show(f"\nAn importance is no effect. For effects with intervals: harness study ablate {study.name}")


def plots(
    name: NewestStudy = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where to write the page.")] = Path("plots"),
    method: Method = "ped_anova",
    json: Json = False,
) -> None:
    """History, importances, parallel coordinates, slices and contours of a search, as one HTML page."""
    claim_stdout()
    from harness.config.space import Choice
    from harness.errors import RequestError
    from harness.metrics import METRICS
    from harness.report.search import Axis, Row, Search, search_page
    from harness.search.optuna_export import read_importances, scored_trials
    from harness.store.files import write_text
    from harness.store.home import open_home

    if out.exists() and not out.is_dir():
        raise RequestError(f"--out {out}: this is a file; name a folder, such as {out.with_suffix('')}-plots.")
    study, trials, found, warning = read_importances(open_home(), name, method)
    metric = study.spec.search.metric
    axes = [
        Axis(key, False, tuple(str(option) for option in range_.options))
        if isinstance(range_, Choice)
        else Axis(key, range_.log, ())
        for key, range_ in study.space.items()
    ]
    rows = [Row(trial.number, trial.params, trial.cv[metric]) for trial in scored_trials(trials, metric)]
    if not rows:
        raise RequestError(f"study {study.name} has no scored trial yet. Type: harness study run {study.name}")
    told = [(one.name, one.value, one.trials) for one in found]
    higher = METRICS[metric].higher_is_better
    page = search_page(f"{study.name}: the search", Search(metric, higher, axes, rows, [], told, warning))
    path = out / f"{study.name}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    if warning:
        note(warning)
    if json:
        print_json({"study": study.name, "page": path, "warning": warning or None})
    else:
        show(f"{path}")


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
