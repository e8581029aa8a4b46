"""How long a running study still takes. Pure arithmetic on what its trials have cost so far.

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
