"""`harness study run NAME --dry-run`: what would run, as text."""

from harness.cli.output import show
from harness.output.format import bytes_, plural
from harness.output.progress import estimate_line
from harness.output.tables import table
from harness.search.dry_run import DryRun
from harness.types import Estimated


def show_dry_run(found: DryRun) -> None:
    """Data by fold, what is searched, how long it takes, what to type."""
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


def _trials(found: DryRun, left: int) -> str:
    if not found.done:
        return f"{plural(left, 'trial')} would run"
    return f"{found.done} of {plural(found.trials, 'trial')} done, {left} would run"
