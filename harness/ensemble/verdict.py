"""What a table of ensembles comes to: the recommended method, and what must be said of single methods.

One place for the whole program: the command line, reports, MLflow and programs ask `recommended`, and print the
verdicts that scores.result_json has stored. Knows scores, no arrays.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.ensemble.scores import Comparison, EnsembleResult, ScoreRow, verdict_word
from harness.output.format import judged, p_value
from harness.types import Difference

PLAIN = "mean"
"""the method that another has to beat"""
RANDOM_LABELS = (0.53, 0.58)
"""the lowest and highest mean cross-fitted AUROC of methods that learn from out-of-fold predictions, on random labels
where .5 is true (benchmarks/nested_null.py)"""
OPTIMISM = (
    "cross-fitted, networks shared: no estimate. On random labels, where an AUROC of .5 is true, members that memorise "
    f"make it {RANDOM_LABELS[0]:.2f} to {RANDOM_LABELS[1]:.2f}, that of bagging far lower (benchmarks/nested_null.py)."
).replace("0.", ".")


@dataclass(frozen=True)
class Judged:
    """One method of a table, as far as recommending goes."""

    method: str
    metric: str
    judged_on: str
    delta: float
    """minus the mean of the same members"""
    p_holm: float


def of_result(found: EnsembleResult) -> Judged:
    compared = found.comparison
    return Judged(found.method, found.metric, compared.judged_on, compared.vs_mean.value, compared.holm_mean)


def of_document(about: Mapping[str, Any]) -> Judged:
    """From bundle.json or the JSON of `ensemble show`."""
    delta = about["delta_vs_mean"]
    value, p = (math.nan if delta.get(key) is None else float(delta[key]) for key in ("value", "p_holm"))
    return Judged(str(about["method"]), str(about["metric"]), str(about["judged_on"]), value, p)


def recommended(table: Iterable[Judged]) -> str:
    """The method to use: the mean, unless another is better than it on the test split or by --nested full, beyond
    chance after Holm over all comparisons of its table; of several such the one that is better by most."""
    better = []
    for one in table:
        delta = Difference(one.delta, math.nan, math.nan, one.p_holm)
        if one.judged_on in ("test", "nested_full") and verdict_word(one.metric, delta, one.p_holm) == "better":
            better.append((abs(one.delta), one.method))
    return max(better, key=lambda found: found[0])[1] if better else PLAIN


def why_recommended(table: Sequence[Judged], best: str) -> str:
    """In few words, to stand behind the name; `best`: what was recommended where these stood, maybe among others."""
    others = [one for one in table if one.method != PLAIN]
    if best != PLAIN:
        one = next((one for one in table if one.method == best), None)
        how = "" if one is None else f" ({_number(one.delta)}, {p_value(one.p_holm)} after Holm)"
        return f"better than the mean beyond chance{how}"
    if not others:
        return "the default; compare others by: harness ensemble build --method all"
    if all(one.judged_on == "none" for one in table):
        return "nothing held out judges the methods"
    return "no other method is better than it beyond chance"


def verdict(metric: str, row: ScoreRow, mean: ScoreRow, found: Comparison) -> list[str]:
    """At most one sentence for an ensemble's row: that it is worse than the mean beyond chance."""
    if row.name == mean.name or verdict_word(metric, found.vs_mean, found.holm_mean) != "worse":
        return []
    said = f"({_signed(found.vs_mean)}, {p_value(found.holm_mean)})"
    return [f"{row.name} is worse than the simple mean {judged(found.judged_on)} {said}."]


def verdict_together(metric: str, results: Sequence[EnsembleResult]) -> list[str]:
    """The same of several ensembles in one sentence."""
    worse = {
        result.method: result.comparison
        for result in results
        if result.method != PLAIN
        and verdict_word(metric, result.comparison.vs_mean, result.comparison.holm_mean) == "worse"
    }
    if not worse:
        return []
    on = judged(next(iter(worse.values())).judged_on)
    listed = "; ".join(f"{name} {_signed(one.vs_mean)}, {p_value(one.holm_mean)}" for name, one in worse.items())
    return [f"Worse than the simple mean {on}, beyond chance: {listed}."]


def unjudged(reason: str) -> str:
    """Why a table compares nothing, and what to do."""
    why = {
        "nothing-held-out": "The study holds nothing out (data.test_fraction: 0)",
        "one-class": "The test split holds one class only",
        "too-few-groups": "The test split has fewer than 3 groups of a class",
    }.get(reason, "No test split can judge")
    return (
        f"{why}, so no method is compared with another. For honest scores train the members again without each pair of "
        "folds: harness ensemble build --nested full"
    )


def chosen_note(members: int, candidates: int) -> str:
    """Where nested_full is a score of these members, and not of choosing them."""
    return (
        f"The {members} members were chosen from {candidates} trials on all development rows; nested full does not "
        "repeat that choice, so its scores have no interval, while differences between methods on these members do. "
        f"For a score that counts the choice: a held-out test split, or --top {candidates}."
    )


def _number(value: float) -> str:
    return f"{value:+.3f}"


def _signed(delta: Difference) -> str:
    if not (math.isfinite(delta.lo) and math.isfinite(delta.hi)):
        return _number(delta.value)
    return f"{delta.value:+.3f} [{delta.lo:+.3f}, {delta.hi:+.3f}]"
