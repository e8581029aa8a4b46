"""The picture of a running command, folded from the events of `harness.types`: what is known, and when it was heard.

Pure data: knows no words, no terminal and no stage.

How long a running study still takes. Pure arithmetic on what its trials have cost so far.

    a whole trial   the median over the latest epochs of its backbone, times epochs, times folds, plus what a trial
                    takes beside its epochs; before a backbone's first epoch: its estimate from before trial 0, as far
                    wrong as the estimates of the others turned out to be
    how much of it  trials are stopped early: the mean share that earlier trials were trained, this one counted as whole
                    ("it may be the one that stays"); of a running trial only those that came further than it has
    the trials      those that run, and those still to be drawn, whose backbones are as mixed as the drawn ones

The sum, shared by the trials that run at the same time. Medians, so that one slow epoch says little.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, median

from harness.types import (
    DataReady,
    EpochDone,
    Estimate,
    Estimated,
    Event,
    FoldDone,
    StudyEnded,
    StudyStarted,
    TrialEnded,
    TrialRecord,
    TrialStarted,
    Working,
)
from harness.types import EpochReport as Report

LATEST = 50
"""epochs of each backbone that are remembered: the machine's pace changes"""


@dataclass
class Costs:
    """What is known of a study's trials. Seconds."""

    estimated: dict[str, float] = field(default_factory=dict)
    """of a whole trial, by backbone, before trial 0"""
    whole: defaultdict[str, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=LATEST)))
    """what a whole trial would take at the pace of each of the latest epochs, by backbone"""
    drawn: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """trials by backbone"""
    beside: deque[float] = field(default_factory=lambda: deque(maxlen=LATEST))
    """of ended trials, beside their epochs"""
    shares: list[float] = field(default_factory=list)
    """how much of its training each ended trial got"""


def whole_trial(costs: Costs, backbone: str) -> float | None:
    """Seconds of the epochs of a trial that is trained to its end; None where nothing is known."""
    known = {name: median(found) for name, found in costs.whole.items() if found}
    if backbone in known:
        return known[backbone]
    estimate = costs.estimated.get(backbone)
    if estimate is None:
        return mean(known.values()) if known else None
    off = [known[name] / costs.estimated[name] for name in known if costs.estimated.get(name)]
    return estimate * (median(off) if off else 1.0)


def expected_share(costs: Costs, beyond: float = 0.0) -> float:
    """How much of its training a trial gets that has got `beyond` of it already."""
    return mean([1.0, *(share for share in costs.shares if share > beyond)])


def seconds_left(costs: Costs, running: Sequence[tuple[str, float]], to_draw: int, jobs: int) -> float | None:
    """running: (backbone, share of its training that is done) of each running trial. None before anything is known."""
    each = []
    beside = median(costs.beside) if costs.beside else 0.0
    for backbone, done in running:
        whole = whole_trial(costs, backbone)
        if whole is None:
            return None
        each.append((expected_share(costs, done) - done) * whole + beside)
    if to_draw:
        names = list(dict.fromkeys([*costs.drawn, *costs.estimated]))
        found = [(whole_trial(costs, name), costs.drawn[name] + 1) for name in names]
        known = [(whole, weight) for whole, weight in found if whole is not None]
        if not known:
            return None
        average = sum(whole * weight for whole, weight in known) / sum(weight for _, weight in known)
        each += [expected_share(costs) * average + beside] * to_draw
    if not each:
        return 0.0
    return max(sum(each) / min(jobs, len(each)), max(each))


@dataclass
class Running:
    """A trial that trains."""

    backbone: str
    first_fold: int
    """0, or the first unfinished fold of a resumed trial"""
    began: float
    report: Report | None = None
    epochs_seconds: float = 0.0
    """of all its epochs in this run"""
    fold_seconds: float = 0.0
    """of the epochs of the fold in hand"""

    def share(self, folds: int) -> float:
        """Of its training that is done, 0 to 1."""
        if self.report is None:
            return self.first_fold / max(folds, 1)
        return (self.report.fold + (self.report.epoch + 1) / max(self.report.epochs, 1)) / max(folds, 1)


@dataclass
class Picture:
    metric: str = ""
    folds: int = 0
    total: int = 0
    jobs: int = 1
    backbones: tuple[str, ...] = ()
    ended: dict[str, int] = field(default_factory=dict)
    """trials by how they ended, those of earlier runs too"""
    running: dict[int, Running] = field(default_factory=dict)
    best: TrialRecord | None = None
    costs: Costs = field(default_factory=Costs)
    estimate: Estimate | None = None
    heard: float = 0.0
    """when an epoch or a trial ended last: from then on the time left runs down by itself"""
    began: bool = False
    """whether anything was heard yet: before that, libraries are loaded, which takes seconds"""
    work: Working | None = None
    work_began: tuple[float, int] = (0.0, 0)
    """when the work in hand was first heard of, and how much of it was done by then"""

    @property
    def done(self) -> int:
        return sum(self.ended.values())

    def share_done(self) -> float:
        """Trials that are done, running ones by how far they are."""
        return self.done + sum(one.share(self.folds) for one in self.running.values())

    def seconds_left(self, now: float) -> float | None:
        """Of the study; None where nothing is known of its pace."""
        running = [(one.backbone, one.share(self.folds)) for one in self.running.values()]
        to_draw = max(self.total - self.done - len(running), 0)
        left = seconds_left(self.costs, running, to_draw, self.jobs)
        return None if left is None else max(left - (now - self.heard), 0.0)

    def work_left(self, now: float) -> float | None:
        """Of the work in hand, at its pace so far; None before there is one."""
        began, before = self.work_began
        if self.work is None or self.work.done <= before or not self.work.total:
            return None
        pace = (now - began) / (self.work.done - before)
        return pace * (self.work.total - self.work.done)


def absorb(picture: Picture, event: Event, now: float) -> None:
    """Take one event into the picture."""
    picture.began = True
    match event:
        case Working():
            if picture.work is None or picture.work.what != event.what:
                picture.work_began = (now, event.done)
            picture.work = event if event.done < event.total or not event.total else None
        case DataReady():
            picture.work = None
            picture.folds = event.k
        case Estimated():
            picture.work = None
            picture.estimate = event.estimate
            picture.costs.estimated = dict(event.estimate.trial_seconds)
        case StudyStarted():
            picture.work = None
            picture.metric, picture.total, picture.jobs = event.metric, event.trials_total, event.jobs
            picture.backbones, picture.best, picture.heard = tuple(event.precision), event.best, now
            for record in event.past:
                _ended(picture, record, _backbone(picture, record.params))
        case TrialStarted():
            backbone = _backbone(picture, event.params)
            picture.running[event.number] = Running(backbone, event.first_fold, now)
        case EpochDone():
            one = picture.running.get(event.trial)
            if one is not None:
                report = event.report
                one.report, picture.heard = report, now
                one.epochs_seconds += report.seconds
                one.fold_seconds += report.seconds
                picture.costs.whole[one.backbone].append(report.seconds * report.epochs * max(picture.folds, 1))
        case FoldDone():
            one = picture.running.get(event.trial)
            if one is not None:
                one.fold_seconds = 0.0
        case TrialEnded():
            one = picture.running.pop(event.record.number, None)
            picture.best, picture.heard = event.best, now
            if one is not None:
                picture.costs.beside.append(max(now - one.began - one.epochs_seconds, 0.0))
            _ended(picture, event.record, _backbone(picture, event.record.params), one)
        case StudyEnded():
            picture.running.clear()
            picture.work = None
        case _:
            pass


def _ended(picture: Picture, record: TrialRecord, backbone: str, one: Running | None = None) -> None:
    picture.ended[record.state] = picture.ended.get(record.state, 0) + 1
    picture.costs.drawn[backbone] += 1
    if record.same_as is not None or record.state == "failed":  # neither says how much others will be trained
        return
    share = one.share(picture.folds) if one else len(record.fold_values) / max(picture.folds, 1)
    picture.costs.shares.append(1.0 if record.state == "complete" else share)
    if one is None and record.state == "complete" and record.seconds:
        picture.costs.whole[backbone].append(record.seconds)


def _backbone(picture: Picture, params: dict[str, object]) -> str:
    only = picture.backbones[0] if len(picture.backbones) == 1 else ""
    return str(params.get("model.backbone", only))
