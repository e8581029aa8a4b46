"""The report of a study: written, put on MLflow's page, and what its command prints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.output.documents import Section
    from harness.report.collect import Collected
    from harness.store.home import Home
    from harness.types import Progress


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
    from harness.report.study_report import ENDINGS, sections_of, write_report
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
    from harness.report.study_report import ENDINGS, FORMATS

    if format_ not in FORMATS:
        raise RequestError(f"--format {format_}: write {', '.join(FORMATS)}.{nearest(format_, FORMATS)}")
    if out is not None and out.is_dir():
        example = out / f"report{ENDINGS[format_]}"
        raise RequestError(f"--out {out}: this is a folder; name a file, such as {example}.")


def _predictions(found: Collected, images: bool, device: str, progress: Progress) -> list[Section]:
    """What there is to say of the trial's predictions and of the ensembles; nothing where the data are gone."""
    from harness.hardware import parse_devices
    from harness.predict.explain import fold_overlays
    from harness.report.evaluation import Wanted, evaluation_sections

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
    from harness.report.study_report import title_of
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
