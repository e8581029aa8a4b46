"""What a study's report is made of: its records, its ablations, its bundles, its learning curves and, where they are
still there, its data.

Reads the home and changes nothing in it; MLflow is not asked. What is missing is None, with the reason in words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.config.load import Study, check_study
from harness.data.prepare import Prepared, look
from harness.errors import HarnessError, RequestError
from harness.metrics import METRICS
from harness.report.predicted import Built, built_ensembles
from harness.search.compare import Side, compare_sides
from harness.store.files import read_json
from harness.store.home import Home
from harness.store.records import (
    LoggedEpoch,
    StudyRecord,
    best_trial,
    list_studies,
    original_of,
    ranked,
    read_epochs,
    read_trials,
    trained,
)
from harness.types import Difference, Progress, TrialRecord


@dataclass(frozen=True)
class Collected:
    home: Home
    record: StudyRecord
    study: Study
    trials: list[TrialRecord]
    """by number"""
    chosen: TrialRecord | None
    """the trial that the report is about: the one asked for, or the best; None where none is complete"""
    asked: bool
    """whether that trial was asked for"""
    runner_up: TrialRecord | None
    """the best but the chosen one"""
    lead: Difference | None
    """of the chosen trial over the runner-up, paired, in the search metric"""
    built: list[Built]
    ablations: list[Mapping[str, Any]]
    """tables as `study ablate --json` gives them"""
    epochs: dict[int, list[LoggedEpoch]]
    """by trial, of those that have any"""
    data: Prepared | None
    notes: list[str]
    """what could not be read, and why"""

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def metric(self) -> str:
        return str(self.record.tree["search"]["metric"])

    @property
    def higher(self) -> bool:
        return METRICS[self.metric].higher_is_better

    @property
    def ranked(self) -> list[TrialRecord]:
        """The trials that can be the best, in their order."""
        return ranked(self.trials, self.metric)

    @property
    def complete(self) -> list[TrialRecord]:
        """The trials with checkpoints of their own: the ranked ones in their order, then the others by number."""
        places = {trial.number: place for place, trial in enumerate(self.ranked)}
        return sorted(trained(self.trials), key=lambda one: (places.get(one.number, len(places)), one.number))

    @property
    def raced(self) -> list[TrialRecord]:
        """Those that the best was chosen among: complete, or stopped early because others were better."""
        own = [trial for trial in self.trials if trial.same_as is None]
        return [trial for trial in own if trial.state in ("complete", "pruned")]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.data.dataset.classes if self.data else tuple(map(str, self.record.tree["data"]["classes"] or ()))


def collect(home: Home, record: StudyRecord, trial: int | None, progress: Progress) -> Collected:
    """Everything for the report of a study, or of one of its trials. Raises RequestError where that is not there."""
    study = check_study(record.tree, f"study {record.name} as it was begun")
    trials, notes = read_trials(home, record.name), []
    metric = study.spec.search.metric
    best = best_trial(trials, metric)
    chosen = best if trial is None else _asked(record, trials, trial)
    others = [one for one in trials if chosen is not None and one.number != chosen.number]
    runner_up = best_trial(others, metric)
    lead = None
    if chosen is not None and chosen.state == "complete" and runner_up is not None:
        try:
            found = compare_sides(home, Side(record, chosen, 1), Side(record, runner_up, 1))
            line = next(line for line in found.lines if line.metric == metric)
            lead = line.delta
        except HarnessError as error:
            notes.append(f"Trials {chosen.number} and {runner_up.number} could not be compared: {error}")
    built, left_out = built_ensembles(home, record)
    data = _data(home, record, study, progress, notes)
    epochs = {one.number: read_epochs(home, record.name, one.number) for one in trials if one.same_as is None}
    return Collected(
        home, record, study, trials, chosen, trial is not None, runner_up, lead, built,
        ablations(home, record.name), {number: found for number, found in epochs.items() if found},
        data, [*notes, *left_out],
    )  # fmt: skip


def _asked(record: StudyRecord, trials: list[TrialRecord], number: int) -> TrialRecord:
    found = next((one for one in trials if one.number == number), None)
    if found is None:
        listed = ", ".join(str(one.number) for one in trials) or "none"
        raise RequestError(f"--trial {number}: study {record.name!r} has no such trial. It has: {listed}")
    return original_of(found, trials)


def ablations(home: Home, name: str) -> list[Mapping[str, Any]]:
    """The finished tables, by trial."""
    places = [home.work(one.name) / "table.json" for one in list_studies(home) if one.ablates == name]
    found = [read_json(place)["table"] for place in places if place.exists()]
    return sorted(found, key=lambda table: int(table["trial"]))


def _data(home: Home, record: StudyRecord, study: Study, progress: Progress, notes: list[str]) -> Prepared | None:
    try:
        found = look(study.spec.data, study.spec.seed, home, progress)
    except (HarnessError, OSError) as error:
        notes.append(f"The data are not there to be looked at: {error}")
        return None
    if (found.dataset.data_hash, found.folds.folds_hash) != (record.data_hash, record.folds_hash):
        notes.append(f"The data under {study.spec.data.root} have changed since the study ran, and are not shown.")
        return None
    return found
