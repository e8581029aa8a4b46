"""harness study compare: two studies or two trials on the same rows."""

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.complete import sides
from harness.cli.output import claim_stdout, print_json, results, show
from harness.cli.study import Json
from harness.search.compare import comparison_document

if TYPE_CHECKING:
    from harness.search.compare import Comparison

Operand = typer.Argument(
    metavar="STUDY[/TRIAL]", autocompletion=sides, help="A study (its best trial), or one of its trials: NAME/7."
)


def compare(
    a: Annotated[str, Operand],
    b: Annotated[str, Operand],
    per_group: Annotated[
        bool, typer.Option("--per-group", help="Compare patients (lesions, cases), not images; these may differ.")
    ] = False,
    json: Json = False,
) -> None:
    """Is A better than B? Every metric on the rows that both predicted out of fold, with paired tests.

    Differences are A minus B. The test split is not read.
    """
    claim_stdout()
    from harness.search.compare import compare_sides, find_side
    from harness.store.home import open_home

    home = open_home()
    found = compare_sides(home, find_side(home, a), find_side(home, b), per_group=per_group)
    if json:
        print_json(comparison_document(found))
        return
    _show(found)


def _show(found: "Comparison") -> None:
    from harness.metrics import is_higher_better
    from harness.output.format import OPTIMISTIC, difference, interval, number, p_value
    from harness.output.tables import table

    for letter, side in (("A", found.a), ("B", found.b)):
        how = f", the best of {side.best_of}" if side.best_of > 1 else ""
        show(f"{letter}: trial {side.trial.number} of {side.record.name}{how}")
    rows = "groups, each out of fold" if found.per_group else f"out-of-fold rows, {found.groups} groups"
    show(f"{found.rows} {rows}\n")
    stars = found.a.trial.optimistic, found.b.trial.optimistic
    body = [[line.metric, interval(line.a, stars[0]), interval(line.b, stars[1])] for line in found.lines]
    show(table(["metric", "A [95%]", "B [95%]"], body, width=results().width))
    if any(stars):
        show(f"\n{OPTIMISTIC}")
    show("\nA minus B, paired by group (means over folds):")
    for line in found.lines:
        show(f"  {line.metric:18}{difference(line.delta, is_higher_better(line.metric))}")
    if found.same_folds:
        show("\nA minus B, over the folds (corrected resampled t-test):")
        for line in found.lines:
            if line.folds is not None:
                show(f"  {line.metric:18}{difference(line.folds, is_higher_better(line.metric))}")
    if found.delong is not None or found.mcnemar is not None:
        show("\nOther tests of the same:")
    if found.delong is not None:
        show(f"  auroc, DeLong by group      {difference(found.delong, True)}")
    if found.mcnemar is not None:
        one = found.mcnemar
        counts = f"only A right {one.only_a}, only B right {one.only_b}"
        show(f"  accuracy, McNemar by group  {counts}, {p_value(one.clustered)}")
        show(f"                              as if rows were independent: mid-{p_value(one.mid_p)}")
    if found.corrected is not None:
        a, b, delta = found.corrected
        metric = found.a.record.tree["search"]["metric"]
        show(f"\nCorrected for having been chosen on these rows ({metric}):")
        show(f"  A {interval(a)}   B {interval(b)}")
        show(f"  A minus B {number(delta.value)} [{number(delta.lo)}, {number(delta.hi)}]")
    for note in found.notes:
        show(f"\n{note}")
