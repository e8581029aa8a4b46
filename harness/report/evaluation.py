"""The sections of a report that judge predictions: ranking, probabilities, classes, kinds of people, ensembles,
mistakes.

Gathers what there is; what cannot be read is said where it would stand, and never stops a report.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.config.load import Study
from harness.data.manifest import read_attributes
from harness.data.prepare import Prepared, scan
from harness.errors import HarnessError, RequestError
from harness.output.documents import Section
from harness.report.classes import classes_section
from harness.report.ensembles import ensembles_section
from harness.report.groups import groups_section
from harness.report.mistakes import MOST, Overlay, mistakes_section
from harness.report.predicted import (
    Built,
    Predicted,
    best_built,
    built_ensembles,
    ensemble_on_test,
    mean_beside,
    trial_member,
    trial_on_test,
    trial_out_of_fold,
)
from harness.report.ranking import ranking_section
from harness.report.trust import measured, measured_of_bundle, trust_section
from harness.stats.subgroups import chosen_columns, kinds
from harness.store.home import Home
from harness.store.records import StudyRecord
from harness.types import Progress, TrialRecord


@dataclass(frozen=True)
class Wanted:
    """What a report shows of predictions."""

    alone: bool = False
    """this trial and nothing of ensembles or the test split"""
    images: bool = True
    """pictures of the worst mistakes; without them they are listed"""
    overlay: Overlay | None = None
    """see mistakes.Overlay"""
    mistakes: int = MOST
    device: str = "cpu"


def evaluation_sections(
    home: Home, study: Study, record: StudyRecord, trial: TrialRecord, data: Prepared, wanted: Wanted, report: Progress
) -> list[Section]:
    """`trial`: a complete one, as a rule the best; `data`: of the study, as it was when the study ran."""
    spec, classes = study.spec, data.dataset.classes
    metric, seed = spec.search.metric, spec.seed
    steps = _Steps(report, 5 if wanted.alone else 6)
    member = trial_member(home, record.name, trial)
    try:
        own = trial_out_of_fold(member, data)
    except HarnessError as error:
        return [
            Section("ranking", "Telling classes apart", f"The predictions of {member.name} cannot be judged: {error}")
        ]
    built, notes = ([], []) if wanted.alone else built_ensembles(home, record)
    best = best_built(built, metric)
    tests, more = _on_test(home, built, best, own, trial, data, wanted.device)
    notes = [*notes, *more]
    found = [steps("curves", lambda: ranking_section([own, *tests], classes, seed))]
    judged = [measured(own, classes, seed), *(measured_of_bundle(best) if best else [])]
    found.append(steps("calibration", lambda: trust_section(judged, data.dataset.multilabel)))
    decided = [own, *tests[-1:]]
    found.append(steps("classes", lambda: classes_section(decided, classes, seed)))
    columns = _kinds(home, study, data, own, report)
    per_group, group = spec.data.per_group, "group" if spec.data.group == "none" else spec.data.group
    found.append(steps("groups", lambda: groups_section(own, columns, metric, per_group, group, seed)))
    if not wanted.alone:
        found.append(steps("ensembles", lambda: ensembles_section(built, notes, metric, record.name)))
    pixels = data.pixels if wanted.images else None
    overlay = wanted.overlay if wanted.images else None
    shown = lambda: mistakes_section(own, data.dataset, data.folds, pixels, overlay, wanted.mistakes)  # noqa: E731
    return [*found, steps("mistakes", shown)]


class _Steps:
    """Runs one section after the other and says which."""

    def __init__(self, report: Progress, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def __call__(self, name: str, make: Callable[[], Section]) -> Section:
        self._report(f"report: {name}", self._done, self._total)
        self._done += 1
        return make()


def _on_test(
    home: Home,
    built: list[Built],
    best: Built | None,
    own: Predicted,
    trial: TrialRecord,
    data: Prepared,
    device: str,
) -> tuple[list[Predicted], list[str]]:
    """The trial, the plain mean and the best ensemble on the test split, in this order, and what is missing; nothing
    where no ensemble has been scored there, or none is held out."""
    if not built or not len(data.folds.test_rows()):
        return [], []
    found, notes = [], []
    member = trial_member(home, built[0].about["study"], trial)
    asked: list[Callable[[], Predicted]] = [lambda: trial_on_test(home, member, data, own, device)]
    for one in (mean_beside(built, best), best):
        if one is not None:
            asked.append(lambda one=one: ensemble_on_test(one, data.dataset, data.folds))  # type: ignore[misc]
    for make in asked:
        try:
            found.append(make())
        except (RequestError, HarnessError) as error:
            notes.append(str(error))
    return found, notes


def _kinds(home: Home, study: Study, data: Prepared, own: Predicted, report: Progress) -> dict[str, NDArray[np.str_]]:
    """Of the rows of `own`, by column; those that say what they are by their names."""
    rows = scan(study.spec.data, home, report)
    rows = rows.set_index("id", drop=False).loc[data.dataset.ids[own.rows].tolist()].reset_index(drop=True)
    table, private = read_attributes(study.spec.data, rows, home, report)
    found = {name: kinds(name, table[name]) for name in chosen_columns(table, [], private)}
    return {name: one for name, one in found.items() if one is not None}
