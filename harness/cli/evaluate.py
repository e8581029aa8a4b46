"""harness evaluate: a bundle on another data set, beside its own test split."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.output import claim_stdout, note, print_json, results, show
from harness.cli.study import Json, Quiet

if TYPE_CHECKING:
    from harness.predict.evaluate import Evaluation
    from harness.stats.unpaired import Shift

Several = list[str] | None


def evaluate(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="STUDY/NAME (harness ensemble list), or a folder.")],
    data: Annotated[
        str, typer.Option("--data", metavar="FOLDER|FILE", help="Images and labels; or a study file that names them.")
    ],
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="CSV", help="The table of labels; in FOLDER when left out.")
    ] = None,
    set_: Annotated[
        Several, typer.Option("--set", metavar="data.KEY=VALUE", help="A key of a study's data block, such as label.")
    ] = None,
    map_: Annotated[
        Several, typer.Option("--map", metavar="THEIRS=OURS", help="What a label is called here; THEIRS=- leaves out.")
    ] = None,
    by: Annotated[
        Several, typer.Option("--by", metavar="COLUMN", help="Subgroups; left out: sex, age, scanner, site, if any.")
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu or cuda.")] = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What a bundle is worth on labelled images of another place, and what has changed since its own test split.

    Scores with the drop and its interval, calibration, prevalence, operating points, subgroups. Of a folder, the table
    of labels and its columns are guessed as by `harness init`, and said.
    """
    claim_stdout()
    from harness.cli.progress import step_progress
    from harness.home import open_home

    home = open_home()
    with step_progress(quiet) as progress:
        from harness.predict.evaluate import evaluate as evaluate_bundle
        from harness.predict.evaluate import log_evaluation

        found = evaluate_bundle(bundle, data, home, set_, labels, map_, by, device, progress=progress)
    if json:
        print_json(found)
    else:
        _show(found)
    if log_evaluation(home, found):
        note(f"logged as an evaluation of study {found.study}")


def _show(found: "Evaluation") -> None:
    from harness.cli.words import plural

    show(f"{found.bundle} on {found.data}: {plural(found.n, 'image')} of {plural(found.groups, 'group')}")
    show(f"at home: {plural(found.home_n, 'test image')} of {plural(found.home_groups, 'group')}")
    for said, ones in (("guessed", found.guessed), ("labels", found.mapped)):
        if ones:
            show(f"  {said}: {'; '.join(ones)}")
    for reason, count in found.left_out.items():
        show(f"  left out: {count:,} ({reason})")
    _show_seen(found)
    _show_scores(found)
    _show_calibration(found)
    _show_shift(found)
    _show_points(found)
    _show_subgroups(found)


def _show_seen(found: "Evaluation") -> None:
    if found.seen is None:
        show("  The bundle does not know its own images: whether some of these are among them cannot be said.")
        return
    development, test = found.seen["development"], found.seen["test"]
    if development:
        show(
            f"\nA LEAK: {development:,} of these {found.n:,} images are, pixel by pixel, images that the bundle was "
            "made with. What is said of them is remembered, not recognised: every score below is too good."
        )
    if test:
        show(f"  {test:,} of these images are of the bundle's own test split: the two are no independent samples.")


def _show_scores(found: "Evaluation") -> None:
    from harness.cli.tables import is_higher_better, table
    from harness.cli.words import difference, interval

    rows = []
    for score in found.scores:
        change = score.difference
        said = (
            "" if change is None else difference(change, is_higher_better(score.metric)).replace("no comparison: ", "")
        )
        rows.append([score.metric, interval(score.here), interval(score.home), said])
    show("", table(["", "here [95%]", "home", "here - home"], rows, width=results().width))
    if found.metric in [score.metric for score in found.scores]:
        show(f"The study chose by {found.metric}: read that line first; the other lines repeat the question.")


def _show_calibration(found: "Evaluation") -> None:
    from harness.cli.tables import table
    from harness.cli.words import interval, number

    rows = []
    for one in found.calibration:
        for place, side, line in (("here", one.here, one.line_here), ("home", one.home, one.line_home)):
            ece = f"{number(side.ece)} ({number(side.ece_by_chance)})"
            rows.append([one.of, place, ece, interval(side.error), interval(line.slope), interval(line.in_the_large)])
        if one.raw.ece != one.here.ece:
            rows.append([one.of, "here, raw", number(one.raw.ece), interval(one.raw.error), "", ""])
    columns = ["", "", "ECE (by chance)", "error [95%]", "slope (1)", "in the large (0)"]
    show("\nCalibration, as the bundle predicts:", table(columns, rows, width=results().width))


def _show_shift(found: "Evaluation") -> None:
    from harness.cli.tables import table
    from harness.cli.words import interval

    shifts = {one.of: one for one in found.score_shift}
    rows = []
    for one in found.prevalence:
        shift = shifts[one.of]
        same = [_ks(part) for part in (shift.all, shift.positive, shift.negative)]
        rows.append([one.of, interval(one.here), interval(one.home), *same])
    columns = ["class", "share here", "home", "scores differ by", "among those with", "without"]
    show("\nPrevalence and scores (largest distance between distributions):")
    show(table(columns, rows, width=results().width))


def _ks(shift: "Shift") -> str:
    from harness.cli.words import number, p_value

    return f"{number(shift.statistic, 2)}, {p_value(shift.p)}"


def _show_points(found: "Evaluation") -> None:
    from harness.cli.tables import numbers_of, table
    from harness.cli.words import interval, number
    from harness.records import Interval

    rows = []
    for point in found.points:
        at_home = [interval(Interval(**numbers_of(point["home"][rate]))) for rate in ("sensitivity", "specificity")]
        here = [interval(point["here"][rate]) for rate in ("sensitivity", "specificity")]
        mark = "*" if point["rule"] == found.default_rule else ""
        name = f"{point['rule']}{mark} {point['class']}, {point['unit']}"
        rows.append([name, number(point["threshold"]), *_alternate(here, at_home), point["promise"]])
    if rows:
        columns = ["point", "p >=", "sens. here", "home", "spec. here", "home", "promise"]
        show("\nOperating points chosen at home (* decides):", table(columns, rows, width=results().width))


def _alternate(first: Sequence[str], second: Sequence[str]) -> list[str]:
    return [one for pair in zip(first, second, strict=True) for one in pair]


def _show_subgroups(found: "Evaluation") -> None:
    from harness.cli.tables import table
    from harness.cli.words import interval, p_value, plural

    if not found.subgroups:
        show(
            "\nNo subgroups: no column of the labels or headers tells sex, age, scanner or site. Name one: --by COLUMN"
        )
        return
    rows: list[list[str]] = []
    for one in found.subgroups:
        apart: Any = one.versus_rest
        said = f"{apart.value:+.3f} [{apart.lo:+.3f}, {apart.hi:+.3f}]" if apart.p == apart.p else "-"
        name = f"{one.column}: {one.kind}"
        rows.append([name, f"{one.n:,}", f"{one.groups:,}", interval(one.score), said, p_value(one.p_holm)])
    columns = ["", "images", "groups", f"{found.metric} [95%]", "minus the rest", "Holm"]
    show(f"\nSubgroups, {found.metric}:", table(columns, rows, right=["images", "groups"], width=results().width))
    if found.worst is not None:
        bad = found.worst
        beyond = bad.p_holm < 0.05
        show(
            f"Worst: {bad.column} {bad.kind}, {interval(bad.score)} on {plural(bad.groups, 'group')}. One of "
            f"{len(found.subgroups)} is always the worst; that it differs from the rest is "
            f"{'beyond' if beyond else 'within'} noise ({p_value(bad.p_holm)}, corrected for their number)."
        )
