"""The chance to overtake, against simulation; what racing saves and risks on planted configurations; a real study."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from benchmarks._tiny_study import tiny
from benchmarks.racing import Full, replay, summary
from harness.config.load import dump_yaml
from harness.config.spec import Search
from harness.search.pruners import Field, Referee, Runner, after_folds, common_variance, inside_first_fold, make_field
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.records import LoggedEpoch, append_epoch, read_trials
from harness.types import EpochReport, TrialRecord

RIVAL = Runner(3, (0.80, 0.82, 0.78, 0.81, 0.79), 0.80, (0.5, 0.7, 0.75, 0.8), 4)


@pytest.mark.parametrize("own", [[0.79], [0.79, 0.80], [0.81, 0.79, 0.78], [0.78, 0.83, 0.77, 0.80]])
@pytest.mark.parametrize("freedom", [3.0, 20.0])
def test_the_chance_is_that_of_drawing_variance_mean_and_folds_to_come(own, freedom):
    k, n, draws = 5, len(own), 400_000
    field = Field(k, RIVAL, (), 0.0004, freedom)
    rng = np.random.default_rng(n)
    seen = np.subtract(own, RIVAL.folds[:n])
    sum_of_squares = freedom * field.variance + ((seen - seen.mean()) ** 2).sum()
    variance = sum_of_squares / rng.chisquare(freedom + n - 1, draws)
    mean = rng.normal(seen.mean(), np.sqrt(variance / n))
    to_come = rng.normal(mean, np.sqrt(variance / (k - n)))
    final = (n * seen.mean() + (k - n) * to_come) / k
    standing = after_folds(own, field)
    assert standing.chance == pytest.approx((final > 0).mean(), abs=0.004)
    assert standing.lead == pytest.approx(seen.mean()) and standing.seen == n / k and standing.rival == 3


@pytest.mark.parametrize(("d0", "d"), [(4.0, 4), (10.0, 4), (30.0, 9)])
def test_the_common_variance_is_found_again(d0, d):
    rng = np.random.default_rng(0)
    true = 0.0004 * d0 / rng.chisquare(d0, 20_000)
    variance, freedom = common_variance(true * rng.chisquare(d, len(true)) / d, np.full(len(true), float(d)))
    assert variance == pytest.approx(0.0004, rel=0.05)
    assert freedom == pytest.approx(d0, rel=0.2)


def test_equal_variances_count_as_one_and_few_or_none_are_not_believed():
    rng = np.random.default_rng(1)
    variances, freedoms = rng.chisquare(4, 12) / 4, np.full(12, 4.0)
    assert common_variance(variances, freedoms)[1] > 12
    assert common_variance(np.array([0.1]), np.array([4.0])) == (0.1, 1.0)
    assert common_variance(np.zeros(3), np.full(3, 4.0)) == (0.0, 1.0)
    with_copy = common_variance(np.append(variances, 0.0), np.append(freedoms, 4.0))
    assert with_copy[0] > 0.4 * common_variance(variances, freedoms)[0]


def test_the_order_of_earlier_trials_does_not_matter():
    rng = np.random.default_rng(2)
    past = [
        Runner(i, tuple(rng.normal(0.8, 0.02, 5)), float(rng.normal(0.8, 0.01)), tuple(rng.normal(0.7, 0.02, 4)), 4)
        for i in range(12)
    ]
    own, value = [0.78, 0.79], 0.62
    first = make_field(past, 5)
    other = make_field([past[i] for i in rng.permutation(12)], 5)
    assert first.rival == other.rival
    assert after_folds(own, first).chance == pytest.approx(after_folds(own, other).chance, rel=1e-9)
    pair = [inside_first_fold(value, 1, 4, field).chance for field in (first, other)]
    assert pair[0] == pytest.approx(pair[1], rel=1e-9)


def test_curves_are_compared_at_the_same_share_of_schedules_of_any_length():
    past = [RIVAL, *(replace(RIVAL, number=i, score=0.79) for i in range(4, 10))]
    past = [replace(r, folds=tuple(np.add(r.folds, 0.001 * i))) for i, r in enumerate(past)]
    field = make_field(past, 5)
    short, long = inside_first_fold(0.6, 1, 4, field), inside_first_fold(0.6, 3, 8, field)
    assert short.chance == pytest.approx(long.chance) and short.lead == pytest.approx(long.lead)
    assert short.lead == pytest.approx(0.6 - 0.7) and short.seen == pytest.approx(0.5 / 5)
    assert inside_first_fold(0.6, 0, 8, field) is None  # the rival's first epoch is not over at that share
    assert inside_first_fold(0.6, 1, 4, make_field(past[:3], 5)) is None  # too few curves


def test_two_folds_copies_and_undefined_scores():
    past = [Runner(0, (0.8, 0.82), 0.81), Runner(1, (0.7, 0.71), 0.70), Runner(2, (0.75, 0.78), 0.76)]
    assert 0 < after_folds([0.5], make_field(past, 2)).chance < 0.2
    copies = [replace(past[0], number=i) for i in range(4)]
    assert after_folds([0.8], make_field(copies, 2)).chance == 0.5
    constant = [Runner(i, (0.8, 0.8), 0.8) for i in range(4)]
    assert after_folds([0.5], make_field(constant, 2)) is None
    assert make_field([Runner(0, (0.8, math.nan), 0.8), Runner(1, (0.9,), math.nan)], 2) is None


def planted(rng, noise, slow, m=24, k=5):
    """A study of m configurations. A third is hopeless, a share `slow` learns in the second half of its schedule."""
    shared = rng.normal(0, 2 * noise, k)
    trials = []
    for _ in range(m):
        hopeless = rng.random() < 0.3
        quality = rng.uniform(0.5, 0.7) if hopeless else 0.85 - rng.exponential(0.03)
        folds = quality + shared + rng.normal(0, noise * (2 if hopeless else 1), k)
        done = np.arange(1, (epochs := int(rng.choice([8, 16]))) + 1) / epochs
        shape = 1 / (1 + np.exp(-12 * (done - rng.uniform(0.4, 0.6)))) if rng.random() < slow else 1 - np.exp(-6 * done)
        curves = [0.5 + (fold - 0.5) * shape / shape[-1] + rng.normal(0, 0.01, epochs) * (1 - done) for fold in folds]
        trials.append(Full({}, folds.tolist(), [curve.tolist() for curve in curves]))
    return trials


@pytest.mark.parametrize(("noise", "slow"), [(0.015, 0.25), (0.03, 0.25), (0.015, 0.5)])
def test_planted_winners_are_kept_at_little_more_than_half_the_price(noise, slow):
    rng = np.random.default_rng(7)
    studies = [planted(rng, noise, slow) for _ in range(40)]
    race = summary(Search(), studies)
    assert race["folds"] <= 0.60
    assert race["same_winner"] >= 0.85
    assert race["regret_mean"] <= 0.1 * noise
    wilcoxon = summary(Search(pruner="wilcoxon"), studies)
    assert race["folds"] <= wilcoxon["folds"] - 0.1


def test_without_pruning_the_replay_is_the_whole_study():
    trials = planted(np.random.default_rng(0), 0.02, 0.3)
    whole = replay(Search(pruner="none"), trials)
    assert (whole.folds, whole.epochs, set(whole.ends)) == (1.0, 1.0, {""})
    assert trials[whole.winner].score == max(trial.score for trial in trials)


def test_losses_are_compared_the_other_way_round(tmp_path):
    home = Home(tmp_path)

    def ended(number, loss):
        for epoch in range(4):
            report = EpochReport(0, epoch, 4, 0.5, 0.5, {"log_loss": loss + 0.1 * (3 - epoch)}, 1e-3, 1.0, 10)
            append_epoch(home, "s", number, LoggedEpoch(0.0, report))
        folds = [loss, loss + 0.02, loss - 0.01, loss + 0.03, loss]
        return TrialRecord(number, "complete", {}, "r", cv={"log_loss": float(np.mean(folds))}, fold_values=folds)

    records = [ended(number, 0.4 + 0.01 * number) for number in range(30)]
    referee = Referee(home, "s", Search(metric="log_loss"), 5, records[:10])
    for record in records[10:]:
        referee.ended(record)
    report = EpochReport(0, 2, 4, 0.5, 0.5, {"log_loss": 5.0}, 1e-3, 1.0, 10)
    assert "4.500 behind trial 0 after 3 of 4 epochs of fold 0" in referee.after_epoch(report)
    assert not referee.after_epoch(replace(report, fold=1))
    assert not referee.after_epoch(replace(report, val={"log_loss": 0.1}))
    assert "4.590 behind trial 0 after 2 of 5 folds" in referee.after_fold([5.0, 5.0])
    assert not referee.after_fold([0.1, 0.1])


RACED = tiny(
    name="raced",
    data__folds=2,
    optim={"lr": {"choice": [1e-3, 1.5e-3, 2e-3, 2.5e-3, 3e-3, 3.5e-3, 4e-3, 0.1]}, "warmup": 0.0},
    train__epochs=6,
    search={"trials": 8, "sampler": "grid", "metric": "log_loss", "race_p": 0.9},
)
"""the seed's order puts the hopeless rate last"""


def ends(home):
    return [(t.number, t.state, t.reason, t.params, t.fold_values, t.oof) for t in read_trials(home, "raced")]


def test_a_hopeless_rate_stops_inside_its_first_fold_and_a_killed_study_decides_the_same(tmp_path):
    calm, hurt = Home(tmp_path / "calm"), Home(tmp_path / "hurt")
    calm.root.mkdir()
    hurt.root.mkdir()
    run_study(RACED, calm, 1, "cpu", lambda event: None)
    hopeless = read_trials(calm, "raced")[-1]
    assert hopeless.params["optim.lr"] == 0.1
    assert hopeless.state == "pruned" and "epochs of fold 0, chance" in hopeless.reason
    assert hopeless.fold_values == []
    assert not calm.trial_state("raced", hopeless.number).exists()
    assert read_trials(calm, "raced")[0].state == "complete"

    (tmp_path / "raced.yaml").write_text(dump_yaml(RACED.tree))
    code = (
        "import sys; from harness.config.load import load_study; from harness.store.home import open_home;"
        "from harness.search.run import run_study; from harness.train import checkpoint\n"
        "checkpoint.WRITE_SHARE = 10.0\n"  # a state after every epoch
        "run_study(load_study(sys.argv[1]), open_home(), 1, 'cpu', lambda e: None)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "raced.yaml")], env={**os.environ, "HARNESS_HOME": str(hurt.root)}
    )
    state = hurt.trial_state("raced", 5) / "fold_0.pt"
    end = time.monotonic() + 240
    while not state.exists() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert read_trials(hurt, "raced")[5].state == "running"
    run_study(RACED, hurt, 1, "cpu", lambda event: None)
    assert json.dumps(ends(hurt), default=vars) == json.dumps(ends(calm), default=vars)
