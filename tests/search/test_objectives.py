"""Several objectives, constraints, budgets and duplicates, on the built-in data set with real training."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from safetensors.torch import load_file

from benchmarks._tiny_study import tiny as tiny_study
from harness.data.prepare import prepare
from harness.ensemble.members import choose_members
from harness.errors import HarnessError, RequestError
from harness.search.driver import Driver
from harness.search.proposals import Proposals
from harness.search.run import begin, run_study
from harness.search.status import study_document
from harness.search.storage import open_optuna
from harness.search.trial import Outcome
from harness.store.home import Home
from harness.store.records import best_trial, front, is_on_front, read_study, read_trials
from harness.types import TrialEnded, TrialRecord

MODEL = {"backbone": "test_resnet", "head": "mlp", "hidden": {"choice": [8, 4096]}}


def tiny(**values):
    """Two trials of two folds, that differ in their size."""
    fixed = {"data__folds": 2, "optim__lr": 1e-3, "train__epochs": 1, "search__sampler": "grid"}
    return tiny_study(**{**fixed, "model": MODEL, **values})


def run(home, study):
    events = []
    return run_study(study, home, 1, "cpu", events.append), events


def runs(home):
    client = MlflowClient(home.mlflow_uri)
    found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id], order_by=["tags.harness.trial"])
    return {int(run_.data.tags["harness.trial"]): run_ for run_ in found}


def test_costs_are_measured_and_make_a_front(tmp_path):
    home = Home(tmp_path)
    three = tiny(search__costs=["megabytes", "latency_ms", "parameters"])
    record, _ = run(home, three)
    trials = read_trials(home, "tiny")
    for trial in trials:
        tensors = load_file(home.fold("tiny", trial.run_id, 0) / "weights.safetensors").values()
        assert trial.costs["megabytes"] == pytest.approx(sum(t.numel() * t.element_size() for t in tensors) / 1e6)
        assert 0 < trial.costs["latency_ms"] < 10_000
        logged = runs(home)[trial.number].data.metrics
        assert {name: logged[f"cost/{name}"] for name in trial.costs} == trial.costs
    small, large = sorted(trials, key=lambda trial: trial.costs["parameters"])
    assert (small.params, large.params) == ({"model.hidden": 8}, {"model.hidden": 4096})
    for trial, frozen in zip(trials, open_optuna(home, "tiny", three.spec.search).trials, strict=True):
        assert frozen.values == [trial.cv["auroc"], *(trial.costs[name] for name in three.spec.search.costs)]
    document = study_document(record, trials)
    assert small.number in [trial["number"] for trial in document["front"]]
    assert document["best"]["number"] == best_trial(trials, "auroc").number


def test_what_breaks_a_constraint_is_not_trained_and_never_the_best(tmp_path):
    home = Home(tmp_path)
    _, events = run(home, tiny(search__constraints=["parameters <= 500000"]))
    kept, broken = sorted(read_trials(home, "tiny"), key=lambda trial: trial.infeasible)
    assert (kept.state, kept.infeasible, broken.state, broken.infeasible) == ("complete", False, "pruned", True)
    assert "it breaks parameters <= 500000 (parameters" in broken.reason and broken.seconds == 0.0
    assert not list(home.run_artifacts("tiny", broken.run_id).glob("fold_*"))
    assert runs(home)[broken.number].data.tags["harness.reason"] == broken.reason
    assert [event.best.number for event in events if isinstance(event, TrialEnded)][-1] == kept.number
    frozen = open_optuna(home, "tiny", tiny().spec.search).trials
    assert frozen[broken.number].constraints["parameters <= 500000"] > 0
    assert frozen[kept.number].constraints["parameters <= 500000"] <= 0


def test_the_same_configuration_is_not_trained_twice(tmp_path):
    home = Home(tmp_path)
    points = [{"model.hidden": 8}, {"model.hidden": 8}, {"model.hidden": 4096}, {"model.hidden": 8}]
    study = tiny(search__sampler="tpe", search__enqueue=points, search__trials=4)
    record, _ = run(home, study)
    trials = read_trials(home, "tiny")
    assert record.state == "complete"
    assert [trial.same_as for trial in trials] == [None, 0, None, 0]
    for copy in (trials[1], trials[3]):
        assert (copy.oof, copy.cv, copy.fold_values) == (trials[0].oof, trials[0].cv, trials[0].fold_values)
        assert copy.params == trials[0].params and copy.run_id != trials[0].run_id
        folder = home.run_artifacts("tiny", copy.run_id)
        assert not folder.exists() or not list(folder.glob("fold_*"))
        logged = runs(home)[copy.number]
        assert logged.data.tags["harness.same_as"] == "0" and logged.info.status == "FINISHED"
        assert logged.data.metrics["oof/auroc"] == trials[0].oof["auroc"].value
    assert [member.number for member in choose_members(home, record, "auroc", 9)] == [0, 2]
    assert best_trial(trials, "auroc").same_as is None
    again, _ = run(home, study)
    assert again.state == "complete" and len(read_trials(home, "tiny")) == 4


def test_a_twin_of_a_running_trial_waits_for_it(tmp_path):
    """Two workers are given the same point: one trains it, the other is answered when that has ended."""
    other = Home(tmp_path)
    study = tiny(search__sampler="tpe", search__enqueue=[{"model.hidden": 8}] * 3, search__trials=3)
    given = []

    def engine(next_task, boss, on_outcome):
        given.append(next_task())
        assert given[0].number == 0
        assert next_task() is None  # both others mean what trial 0 trains
        on_outcome(Outcome(0, "failed", reason="made to fail"))
        given.append(next_task())  # a failure answers nothing: the next one is trained
        assert given[1].number == 1 and next_task() is None
        on_outcome(Outcome(1, "pruned", reason="made to stop"))
        assert next_task() is None

    data = prepare(study.spec.data, study.spec.seed, other, lambda *_: None)
    record = begin(None, study, other, data, "cpu", lambda event: None)
    with pytest.raises(HarnessError):  # no trial was completed
        Driver(study, other, data, record, Proposals(study, other), lambda event: None).run(engine, ["cpu"], 2)
    assert [(t.state, t.same_as) for t in read_trials(other, "tiny")] == [
        ("failed", None), ("pruned", None), ("pruned", 1),
    ]  # fmt: skip


def test_the_time_of_a_study_is_a_total_over_its_runs(tmp_path):
    home = Home(tmp_path)
    limit = 0.05
    began = time.monotonic()
    record, _ = run(home, tiny(search__sampler="random", search__trials=500, search__timeout_minutes=limit))
    assert record.state == "interrupted" and record.spent > 60 * limit
    assert record.spent <= time.monotonic() - began
    done = len(read_trials(home, "tiny"))
    assert 1 <= done < 500
    again, _ = run(home, tiny(search__sampler="random", search__trials=500, search__timeout_minutes=limit))
    assert len(read_trials(home, "tiny")) == done and again.spent >= record.spent
    more = record.spent / 60 + 0.02
    run(home, tiny(search__sampler="random", search__trials=500, search__timeout_minutes=more))
    assert len(read_trials(home, "tiny")) > done
    assert read_study(home, "tiny").spent > 60 * more


def test_a_trial_that_takes_too_long_is_pruned_with_its_reason(tmp_path):
    home = Home(tmp_path)
    study = tiny(search__trial_minutes=1e-7, train__epochs=3, search__trials=1)
    with pytest.raises(HarnessError):
        run(home, study)
    (trial,) = read_trials(home, "tiny")
    assert trial.state == "pruned" and "search.trial_minutes" in trial.reason and trial.fold_values == []


@pytest.mark.parametrize(
    ("search", "said"),
    [
        ({"costs": ["latency"]}, r"search.costs.0: .*latency_ms"),
        ({"costs": ["megabytes"], "pruner": "wilcoxon"}, r"set search.pruner: none as well"),
        ({"costs": ["megabytes"], "sampler": "cmaes"}, r"cmaes follows one objective"),
        ({"costs": ["megabytes", "megabytes"]}, r"names a cost twice"),
        ({"constraints": ["megabyte <= 20"]}, r"megabyte is no cost. Did you mean megabytes"),
        ({"constraints": ["megabytes < 20"]}, r"write a cost, <= or >=, and a number"),
        ({"constraints": ["megabytes <= 2e"]}, r"2e is no number"),
    ],
)
def test_what_cannot_be_meant_is_refused(search, said):
    with pytest.raises(RequestError, match=said):
        tiny(**{f"search__{name}": value for name, value in search.items()})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_dominates(rows):
    losses = np.array(rows, float)
    on = is_on_front(losses)
    for index, row in enumerate(rows):
        beaten = any(all(a <= b for a, b in zip(o, row, strict=True)) and o != row for o in rows)
        assert on[index] == (not beaten)


def test_the_front_leaves_out_what_is_no_result_of_its_own():
    def trial(number, auroc, megabytes, **more):
        return TrialRecord(number, "complete", {}, "r", cv={"auroc": auroc}, costs={"megabytes": megabytes}, **more)

    trials = [
        trial(0, 0.9, 10.0), trial(1, 0.8, 1.0), trial(2, 0.8, 2.0), trial(3, 0.99, 0.5, infeasible=True),
        trial(4, 0.9, 10.0, same_as=0), trial(5, float("nan"), 0.1),
    ]  # fmt: skip
    assert [one.number for one in front(trials, "auroc", ["megabytes"])] == [0, 1]
    assert front(trials, "auroc", []) == []
    assert best_trial(trials, "auroc").number == 0
