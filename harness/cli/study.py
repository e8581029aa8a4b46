"""Commands of studies: run, resume, list, show.

harness study: run, resume, list, show, reference.

`harness study run NAME --dry-run`: what would run, as text.
"""

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.help import Commands
from harness.cli.options import Device, Jobs, Json, NewestStudy, Sets, StudyFile, studies
from harness.cli.streams import claim_stdout, print_json, results, show, show_command

if TYPE_CHECKING:
    from harness.config.load import Study
    from harness.search.dry_run import DryRun
    from harness.search.ray_workers import Cluster
    from harness.store.records import StudyRecord
    from harness.types import TrialRecord

app = Commands(help="Search: train trials over their folds.")
Backend = Annotated[str, typer.Option("--backend", metavar="B", help="local, or ray: the trials go to a Ray cluster.")]
Address = Annotated[
    str | None, typer.Option("--address", metavar="A", help="Ray's head node, HOST:PORT; left out: this machine's own.")
]
CpusPerTrial = Annotated[
    int | None, typer.Option("--cpus-per-trial", metavar="N", help="Cores of a trial on Ray; left out: 1.")
]
GpusPerTrial = Annotated[
    float | None, typer.Option("--gpus-per-trial", metavar="X", help="Cards of a trial on Ray, 0 to 1; left out: 0.")
]
SHOWN = 20
"""trials in a table, best first, unless all are asked for"""


@app.command("run")
def run(
    name: StudyFile,
    set_: Sets = None,
    jobs: Jobs = 1,
    device: Device = "auto",
    as_: Annotated[
        str | None, typer.Option("--as", metavar="NEWNAME", help="Run it as a study of its own, under this name.")
    ] = None,
    backend: Backend = "local",
    address: Address = None,
    cpus_per_trial: CpusPerTrial = None,
    gpus_per_trial: GpusPerTrial = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say how long it will take, and stop before trial 0.")
    ] = False,
    json: Json = False,
) -> None:
    """Run a study, or go on with it where it stopped.

    search.trials is the TOTAL: a finished study is not run again, a larger total adds trials to it.
    """
    claim_stdout()
    from harness.config.load import load_study

    cluster = _cluster(backend, address, cpus_per_trial, gpus_per_trial, device)
    study = load_study(name, set_, as_)
    if dry_run:
        _dry_run(study, jobs, device, cluster, json)
    else:
        _run(study, jobs, device, cluster, json)


@app.command("resume", short_help="Go on with a study as it was begun.")
def resume(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=studies, help="A study that ran before.")],
    jobs: Jobs = 1,
    device: Device = "auto",
    backend: Backend = "local",
    address: Address = None,
    cpus_per_trial: CpusPerTrial = None,
    gpus_per_trial: GpusPerTrial = None,
    json: Json = False,
) -> None:
    """Go on with a study exactly as it was begun, whatever its file says now."""
    claim_stdout()
    from harness.config.load import check_study
    from harness.store.home import open_home
    from harness.store.records import require_study

    cluster = _cluster(backend, address, cpus_per_trial, gpus_per_trial, device)
    record = require_study(open_home(), name)
    if record.ablates:
        from harness.errors import RequestError

        raise RequestError(
            f"{name} is an ablation of study {record.ablates} and goes on with the command that began it: "
            f"harness study ablate {record.ablates}"
        )
    _run(check_study(record.tree, f"study {name} as it was begun"), jobs, device, cluster, json)


def _cluster(backend: str, address: str | None, cpus: int | None, gpus: float | None, device: str) -> "Cluster | None":
    """The cluster that the options name, None for this machine. Raises RequestError where they do not go together."""
    from harness.errors import RequestError, nearest
    from harness.search.ray_workers import Cluster

    if backend == "ray":
        if device != "auto":
            raise RequestError(
                f"--device {device}: on Ray a trial gets its device by --gpus-per-trial 1 (or 0: no card)."
            )
        return Cluster(address or "auto", 1 if cpus is None else cpus, gpus or 0.0)
    if backend != "local":
        raise RequestError(f"--backend {backend}: write local or ray.{nearest(backend, ['local', 'ray'])}")
    given = {"--address": address, "--cpus-per-trial": cpus, "--gpus-per-trial": gpus}
    for option, value in given.items():
        if value is not None:
            raise RequestError(f"{option} {value} is for a Ray cluster. Write --backend ray with it, or leave it out.")
    return None


def _run(study: "Study", jobs: int, device: str, cluster: "Cluster | None", json: bool) -> None:
    from harness.errors import HarnessError, Interrupted
    from harness.output.progress import study_listener
    from harness.search.status import how_to_go_on, look
    from harness.store.home import open_home
    from harness.store.records import read_study, read_trials

    home = open_home()
    with study_listener() as listener:
        try:
            from harness.search.run import run_study

            run_study(study, home, jobs, device, listener, cluster, estimating=True)
        except KeyboardInterrupt:
            raise Interrupted(how_to_go_on(home, study.name)) from None
    record = read_study(home, study.name)
    if record is None:
        raise HarnessError(f"study {study.name} left no record in {home.work(study.name)}.")
    trials = read_trials(home, study.name)
    if json:
        from harness.search.status import study_document

        print_json(study_document(record, trials, look(home, record, trials)))
    else:
        _show_trials(record, trials)
    if not any(trial.state == "complete" for trial in trials):
        raise HarnessError(f"no trial of study {study.name} was completed; see the reasons above.")
    if record.state == "failed":
        raise HarnessError(f"study {study.name} stopped early: too many trials failed one after the other.")


def _dry_run(study: "Study", jobs: int, device: str, cluster: "Cluster | None", json: bool) -> None:
    from harness.errors import Interrupted
    from harness.output.progress import study_listener
    from harness.search.status import BEFORE_TRIALS
    from harness.store.home import open_home

    with study_listener() as listener:
        try:
            from harness.search.dry_run import dry_run

            found = dry_run(study, open_home(), jobs, device, listener, cluster)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted. {BEFORE_TRIALS}") from None
    if json:
        print_json(found)
    else:
        show_dry_run(found)


def _show_trials(record: "StudyRecord", trials: "list[TrialRecord]", most: int = SHOWN) -> None:
    from harness.output.format import OPTIMISTIC, interval, is_chain, number
    from harness.search.status import best_first, front_table, trial_notes, trials_table
    from harness.store.records import best_trial, front

    metric, costs = record.tree["search"]["metric"], record.tree["search"].get("costs", ())
    ahead = front(trials, metric, costs)
    first = best_first([trial for trial in trials if trial.state != "running"], metric)[:most]
    if first:
        show(trials_table(first, metric, results().width, {trial.number for trial in ahead}))
    more = sum(trial.state != "running" for trial in trials) - len(first)
    if more:
        show(f"... and {more:,} more: harness study show {record.name} --all")
    if ahead:
        show(f"\n+ on the front: no trial is better in one of {metric}, {', '.join(costs)} and as good in the others.")
        show(front_table(ahead, metric, costs))
    complete = [trial for trial in trials if trial.state == "complete"]
    if any(trial.optimistic for trial in complete):
        show(f"\n{OPTIMISTIC}")
    for one in trial_notes(trials, metric):
        show(f"\n{one['message']}")
    best = best_trial(trials, metric)
    if best is None:
        if complete:
            show("\nNo trial is ranked: see the reasons above.")
        return
    star = "*" * best.optimistic
    said = f"trial {best.number}, {metric} {number(best.cv[metric])}{star} (mean over folds), "
    said += f"pooled {interval(best.oof.get(metric), best.optimistic)}"
    held_out = record.tree["data"]["split"] is not None or record.tree["data"]["test_fraction"] > 0
    if len(trials) == 1:
        chain = (
            f"What it started from was selected on these rows{_corrected(record)}. "
            if is_chain(record.corrected)
            else ""
        )
        show(
            f"\nOne trial: {said}. {chain}"
            + ("The number to report is the test split's:" if held_out else "Go on with:")
        )
    else:
        honest = (
            "the number to report is the test split's:"
            if held_out
            else "with nothing held out, build an ensemble with --nested full:"
        )
        show(f"\nBest of {len(trials)}: {said}. The trial was selected on these rows{_corrected(record)}; " + honest)
    show_command(f"harness ensemble build --study {record.name}")
    show_command(f"harness study report {record.name}  # as one page")
    show_command("harness ui  # the trials as a table")


def _corrected(record: "StudyRecord") -> str:
    from harness.output.format import corrected

    return f" ({corrected(record.corrected)})" if record.corrected else ""


@app.command("list")
def list_(json: Json = False) -> None:
    """The studies that can be run and those that ran."""
    claim_stdout()
    from harness.search.status import studies_table, study_rows
    from harness.store.home import open_home

    rows = study_rows(open_home())
    if json:
        print_json(rows)
        return
    show(
        studies_table(
            [(r["study"], r["state"], f"{r['done']}/{r['total']}", r["best"] or "-", r["description"]) for r in rows]
        )
    )
    show("\nType: harness study run NAME")


@app.command("show", short_help="The trials of a study, best first.")
def show_(
    name: NewestStudy = None,
    all_: Annotated[bool, typer.Option("--all", help=f"Every trial, not only the best {SHOWN}.")] = False,
    json: Json = False,
) -> None:
    """The trials of a study, best first, and what it is doing now. Looks only: it may run meanwhile."""
    claim_stdout()
    from harness.search.status import head_lines, look, running_table
    from harness.store.home import open_home
    from harness.store.records import read_trials, require_study

    home = open_home()
    record = require_study(home, name)
    trials = read_trials(home, record.name)
    live = look(home, record, trials)
    if json:
        from harness.search.status import study_document

        print_json(study_document(record, trials, live))
        return
    tree = record.tree
    for line in head_lines(record, trials, live, tree["search"]["trials"]):
        show(line)
    if live.running:
        show("", running_table(live, tree["search"]["metric"], tree["data"]["folds"]))
    show("")
    _show_trials(record, trials, len(trials) if all_ else SHOWN)


@app.command("reference", short_help="Every key of a study file, as Markdown.")
def reference() -> None:
    """Every key of a study file, what it means and its default, as Markdown."""
    stream = claim_stdout()
    from harness.config.reference import reference_page

    stream.write(reference_page())


def show_dry_run(found: "DryRun") -> None:
    """Data by fold, what is searched, how long it takes, what to type."""
    from harness.output.format import bytes_, plural
    from harness.output.progress import estimate_line
    from harness.output.tables import table
    from harness.types import Estimated

    left = found.trials - found.done
    show(f"study {found.study}: {found.state}, {_trials(found, left)}\n")
    rows = [[part.name, f"{part.rows:,}", f"{part.groups:,}", *map(str, part.counts)] for part in found.parts]
    columns = ["", "images", "groups", *found.classes]
    show(table(columns, rows, right=columns[1:]))
    for warning in found.warnings:
        show(f"note: {warning}")
    show("", table(["varies", "over"], [[name, text] for name, text in found.varies.items()]))
    show(
        f"\nsampler {found.sampler}, pruner {found.pruner}, by {found.metric}; {found.folds} folds x "
        f"{found.epochs} epochs on {', '.join(found.devices)}"
        + (f", {plural(found.jobs, 'trial')} at a time" if found.jobs > 1 else "")
    )
    for backbone, parameters in found.backbones.items():
        way = f", {found.precision[backbone]}" if backbone in found.precision else ""
        show(f"{backbone}: {parameters / 1e6:,.1f} million parameters{way}")
    if found.estimate is not None:
        show(f"\n{estimate_line(Estimated(found.estimate, found.disk_free))}.")
    else:
        show(f"\nNo estimate of the time. {bytes_(found.disk_free)} are free.")
    show("Nothing was trained or recorded. Without --dry-run it runs.")


def _trials(found: "DryRun", left: int) -> str:
    from harness.output.format import plural

    if not found.done:
        return f"{plural(left, 'trial')} would run"
    return f"{found.done} of {plural(found.trials, 'trial')} done, {left} would run"
