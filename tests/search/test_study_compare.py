"""Two trials, two studies: the same rows or a refusal, every test where it applies, 'best of M' corrected."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.data.people import FILE
from harness.errors import RequestError
from harness.metrics import METRICS, mean_over_folds, softmax
from harness.search.compare import compare_sides, find_side
from harness.stats.intervals import by_group
from harness.stats.optimism import Search, best_corrected
from harness.stats.paired import delong_difference, paired_difference
from harness.store.home import Home
from harness.store.records import read_study, read_trials, write_study, write_trial


@pytest.fixture
def home(small_study, tmp_path):
    """A home with the study `small` (two trials) and the study `other`, which is the same run again."""
    shutil.copytree(small_study.home.root, tmp_path / "home")
    home = Home(tmp_path / "home")
    shutil.copytree(home.work("small"), home.work("other"))
    shutil.copytree(home.study_artifacts("small"), home.study_artifacts("other"))
    write_study(home, replace(read_study(home, "small"), name="other"))
    return home


def compare(home, a, b):
    return compare_sides(home, find_side(home, a), find_side(home, b), reps=200)


def oof(home, study, number):
    """(ids, y, groups, p, fold) straight from the files."""
    run_id = read_trials(home, study)[number].run_id
    tables = [pq.read_table(home.fold(study, run_id, fold) / "predictions.parquet") for fold in range(3)]
    fold = np.concatenate([np.full(len(table), k) for k, table in enumerate(tables)])
    whole = pa.concat_tables(tables)
    order = np.argsort(np.array(whole["id"].to_pylist()))
    p = softmax(np.array(whole["logits"].to_pylist(), np.float32))
    columns = (np.array(whole[name].to_pylist())[order] for name in ("id", "y", "group"))
    return *columns, p[order], fold[order]


def test_every_number_is_what_the_rows_say(home):
    found = compare(home, "small/0", "small/1")
    ids, y, groups, p_a, fold = oof(home, "small", 0)
    _, _, _, p_b, _ = oof(home, "small", 1)
    assert (found.rows, found.groups, found.same_folds) == (len(ids), len(set(groups)), True)
    assert [line.metric for line in found.lines] == list(METRICS)
    for line in found.lines:
        assert line.delta == paired_difference(line.metric, y, p_a, p_b, groups, 0, 200, fold)
        assert line.a.value == METRICS[line.metric].of(y, p_a, None)[0]
        of = METRICS[line.metric].of
        d = [of(y[fold == k], p_a[fold == k], None)[0] - of(y[fold == k], p_b[fold == k], None)[0] for k in range(3)]
        assert line.folds.value == pytest.approx(np.mean(d), abs=1e-12)
    assert found.delong == delong_difference(y == 1, p_a[:, 1], p_b[:, 1], groups)
    right_a, right_b = (p.argmax(1) == y for p in (p_a, p_b))
    assert found.mcnemar.only_a == (right_a & ~right_b).sum() and found.mcnemar.only_b == (right_b & ~right_a).sum()
    assert found.corrected is None and found.notes == []
    # what the ledger says of the trial is what is compared
    assert found.lines[0].a.value == pytest.approx(read_trials(home, "small")[0].oof["auroc"].value)


def test_the_best_of_two_is_corrected_and_against_one_it_is_said(home):
    found = compare(home, "small", "other/1")
    trials = read_trials(home, "small")
    assert found.a.trial.number == max(trials, key=lambda trial: trial.cv["auroc"]).number
    assert (found.a.best_of, found.b.best_of) == (2, 1)
    assert "best of 2 is compared with the best of 1" in found.notes[0] and "favours small" in found.notes[0]
    _, y, groups, p_0, fold = oof(home, "small", 0)
    _, _, _, p_1, _ = oof(home, "small", 1)
    best, single, delta = found.corrected
    places = np.array([[1, 0], [0, 1]]) * np.sqrt(0.5)  # two options of one choice
    assert best == best_corrected("auroc", y, fold, groups, Search(np.stack([p_0, p_1]), points=places))
    assert best.value == read_study(home, "small").corrected["value"]
    assert single == best_corrected("auroc", y, fold, groups, Search(p_1[None]))
    assert single.value == pytest.approx(mean_over_folds("auroc", y, p_1, fold)[0], abs=1e-12)
    assert delta.value == best.value - single.value and delta.lo < delta.value < delta.hi


def test_equal_studies_do_not_differ(home):
    found = compare(home, "small", "other")
    assert all(line.delta.value == 0 and line.delta.p == 1 for line in found.lines)
    assert found.corrected[2].value == 0 and found.notes == []


def rewrite(home, study, change):
    """Change each predictions file of a study."""
    for trial in read_trials(home, study):
        for fold in range(3):
            path = home.fold(study, trial.run_id, fold) / "predictions.parquet"
            pq.write_table(change(pq.read_table(path)), path)


def rewrite_people(home, study, column):
    path = home.work(study) / FILE
    table = pd.read_parquet(path)
    table.assign(**{column: "x" + table[column]}).to_parquet(path, index=False)


def test_other_rows_are_refused_with_the_reason(home):
    write_study(home, replace(read_study(home, "other"), data_hash="else"))
    assert compare(home, "small", "other").lines[0].delta.value == 0  # the same rows by id, label and group

    def other_group(table):
        return table.set_column(1, "group", pa.array([f"x{name}" for name in table["group"].to_pylist()]))

    rewrite(home, "other", other_group)
    rewrite_people(home, "other", "identity")
    with pytest.raises(RequestError, match=r"the groups of .* rows differ"):
        compare(home, "small", "other")

    def other_name(table):
        return table.set_column(0, "id", pa.array([f"x{name}" for name in table["id"].to_pylist()]))

    rewrite(home, "other", other_name)
    rewrite_people(home, "other", "id")
    with pytest.raises(RequestError, match=r"different data: .* development rows, 0 with the same name"):
        compare(home, "small", "other")


def test_other_folds_are_said_and_rows_of_one_test_split_left_out(home):
    write_study(home, replace(read_study(home, "other"), folds_hash="else"))
    rewrite(home, "other", lambda table: table.slice(5))
    found = compare(home, "small", "other")
    assert not found.same_folds and all(line.folds is None for line in found.lines)
    assert found.rows == len(oof(home, "small", 0)[0]) - 15
    assert "development rows of both" in found.notes[0] and "folds are not the same" in found.notes[1]


def test_other_questions_and_missing_trials_are_refused(home):
    with pytest.raises(RequestError, match="compared with itself"):
        compare(home, "small/0", "small/0")
    with pytest.raises(RequestError, match=r"no complete trial '7'\. Complete ones: 0, 1"):
        find_side(home, "small/7")
    assert find_side(home, "small:1") == find_side(home, "small/1")
    with pytest.raises(RequestError, match="has not run"):
        find_side(home, "smal")
    record = read_study(home, "other")
    tree = {**record.tree, "data": {**record.tree["data"], "classes": ["a", "b"]}}
    write_study(home, replace(record, tree=tree))
    with pytest.raises(RequestError, match="answer different questions"):
        compare(home, "small", "other")
    for trial in read_trials(home, "small"):
        write_trial(home, "small", replace(trial, state="failed"))
    with pytest.raises(RequestError, match="no complete trial"):
        find_side(home, "small")


def test_a_trial_whose_epochs_saw_the_rows_is_marked(home):
    record = read_trials(home, "other")[1]
    write_trial(home, "other", replace(record, optimistic=True))
    command = [sys.executable, "-m", "harness", "study", "compare", "small/0", "other/1"]
    env = {**os.environ, "HARNESS_HOME": str(home.root)}
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("auroc  ")]
    assert line.rstrip().endswith("]*") and line.count("*") == 1 and "no estimate" in said
    found = json.loads(subprocess.run([*command, "--json"], env=env, capture_output=True, text=True, check=True).stdout)
    assert (found["a"]["optimistic"], found["b"]["optimistic"]) == (False, True)


def test_groups_are_compared_where_images_cannot_be(home):
    def sides(b):
        return find_side(home, "small/0"), find_side(home, b)

    found = compare_sides(home, *sides("small/1"), reps=200, per_group=True)
    _, y, groups, p_a, _ = oof(home, "small", 0)
    y_group, pooled, names = by_group(y, p_a, groups, "mean")
    assert found.per_group and found.rows == found.groups == len(names)
    assert found.lines[0].a.value == pytest.approx(METRICS["auroc"].of(y_group, pooled, None)[0])
    # the same patients, one image less of each who has several of one kind
    write_study(home, replace(read_study(home, "other"), data_hash="another"))
    run_id, left = read_trials(home, "other")[1].run_id, []
    for fold in range(3):
        path = home.fold("other", run_id, fold) / "predictions.parquet"
        table = pq.read_table(path).to_pandas()
        alike = table.groupby("group")["y"].transform("nunique") == 1
        kept = table[~(alike & table.duplicated("group", keep=False) & ~table.duplicated("group"))]
        kept.to_parquet(path, index=False)
        left.append(kept)
    with pytest.raises(RequestError, match=r"different data.*--per-group"):
        compare_sides(home, *sides("other/1"))
    found = compare_sides(home, *sides("other/1"), reps=200, per_group=True)
    fewer = pd.concat(left)
    assert len(fewer) < len(groups) and found.rows == fewer["group"].nunique() == len(names)
    y_b, p_b, _ = by_group(
        np.array(fewer["y"]), softmax(np.stack(fewer["logits"])), np.array(fewer["group"], np.str_), "mean"
    )
    assert found.lines[0].b.value == pytest.approx(METRICS["auroc"].of(y_b, p_b, None)[0])
    elsewhere = read_study(home, "other")
    write_study(home, replace(elsewhere, tree={**elsewhere.tree, "data": {**elsewhere.tree["data"], "root": "there"}}))
    with pytest.raises(RequestError, match="nobody of the other"):
        compare_sides(home, *sides("other/1"), per_group=True)
    write_study(
        home, replace(elsewhere, tree={**elsewhere.tree, "data": {**elsewhere.tree["data"], "per_group": "none"}})
    )
    with pytest.raises(RequestError, match="scores no groups"):
        compare_sides(home, *sides("other/1"), per_group=True)
