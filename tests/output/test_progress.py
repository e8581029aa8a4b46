"""The picture of a running study, fed with the events of one, and the lines that are made of it."""

import pytest

from harness.output.format import wrapped
from harness.output.progress import INDENT, _plain_listener, line_of, status_lines
from harness.output.progress_bar import Costs, Picture, absorb, expected_share, seconds_left, whole_trial
from harness.types import (
    DataReady,
    EpochDone,
    EpochReport,
    Estimate,
    Estimated,
    Event,
    FoldDone,
    PrecisionChosen,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialRecord,
    TrialStarted,
    Working,
)


def record(number: int, auroc: float, state: str = "complete") -> TrialRecord:
    scores = {"cv": {"auroc": auroc}, "cv_se": {"auroc": 0.05}} if state == "complete" else {}
    params = {"optim.lr": 0.001, "augment.hflip": 0.0}
    return TrialRecord(number, state, params, "run", **scores, fold_values=[auroc], seconds=10.0)


def epoch(trial: int, fold: int, number: int, seconds: float = 1.0) -> EpochDone:
    return EpochDone(trial, EpochReport(fold, number, 4, 0.5, 0.6, {"auroc": 0.7}, 0.001, seconds, 100))


ESTIMATE = Estimate(100.0, 300.0, 3, 1, {"resnet10t": 50.0}, 10**7, 3 * 10**7)
PAST = record(0, 0.85)
BEGIN: list[Event] = [
    Working("decoding", 10, 240),
    DataReady(240, 192, 48, 120, ("normal", "bleed"), (130, 110), 2, ("2 files [were] dropped",)),
    PrecisionChosen("resnet10t trains in fp32"),
    StudyStarted("demo", 3, 1, (1,), "auroc", "cpu", 1, {"resnet10t": "bf16"}, (PAST,), PAST),
    TrialStarted(1, {"optim.lr": 0.001}, 1),
]


def told(events: list[Event], verbose: bool = False, now: float = 0.0) -> tuple[Picture, list[str]]:
    picture, said = Picture(), []
    for event in events:
        line = line_of(picture, event, now, verbose)
        absorb(picture, event, now)
        if line:
            said.append(line)
    return picture, said


def test_the_beginning_says_what_the_data_are_what_will_run_and_what_was_there() -> None:
    _, said = told([*BEGIN[:3], Estimated(ESTIMATE, 24 * 10**9), *BEGIN[3:]])
    assert "240 images of 120 groups: 130 normal, 110 bleed" in said[0]
    assert "192 for development in 2 folds, 48 held out" in said[0]
    assert "2 files [were] dropped" in said[0]
    assert said[1] == "format resnet10t trains in fp32"
    assert said[2] == "time   3 trials will take 2 to 5 min; checkpoints 10 MB to 30 MB, 24 GB are free"
    assert said[3].split("\n") == [
        "study  demo: 3 trials x 2 folds on cpu in bf16",
        "       1 already done, best auroc 0.850 ±.050 (trial 0)",
        "       going on with trial 1",
    ]


def test_work_before_the_study_is_counted_and_then_forgotten() -> None:
    picture, _ = told(BEGIN[:1])
    assert status_lines(picture, 1.0) == ["decoding 10/240"]
    absorb(picture, Working("decoding", 240, 240), 1.0)
    assert status_lines(picture, 1.0) == []
    absorb(picture, Working("unpack", 1200, 0), 1.0)  # nobody knows how many there will be
    assert status_lines(picture, 1.0) == ["unpack 1,200"]


def test_long_work_says_how_much_time_is_left() -> None:
    picture = Picture()
    absorb(picture, Working("epochs", 10, 100), 1000.0)  # ten were done by an earlier run
    absorb(picture, Working("epochs", 11, 100), 1004.0)
    assert status_lines(picture, 1004.0) == ["epochs 11/100"]
    absorb(picture, Working("epochs", 40, 100), 1060.0)
    assert status_lines(picture, 1060.0) == ["epochs 40/100  2:00 min left"]
    absorb(picture, Working("tests", 1, 5), 1061.0)
    assert status_lines(picture, 1100.0) == ["tests 1/5"]


def test_the_state_of_things_fits_the_window() -> None:
    stopped = TrialEnded(record(1, 0.7, "pruned"), PAST)
    picture, _ = told([*BEGIN, epoch(1, 1, 1), stopped, TrialStarted(2, {}, 0), epoch(2, 0, 1)])
    wide = status_lines(picture, 0.0, 80)
    assert wide == [
        "2/3 trials  a few seconds left  1 stopped early",
        "best auroc 0.850 ±.050  (trial 0)",
        "trial 2  fold 1/2  epoch 2/4  auroc 0.700  loss 0.500  val 0.600",
    ]
    narrow = status_lines(picture, 0.0, 50)
    assert max(map(len, narrow)) <= 50
    assert narrow[2] == "trial 2  fold 1/2  epoch 2/4  auroc 0.700"
    assert wrapped("note   one two three four\n       five six", 16, INDENT).split("\n") == [
        "note   one two",
        "       three",
        "       four",
        "       five six",
    ]


def test_what_a_trial_will_take_is_known_from_its_backbone_and_what_is_stopped_early() -> None:
    costs = Costs(estimated={"small": 10.0, "large": 100.0})
    assert whole_trial(costs, "large") == 100.0 and whole_trial(costs, "unheard-of") is None
    costs.whole["small"].extend([20.0, 20.0, 900.0])  # one slow epoch says nothing
    assert whole_trial(costs, "small") == 20.0
    assert whole_trial(costs, "large") == 200.0  # the estimates turned out to be half of it
    assert expected_share(costs) == 1.0
    costs.shares = [1.0, 0.2, 0.2]
    assert expected_share(costs) == pytest.approx(0.6)
    assert expected_share(costs, 0.5) == 1.0  # who came so far will go to the end
    costs.drawn["small"] = 3
    # .5 of a small trial; two more of backbones drawn 4:1, .6 of each; two at a time
    new = 0.6 * (20 * 4 + 200 * 1) / 5
    assert seconds_left(costs, [("small", 0.5)], 2, 1) == pytest.approx(0.5 * 20 + 2 * new)
    assert seconds_left(costs, [("small", 0.5)], 2, 2) == pytest.approx((0.5 * 20 + 2 * new) / 2)
    assert seconds_left(costs, [("large", 0.1)], 0, 8) == pytest.approx((0.7 - 0.1) * 200, rel=0.2)
    assert seconds_left(Costs(), [("small", 0.0)], 2, 1) is None


def test_time_left_runs_down_between_two_epochs() -> None:
    picture, _ = told([*BEGIN, epoch(1, 1, 1)])
    # the trial of the earlier run took 10 s, an epoch here 1 s of 8: the median of a whole one is 9 s
    assert picture.seconds_left(0.0) == pytest.approx(0.25 * 9 + 9)
    assert picture.seconds_left(3.0) == pytest.approx(0.25 * 9 + 9 - 3)
    assert picture.seconds_left(1000.0) == 0.0


def test_an_ended_trial_is_told_with_its_mean_over_folds_and_the_best_so_far() -> None:
    better = record(0, 0.9)
    _, said = told([*BEGIN, FoldDone(1, 1, 0.8), TrialEnded(record(1, 0.8), better)])
    assert "trial 1   auroc 0.800 ±.050 in 10 s; best 0.900 (trial 0)" in said[-1]
    assert "lr 1.0e-03  no hflip" in said[-1]
    _, said = told([*BEGIN, TrialEnded(record(1, 0.8, "pruned"), None)])
    assert "stopped early: after 1 fold" in said[-1]
    _, said = told([*BEGIN, epoch(1, 1, 0), FoldDone(1, 1, 0.8)], verbose=True)
    assert said[-1] == "fold   trial 1, fold 2/2: auroc 0.800, 1.0 s"


def test_the_end_says_what_it_took_and_what_had_been_estimated() -> None:
    _, said = told([BEGIN[1], StudyEnded("demo", "complete", 0)])
    assert "nothing was left to train" in said[-1] and "search.trials" in said[-1]
    ended = [TrialEnded(record(1, 0.7, "pruned"), PAST), StudyEnded("demo", "complete", 1, 250.0, ESTIMATE)]
    _, said = told([*BEGIN, *ended])
    assert said[-1] == (
        "study  demo: 2 trials (1 complete, 1 stopped early) in 4:10 min; estimated before trial 0: 2 to 5 min"
    )


def test_without_a_terminal_passing_news_is_rare_and_gets_rarer() -> None:
    now, said = [0.0], []
    listen = _plain_listener(Picture(), said.append, lambda: now[0])
    for event in BEGIN:
        listen(event)
    counts = []
    for until in (40, 4000, 8000):
        before = len(said)
        while now[0] < until:
            now[0] += 1.0
            listen(epoch(1, 1, int(now[0]) % 4))
        counts.append(len(said) - before)
    assert counts[0] == 4
    assert counts[1] < 80 and 10 < counts[2] < 20
    assert all("epoch" in line and "left" in line and "\r" not in line for line in said[-counts[2] :])
    listen(TrialEnded(record(1, 0.8), PAST))
    assert said[-1].split("\n")[0].endswith("(trial 0)   2/3 trials  a few seconds left")
