"""The Python API: one function per command.

The stages for notebooks and programs: `from harness import api`.

Each function does what the command of the same name does, with the same stage, and gives back what its `--json` prints:
plain dicts and lists, which a notebook draws as a table, and whose `.table` is a pandas DataFrame. Wrong requests raise
RequestError, failed work HarnessError (harness.errors), with the same words as on the command line. Progress goes to
stderr unless `quiet`. `home` is a folder; left out, it is HARNESS_HOME, or mlruns/ here.

What programs hand over in place of a command's words: a home, a study, settings.

Places and settings as plain values; each becomes what the stages take.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.output.result import Document, Rows, data_display, ensemble_display, study_display
from harness.output.terminal import in_manner

if TYPE_CHECKING:
    from harness.config.load import Study
    from harness.search.compare import Side
    from harness.store.home import Home
    from harness.store.records import StudyRecord
    from harness.types import Progress

Place = str | Path | None
"""the home: a folder, or where it is None what HARNESS_HOME or the working directory say"""
StudyFile = str | Path | Mapping[str, Any]
"""a study's name, the path of its YAML file, or the same keys as a dict, with a `name`"""
Settings = Mapping[str, Any] | None
"""keys to set, by dotted name: {"optim.lr": 1e-3, "search.trials": 4}"""


def home_of(home: Place) -> Home:
    from harness.store.home import Home, open_home

    return open_home() if home is None else Home(Path(home).absolute())


def study_of(study: StudyFile, settings: Settings, name: str | None = None) -> Study:
    from harness.config.load import check_study, load_study, set_keys

    if not isinstance(study, Mapping):
        return load_study(str(study), assignments(settings), name)
    tree = set_keys({**study, **({"name": name} if name else {})}, assignments(settings))
    return check_study(tree, f"study {tree.get('name', '')}".rstrip())


def assignments(settings: Settings) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()]


def run_study(
    study: StudyFile,
    settings: Settings = None,
    *,
    name: str | None = None,
    jobs: int = 1,
    device: str = "auto",
    quiet: bool = False,
    home: Place = None,
) -> Document:
    """Run a study to its total number of trials, or go on with it where it stopped. `name`: run it under another name.

    An interrupted cell loses no finished epoch: the same call goes on.
    """
    from harness.search.run import run_study as run

    checked, place = study_of(study, settings, name), home_of(home)
    with _listener(quiet) as listener:
        record = run(checked, place, jobs, device, listener)
    return _of_study(place, record)


def resume_study(
    name: str, *, jobs: int = 1, device: str = "auto", quiet: bool = False, home: Place = None
) -> Document:
    """Go on with a study exactly as it was begun, whatever its file says now."""
    from harness.store.records import require_study

    return run_study(require_study(home_of(home), name).tree, jobs=jobs, device=device, quiet=quiet, home=home)


def studies(home: Place = None) -> Rows:
    """The studies that can be run and those that ran, with the best trial of each."""
    from harness.search.status import study_rows

    return Rows(
        _plain(study_rows(home_of(home))), "studies", ("study", "state", "done", "total", "best", "description")
    )


def show(name: str | None = None, *, home: Place = None) -> Document:
    """The trials of a study (the newest completed one) and what it is doing now. Looks only: it may run meanwhile."""
    from harness.store.records import require_study

    place = home_of(home)
    return _of_study(place, require_study(place, name))


def ablate(
    name: str | None = None,
    factors: Sequence[str] = (),
    *,
    trial: int | None = None,
    seeds: int = 3,
    jobs: int = 1,
    device: str = "auto",
    quiet: bool = False,
    home: Place = None,
) -> Document:
    """What each setting of a trial (the best one) gives: left out or added alone, and trained again over seeds.

    `factors`: only these, or all that begin so; `optim.lr=1e-4,1e-3` names values to try.
    """
    from harness.search.ablation import plan_ablation, train_arms
    from harness.search.ablation_table import document, publish, tabulate

    place = home_of(home)
    plan = plan_ablation(place, name, trial, list(factors), seeds)
    with _listener(quiet) as listener:
        data = train_arms(plan, place, jobs, device, listener)
    table = tabulate(plan, place, data)
    publish(table, place)
    found = _plain(document(table))
    title = f"study {found['study']}, ablation of trial {found['trial']}: {found['metric']}"
    return Document(found, title, found["rows"], ("factor", "from", "to", "delta", "lo", "hi", "p_holm", "verdict"))


def importance(name: str | None = None, method: str = "ped_anova", *, home: Place = None) -> Document:
    """Which searched keys made the difference, from the trials so far. `method`: ped_anova or fanova."""
    from harness.search.optuna_export import importance_document, read_importances

    study, _, ranked, warning = read_importances(home_of(home), name, method)
    found = _plain(importance_document(study, method, ranked, warning))
    return Document(found, f"study {study.name}: importance for {study.spec.search.metric} ({method})", found["keys"])


def compare(a: str, b: str, *, per_group: bool = False, home: Place = None) -> Document:
    """Is A better than B? Two studies (their best trials) or two trials, `NAME/7`, on the rows that both predicted;
    `per_group`: on the groups, whose images may be others."""
    from harness.search.compare import compare_sides, comparison_document, find_side

    place = home_of(home)
    found = compare_sides(place, find_side(place, a), find_side(place, b), per_group=per_group)
    document = _plain(comparison_document(found))
    rows = "groups, each out of fold" if per_group else f"out-of-fold rows, {found.groups} groups"
    title = f"A: {_said(found.a)}   B: {_said(found.b)}   {found.rows} {rows}"
    return Document(document, title, document["metrics"])


def build_ensemble(
    method: str = "mean",
    study: str | Sequence[str] | None = None,
    *,
    top: int = 5,
    seed: int | None = None,
    decide: str | None = None,
    resamples: int = 10,
    device: str = "auto",
    register: bool = True,
    reference: bool = True,
    nested: str = "cross-fitted",
    quiet: bool = False,
    home: Place = None,
) -> Document:
    """Fit an ensemble of a study's (the newest completed one's) best trials, score it on the held-out test split, save
    it. `method`: mean, greedy, stacking, ..., or all. Several studies give members of several. `nested`: "full" trains
    the members again without each pair of folds, for honest scores where nothing is held out."""
    from harness.ensemble.results import make

    names = [study] if isinstance(study, str) else list(study or ())
    with in_manner(quiet):
        made = make(home_of(home), method, names, top, seed, resamples, decide, device, register, reference, nested)
    return ensemble_display(_plain(made.document))


def ensembles(study: str | None = None, *, home: Place = None) -> Rows:
    """The ensembles that were built, of one study or of all, oldest first."""
    from harness.ensemble.results import saved_bundles, saved_document
    from harness.store.records import require_study

    place = home_of(home)
    if study is not None:
        require_study(place, study)
    rows = _plain([saved_document(path, about) for path, about in saved_bundles(place, study)])
    return Rows(rows, "ensembles", ("study", "method", "members", "bundle"))


def show_ensemble(bundle: str | Path, *, home: Place = None) -> Document:
    """What an ensemble is made of and how well it did. `bundle`: STUDY/NAME, or a folder."""
    from harness.ensemble.results import find_saved, saved_document

    return ensemble_display(_plain(saved_document(*find_saved(home_of(home), str(bundle)))))


def predict(
    bundle: str | Path,
    images: str | Path | Iterable[str | Path],
    *,
    raw: bool = False,
    decide: str | None = None,
    abstain: float | None = None,
    tta: int = 1,
    per_series: bool = False,
    explain: str | Path | None = None,
    explain_all: bool = False,
    device: str = "auto",
    quiet: bool = False,
    home: Place = None,
) -> Rows:
    """A probability per class for each image, the decision, and how far to trust it. `images`: files, folders, lists.

    A file that cannot be read is a row with its `problem` and no probabilities.
    """
    from harness.predict.outputs import as_document
    from harness.predict.predict import Asked
    from harness.predict.predict import predict as predict_files

    paths = [Path(images)] if isinstance(images, str | Path) else [Path(one) for one in images]
    heat = None if explain is None else Path(explain)
    asked = Asked(raw, decide, abstain, tta, per_series, heat, explain_all)
    with _progress(quiet) as progress:
        found = predict_files(bundle, paths, device, progress, home_of(home), asked)
    return Rows(_plain(as_document(found)), f"{bundle} on {len(found.files)} images")


def evaluate(
    bundle: str | Path,
    data: str | Path,
    *,
    labels: str | Path | None = None,
    settings: Settings = None,
    mapping: Mapping[str, str] | None = None,
    by: Sequence[str] = (),
    device: str = "auto",
    quiet: bool = False,
    home: Place = None,
) -> Document:
    """What a bundle is worth on labelled images of another place, and what has changed since its own test split.

    `mapping`: {what a label is called there: what it is called here}, "-" leaves it out. `by`: columns of subgroups.
    """
    from harness.predict.evaluate import evaluate as evaluate_bundle
    from harness.predict.evaluate import log_evaluation

    place, maps = home_of(home), [f"{theirs}={ours}" for theirs, ours in (mapping or {}).items()]
    table = None if labels is None else Path(labels)
    with _progress(quiet) as progress:
        found = evaluate_bundle(
            bundle, str(data), place, assignments(settings), table, maps, list(by), device, progress=progress
        )
    log_evaluation(place, found)
    document = _plain(found)
    return Document(document, f"{found.bundle} on {found.data}: {found.n} images", document["scores"])


def report(
    name: str | None = None,
    out: str | Path | None = None,
    *,
    trial: int | None = None,
    format: str = "html",
    images: bool = True,
    device: str = "auto",
    quiet: bool = False,
    home: Place = None,
) -> Document:
    """What a study (the newest completed one) asked and what came out, as one HTML file; `trial`: only that one.

    `out`: the file; left out, it stands beside the study's records. `format`: html, md or latex.
    """
    from harness.report.study_report import make_report

    path = None if out is None else Path(out)
    with _progress(quiet) as progress:
        found = _plain(make_report(home_of(home), name, path, trial, format, images, device, progress))
    return Document(found, found["answer"], found["sections"], ("title", "answer"))


def scan(
    study: StudyFile, settings: Settings = None, *, force: bool = False, quiet: bool = False, home: Place = None
) -> Document:
    """Read every image and label of a study, divide them into folds, keep the decoded pixels: classes by part, and
    what cannot be used. `force`: unchanged files again, too."""
    from harness.data.summary import scan_document

    with in_manner(quiet):
        return data_display(_plain(scan_document(study_of(study, settings), home_of(home), force)))


def show_data(study: StudyFile, settings: Settings = None, *, quiet: bool = False, home: Place = None) -> Document:
    """How many images of each class stand in each fold and in the test split, their sizes and formats."""
    from harness.data.summary import files_document, manifest_of, usable

    checked, place = study_of(study, settings), home_of(home)
    with in_manner(quiet):
        document = files_document(checked, usable(checked, place), manifest_of(checked, place))
    return data_display(_plain({**document, "page": None}))


def audit(study: StudyFile, settings: Settings = None, *, quiet: bool = False, home: Place = None) -> Document:
    """What makes scores lie: groups in two parts, duplicates, conflicting labels, shortcuts, unreadable files."""
    from harness.data.summary import findings_of

    checked = study_of(study, settings)
    with in_manner(quiet):
        found = _plain(findings_of(checked, home_of(home)))
    document = {"study": checked.name, "findings": found}
    return Document(document, f"study {checked.name}: {len(found)} findings", found, ("severity", "kind", "message"))


def backbones(text: str = "", library: str | None = None, family: str | None = None) -> Rows:
    """Every name that model.backbone takes and that contains `text`, with parameters, embedding, native image size."""
    from harness.models.catalog import chosen, known_rows

    rows = chosen(known_rows(), text or None, library, family)
    return Rows([row._asdict() for row in sorted(rows, key=lambda row: row.name)], f"{len(rows)} backbones")


def backbone(name: str) -> Document:
    """One backbone: its stages and what each number of train.freeze freezes, its embedding, its weights."""
    from harness.models.catalog import describe

    found = _plain(describe(name))
    return Document(found, f"{found['name']}: embedding of {found['embedding']}", found["freeze"])


def doctor(home: Place = None) -> Document:
    """What this machine and this home have, and what is wrong with them."""
    from harness.doctor import examine

    found = _plain(examine(home_of(home)))
    title = "something that a study needs is broken" if any(one["breaks"] for one in found["problems"]) else "all works"
    return Document(found, title, found["problems"])


@contextmanager
def _listener(quiet: bool) -> Iterator[Any]:
    from harness.output.progress import study_listener

    with in_manner(quiet), study_listener() as listener:
        yield listener


@contextmanager
def _progress(quiet: bool) -> Iterator[Progress]:
    from harness.output.progress import step_progress

    with in_manner(quiet), step_progress() as progress:
        yield progress


def _plain(found: Any) -> Any:
    from harness.output.result import plain

    return plain(found)


def _of_study(home: Home, record: StudyRecord) -> Document:
    from harness.search.status import look, study_document
    from harness.store.records import read_trials

    trials = read_trials(home, record.name)
    document = _plain(study_document(record, trials, look(home, record, trials)))
    return study_display(document)


def _said(side: Side) -> str:
    best = f", the best of {side.best_of}" if side.best_of > 1 else ""
    return f"trial {side.trial.number} of {side.record.name}{best}"
