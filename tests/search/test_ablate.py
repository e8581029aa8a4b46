"""Ablations really trained on the built-in data set: arms, seeds, resuming, the table, MLflow."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from benchmarks._tiny_study import tiny_tree
from harness.config.load import check_study, read_spec
from harness.errors import HarnessError, RequestError
from harness.search.ablation import missing, plan_ablation, train_arms
from harness.search.ablation_table import COLUMNS, SHOWN, document, publish, tabulate
from harness.search.run import run_study
from harness.store.files import is_done
from harness.store.home import Home
from harness.store.records import StudyRecord, read_study, read_trials, require_study, write_study, write_trial
from harness.types import TrialRecord

TREE = tiny_tree(
    name="small",
    seed=5,
    data__folds=2,
    optim__lr={"float": [1e-3, 1e-2], "log": True},
    train__epochs=1,
    augment__hflip={"choice": [0.0, 0.5]},
    search__sampler="random",
)


def silent(event):
    pass


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"))
    run_study(check_study(TREE, "test"), home, 1, "cpu", silent)
    return home


@pytest.fixture
def home(searched, tmp_path):
    """A home of one's own with the finished search."""
    shutil.copytree(searched.root, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture(scope="module")
def ablated(searched, tmp_path_factory):
    shutil.copytree(searched.root, tmp_path_factory.mktemp("ablated") / "home")
    home = Home(tmp_path_factory.getbasetemp() / "ablated0" / "home")
    plan = plan_ablation(home, "small", 0, [], 2)
    data = train_arms(plan, home, 1, "cpu", silent)
    return home, plan, data, tabulate(plan, home, data, reps=200)


def test_arms_differ_from_the_trial_in_one_setting_and_share_seeds_and_folds(ablated):
    home, plan, _, _ = ablated
    base = read_spec(home.run_artifacts("small", plan.trial.run_id) / "spec.yaml").model_dump(mode="json")
    records = read_trials(home, plan.study.name)
    assert [record.state for record in records] == ["complete"] * 5  # 2 arms x 2 seeds, and the base trial's second
    assert plan.seeds[0] == 5 and len(set(plan.seeds)) == 2
    for record in records:
        own = read_spec(home.run_artifacts(plan.study.name, record.run_id) / "spec.yaml").model_dump(mode="json")
        changed = [
            f"{block}.{key}"
            for block in ("data", "model", "optim", "train", "augment")
            for key in base[block]
            if own[block][key] != base[block][key]
        ]
        assert changed == [name for name in record.params if name != "seed"]
        assert own["seed"] == record.params["seed"] and own["search"]["pruner"] == "none"
        folder = home.run_artifacts(plan.study.name, record.run_id)
        for fold in range(2):
            mine, theirs = (
                pd.read_parquet(where / f"fold_{fold}" / "predictions.parquet")
                for where in (folder, home.run_artifacts("small", plan.trial.run_id))
            )
            assert mine["id"].tolist() == theirs["id"].tolist()
    by_seed = {seed: sorted(len(r.params) for r in records if r.params["seed"] == seed) for seed in plan.seeds}
    assert by_seed == {plan.seeds[0]: [2, 2], plan.seeds[1]: [1, 2, 2]}


def test_the_base_trial_with_the_studys_seed_is_what_would_be_trained_again(ablated):
    """So that it need not be: the same predictions, bit for bit."""
    home, plan, _, _ = ablated
    tree = {**plan.base.tree, "name": "again", "search": {**plan.base.tree["search"], "trials": 1}}
    tree["optim"] = {**tree["optim"], "lr": plan.trial.params["optim.lr"]}
    tree["augment"] = {**tree["augment"], "hflip": plan.trial.params["augment.hflip"]}
    run_study(check_study(tree, "again"), home, 1, "cpu", silent)
    (again,) = read_trials(home, "again")
    for fold in range(2):
        name = f"fold_{fold}/predictions.parquet"
        one = pd.read_parquet(home.run_artifacts("again", again.run_id) / name)
        other = pd.read_parquet(home.run_artifacts("small", plan.trial.run_id) / name)
        np.testing.assert_array_equal(np.stack(one["logits"]), np.stack(other["logits"]))


def test_the_table_is_what_the_records_say(ablated):
    home, plan, _, table = ablated
    records = {tuple(sorted(r.params.items())): r.cv["auroc"] for r in read_trials(home, plan.study.name)}
    own = [plan.trial.cv["auroc"], records[(("seed", plan.seeds[1]),)]]
    assert table.base == pytest.approx(np.mean(own))
    assert {row.factor for row in table.rows} == {"augment.hflip", "optim.weight_decay"}
    assert table.not_factors == ["optim.lr"]
    deltas = []
    for row in table.rows:
        value = row.before if row.base == "after" else row.after
        arm = [records[tuple(sorted({row.factor: value, "seed": seed}.items()))] for seed in plan.seeds]
        assert row.values == pytest.approx(arm)
        gain = np.mean(arm) - np.mean(own)
        assert row.delta == pytest.approx(gain if row.base == "before" else -gain, abs=1e-12)
        assert row.lo <= row.delta <= row.hi and row.p <= row.p_holm <= 1
        deltas.append(row.delta)
    assert deltas == sorted(deltas, reverse=True)
    decay = next(row for row in table.rows if row.factor == "optim.weight_decay")
    assert (decay.before, decay.after, decay.base) == (0.0, 0.01, "after")


def test_the_document_keeps_its_contract(ablated):
    _, _, _, table = ablated
    found = json.loads(json.dumps(document(table), allow_nan=False))
    assert isinstance(found["noise_floor"], float)
    for row in found["rows"]:
        assert set(COLUMNS) <= set(row) and row["base"] in ("from", "to")
        assert row["verdict"] in ("better", "worse", "inside the noise", "not distinguishable")


def test_nothing_is_trained_twice_and_more_is_added(home):
    plan = plan_ablation(home, "small", None, ["augment"], 2)
    assert missing(plan, home) == len(plan.params) == 2 if not plan.arms else 3
    train_arms(plan, home, 1, "cpu", silent)
    events = []
    train_arms(plan, home, 1, "cpu", events.append)
    assert missing(plan, home) == 0 and not [event for event in events if "Trial" in type(event).__name__]
    before = [record.run_id for record in read_trials(home, plan.study.name)]
    wider = plan_ablation(home, "small", None, ["augment", "optim.weight_decay=0,0.1"], 2)
    assert wider.study.name == plan.study.name and missing(wider, home) == 4
    train_arms(wider, home, 2, "cpu", silent)  # in two processes
    records = read_trials(home, plan.study.name)
    assert [record.run_id for record in records][: len(before)] == before
    assert [record.number for record in records] == list(range(7))
    assert read_study(home, plan.study.name).state == "complete"


def test_what_was_cut_off_is_finished(home):
    """A training that was killed after a fold: the next run of the command trains the rest of it, and no more."""
    plan = plan_ablation(home, "small", 0, ["optim.weight_decay"], 2)

    def cut(event):
        if type(event).__name__ == "FoldDone" and event.trial == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_arms(plan, home, 1, "cpu", cut)
    running = next(record for record in read_trials(home, plan.study.name) if record.state == "running")
    folder = home.run_artifacts(plan.study.name, running.run_id)
    assert is_done(folder / "fold_0") and not is_done(folder / "fold_1")
    stamp = (folder / "fold_0" / "DONE").stat().st_mtime_ns
    data = train_arms(plan, home, 1, "cpu", silent)
    assert [record.state for record in read_trials(home, plan.study.name)] == ["complete"] * 3
    assert (folder / "fold_0" / "DONE").stat().st_mtime_ns == stamp
    assert np.isfinite(tabulate(plan, home, data, reps=100).rows[0].delta)


def test_an_arm_that_failed_is_a_row_that_says_so(home):
    plan = plan_ablation(home, "small", 0, [], 2)
    data = train_arms(plan, home, 1, "cpu", silent)
    records = read_trials(home, plan.study.name)
    bad = next(record for record in records if "optim.weight_decay" in record.params)
    write_trial(home, plan.study.name, replace(bad, state="failed", reason="the loss is not finite"))
    table = tabulate(plan, home, data, reps=100)
    assert [row.factor for row in table.rows] == ["augment.hflip", "optim.weight_decay"]
    assert table.rows[1].verdict == "failed" and table.rows[1].reason == "the loss is not finite"
    assert document(table)["rows"][1]["delta"] is None and np.isfinite(table.rows[0].p)
    base = next(record for record in records if set(record.params) == {"seed"})
    write_trial(home, plan.study.name, replace(base, state="failed", reason="no memory"))
    with pytest.raises(HarnessError, match="no memory"):
        tabulate(plan, home, data, reps=100)


def test_mlflow_has_the_table_once(ablated):
    home, _, _, table = ablated
    run_id = publish(table, home)
    assert publish(table, home) == run_id
    client = MlflowClient(home.mlflow_uri)
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id], "tags.`harness.kind` = 'ablation'")
    assert [run.info.run_id for run in runs] == [run_id]
    metrics = runs[0].data.metrics
    assert metrics["ablation/noise_floor"] == pytest.approx(table.noise_floor)
    for row in table.rows:
        assert metrics[f"ablation/{row.factor}"] == pytest.approx(row.delta)
        assert metrics[f"ablation/{row.factor}_p_holm"] == pytest.approx(row.p_holm)
    kept = json.loads((home.run_artifacts("small", run_id) / "ablation.json").read_text())
    assert kept["columns"] == list(SHOWN) and set(SHOWN) == set(COLUMNS)
    assert [row[1] for row in kept["data"]] == [pytest.approx(row.delta, abs=1e-5) for row in table.rows]
    assert [row[0] for row in kept["data"]] == [row.factor for row in table.rows]
    assert "ablation.json" in runs[0].data.tags["mlflow.loggedArtifacts"]
    view = json.loads(json.loads(experiment.tags["mlflow.sharedViewState.ablations"])["state"])
    assert "tags.`harness.ablation/augment.hflip`" in view["selectedColumns"]
    hflip = next(row for row in table.rows if row.factor == "augment.hflip")
    assert runs[0].data.tags["harness.ablation/augment.hflip"].startswith(f"{hflip.delta:+.3f} [")
    assert view["selectedColumns"][0].startswith("tags.`harness.ablation/")


def test_an_ablation_is_not_taken_for_a_search(ablated):
    home, plan, _, _ = ablated
    assert read_study(home, plan.study.name).ablates == "small"
    newest = require_study(home, None)
    assert not newest.ablates
    with pytest.raises(RequestError, match="Name the study: small"):
        plan_ablation(home, plan.study.name, None, [], 2)


def test_how_a_study_searched_does_not_bind_its_ablation(tmp_path):
    """Conditional ranges, enqueued points, costs, bounds and copies: the arms are plain trainings all the same."""
    home = Home(tmp_path)
    tree = {**TREE, "optim": {"name": {"choice": ["adamw", "sgd"]}, "lr": 1e-3}}
    tree["optim"] |= {"momentum": {"choice": [0.8, 0.9], "when": {"optim.name": "sgd"}}}
    point = {"optim.name": "adamw", "augment.hflip": 0.5}
    search = {"trials": 4, "pruner": "none", "sampler": "tpe", "costs": ["parameters"]}
    tree["search"] = {**search, "constraints": ["parameters <= 1"], "enqueue": [point], "trial_minutes": 1.0}
    study = check_study(tree, "test")
    write_study(home, StudyRecord("small", "complete", study.tree, "", "", "", 0.0))
    best = TrialRecord(0, "complete", point, "run", cv={"auroc": 0.8})
    write_trial(home, "small", best)
    write_trial(home, "small", replace(best, number=1, run_id="copy", same_as=0))
    plan = plan_ablation(home, "small", 1, [], 3)
    assert plan.trial.number == 0 and plan.study.name == "small.ablation-t0"
    assert {arm.factor for arm in plan.arms} == {"optim.name", "optim.weight_decay", "augment.hflip"}
    searched = plan.study.spec.search
    assert searched.constraints == () and searched.costs == () and searched.enqueue == ()
    assert searched.trial_minutes is None and searched.pruner == "none" and searched.metric == "auroc"
    assert missing(plan, home) == searched.trials == 4 * 3 - 1


def test_other_data_and_wrong_requests_are_refused(home):
    with pytest.raises(RequestError, match="--seeds 1"):
        plan_ablation(home, "small", None, [], 1)
    with pytest.raises(RequestError, match=r"no such trial\. Complete ones: 0, 1"):
        plan_ablation(home, "small", 7, [], 2)
    with pytest.raises(RequestError, match="has not run"):
        plan_ablation(home, "smal", None, [], 2)
    write_trial(home, "small", replace(read_trials(home, "small")[1], state="pruned"))
    with pytest.raises(RequestError, match="it is pruned, not complete"):
        plan_ablation(home, "small", 1, [], 2)
    write_study(home, replace(read_study(home, "small"), data_hash="other"))
    with pytest.raises(RequestError, match="have changed since study 'small' ran"):
        train_arms(plan_ablation(home, "small", 0, [], 2), home, 1, "cpu", silent)


def test_csv_is_the_table(ablated, tmp_path):
    from harness.cli.analysis import _write_csv

    _, _, _, table = ablated
    _write_csv(document(table), tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["factor"] for row in rows] == [row.factor for row in table.rows]
    assert float(rows[0]["delta"]) == table.rows[0].delta
