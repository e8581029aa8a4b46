"""What a study is doing right now, from what lies on disk: takes no lock, writes nothing, may look while others run."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.words import ago, duration, number, plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from harness.heartbeat import Driver
    from harness.home import Home
    from harness.ledger import StudyRecord
    from harness.types import TrialRecord


BEFORE_TRIALS = (
    "No trial had begun. What was finished before (headers read, images decoded, folds) is kept for the next time; a "
    "decoding that was cut off begins anew."
)


@dataclass(frozen=True)
class Running:
    """A trial that has begun and not ended."""

    number: int
    fold: int | None
    """of its last finished epoch; None before the first"""
    epoch: int | None
    epochs: int | None
    value: float | None
    """the search metric on the held-out fold after that epoch"""
    seen: float | None
    """when that was, seconds since 1970"""
    deaths: int


@dataclass(frozen=True)
class Live:
    """A study as it is at one moment."""

    state: str
    """as recorded; `interrupted` where the record says running and no driver lives"""
    driver: "Driver | None"
    running: list[Running]
    now: float


def look(home: "Home", record: "StudyRecord", trials: "Sequence[TrialRecord]") -> Live:
    from harness.heartbeat import find_driver

    driver = find_driver(home, record.name)
    metric = record.tree["search"]["metric"]
    state = "interrupted" if record.state == "running" and driver is None else record.state
    running = [_running(home, record.name, trial, metric) for trial in trials if trial.state == "running"]
    return Live(state, driver, running, time.time())


def _running(home: "Home", study: str, trial: "TrialRecord", metric: str) -> Running:
    from harness.epochs import read_all_epochs

    epochs = read_all_epochs(home, study, trial.number)
    if not epochs:
        return Running(trial.number, None, None, None, None, None, trial.deaths)
    last = epochs[-1]
    report, value = last.report, last.report.val.get(metric)
    # an epoch that is trained again keeps its first time in MLflow; its line in the log is the newest all the same
    seen = home.trial_epochs(study, trial.number).stat().st_mtime
    return Running(trial.number, report.fold, report.epoch, report.epochs, value, seen, trial.deaths)


def how_to_go_on(home: "Home", name: str) -> str:
    """What an interrupted study keeps, and what to type."""
    from harness.ledger import read_study, read_trials
    from harness.types import ENDED

    record = read_study(home, name)
    if record is None:
        return f"interrupted. {BEFORE_TRIALS}"
    trials = read_trials(home, name)
    kept = [plural(sum(trial.state in ENDED for trial in trials), "ended trial")]
    for one in look(home, record, trials).running:
        if one.fold is None or one.epoch is None:
            kept.append(f"trial {one.number}, which begins anew")
        else:
            kept.append(f"trial {one.number} up to fold {one.fold + 1}, epoch {one.epoch + 1}/{one.epochs}")
    return (
        f"interrupted. Kept: {', '.join(kept)}.\n"
        f"Type: harness study resume {name}   (or the same command) to go on from here."
    )


def live_document(live: Live) -> dict[str, Any]:
    """What `study show --json` says beyond the trials' records."""
    driver = live.driver
    return {
        "state": live.state,
        "driver": driver and {"pid": driver.pid, "host": driver.host, "started": driver.started, "jobs": driver.jobs},
        "running": [
            {
                "number": one.number,
                "fold": one.fold,
                "epoch": one.epoch,
                "epochs": one.epochs,
                "value": one.value,
                "seconds_ago": None if one.seen is None else max(0.0, live.now - one.seen),
                "deaths": one.deaths,
            }
            for one in live.running
        ],
    }


def head_lines(record: "StudyRecord", trials: "Sequence[TrialRecord]", live: Live, total: int) -> list[str]:
    """The study in a few lines: how far it is, who runs it, what went wrong on the way."""
    from collections import Counter

    counts = Counter(trial.state for trial in trials)
    ended = sum(count for state, count in counts.items() if state != "running")
    kinds = ", ".join(f"{counts[state]} {state}" for state in ("complete", "pruned", "failed") if counts[state])
    lines = [f"study {record.name}: {live.state}, {ended} of {total} trials" + (f" ({kinds})" if kinds else "")]
    if live.driver is not None:
        driver = live.driver
        lines.append(
            f"run by process {driver.pid} on {driver.host} for {duration(live.now - driver.started)}, "
            f"{plural(driver.jobs, 'trial')} at a time"
        )
    elif live.state in ("interrupted", "failed"):
        lines.append(f"nothing runs it now. Type: harness study resume {record.name}")
    died = [trial for trial in trials if trial.deaths]
    if died:
        numbers = ", ".join(str(trial.number) for trial in died[:10]) + (", ..." if len(died) > 10 else "")
        lines.append(f"{plural(sum(t.deaths for t in died), 'worker')} died and had a successor (trials {numbers})")
    behind = sum(trial.state != "running" and not trial.logged for trial in trials)
    if behind:
        lines.append(f"MLflow lacks {plural(behind, 'ended trial')}, which it gets when it answers; all is on disk")
    return lines


def running_table(live: Live, metric: str, folds: int) -> "Table":
    """Running trials: where they are, and when they were last heard of."""
    from harness.cli.tables import table

    rows = []
    for one in live.running:
        if one.seen is None or one.fold is None or one.epoch is None:
            where = ["-", "-", "-", "no epoch yet"]
        else:
            where = [f"{one.fold + 1}/{folds}", f"{one.epoch + 1}/{one.epochs}", number(one.value)]
            where.append(ago(live.now - one.seen))
        rows.append([str(one.number), *where, str(one.deaths) if one.deaths else ""])
    columns = ["running" if live.driver else "cut off", "fold", "epoch", metric, "last epoch ended", "deaths"]
    return table(columns, rows, right=[columns[0], "fold", "epoch", "deaths"])
