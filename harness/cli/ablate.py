"""harness study ablate: what each setting of a trial gives."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import NewestStudy
from harness.cli.output import claim_stdout, print_json, results, show, show_command
from harness.cli.study import Device, Jobs, Json
from harness.output.terminal import note

if TYPE_CHECKING:
    from rich.table import Table as Drawn

    from harness.search.ablation import Plan


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
