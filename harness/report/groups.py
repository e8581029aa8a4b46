"""For whom it works less well: scores per kind of patient, scanner or site; and per patient where one has many images.

Names no group. Kinds with few groups are put together (stats.subgroups). Knows predictions and columns, no files.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from harness.report.forest import forest
from harness.report.numbers import bare_p, signed
from harness.report.predicted import Predicted
from harness.report.section import Section, Table
from harness.stats.grouped import PREFIX, How, all_intervals
from harness.stats.subgroups import SMALLEST, subgroups, worst
from harness.stats.unpaired import Sample
from harness.words import interval, plural

FEW = 20
"""groups; below this a kind's row is marked"""
BELIEVED = 0.05


def groups_section(
    one: Predicted, columns: Mapping[str, NDArray[np.str_]], metric: str, per_group: How, group: str, seed: int
) -> Section:
    """`columns`: name -> (n,) the kind of each row of `one`; `group`: what the study's groups are called, or none."""
    found = subgroups(Sample(one.y, one.p, one.groups), dict(columns), metric, seed)
    body, tables = "", []
    if found:
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
        note = (
            f"Minus the rest: {metric} here minus that of all other images. p: Holm's, over {len(found)} comparisons. "
        )
        note += (
            f"Kinds of fewer than {SMALLEST} groups are put together. * fewer than {FEW} groups: wide, believe little."
        )
        heads = ("kind", "images", "groups", f"{metric} [95%]", "minus the rest", "p")
        tables.append(Table(f"Kinds of images, {one.title}", heads, rows, note=note))
        lines = [(row[0], sub.score) for row, sub in zip(rows, found, strict=True)]
        body = forest(lines, f"{metric} by kind, {one.title}", metric, "Bars: 95% intervals.")
    pooled = _per_group(one, per_group, group, seed)
    tables += [pooled] if pooled else []
    bad = worst(found, metric)
    if bad is not None:
        beyond = "beyond" if bad.p_holm < BELIEVED else "within"
        answer = (
            f"Worst: {bad.column} {bad.kind} with {metric} {interval(bad.score)} on {plural(bad.groups, 'group')}. Of "
            f"{len(found)} one is always the worst; its distance from the rest is {beyond} noise."
        )
    else:
        answer = "The study's table has no column of sex, age, scanner or site that divides its images, so whether it "
        answer += "works alike for everybody is not known."
    return Section("groups", "For whom it works less well", answer, body, tuple(tables))


def _per_group(one: Predicted, how: How, group: str, seed: int) -> Table | None:
    """Each metric per image and per patient (lesion, case); nothing where every group has one image."""
    found = all_intervals(one.y, one.p, one.groups, seed, how)
    names = [name for name in found if not name.startswith(PREFIX)]
    if not any(name.startswith(PREFIX) for name in found):
        return None
    rows = [[name, interval(found[name]), interval(found[PREFIX + name])] for name in names]
    note = f"A {group}'s probability is the {how} over its images."
    count = len(np.unique(one.groups))
    heads = ("metric", f"per image ({len(one.y):,})", f"per {group} ({count:,})")
    return Table(f"Per image and per {group}, {one.title}", heads, rows, note=note)
