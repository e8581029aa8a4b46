"""The picture of a running study, fed with the events of one."""

from harness.cli.progress import Picture, _plain_listener, absorb, status_lines
from harness.events import (
    DataReady,
    EpochDone,
    Event,
    FoldDone,
    SpeedMeasured,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialStarted,
    Working,
)
from harness.records import EpochReport, Interval, TrialRecord


def record(number: int, auroc: float, state: str = "complete") -> TrialRecord:
    oof = {"auroc": Interval(auroc, auroc - 0.1, auroc + 0.1)}
    params = {"optim.lr": 0.001, "augment.hflip": 0.0}
    return TrialRecord(number, state, params, "run", oof=oof, fold_values=[auroc], seconds=10.0)


def epoch(trial: int, fold: int, number: int) -> EpochDone:
    return EpochDone(trial, EpochReport(fold, number, 4, 0.5, 0.6, {"auroc": 0.7}, 0.001, 1.0, 100))


BEGIN: list[Event] = [
    Working("decoding", 10, 240),
    DataReady(240, 192, 48, 120, ("normal", "bleed"), (130, 110), 2, ("2 files [were] dropped",)),
    SpeedMeasured("resnet10t 64 px: fp32 40 img/s; trains in fp32"),
    StudyStarted("demo", 3, 1, (1,), "auroc", "cpu", 1, {"resnet10t": "bf16"}),
    TrialStarted(1, {"optim.lr": 0.001}, 1),
]


def told(events: list[Event]) -> tuple[Picture, list[str]]:
    picture, said = Picture(), []
    for event in events:
        line = absorb(picture, event, 0.0)
        if line:
            said.append(line)
    return picture, said


def test_the_beginning_says_what_the_data_are_and_what_will_run() -> None:
    _, said = told(BEGIN)
    assert "240 images of 120 groups: 130 normal, 110 bleed" in said[0]
    assert "192 for development in 2 folds, 48 held out" in said[0]
    assert "2 files [were] dropped" in said[0]
    assert "demo: 3 trials x 2 folds on cpu in bf16; 1 already done; going on with trial 1" in said[2]
    assert said[1] == "speed  resnet10t 64 px: fp32 40 img/s; trains in fp32"


def test_work_before_the_study_is_counted_and_then_forgotten() -> None:
    picture, _ = told(BEGIN[:1])
    assert status_lines(picture, 1.0) == ["decoding 10/240"]
    absorb(picture, Working("decoding", 240, 240), 1.0)
    assert status_lines(picture, 1.0) == []


def test_long_work_says_how_much_time_is_left() -> None:
    picture = Picture()
    absorb(picture, Working("epochs", 10, 100), 1000.0)  # ten were done by an earlier run
    absorb(picture, Working("epochs", 11, 100), 1005.0)
    assert status_lines(picture, 1005.0) == ["epochs 11/100"]
    absorb(picture, Working("epochs", 40, 100), 1060.0)
    assert status_lines(picture, 1060.0) == ["epochs 40/100  2:00 min left"]
    absorb(picture, Working("tests", 1, 5), 1061.0)
    assert status_lines(picture, 1100.0) == ["tests 1/5"]


def test_a_running_trial_shows_fold_epoch_losses_and_metric() -> None:
    picture, _ = told([*BEGIN, epoch(1, 1, 1)])
    assert status_lines(picture, 10.0)[1] == "trial 1  fold 2/2  epoch 2/4  loss 0.500  val 0.600  auroc 0.700"


def test_time_left_counts_only_what_this_run_trained() -> None:
    picture, _ = told([*BEGIN, epoch(1, 1, 1)])
    # trained: half of fold 2 of 2, a quarter of a trial, in 10 s; left: a quarter of trial 1 and all of trial 2
    assert picture.seconds_left(10.0) == 10.0 / 0.25 * 1.25


def test_an_ended_trial_is_told_with_the_best_so_far() -> None:
    better = record(0, 0.9)
    _, said = told([*BEGIN, FoldDone(1, 1, 0.8), TrialEnded(record(1, 0.8), better)])
    assert "trial 1   auroc 0.800 out-of-fold, 10 s, best 0.900 (trial 0)" in said[-1]
    assert "lr 1.0e-03  no augmentation" in said[-1]
    _, said = told([*BEGIN, TrialEnded(record(1, 0.8, "pruned"), None)])
    assert "pruned after 1 fold" in said[-1]


def test_a_finished_study_says_that_nothing_was_done() -> None:
    _, said = told([BEGIN[1], StudyEnded("demo", "complete", 0)])
    assert "nothing was left to train" in said[-1] and "search.trials" in said[-1]
    assert told([BEGIN[1], StudyEnded("demo", "complete", 2)])[1] == said[:1]


def test_without_a_terminal_passing_news_is_rare() -> None:
    now, said = [0.0], []
    listen = _plain_listener(Picture(), said.append, lambda: now[0])
    for event in BEGIN:
        listen(event)
    before = len(said)
    for second in range(1, 41):
        now[0] = float(second)
        listen(epoch(1, 1, second % 4))
    assert len(said) - before == 4
    assert all("epoch" in line and "left" in line for line in said[before:])
