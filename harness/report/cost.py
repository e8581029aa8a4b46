"""What a study cost: time, images a second, disk; and what stopping trials early saved."""

from collections.abc import Iterable

from harness.output.documents import Section, Table
from harness.output.format import duration, plural
from harness.report.collect import Collected
from harness.store.home import disk_used
from harness.types import TrialRecord


def cost_section(found: Collected) -> Section:
    seconds, spent = sum(one.seconds for one in found.trials), found.record.spent
    k = int(found.record.tree["data"]["folds"])
    saved, seconds_saved = saved_folds(found.trials, k)
    answer = f"{plural(len(found.trials), 'trial')} took {duration(seconds)} of training"
    answer += f", {duration(spent)} by the clock" if spent else ""
    if saved:
        answer += f"; stopping trials early saved {saved} of {k * len(found.trials)} fold trainings, about "
        answer += duration(seconds_saved)
    copies = sum(one.same_as is not None for one in found.trials)
    if copies:
        answer += f"; {plural(copies, 'trial')} met an earlier configuration again and cost nothing"
    return Section("cost", "Cost", answer + ".", "", (_trials(found, k), _disk(found)))


def saved_folds(trials: Iterable[TrialRecord], k: int) -> tuple[int, float]:
    """Folds that stopped trials did not finish, and the seconds that these would have taken at the pace of the
    complete trials."""
    complete = [one.seconds / k for one in trials if one.state == "complete" and one.same_as is None]
    pace = sum(complete) / len(complete) if complete else 0.0
    stopped = [one for one in trials if one.state == "pruned" and one.same_as is None]
    left = sum(k - len(one.fold_values) for one in stopped)
    return left, max(0.0, k * len(stopped) * pace - sum(one.seconds for one in stopped))


def _trials(found: Collected, k: int) -> Table:
    rows = []
    for one in found.trials if not found.asked else [found.chosen] if found.chosen else []:
        reports = [epoch.report for epoch in found.epochs.get(one.number, [])]
        trained = sum(report.seconds for report in reports)
        speed = f"{sum(report.images for report in reports) / trained:,.0f}" if trained else "-"
        costs = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in one.costs.items())
        folds = f"{len(one.fold_values)} of {k}" if one.same_as is None else f"as trial {one.same_as}"
        rows.append((str(one.number), one.state, folds, duration(one.seconds), speed, costs or "-"))
    note = "Images a second: training images of all epochs over the seconds that those took, validation included."
    return Table("Time by trial", ("trial", "state", "folds", "time", "images a second", "costs"), rows, "llrrrl", note)


def _disk(found: Collected) -> Table:
    home = found.home
    caches = [home.pixels / name for name in found.record.caches]
    own = [home.study_artifacts(found.name), home.bundles(found.name), home.work(found.name)]
    checkpoints, ensembles, records, *decoded = disk_used([*own, *caches])
    sizes = [
        ("checkpoints and predictions", checkpoints),
        ("ensembles, beyond their members' checkpoints", ensembles),
        ("records, embeddings, states", records),
        ("decoded images, shared with other studies", sum(decoded)),
    ]
    return Table("Disk", ("what", "megabytes"), [(what, f"{size / 1e6:,.1f}") for what, size in sizes])
