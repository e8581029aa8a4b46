"""harness predict: probabilities for new images."""

import csv
import io
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli.output import claim_stdout, note, print_json
from harness.cli.study import Json, Quiet


def predict(
    bundle: Annotated[str, typer.Argument(metavar="BUNDLE", help="STUDY/NAME (harness ensemble list), or a folder.")],
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Images (PNG, JPEG, DICOM) or folders.")],
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the table there instead of on stdout.")
    ] = None,
    json: Json = False,
    device: Annotated[str, typer.Option("--device", metavar="D", help="auto, cpu or cuda.")] = "auto",
    quiet: Quiet = False,
) -> None:
    """A probability per class for each image, as CSV (file, one column per class) or JSON.

    A file that cannot be read has no numbers: it is listed with its reason, and the exit code is 1; 2 where none can.
    """
    stream = claim_stdout()
    from harness.cli.progress import step_progress
    from harness.errors import HarnessError, RequestError
    from harness.home import write_text

    if csv_file is not None and json:
        raise RequestError("--csv FILE and --json together: choose one.")
    if csv_file is not None and csv_file.is_dir():
        raise RequestError(f"--csv {csv_file}: this is a folder; name a file, such as {csv_file / 'predictions.csv'}.")
    with step_progress(quiet) as progress:
        from harness.predict.predict import predict as predict_files

        found = predict_files(bundle, paths, device, progress)
    if json:
        print_json(_document(found))
    elif found.problems and not found.files:
        pass  # a table without rows would look like a result
    elif csv_file is not None:
        write_text(csv_file, _csv(found))
        note(f"{len(found.files)} predictions in {csv_file}")
    else:
        stream.write(_csv(found))
    for file, reason in found.problems:
        note(f"not read: {file}: {reason}")
    if found.problems:
        kind = HarnessError if found.files else RequestError
        raise kind(f"{len(found.problems)} of {len(found.files) + len(found.problems)} files could not be read.")


def _document(found: Any) -> list[dict[str, Any]]:
    """file and probabilities by class name; null probabilities and a reason where a file could not be read."""
    rows: list[dict[str, Any]] = [
        {"file": str(file), "probabilities": dict(zip(found.classes, row.tolist(), strict=True))}
        for file, row in zip(found.files, found.probabilities, strict=True)
    ]
    return rows + [{"file": str(file), "probabilities": None, "problem": reason} for file, reason in found.problems]


def _csv(found: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *found.classes])
    for file, row in zip(found.files, found.probabilities, strict=True):
        writer.writerow([file, *(repr(float(p)) for p in row)])
    return text.getvalue()
