"""What a report says of predictions: numbers that are scikit-learn's and the records', every kind of task, no leak."""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from harness.calibration.operating_points import Answers, Rule, said_out_of_fold, threshold
from harness.config.load import Study, check_study
from harness.data.prepare import Prepared, prepare
from harness.metrics import METRICS
from harness.output.documents import Section, markdown
from harness.output.format import interval
from harness.predict.explain import fold_overlays
from harness.report.collect import OUT_OF_FOLD, Predicted, built_ensembles, trial_member, trial_out_of_fold
from harness.report.mistakes import mistakes_section, overlays_of, worst_mistakes
from harness.report.performance import (
    classes_section,
    confusion,
    groups_section,
    measured,
    ranking_section,
    trust_section,
)
from harness.report.study_report import Wanted, evaluation_sections
from harness.store.records import best_trial, read_trials
from harness.train.checkpoint import read_meta
from harness.types import Dataset, Folds, TrialRecord

EVIL = "</script><b>x"
NAMES = ("a", EVIL, "c", "3")
ANCHORS = ["ranking", "trust", "classes", "groups", "ensembles", "mistakes"]


def silent(what, done, total):
    pass


def made_up(task: str, n: int = 90, seed: int = 0) -> tuple[Predicted, Dataset, Folds]:
    """Predictions of a model that is often wrong; `rare` has one image of its last class."""
    rng = np.random.default_rng(seed)
    count = 2 if task in ("binary", "rare") else 4 if task == "several" else 3
    classes = NAMES[:count]
    groups = np.char.add("person-", rng.integers(0, n // 2, n).astype(str))
    fold = np.unique(groups, return_inverse=True)[1] % 3
    if task == "labels":
        y = rng.integers(-1, 2, (n, count))
        p = np.clip(0.3 * y + rng.random((n, count)), 0.01, 0.99)
    else:
        y = rng.integers(0, count, n) if task != "rare" else (np.arange(n) == 5).astype(np.int64)
        z = np.eye(count)[y] + rng.normal(size=(n, count))
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    rule = Rule("argmax") if task == "several" else Rule("youden")
    said = said_out_of_fold(rule, Answers(y, p, groups, fold), classes, task == "labels")
    ids = np.array([f"images/{i}.png" for i in range(n)])
    dataset = Dataset(ids, tuple(ids.tolist()), y, groups, classes, "")
    one = Predicted("trial-0000", OUT_OF_FOLD, np.arange(n), y, p, groups, said, "a rule")
    return one, dataset, Folds(fold, 3, "")


@pytest.mark.parametrize("task", ["binary", "several", "labels", "rare"])
def test_every_task_has_its_sections_and_none_breaks_the_page_or_names_a_person(task):
    one, dataset, folds = made_up(task)
    kinds = {"sex": np.where(np.arange(len(one.y)) % 2, "f", EVIL)}
    pixels = np.random.default_rng(0).integers(0, 255, (len(one.y), 8, 8, 1), dtype=np.uint8)
    sections = [
        ranking_section([one], dataset.classes, 0),
        trust_section([measured(one, dataset.classes, 0)], dataset.multilabel),
        classes_section([one], dataset.classes, 0),
        groups_section(one, kinds, "auroc", "mean", "patient", 0),
        mistakes_section(one, dataset, folds, pixels, None),
    ]
    assert [section.anchor for section in sections] == [anchor for anchor in ANCHORS if anchor != "ensembles"]
    for section in sections:
        assert section.answer.endswith(".")
        assert "person-" not in section.body + markdown("x", [section])
        assert not re.search(r"\bNaN\b|\bnan\b", section.body + markdown("x", [section]))
        assert EVIL not in section.body
    assert all(len(row) == len(table.columns) for section in sections for table in section.tables for row in table.rows)
    assert (task == "rare") == ("believe little" in sections[0].tables[0].note)
    assert sections[-1].body.count("<img") == len(sections[-1].tables[0].rows) > 0


def test_confusion_and_rates_are_scikit_learns():
    one, dataset, _ = made_up("several")
    said = one.said.argmax(axis=1)
    np.testing.assert_array_equal(confusion(one.y, one.said)[:, :-1], confusion_matrix(one.y, said))
    table = classes_section([one], dataset.classes, 0).tables[-1]
    for c, row in enumerate(table.rows):
        count = int((one.y == c).sum())
        assert row[:2] == [dataset.classes[c], f"{count}*" if count < 20 else f"{count}"]
        assert row[2].startswith(f"{recall_score(one.y == c, said == c):.3f} [")
        assert row[3].startswith(f"{recall_score(one.y != c, said != c):.3f} [")
        assert row[4].startswith(f"{precision_score(one.y == c, said == c):.3f} [")
    none = one.said.copy()
    none[0] = False
    assert confusion(one.y, none)[one.y[0], -1] == 1


def test_no_row_has_a_say_in_the_threshold_that_decides_it():
    one, dataset, folds = made_up("binary")
    answers = Answers(one.y, one.p, one.groups, folds.fold)
    rule, classes = Rule("youden"), dataset.classes
    said = said_out_of_fold(rule, answers, classes, False)
    for k in range(3):
        here = folds.fold == k
        cut = threshold(rule, one.y[~here], one.p[~here, 1])
        np.testing.assert_array_equal(said[here, 1], one.p[here, 1] >= cut)
        turned = replace(answers, y=np.where(here, 1 - one.y, one.y))
        np.testing.assert_array_equal(said_out_of_fold(rule, turned, classes, False)[here], said[here])


def test_the_worst_mistakes_are_wrong_the_surest_and_of_every_class():
    one, dataset, folds = made_up("several", 300)
    said = one.said.argmax(axis=1)
    found = worst_mistakes(one, dataset.classes, 8)
    assert len(found) == 8 and {mistake.true for mistake in found} == set(dataset.classes)
    for mistake in found:
        assert mistake.true == dataset.classes[one.y[mistake.row]] != mistake.said
        assert mistake.said == dataset.classes[said[mistake.row]] == dataset.classes[mistake.explained]
    wrong = np.flatnonzero(said != one.y)
    surest = wrong[np.argmin(one.p[wrong, one.y[wrong]])]
    assert surest in [mistake.row for mistake in found]
    listed = mistakes_section(one, dataset, folds, None, None)
    assert "<img" not in listed.body and listed.tables[0].rows  # without images they are listed all the same
    right = replace(one, said=np.eye(4, dtype=bool)[one.y])
    assert "no image is decided wrongly" in mistakes_section(right, dataset, folds, None, None).answer


@dataclass(frozen=True)
class Real:
    study: Study
    trial: TrialRecord
    data: Prepared
    sections: dict[str, Section]
    own: Predicted


@pytest.fixture(scope="module")
def real(small_study) -> Real:
    """The small study with two ensembles, its page's sections really made."""
    from harness.ensemble.build import build

    home, record = small_study.home, small_study.record
    for method in ("mean", "stacking"):
        build(home, [record], [method], 2, record.tree["seed"], "cpu")
    study = check_study(record.tree, "small")
    data = prepare(study.spec.data, study.spec.seed, home, silent)
    trial = best_trial(read_trials(home, record.name), study.spec.search.metric)
    assert trial is not None
    member = trial_member(home, record.name, trial)
    overlay = fold_overlays(member.weights, data.pixels, "cpu")
    made = evaluation_sections(home, study, record, trial, data, Wanted(overlay=overlay, mistakes=3), silent)
    assert [section.anchor for section in made] == ANCHORS
    return Real(study, trial, data, {section.anchor: section for section in made}, trial_out_of_fold(member, data))


def test_the_numbers_are_those_of_the_records_and_the_bundles(real, small_study):
    metric = real.study.spec.search.metric
    areas = {(row[0], row[1]): row[4] for row in real.sections["ranking"].tables[0].rows}
    positive = real.data.dataset.classes[1]
    assert areas[real.own.title, positive] == interval(real.trial.oof["auroc"])
    built = {one.method: one for one in built_ensembles(small_study.home, small_study.record)[0]}
    about, name = built["stacking"].about, built["stacking"].name
    scores, every, compared = real.sections["ensembles"].tables[:3]
    test = next(one for one in about["scores"] if one["name"] == "stacking")["test"]
    assert next(row for row in scores.rows if row[0] == name)[3].startswith(f"{test[metric]['value']:.3f}")
    delta = next(row for row in compared.rows if row[0] == name)
    assert delta[1].startswith(f"{about['delta_vs_mean']['value']:+.3f}")
    assert delta[4].startswith(f"{about['delta_vs_single']['value']:+.3f}")
    single = next(one for one in about["scores"] if one["kind"] == "single" and one["selection"])
    mean = next(one for one in about["scores"] if one["kind"] == "mean")
    in_every = {row[0]: row[2] for row in every.rows}
    assert list(in_every) == list(METRICS)
    assert all(told.startswith(f"{mean['test'][key]['value']:.3f}") for key, told in in_every.items())
    for title, row in ((single["name"].split()[0], single), ("the plain mean", mean)):
        assert areas[f"{title}, test split", positive].startswith(f"{row['test']['auroc']['value']:.3f}")


def test_heat_is_asked_of_the_fold_model_that_never_saw_the_image(real, small_study):
    member = trial_member(small_study.home, "small", real.trial)
    data, mistakes = real.data, worst_mistakes(real.own, real.data.dataset.classes, 6)
    inner = fold_overlays(member.weights, data.pixels, "cpu")
    asked = []

    def overlay(fold, rows, classes):
        asked.append((fold, rows))
        return inner(fold, rows, classes)

    pictures, why = overlays_of(mistakes, data.folds, overlay)
    assert why == "" and len(pictures) == len(mistakes) > 0
    for fold, rows in asked:
        assert read_meta(member.weights(fold)).fold == fold
        assert not np.isin(rows, data.folds.train_rows(fold)).any()
    differs = False
    for mistake in mistakes:
        row, of = np.array([mistake.row]), np.array([mistake.explained])
        own = int(data.folds.fold[mistake.row])
        drawn = {k: inner(k, row, of)[0].astype(int) for k in range(data.folds.k)}
        assert np.abs(drawn[own] - pictures[mistake]).max() <= 8  # a batch of another size rounds otherwise
        differs |= any(np.abs(drawn[k] - pictures[mistake]).max() > 20 for k in drawn if k != own)
    assert differs  # a network that had learned the image would have been noticed


def test_one_trial_alone_leaves_the_test_split_closed_and_no_group_is_named(real, small_study):
    home, record = small_study.home, small_study.record
    wanted = Wanted(alone=True, images=False)
    alone = evaluation_sections(home, real.study, record, real.trial, real.data, wanted, silent)
    assert [section.anchor for section in alone] == [anchor for anchor in ANCHORS if anchor != "ensembles"]
    assert not any("test split" in markdown("x", [section]) + section.body for section in alone)
    assert not any("<img" in section.body for section in alone)
    everything = "".join(markdown("x", [section]) + section.body for section in real.sections.values())
    groups = set(real.data.dataset.groups.tolist()) - set(real.data.dataset.ids.tolist())
    assert groups and not any(group in everything for group in groups)


def test_a_bundle_that_cannot_be_read_or_is_of_other_data_is_left_out_and_said(real, small_study):
    home, record = small_study.home, small_study.record
    damaged = home.bundles(record.name) / "damaged-top2"
    damaged.mkdir()
    (damaged / "bundle.json").write_text("{")
    try:
        built, notes = built_ensembles(home, record)
    finally:
        (damaged / "bundle.json").unlink()
        damaged.rmdir()
    assert "damaged-top2" in notes[0] and "damaged-top2" not in [one.name for one in built]
    built, notes = built_ensembles(home, replace(record, data_hash="other"))
    assert built == [] and "other data" in notes[0]
