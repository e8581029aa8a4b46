"""harness predict: answers for new images."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Bundle
from harness.cli.output import claim_stdout, print_json
from harness.cli.study import Json
from harness.output.terminal import complain, note

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
