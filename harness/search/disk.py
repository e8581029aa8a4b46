"""What a study says when there is no room left to write: what is full, how much is needed, how to go on."""

import shutil
from pathlib import Path

from harness.errors import DiskFull
from harness.store.home import Home


def full_disk(home: Home, study: str, running: int) -> DiskFull:
    """`running`: trials that were cut off, each of which wants as much room as the largest trial so far."""
    free = shutil.disk_usage(home.root).free
    trials = home.study_artifacts(study).glob("*/artifacts")
    states = (home.work(study) / "running").glob("trial-*")
    trial = max((_size(folder) for folder in trials), default=0)
    state = max((_size(folder) for folder in states if folder.is_dir()), default=0)
    need = running * (trial + 2 * state)  # a state is written beside the one that it replaces
    wanted = f" The trials that were cut off need about {_megabytes(need)} more, each further one {_megabytes(trial)}."
    return DiskFull(
        f"no room is left to write in {home.root} ({_megabytes(free)} free): study {study!r} stopped. "
        f"What was finished is kept, to the last epoch that was written.{wanted if need else ''} "
        f"Free some space and type: harness study resume {study}"
    )


def disk_needed(parameters: int, k: int, trials: int) -> int:
    """Bytes for the checkpoints of trials with k folds, and for one resume state with the optimiser."""
    return 4 * parameters * (k * trials + 4)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"
