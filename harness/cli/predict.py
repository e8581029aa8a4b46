"""Commands on new images: predict, evaluate.

harness predict: answers for new images.

harness evaluate: a bundle on another data set, beside its own test split.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.options import Bundle, Json, settings
from harness.cli.streams import claim_stdout, print_json, show
from harness.output.terminal import complain, note

if TYPE_CHECKING:
    from harness.predict.evaluate import Evaluation
    from harness.stats.subgroups import Shift
    from harness.types import Interval

FILE = "FILE"


def predict(
    bundle: Bundle,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH...", help="Images (PNG, JPEG, DICOM), folders, a CSV with a column `file`, or - for stdin."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar=FILE, help="Write there: FILE.csv, .json or .parquet.")
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar=FILE, help="Write CSV there.")] = None,
    json: Json = False,
    explain: Annotated[
        Path | None, typer.Option("--explain", metavar="DIR", help="Write a heat map of each image there (Grad-CAM).")
    ] = None,
    explain_all: Annotated[
        bool, typer.Option("--explain-all", help="Heat maps of all members, not of the best one alone: slower.")
    ] = False,
    per: Annotated[str, typer.Option("--per", metavar="UNIT", help="One row per: image, or DICOM series.")] = "image",
    tta: Annotated[
        int, typer.Option("--tta", metavar="N", min=1, help="Average N views: the flips and turns trained with.")
    ] = 1,
    decide: Annotated[
        str | None,
        typer.Option("--decide", metavar="RULE", help="Such as youden or sensitivity=.95; else the bundle's."),
    ] = None,
    abstain: Annotated[
        float | None,
        typer.Option("--abstain", metavar="SHARE", min=0.0, max=1.0, help="Of home images to leave to a person: .05."),
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Probabilities before calibration.")] = False,
    device: Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu or cuda.")] = "auto",
) -> None:
    """A probability per class for each image, the decision, and how far to trust it.

    Columns: file, one per class, decision, disagreement (0..1), out_of_distribution (0..1), abstain. A file that
    cannot be read has no numbers: it is listed with its reason, and the exit code is 1; 2 where none can.
    """
    stream = claim_stdout()
    from harness.errors import HarnessError, RequestError
    from harness.output.progress import step_progress
    from harness.store.files import write_bytes

    target = _target(out, csv_file, json)
    if per not in ("image", "series"):
        raise RequestError(f"--per {per}: type --per image or --per series.")
    if explain is not None and explain.exists() and not explain.is_dir():
        raise RequestError(f"--explain {explain}: this is a file; name a folder, such as {explain}-heat.")
    if explain_all and explain is None:
        raise RequestError("--explain-all says whose heat maps; where to: --explain DIR")
    with step_progress() as progress:
        from harness.predict.predict import Asked
        from harness.predict.predict import predict as predict_files

        asked = Asked(raw, decide, abstain, tta, per == "series", explain, explain_all)
        found = predict_files(bundle, paths, device, progress, asked=asked)
    from harness.predict.outputs import as_csv, as_document, as_file

    if json:
        print_json(as_document(found))
    elif found.problems and not found.files:
        pass  # a table without rows would look like a result
    elif target is not None:
        write_bytes(target, as_file(found, ".csv" if csv_file is not None else target.suffix.lower()))
        note(f"{len(found.files)} predictions in {target}")
    else:
        stream.write(as_csv(found))
    for line in found.notes:
        note(line)
    for file, reason in found.problems:
        complain(f"not read: {file}: {reason}")
    if found.problems:
        kind = HarnessError if found.files else RequestError
        raise kind(f"{len(found.problems)} of {found.read + len(found.problems)} files could not be read.")


def _target(out: Path | None, csv_file: Path | None, json: bool) -> Path | None:
    """The file to write, None for stdout. Raises RequestError for two places, or one that says no format."""
    from harness.errors import RequestError

    given = [
        option
        for option, on in (("--out FILE", out), ("--csv FILE", csv_file), ("--json", json))
        if on not in (None, False)
    ]
    if len(given) > 1:
        raise RequestError(f"{' and '.join(given)} together: choose one.")
    if csv_file is not None and csv_file.is_dir():
        raise RequestError(f"--csv {csv_file}: this is a folder; name a file, such as {csv_file / 'predictions.csv'}.")
    if out is not None:
        from harness.predict.outputs import require_suffix

        require_suffix(out, "--out")
    return out or csv_file


MOST_POINTS = 8
IN_WORDS = {
    "met": "met",
    "within noise": "missed, within noise,",
    "missed": "MISSED",
    "unknown": "not known",
    "trivial": "TRIVIAL (every row gets one and the same answer)",
}
Several = list[str] | None


def evaluate(
    bundle: Bundle,
    data: Annotated[
        str, typer.Option("--data", metavar="FOLDER|FILE", help="Images and labels; or a study file that names them.")
    ],
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="CSV", help="The table of labels; in FOLDER when left out.")
    ] = None,
    set_: Annotated[
        Several,
        typer.Option(
            "--set",
            metavar="data.KEY=VALUE",
            autocompletion=settings,
            help="A key of a study's data block, such as label.",
        ),
    ] = None,
    map_: Annotated[
        Several, typer.Option("--map", metavar="THEIRS=OURS", help="What a label is called here; THEIRS=- leaves out.")
    ] = None,
    by: Annotated[
        Several, typer.Option("--by", metavar="COLUMN", help="Subgroups; left out: sex, age, scanner, site, if any.")
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu or cuda.")] = "auto",
    json: Json = False,
) -> None:
    """What a bundle is worth on labelled images of another place, and what has changed since its own test split.

    Scores with the drop and its interval, calibration, prevalence, operating points, subgroups. Of a folder, the table
    of labels and its columns are guessed as by `harness init`, and said.
    """
    claim_stdout()
    from harness.output.progress import step_progress
    from harness.store.home import open_home

    home = open_home()
    with step_progress() as progress:
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
    from harness.output.format import plural

    show(f"{found.bundle} on {found.data}: {plural(found.n, 'image')} of {plural(found.groups, 'group')}")
    kind = "test image" if found.home_part == "test" else "development image"
    show(f"at home: {plural(found.home_n, kind)} of {plural(found.home_groups, 'group')}")
    if found.home_reason:
        show(
            "  its numbers have no interval: networks, maps and thresholds have seen these images' labels. Only images "
            "held out from all of them (data.test_fraction) make a home to compare with."
        )
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
    _show_warnings(found)


def _show_warnings(found: "Evaluation") -> None:
    from harness.cli.ensemble_tables import UNKNOWN_MEAN
    from harness.output.format import interval

    for one in found.warnings:
        if one["code"] == "calibration-slope":
            timid = "too timid" if one["slope"].value > 1 else "too extreme"
            show(f"\nNOT CALIBRATED HERE: {one['of']}, slope {interval(one['slope'])}: probabilities are {timid}.")
        elif one["code"] == "promise-missed":
            kind, _, promised = one["rule"].partition("=")
            what = f"{one['class']} per {one['unit']}, {kind} {promised} promised"
            show(f"\nPROMISE NOT KEPT HERE: {what}, {interval(one['here'])} found.")
        else:
            show(f"\nThe bundle's calibration: {UNKNOWN_MEAN[one['reason']]}")


def _show_seen(found: "Evaluation") -> None:
    if found.seen is None:
        show("The bundle does not know its own images: whether some of these are among them cannot be said.")
        return
    development, test = found.seen["development"], found.seen["test"]
    if development:
        show(
            f"\nA LEAK: {development:,} of these {found.n:,} images are, pixel by pixel, images that the bundle was "
            "made with. What is said of them is remembered, not recognised: every score below is too good."
        )
    if test:
        show(f"{test:,} of these images are of the bundle's own test split: the two are no independent samples.")


def _show_scores(found: "Evaluation") -> None:
    from harness.metrics import METRICS, is_higher_better
    from harness.output.format import difference, interval, p_value
    from harness.output.tables import table
    from harness.stats.intervals import PREFIX

    rows = []
    for score in found.scores:
        change = score.difference
        if change is not None:
            apart = _signed(change.value)
            if not found.home_reason:
                apart += f" {p_value(change.p)}\n[{_signed(change.lo)}, {_signed(change.hi)}]"
            rows.append([score.metric, interval(score.here), interval(score.home), apart])
    show("", table(["", "here [95%]", "home", "here - home"], rows))
    main = next(score for score in found.scores if score.metric == found.metric)
    if main.difference is not None and not found.home_reason:
        said = difference(main.difference, is_higher_better(found.metric))
        show(f"{found.metric}, which the study chose by, here minus at home: {said}.")
    per_group = [score for score in found.scores if score.metric not in METRICS]
    if per_group:
        rows = [[one.metric.removeprefix(PREFIX), interval(one.here), interval(one.home)] for one in per_group]
        show("\nPer group:", table(["", "here [95%]", "home"], rows))


def _signed(value: float) -> str:
    return f"{value:+.3f}" if value == value else "-"


def _stacked(found: "Interval") -> str:
    """0.842, and [0.801, 0.880] below it."""
    from harness.output.format import interval

    return interval(found).replace(" [", "\n[")


def _show_calibration(found: "Evaluation") -> None:
    from harness.output.format import number
    from harness.output.tables import table

    rows = []
    for one in found.calibration:
        for place, side, line in (("here", one.here, one.line_here), ("home", one.home, one.line_home)):
            ece = f"{number(side.ece)} ({number(side.ece_by_chance)})"
            rows.append(
                [f"{one.of}\n{place}", ece, _stacked(side.error), _stacked(line.slope), _stacked(line.in_the_large)]
            )
        if one.raw.ece != one.here.ece:
            ece = f"{number(one.raw.ece)} ({number(one.raw.ece_by_chance)})"
            rows.append([f"{one.of}\nhere, not calibrated", ece, _stacked(one.raw.error), "", ""])
    show("\nCalibration. Perfect: error 0, slope 1, intercept 0.")
    show(table(["", "ECE (by chance)", "error [95%]", "slope", "intercept"], rows))


def _show_shift(found: "Evaluation") -> None:
    from harness.output.tables import table

    shifts = {one.of: one for one in found.score_shift}
    rows = []
    for one in found.prevalence:
        shift = shifts[one.of]
        apart = [_ks(part) for part in (shift.all, shift.positive, shift.negative)]
        rows.append([one.of, _stacked(one.here), _stacked(one.home), *apart])
    show(
        "\nPrevalence; and how far the distributions of scores lie apart (0 to 1), also among rows with and without it:"
    )
    show(table(["", "here [95%]", "home", "scores", "with", "without"], rows))


def _ks(shift: "Shift") -> str:
    from harness.output.format import number, p_value

    return f"{number(shift.statistic, 2)}\n{p_value(shift.p)}"


def _show_points(found: "Evaluation") -> None:
    from harness.output.format import number
    from harness.output.tables import numbers_of, table
    from harness.types import Interval

    shown = [point for point in found.points if len(found.points) <= MOST_POINTS or _matters(point, found)]
    for unit, name in dict.fromkeys((point["unit"], point["class"]) for point in shown):
        rows = []
        for point in shown:
            if (point["unit"], point["class"]) != (unit, name):
                continue
            cells = [f"{point['rule']}{'*' * (point['rule'] == found.default_rule)}\np >= {number(point['threshold'])}"]
            for rate in ("sensitivity", "specificity"):
                cells += [_stacked(point["here"][rate]), _stacked(Interval(**numbers_of(point["home"][rate])))]
            rows.append(cells)
        show(f"\nOperating points chosen at home, {name}, per {unit}:")
        show(table(["(* decides)", "sens. here", "home", "spec. here", "home"], rows))
        for point in shown:
            if (point["unit"], point["class"]) == (unit, name) and point["promise"]:
                show(f"  {point['rule']} is {IN_WORDS[point['promise']]} here")
    if len(shown) < len(found.points):
        show(f"\n{len(shown)} of {len(found.points)} operating points are shown; --json has all.")


def _matters(point: dict[str, Any], found: "Evaluation") -> bool:
    """Where there are many points: what decides, and promises that are not kept."""
    return bool(point["rule"] == found.default_rule or point["promise"] == "missed")


def _show_subgroups(found: "Evaluation") -> None:
    from harness.output.format import BELIEVABLE_P, interval, p_value, plural
    from harness.output.tables import table

    if not found.subgroups:
        show("\nNo subgroups: no column here tells sex, age, scanner or site of five or more. Name one: --by COLUMN")
        return
    rows: list[list[str]] = []
    for one in found.subgroups:
        apart = one.versus_rest
        said = f"{_signed(apart.value)} {p_value(one.p_holm)}\n[{_signed(apart.lo)}, {_signed(apart.hi)}]"
        count = f"{one.n:,}\n{one.groups:,}"
        rows.append([f"{one.column}: {one.kind}", count, interval(one.score), said])
    columns = ["", "images\ngroups", f"{found.metric} [95%]", "minus the rest"]
    show(f"\nSubgroups (p corrected for {len(found.subgroups)} comparisons):", table(columns, rows))
    if found.worst is not None:
        bad = found.worst
        show(
            f"Worst: {bad.column} {bad.kind}, {interval(bad.score)} on {plural(bad.groups, 'group')}. One of "
            f"{len(found.subgroups)} is always the worst; its distance from the rest is "
            f"{'beyond' if bad.p_holm < BELIEVABLE_P else 'within'} noise ({p_value(bad.p_holm)})."
        )
