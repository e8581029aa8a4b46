"""From probability to decision: operating points chosen on development rows, and what each is worth on the test split.

A rule picks the threshold t of a question answered by yes or no (two classes: the positive one; more: each class
against the rest; several labels: each); p >= t says yes.

- youden: the largest sensitivity + specificity (Youden 1950);
- sensitivity=.95: the highest threshold that finds at least that share of the positive rows;
- specificity=.95: the lowest one that leaves at least that share of the negative rows alone;
- cost=.1: a false alarm costs a tenth of a miss. Of true probabilities c / (1 + c) is the best threshold (Elkan 2001);
  how true they are for the unit at hand is taken from a line through the log-odds.

Thresholds are chosen on calibrated development probabilities as they would be deployed, the mean over several networks
of each member (calibration.Calibration.deployed), for that is what they are applied to. A point's development figures
are of the probabilities that were really made, by one network of each member, and cross-fitted: each fold is judged by
the threshold that the others choose, so that choosing flatters nothing. Where a study scores per
group (patient, lesion, case), every point is chosen a second time on groups: a group's probability is pooled as
data.per_group says, and its threshold is another one than an image's. Knows arrays only.

N: rows, C: classes, n: rows or groups of one question.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError, nearest
from harness.metrics import UNKNOWN, logit, sigmoid
from harness.stats.calibration import fit_line
from harness.stats.intervals import How, by_group, share
from harness.types import Interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Unit = Literal["image", "group"]
RULES = ("youden", "sensitivity", "specificity", "cost")
ARGMAX = "argmax"
"""no threshold: the most probable class"""
SHOWN = ("youden", "sensitivity=0.95", "specificity=0.95", "cost=0.1")
"""points that every bundle has"""
FEW_GROUPS = 3
"""groups below which a rate has no interval"""
RATES = ("sensitivity", "specificity", "ppv", "npv")


@dataclass(frozen=True)
class Rule:
    kind: str
    value: float | None = None

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}={self.value:g}"


@dataclass(frozen=True)
class Answers:
    """Rows with calibrated probabilities, to choose thresholds on or to judge them by."""

    y: Ints
    """(N,) class numbers; (N, C) 1, 0, -1 of several labels"""
    p: Floats
    """(N, C)"""
    groups: NDArray[np.str_]
    fold: Ints | None = None
    """(N,) of development rows"""
    others: dict[int, Floats] = field(default_factory=dict)
    """for each fold, (N, C) the other rows' probabilities by fits without the fold's labels; empty: those of `p`"""


def parse_rule(text: str) -> Rule:
    """`youden`, `argmax`, `sensitivity=.95`, `specificity=.9`, `cost=.2`. Raises RequestError with what to type."""
    kind, _, number = text.strip().partition("=")
    known = (*RULES, ARGMAX)
    examples = "youden, argmax, sensitivity=.95, specificity=.95 or cost=.1 (a false alarm costs a tenth of a miss)"
    if kind not in known:
        raise RequestError(f"--decide {text}: no such rule.{nearest(kind, known)} Type {examples}.")
    if kind in ("youden", ARGMAX):
        if number:
            raise RequestError(f"--decide {text}: {kind} takes no number. Type {examples}.")
        return Rule(kind)
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    top = math.inf if kind == "cost" else 1.0
    if not 0.0 < value < top:
        bounds = "a number above 0" if kind == "cost" else "a share between 0 and 1"
        raise RequestError(f"--decide {text}: {kind} needs {bounds}. Type {examples}.")
    return Rule(kind, value)


def threshold(rule: Rule, y: Ints, p: Floats) -> float:
    """The threshold that a rule picks for y (n,) 0 or 1 and p (n,); p >= threshold says yes. It lies halfway between
    two rows. NaN where one of the two answers is missing."""
    positive = y == 1
    if positive.all() or not positive.any():
        return math.nan
    if rule.kind == "cost":
        assert rule.value is not None
        return _cost_threshold(rule.value, y, p)
    values = np.unique(p)
    cuts = np.append(np.concatenate([[0.0], (values[1:] + values[:-1]) / 2]), 1.0 + 1e-9)
    sensitivity = 1 - np.searchsorted(np.sort(p[positive]), cuts, side="left") / positive.sum()
    specificity = np.searchsorted(np.sort(p[~positive]), cuts, side="left") / (~positive).sum()
    if rule.kind == "youden":
        return float(cuts[np.argmax(sensitivity + specificity)])
    assert rule.value is not None
    if rule.kind == "sensitivity":
        return float(cuts[np.flatnonzero(sensitivity >= rule.value - 1e-12)[-1]])
    return float(cuts[np.flatnonzero(specificity >= rule.value - 1e-12)[0]])


def _cost_threshold(cost: float, y: Ints, p: Floats) -> float:
    """Where the line through the log-odds says that the probability is cost / (1 + cost); that number itself where
    there is no rising line."""
    best = cost / (1 + cost)
    intercept, slope = fit_line(logit(p), y.astype(np.float64))
    if not (math.isfinite(slope) and slope > 0):
        return best
    return float(sigmoid(np.array((logit(np.array(best)) - intercept) / slope)))


def rates(y: Ints, said: NDArray[np.bool_], groups: NDArray[np.str_]) -> dict[str, Interval]:
    """Sensitivity, specificity, positive and negative predictive value of the answers `said` (n,), with 95% intervals;
    NaN where nobody is asked (`reason`: no-rows), no interval of fewer than FEW_GROUPS groups (too-few-groups)."""
    positive = y == 1
    among = {
        "sensitivity": (said, positive),
        "specificity": (~said, ~positive),
        "ppv": (positive, said),
        "npv": (~positive, ~said),
    }
    return {name: _rate(hit[rows], groups[rows]) for name, (hit, rows) in among.items()}


def _rate(hit: NDArray[np.bool_], groups: NDArray[np.str_]) -> Interval:
    found = share(hit, groups)
    if not len(hit):
        return replace(found, reason="no-rows")
    if len(np.unique(groups)) < FEW_GROUPS:
        return replace(found, lo=math.nan, hi=math.nan, reason="too-few-groups")
    return found


@dataclass(frozen=True)
class HeldOut:
    """Test rows, and the development rows as deployed from which the thresholds come that judge them."""

    deployed: Answers
    rows: Answers


def fit_decisions(
    development: Answers,
    deployed: Answers,
    held_out: Sequence[HeldOut],
    classes: tuple[str, ...],
    multilabel: bool,
    per_group: How,
    chosen: Rule | None = None,
    reason: str = "",
) -> dict[str, Any]:
    """What a bundle keeps: `default` (the rule that decides unless another is asked for), `per_group`, and `points`.

    development: what one network of each member said out of fold, which the development figures are of; deployed: the
    same rows as they would be deployed, which the thresholds are chosen on; held_out: the test rows, in parts. reason:
    code of why the development figures have no interval, '' where they have. `test_thresholds` of a point are those
    that the parts of the test rows were judged by.

    Without a rule the default is youden, which no prevalence moves, for two classes and several labels, and argmax for
    more classes.
    """
    default = chosen or usual_rule(classes, multilabel)
    if default.kind == ARGMAX and multilabel:
        raise RequestError("--decide argmax: with several labels each is decided by itself. Type --decide youden.")
    rules = [parse_rule(text) for text in SHOWN]
    if default.kind != ARGMAX and default not in rules:
        rules.insert(0, default)
    levels: list[tuple[Unit, Answers, Answers, list[HeldOut]]] = [("image", development, deployed, list(held_out))]
    if per_group != "none" and len(np.unique(development.groups)) < len(development.groups):
        of_groups = [HeldOut(pooled(one.deployed, per_group), pooled(one.rows, per_group)) for one in held_out]
        levels.append(("group", pooled(development, per_group), pooled(deployed, per_group), of_groups))
    points = []
    for unit, dev, spread, parts in levels:
        for c in [1] if len(classes) == 2 and not multilabel else range(len(classes)):
            asked, like = _question(dev, c, multilabel), _question(spread, c, multilabel)
            judged = [
                HeldOut(_question(one.deployed, c, multilabel), _question(one.rows, c, multilabel)) for one in parts
            ]
            points += [
                {"unit": unit, "class": classes[c], **_point(rule, asked, like, judged, reason)} for rule in rules
            ]
    return {"default": str(default), "per_group": per_group, "points": points}


def usual_rule(classes: tuple[str, ...], multilabel: bool) -> Rule:
    return Rule(ARGMAX if len(classes) > 2 and not multilabel else "youden")


def pooled(rows: Answers, how: How) -> Answers:
    """One row for each group: its label, its pooled probability, its fold."""
    y, p, names = by_group(rows.y, rows.p, rows.groups, how)
    if rows.fold is None:
        return Answers(y, p, names)
    found, first = np.unique(rows.groups, return_index=True)
    fold = rows.fold[first][np.searchsorted(found, names)]
    others = {part: by_group(rows.y, other, rows.groups, how)[1] for part, other in rows.others.items()}
    return Answers(y, p, names, fold, others)


def _question(rows: Answers, c: int, multilabel: bool) -> Answers:
    """(n,) y and p of class c against the rest, where the answer is known."""
    answer = rows.y[:, c] if multilabel else (rows.y == c).astype(np.int64)
    known = answer != UNKNOWN
    fold = None if rows.fold is None else rows.fold[known]
    others = {part: other[known, c] for part, other in rows.others.items()}
    return Answers(answer[known], rows.p[known, c], rows.groups[known], fold, others)


def said_out_of_fold(rule: Rule, rows: Answers, classes: tuple[str, ...], multilabel: bool) -> NDArray[np.bool_]:
    """(N, C) which classes a rule says of each row, by thresholds that the other folds choose; rows whose answer is not
    known are said to have nothing."""
    if rule.kind == ARGMAX:
        return np.asarray(np.eye(len(classes), dtype=bool)[rows.p.argmax(axis=1)])
    said = np.zeros(rows.p.shape, dtype=bool)
    for c in [1] if len(classes) == 2 and not multilabel else range(len(classes)):
        known = rows.y[:, c] != UNKNOWN if multilabel else np.ones(len(rows.y), dtype=bool)
        said[known, c] = _cross_fitted(rule, _question(rows, c, multilabel))
    if len(classes) == 2 and not multilabel:
        said[:, 0] = ~said[:, 1]
    return said


def _cross_fitted(rule: Rule, rows: Answers) -> NDArray[np.bool_]:
    """(n,) each fold judged by the threshold that the others choose."""
    assert rows.fold is not None
    said = np.zeros(len(rows.y), dtype=bool)
    for k in np.unique(rows.fold):
        here = rows.fold == k
        others = rows.others.get(int(k), rows.p)[~here]
        said[here] = rows.p[here] >= threshold(rule, rows.y[~here], others)
    return said


def _point(
    rule: Rule, development: Answers, deployed: Answers, held_out: Sequence[HeldOut], reason: str
) -> dict[str, Any]:
    said = _cross_fitted(rule, development)
    at_home = rates(development.y, said, development.groups)
    if reason:
        at_home = {name: replace(found, lo=math.nan, hi=math.nan, reason=reason) for name, found in at_home.items()}
    cuts = [threshold(rule, one.deployed.y, one.deployed.p) for one in held_out]
    tests = [(one.rows.y, one.rows.p >= cut) for one, cut in zip(held_out, cuts, strict=True)]
    groups = [one.rows.groups for one in held_out]
    y = np.concatenate([one for one, _ in tests]) if tests else np.empty(0, np.int64)
    yes = np.concatenate([one for _, one in tests]) if tests else np.empty(0, bool)
    on_test = rates(y, yes, np.concatenate(groups) if groups else np.empty(0, np.str_))
    return {
        "rule": str(rule),
        "threshold": threshold(rule, deployed.y, deployed.p),
        "test_thresholds": cuts,
        "development": at_home,
        "test": on_test,
        "promise": kept(rule, on_test, yes),
    }


def kept(rule: Rule, found: dict[str, Interval], said: NDArray[np.bool_]) -> str:
    """Whether a promised sensitivity or specificity is met: met, within noise (missed, but the interval reaches it),
    missed; trivial where all rows, or none, are answered by yes, which keeps the promise whatever the model; unknown
    where there is nobody to ask; '' where nothing was promised. said (n,): the answers that `found` is of."""
    if rule.kind not in ("sensitivity", "specificity") or rule.value is None:
        return ""
    there = found[rule.kind]
    if not (math.isfinite(there.value) and math.isfinite(there.hi)):
        return "unknown"
    if max(there.value, there.hi) < rule.value:
        return "missed"
    if said.all() or not said.any():
        return "trivial"
    return "met" if there.value >= rule.value else "within noise"


def decide(
    about: dict[str, Any],
    classes: tuple[str, ...],
    multilabel: bool,
    p: Floats,
    unit: Unit = "image",
    rule: str | None = None,
) -> NDArray[np.bool_]:
    """(n, C) which classes are said of each row, from calibrated probabilities (n, C) of images or of pooled groups.

    Exactly one for two classes and by argmax; with more classes or several labels, and thresholds, none or several.
    Raises RequestError for a rule that the bundle has no threshold for.
    """
    asked = parse_rule(rule or about["default"])
    if asked.kind == ARGMAX:
        if multilabel:
            raise RequestError("--decide argmax: with several labels each is decided by itself. Type --decide youden.")
        return np.asarray(np.eye(len(classes), dtype=bool)[p.argmax(axis=1)])
    said = np.zeros(p.shape, dtype=bool)
    for c, cut in thresholds(about, classes, multilabel, unit, asked).items():
        said[:, c] = p[:, c] >= cut
    if len(classes) == 2 and not multilabel:
        said[:, 0] = ~said[:, 1]
    return said


def thresholds(
    about: dict[str, Any], classes: tuple[str, ...], multilabel: bool, unit: Unit, rule: Rule
) -> dict[int, float]:
    """Class number -> threshold. Raises RequestError, with the rules that there are, where the bundle has none."""
    try:
        mine = [point for point in about["points"] if point["unit"] == unit]
        cuts = {point["class"]: point["threshold"] for point in mine if point["rule"] == str(rule)}
        asked = [1] if len(classes) == 2 and not multilabel else range(len(classes))
        if mine and cuts:
            return {c: math.nan if cuts[classes[c]] is None else float(cuts[classes[c]]) for c in asked}
        known = list(dict.fromkeys(point["rule"] for point in about["points"]))
        units = {point["unit"] for point in about["points"]}
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"the bundle's decisions cannot be read ({error}). Build the ensemble again.") from error
    if unit not in units:
        raise RequestError(
            "this bundle decides per image only: its study has no group of several images, or data.per_group is none."
        )
    raise RequestError(
        f"--decide {rule}: this bundle has no threshold for it.{nearest(str(rule), known)} It has {', '.join(known)}. "
        f"For another build it again: harness ensemble build ... --decide {rule}"
    )
