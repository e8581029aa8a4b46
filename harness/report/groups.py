"""For whom it works less well: scores per kind of patient, scanner or site; and per patient where one has many images.

Names no group. Kinds with few groups are put together (stats.subgroups). Knows predictions and columns, no files.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.output.documents import Section, Table
from harness.output.format import BELIEVABLE_P, bare_p, interval, plural, signed
from harness.output.plots import forest
from harness.report.predicted import Predicted
from harness.stats.intervals import PREFIX, How, all_intervals
from harness.stats.subgroups import SMALLEST, Sample, Subgroup, subgroups, worst

FEW = 20
"""groups; below this a kind's row is marked"""
ALWAYS = "accuracy"
"""defined where a class has no image too, which a kind of few people may lack"""


def groups_section(
    one: Predicted, columns: Mapping[str, NDArray[np.str_]], metric: str, per_group: How, group: str, seed: int
) -> Section:
    """`columns`: name -> (n,) the kind of each row of `one`; `group`: what the study's groups are called."""
    sample = Sample(one.y, one.p, one.groups)
    found = subgroups(sample, dict(columns), metric, seed)
    scored = {metric: found}
    if any(np.isnan(sub.score.value) for sub in found):
        scored[ALWAYS] = subgroups(sample, dict(columns), ALWAYS, seed)
    body = "".join(_forest(made, name, one) for name, made in scored.items())
    tables = [_table(made, name, one) for name, made in scored.items() if made]
    pooled = _per_group(one, per_group, group, seed)
    tables += [pooled] if pooled else []
    return Section("groups", "For whom it works less well", _answer(found, metric), body, tuple(tables))


def _answer(found: Sequence[Subgroup], metric: str) -> str:
    if not found:
        return (
            "The study's table has no column of sex, age, scanner or site that divides its images, so whether it "
            "works alike for everybody is not known."
        )
    bad = worst(list(found), metric)
    if bad is None:
        return f"Too few kinds of images have every class, so {metric} cannot be compared between them."
    known = sum(bool(np.isfinite(sub.score.value)) for sub in found)
    beyond = "beyond" if bad.p_holm < BELIEVABLE_P else "within"
    return (
        f"Worst: {bad.column} {bad.kind} with {metric} {interval(bad.score)} on {plural(bad.groups, 'group')}. Of "
        f"{known} kinds one is always the worst; its distance from the rest is {beyond} noise."
    )


def _forest(found: Sequence[Subgroup], metric: str, one: Predicted) -> str:
    lines = [(f"{sub.column}: {sub.kind}", sub.score) for sub in found if np.isfinite(sub.score.value)]
    return forest(lines, f"{metric} by kind, {one.title}", metric, "Bars: 95% intervals.") if len(lines) > 1 else ""


def _table(found: Sequence[Subgroup], metric: str, one: Predicted) -> Table:
    rows = [
        [
            f"{sub.column}: {sub.kind}",
            f"{sub.n:,}",
            f"{sub.groups:,}{'*' if sub.groups < FEW else ''}",
            interval(sub.score),
            signed(sub.versus_rest),
            bare_p(sub.p_holm),
        ]
        for sub in found
    ]
    tests = sum(bool(np.isfinite(sub.p_holm)) for sub in found)
    note = (
        f"Minus the rest: {metric} here minus that of all other images; p: Holm's, over {plural(tests, 'comparison')}. "
    )
    note += f"Kinds of fewer than {SMALLEST} groups are put together."
    if any(np.isnan(sub.score.value) for sub in found):
        note += f" A dash: a class has no image there, so {metric} is not defined."
    if any(sub.groups < FEW for sub in found):
        note += f" * fewer than {FEW} groups: believe little."
    heads = ("kind", "images", "groups", f"{metric} [95%]", "minus the rest", "p")
    return Table(f"{metric} by kind of image, {one.title}", heads, rows, note=note)


def _per_group(one: Predicted, how: How, group: str, seed: int) -> Table | None:
    """Each metric per image and per patient (lesion, case); nothing where every group has one image."""
    found = all_intervals(one.y, one.p, one.groups, seed, how, one.fold)
    names = [name for name in found if not name.startswith(PREFIX)]
    if not any(name.startswith(PREFIX) for name in found):
        return None
    rows = [[name, interval(found[name]), interval(found[PREFIX + name])] for name in names]
    note = f"A {group}'s probability is the {how} over its images."
    count = len(np.unique(one.groups))
    heads = ("metric", f"per image ({len(one.y):,})", f"per {group} ({count:,})")
    return Table(f"Per image and per {group}, {one.title}", heads, rows, note=note)
