"""The report of a study in any format: its sections, written and published.

A study's report, or that of one of its trials: sections in the order in which a reader asks, in any format.

`html` is one file that needs nothing else; `md` and `latex` are its answers and tables.

The sections of a report that judge predictions: ranking, probabilities, classes, kinds of people, ensembles,
mistakes.

Gathers what there is; what cannot be read is said where it would stand, and never stops a report.

The report of a study: written, put on MLflow's page, and what its command prints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.config.load import Study
from harness.data.manifest import read_attributes
from harness.data.prepare import Prepared, scan
from harness.errors import HarnessError, RequestError
from harness.output.documents import Section, latex, markdown, page
from harness.output.format import plural
from harness.output.plots import scripts
from harness.report.collect import (
    Built,
    Collected,
    Predicted,
    best_built,
    built_ensembles,
    ensemble_on_test,
    mean_beside,
    trial_member,
    trial_on_test,
    trial_out_of_fold,
)
from harness.report.data_page import data_section
from harness.report.ensembles import ensembles_section
from harness.report.learning import ablation_section, learning_section
from harness.report.mistakes import MOST, Overlay, mistakes_section
from harness.report.overview import cost_section, question_section, reproduce_section
from harness.report.performance import (
    classes_section,
    groups_section,
    measured,
    measured_of_bundle,
    ranking_section,
    trust_section,
)
from harness.report.search import search_section
from harness.stats.subgroups import chosen_columns, kinds
from harness.store.home import Home
from harness.store.records import StudyRecord
from harness.types import Progress, TrialRecord

FORMATS = ("html", "md", "latex")
ENDINGS = {"html": ".html", "md": ".md", "latex": ".tex"}


def sections_of(found: Collected, predictions: Sequence[Section], images: bool) -> list[Section]:
    """`predictions`: what the other half of the report says of single predictions and of ensembles."""
    before = [question_section(found)]
    if not found.asked:
        before += [data_section(found, images), search_section(found)]
    before += [learning_section(found), ablation_section(found)]
    return [*before, *predictions, cost_section(found), reproduce_section(found)]


def title_of(found: Collected) -> str:
    return f"{found.name}, trial {found.chosen.number}" if found.asked and found.chosen else found.name


def write_report(found: Collected, sections: Sequence[Section], format_: str, images: bool) -> str:
    """The whole document."""
    if format_ == "md":
        return markdown(title_of(found), sections)
    if format_ == "latex":
        return latex(title_of(found), sections)
    whole = found.record.tree["description"]
    lead = (
        f'<p class="soft">Report of a study of {plural(len(found.trials), "trial")}: {escape(str(whole).strip())}</p>'
    )
    if images and found.data is not None:
        lead += '<p class="soft">This file holds pictures from the data: it may be shown to whom the data may be.</p>'
    return page(f"{title_of(found)}: report", lead, sections, scripts())


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


def make_report(
    home: Home,
    name: str | None,
    out: Path | None,
    trial: int | None,
    format_: str,
    images: bool,
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """Write the report of a study (the newest completed one where `name` is None), or of one of its trials.

    Raises RequestError for a format or a place that it cannot be written in, an unknown study or trial.
    """
    from harness.report.collect import collect
    from harness.store.files import write_text
    from harness.store.records import require_study

    _check(format_, out)
    record = require_study(home, name)
    found = collect(home, record, trial, progress)
    predictions = _predictions(found, images and format_ == "html", device, progress)
    sections = sections_of(found, predictions, images)
    path = out or home.report(record.name, trial, ENDINGS[format_])
    write_text(path, write_report(found, sections, format_, images))
    in_mlflow = format_ == "html" and _publish(found, path)
    return _document(found, sections, path, format_, in_mlflow)


def _check(format_: str, out: Path | None) -> None:
    from harness.errors import RequestError, nearest

    if format_ not in FORMATS:
        raise RequestError(f"--format {format_}: write {', '.join(FORMATS)}.{nearest(format_, FORMATS)}")
    if out is not None and out.is_dir():
        example = out / f"report{ENDINGS[format_]}"
        raise RequestError(f"--out {out}: this is a folder; name a file, such as {example}.")


def _predictions(found: Collected, images: bool, device: str, progress: Progress) -> list[Section]:
    """What there is to say of the trial's predictions and of the ensembles; nothing where the data are gone."""
    from harness.hardware import parse_devices
    from harness.predict.explain import fold_overlays

    trial, data, home = found.chosen, found.data, found.home
    if trial is None or trial.state != "complete" or data is None:
        return []
    first = parse_devices(device)[0]
    overlay = None
    if images:
        folder = home.run_artifacts(found.name, trial.run_id)
        overlay = fold_overlays(lambda fold: folder / f"fold_{fold}" / "weights.safetensors", data.pixels, first)
    wanted = Wanted(alone=found.asked, images=images, overlay=overlay, device=first)
    return evaluation_sections(home, found.study, found.record, trial, data, wanted, progress)


def _publish(found: Collected, path: Path) -> bool:
    """The page as an artifact that MLflow shows, of the trial's run or of the study's own. False where MLflow does not
    answer: the file is there all the same."""
    from harness.track.mlflow_store import StoreAway, publish_page

    run_id = found.chosen.run_id if found.asked and found.chosen else None
    try:
        publish_page(found.home, found.name, run_id, path, title_of(found))
    except StoreAway:
        return False
    return True


def _document(found: Collected, sections: list[Section], path: Path, format_: str, in_mlflow: bool) -> dict[str, Any]:
    from harness.search.status import trial_notes

    chosen = found.chosen
    return {
        "study": found.name,
        "state": found.record.state,
        "report": path.absolute(),
        "format": format_,
        "metric": found.metric,
        "trial": chosen.number if chosen else None,
        "answer": sections[0].answer,
        "points": sections[0].points,
        "cv": chosen.cv.get(found.metric) if chosen else None,
        "oof": chosen.oof.get(found.metric) if chosen else None,
        "corrected": None if found.asked else found.record.corrected,
        "lead": found.lead,
        "sections": [{"anchor": one.anchor, "title": one.title, "answer": one.answer} for one in sections],
        "notes": trial_notes(found.trials, found.metric),
        "in_mlflow": in_mlflow,
    }
