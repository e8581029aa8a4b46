"""What a study is doing: heartbeat of its driver, study and trials as documents.

Whether the driver of a study lives, seen from outside without taking its lock.

A driver leaves a file that says who it is, and touches it every few seconds. On its own machine the process table tells
at once whether it is gone; elsewhere (a shared file system) the time of the last touch does.

What a study is doing right now, from what lies on disk: takes no lock, writes nothing, may look while others run.

What is said of a study, as plain data: `study run --json`, `study show --json`, `study list --json`.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.output.format import ago, compact_params, duration, interval, number, plural, switched_off, value
from harness.output.tables import table
from harness.store.files import read_json, write_json
from harness.store.home import Home
from harness.store.records import ranked
from harness.types import TrialRecord

if TYPE_CHECKING:
    from rich.table import Table

    from harness.store.records import StudyRecord

BEAT_SECONDS = 5.0
SILENT_SECONDS = 60.0
"""a driver on another machine that was not heard of for this long counts as gone"""


@dataclass(frozen=True)
class Driver:
    """The process that runs a study, or did when it was killed."""

    pid: int
    host: str
    birth: str
    """tells this process from a later one with its number"""
    started: float
    """seconds since 1970"""
    jobs: int


def driver_file(home: Home, study: str) -> Path:
    return home.work(study) / "driver.json"


@contextmanager
def beating(home: Home, study: str, jobs: int) -> Iterator[None]:
    """Say that this process drives the study, for as long as the block lasts. The caller holds the study's lock."""
    path, ended = driver_file(home, study), threading.Event()
    pid = os.getpid()
    write_json(path, asdict(Driver(pid, socket.gethostname(), _birth(pid) or "", time.time(), jobs)))

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # a sign of life is not worth a study
                os.utime(path)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            path.unlink()


def find_driver(home: Home, study: str) -> Driver | None:
    """The driver of a study, where one lives right now."""
    path = driver_file(home, study)
    try:
        driver, beat = Driver(**read_json(path)), path.stat().st_mtime
    except FileNotFoundError:
        return None
    if driver.host != socket.gethostname():
        return driver if time.time() - beat < SILENT_SECONDS else None
    born = _birth(driver.pid)
    return driver if born is not None and born == driver.birth else None


def _birth(pid: int) -> str | None:
    """Of a living process: this boot of the machine and the process's start, where Linux tells; None of a dead one."""
    stat = Path(f"/proc/{pid}/stat")
    if not Path("/proc/self/stat").exists():
        return "" if _answers(pid) else None
    try:
        fields = stat.read_text().rpartition(")")[2].split()  # the name before it may hold blanks and brackets
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    state, start = fields[0], fields[19]
    return None if state in "ZX" else f"{boot} {start}"


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
    driver: Driver | None
    running: list[Running]
    now: float


def look(home: Home, record: StudyRecord, trials: Sequence[TrialRecord]) -> Live:

    driver = find_driver(home, record.name)
    metric = record.tree["search"]["metric"]
    state = "interrupted" if record.state == "running" and driver is None else record.state
    running = [_running(home, record.name, trial, metric) for trial in trials if trial.state == "running"]
    return Live(state, driver, running, time.time())


def _running(home: Home, study: str, trial: TrialRecord, metric: str) -> Running:
    from harness.store.records import read_all_epochs

    epochs = read_all_epochs(home, study, trial.number)
    if not epochs:
        return Running(trial.number, None, None, None, None, None, trial.deaths)
    last = epochs[-1]
    report, value = last.report, last.report.val.get(metric)
    # an epoch that is trained again keeps its first time in MLflow; its line in the log is the newest all the same
    seen = home.trial_epochs(study, trial.number).stat().st_mtime
    return Running(trial.number, report.fold, report.epoch, report.epochs, value, seen, trial.deaths)


def how_to_go_on(home: Home, name: str) -> str:
    """What an interrupted study keeps, and what to type."""
    from harness.store.records import read_study, read_trials
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


def head_lines(record: StudyRecord, trials: Sequence[TrialRecord], live: Live, total: int) -> list[str]:
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


def running_table(live: Live, metric: str, folds: int) -> Table:
    """Running trials: where they are, and when they were last heard of."""
    from harness.output.tables import table

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


def study_document(record: StudyRecord, trials: list[TrialRecord], live: Live | None = None) -> dict[str, Any]:
    """`study run --json` and `study show --json`. `best` is the trial with the best mean over folds of the metric
    (store.records.best_trial), or null; `front` the Pareto-optimal trials of a study with search.costs."""
    from harness.store.records import best_trial, front

    metric, costs = record.tree["search"]["metric"], record.tree["search"].get("costs", ())
    described = {trial.number: _trial_document(trial) for trial in trials}
    best = best_trial(trials, metric)
    return {
        "study": record.name,
        "state": record.state,
        "metric": metric,
        "trials": list(described.values()),
        "best": described[best.number] if best else None,
        "best_corrected": record.corrected,
        "notes": trial_notes(trials, metric),
        "front": [described[trial.number] for trial in front(trials, metric, costs)],
        **(live_document(live) if live else {}),
    }


def _trial_document(trial: TrialRecord) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state,
        "params": trial.params,
        "cv": trial.cv,
        "cv_se": trial.cv_se,
        "oof": trial.oof,
        "fold_values": trial.fold_values,
        "seconds": trial.seconds,
        "run_id": trial.run_id,
        "reason": trial.reason or None,
        "notes": trial.notes,
        "optimistic": trial.optimistic,
        "costs": trial.costs,
        "infeasible": trial.infeasible,
        "same_as": trial.same_as,
        "deaths": trial.deaths,
        "logged": trial.logged,
    }


def study_rows(home: Home) -> list[dict[str, Any]]:
    """The studies that can be run and those that ran, by name."""
    from harness.config.load import list_study_files
    from harness.store.records import list_studies

    ran = {record.name: record for record in list_studies(home) if not record.ablates}
    files = {path.stem: path for path in list_study_files()}
    return [_study_row(home, name, files.get(name), ran.get(name)) for name in sorted({*files, *ran})]


def _study_row(home: Home, name: str, path: Path | None, record: StudyRecord | None) -> dict[str, Any]:
    """What `study list` says about one study. A broken study file is a row that says so, not the end of the list."""
    from harness.config.load import load_study
    from harness.errors import RequestError
    from harness.output.format import number
    from harness.store.records import best_trial, read_trials

    row = {"study": name, "state": "not run", "done": 0, "total": 0, "best": None, "description": "", "file": path}
    tree = record.tree if record else None
    if tree is None and path is not None:
        try:
            tree = load_study(str(path)).tree
        except RequestError as error:
            return {**row, "state": "broken", "description": str(error).splitlines()[0]}
    assert tree is not None
    row.update(total=tree["search"]["trials"], description=tree["description"].strip())
    if record is None:
        return row
    trials = read_trials(home, name)
    metric = tree["search"]["metric"]
    best = best_trial(trials, metric)
    row.update(state=look(home, record, ()).state, done=sum(trial.state != "running" for trial in trials))
    if best is not None:
        said = ", optimistic" if best.optimistic else ""
        row["best"] = f"{metric} {number(best.cv[metric])} (trial {best.number}{said})"
    return row


OWN_COLUMNS = 2
"""searched numbers with a column of their own; the rest shares one"""


def best_first(trials: Sequence[TrialRecord], metric: str) -> list[TrialRecord]:
    """Trials as they are ranked (store.records.ranked), then the others by number."""
    from harness.store.records import ranked

    first = ranked(trials, metric)
    places = {trial.number: place for place, trial in enumerate(first)}
    return sorted(trials, key=lambda trial: (places.get(trial.number, len(places)), trial.number))


def trials_table(trials: Sequence[TrialRecord], metric: str, width: int, marked: Collection[int] = ()) -> Table:
    """Every trial, best first: number, searched values, mean over folds ± standard error, by which they are ranked,
    pooled out-of-fold value with its interval, seconds. The `marked` ones, on the front of several objectives, have a +
    behind their number."""
    from harness.types import rank_value

    own = _own_columns(trials) if width >= 78 else []
    rows = []
    for trial in best_first(trials, metric):
        rest = {name: setting for name, setting in trial.params.items() if name not in own}
        cv = f"{number(trial.cv.get(metric))} ±{number(trial.cv_se.get(metric)).removeprefix('0')}"
        rows.append(
            [
                str(trial.number) + "+" * (trial.number in marked),
                *(value(trial.params[name]) if name in trial.params else "-" for name in own),
                _switches(rest),
                (cv + "*" * trial.optimistic) if math.isfinite(rank_value(trial, metric)) else "-",
                _outcome(trial, metric),
                number(trial.seconds, 0),
            ]
        )
    names = [name.rsplit(".", 1)[-1] for name in own]
    with_name = "augment" if _only_augments(trials, own) else "with"
    columns = ["#", *names, with_name, f"{metric} cv", "out-of-fold [95%]", "s"]
    if all(set(trial.params) <= set(own) for trial in trials):  # nothing else was varied
        columns.remove(with_name)
        rows = [row[: len(own) + 1] + row[len(own) + 2 :] for row in rows]
    return table(columns, rows, right=["#", *names, "s"], width=width)


def front_table(trials: Sequence[TrialRecord], metric: str, costs: Sequence[str]) -> Table:
    """Trials of a front by their first cost: number, metric as mean over folds and pooled, costs."""
    rows = [
        [
            str(trial.number),
            number(trial.cv.get(metric)),
            interval(trial.oof.get(metric)),
            *(f"{trial.costs[name]:,.4g}" for name in costs),
        ]
        for trial in sorted(trials, key=lambda trial: trial.costs[costs[0]])
    ]
    return table(["#", f"{metric} cv", "out-of-fold [95%]", *costs], rows, right=["#", *costs])


def _own_columns(trials: Sequence[TrialRecord]) -> list[str]:
    """The searched numbers that are not switches, such as the learning rate."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    found = []
    for name in names:
        settings = [trial.params[name] for trial in trials if name in trial.params]
        numbers = all(isinstance(s, int | float) and not isinstance(s, bool) for s in settings)
        if numbers and not name.startswith("augment."):
            found.append(name)
    return found[:OWN_COLUMNS]


def _only_augments(trials: Sequence[TrialRecord], own: Sequence[str]) -> bool:
    return all(name.startswith("augment.") for trial in trials for name in trial.params if name not in own)


def _switches(params: Mapping[str, Any]) -> str:
    """Augmentations that are on, by name; everything else with its value."""
    on = [
        setting if isinstance(setting, str) else name.removeprefix("augment.")
        for name, setting in params.items()
        if name.startswith("augment.") and not switched_off(name, setting)
    ]
    rest = compact_params({name: s for name, s in params.items() if not name.startswith("augment.")})
    return "  ".join(part for part in (rest, " ".join(on)) if part) or "none"


def _outcome(trial: TrialRecord, metric: str) -> str:
    from harness.types import not_ranked

    if trial.same_as is not None:
        return f"{trial.state}: the same as trial {trial.same_as}"
    if trial.state == "complete":
        why = not_ranked(trial, metric)
        return f"not ranked: {why}" if why else interval(trial.oof.get(metric), trial.optimistic)
    if trial.state == "pruned" and not trial.reason:
        return f"pruned after {plural(len(trial.fold_values), 'fold')}"
    reason = trial.reason.strip().splitlines()
    return f"{trial.state}: {reason[0]}" if reason else trial.state


def studies_table(rows: Sequence[tuple[str, str, str, str, str]]) -> Table:
    """name, state, trials, best, description"""
    return table(["study", "state", "trials", "best", "what"], rows, right=["trials"])


ORDER_METRICS = ("auroc", "auprc")
"""which depend on the order of the scores alone"""


def trial_notes(trials: Iterable[TrialRecord], metric: str) -> list[dict[str, Any]]:
    """What is to be known of the ranked trials' scores: a `code`, one line of `message`, and the numbers of the
    `trials`, the best first. Pooling mixes up the fold models' scales in metrics of order alone."""
    found = [trial for trial in ranked(trials, metric) if "fold-scale" in trial.notes and metric in ORDER_METRICS]
    if not found:
        return []
    first = found[0]
    several = f" and of {plural(len(found) - 1, 'other trial')}" if len(found) > 1 else ""
    message = (
        f"The fold models of trial {first.number}{several} disagree on the scale of their scores: trial "
        f"{first.number} has {metric} {number(first.cv[metric])} as the mean over folds, by which trials are ranked, "
        f"and {number(first.oof[metric].value)} pooled."
    )
    return [{"code": "fold-scale", "message": message, "trials": [trial.number for trial in found]}]
