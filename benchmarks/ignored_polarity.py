"""A DICOM data set as a reader would see it that ignores MONOCHROME1: what that costs, in training and in use.

    python -m benchmarks.ignored_polarity --out FOLDER [--study NAME] [--root FOLDER]     write the set
    python -m benchmarks.ignored_polarity --out FOLDER --evaluate BUNDLE [--json] [--save]

Writes every image of the study (cxr_multilabel; --root where it has not run in this home) again in FOLDER: all of them
say MONOCHROME2, so that those which are stored bright for dark are shown that way; everything else stays as it is, and
nothing of a header is printed. Beside the table of labels lies labels_test.csv, with the rows of the study's test split
alone. Two questions, then:

    Ignored from the first day on, in training and in scoring:
        harness study run cxr_multilabel --as cxr_ignored --set data.root=FOLDER
    Ignored only where a finished bundle is used. A bundle knows its own images by their pixels, and would not know one
    that it was trained on once it is turned: so it is shown the test split and nothing else.
        harness evaluate BUNDLE --data FOLDER --labels FOLDER/labels_test.csv --set data.KEY=VALUE...
    (the whole command, with the study's own keys, is printed when the set is written). --evaluate shows the bundle the
    very same test images both ways and gives the paired difference, for all of them and for those that are turned.

The ratio is the share of the metric's value that is left.
"""

import csv
import io
import json
import shlex
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from benchmarks._report import arguments, publish
from harness.calibration.maps import answer
from harness.config.data import Data
from harness.config.load import check_study, load_study
from harness.config.spec import Spec
from harness.data.manifest import root_of
from harness.data.prepare import prepare, scan
from harness.data.shortcuts import INVERTED
from harness.data.sources import read_source, read_table
from harness.ensemble.bundle import FILE, load_bundle, outputs_of_bundle, seen
from harness.errors import HarnessError, Leak, RequestError
from harness.images.decode import looks_like_dicom
from harness.predict.external import read_external
from harness.predict.predict import find_bundle
from harness.stats.intervals import intervals
from harness.stats.paired import paired_difference
from harness.store.files import without_nan, write_bytes
from harness.store.home import Home, open_home
from harness.store.records import StudyRecord, read_study

TEST_LABELS = "labels_test.csv"
SEED = 0


def write_ignored(source: Path, target: Path) -> bool:
    """The file again, saying MONOCHROME2; whether it said MONOCHROME1. Every other file is copied."""
    raw = source.read_bytes()
    dataset = pydicom.dcmread(io.BytesIO(raw), force=True) if looks_like_dicom(raw, source.suffix) else None
    if dataset is None or dataset.get("PhotometricInterpretation") != INVERTED:
        write_bytes(target, raw)
        return False
    dataset.PhotometricInterpretation = "MONOCHROME2"
    target.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(target)
    return True


def spec_of(home: Home, name: str, root: Path | None) -> tuple[Spec, StudyRecord | None]:
    """Of the study as it ran in this home, else of its file."""
    record = read_study(home, name)
    if record is None:
        return load_study(name, [] if root is None else [f"data.root={root.absolute()}"]).spec, None
    return check_study(record.tree, f"study {name}").spec, record


def write_set(home: Home, spec: Spec, record: StudyRecord | None, folder: Path) -> dict[str, int]:
    """The study's images and labels in `folder`, and the labels of its test split.

    Raises RequestError where the folder is in use, no image is to be turned, or the data are no longer the study's.
    """
    if folder.exists() and any(folder.iterdir()):
        raise RequestError(f"--out {folder}: there is something in this folder. Give one that is new or empty.")
    root = root_of(spec.data, home, _silent)
    if not (scan(spec.data, home, _silent)["mode"] == INVERTED).any():
        raise RequestError(f"study {spec.name}: no file under {root} is {INVERTED}, so there is nothing to ignore.")
    prepared = prepare(spec.data, spec.seed, home, _silent)
    if record is not None and prepared.folds.folds_hash != record.folds_hash:
        raise RequestError(f"the data of study {spec.name} have changed since it ran. Bring the old files back.")
    ids, test = prepared.dataset.ids, prepared.folds.test_rows()
    turned = np.array([write_ignored(root / name, folder / name) for name in ids.tolist()])
    source = read_source(spec.data, root, home)
    shutil.copyfile(source.place, folder / spec.data.labels)
    header, rows, lines = read_table(source.place)
    wanted = set(ids[test].tolist())
    tested = {line for line, name in zip(source.lines, source.ids, strict=True) if name in wanted}
    with (folder / TEST_LABELS).open("w", newline="") as file:
        csv.writer(file).writerows([header, *(row for row, line in zip(rows, lines, strict=True) if line in tested)])
    return {
        "images": len(ids),
        "turned": int(turned.sum()),
        "test_images": len(test),
        "test_turned": int(turned[test].sum()),
    }


def evaluate_command(data: Data, folder: Path, bundle: str) -> str:
    """What shows a bundle its own test split as it is in `folder`, with the keys that the study names."""
    keys = {"label": data.label, "group": data.group, "image": data.image}
    sets = [f"--set {shlex.quote(f'data.{key}={json.dumps(value)}')}" for key, value in keys.items()]
    where = shlex.quote(str(folder))
    return f"harness evaluate {bundle} --data {where} --labels {where}/{TEST_LABELS} {' '.join(sets)}"


def evaluated(home: Home, spec: Spec, folder: Path, bundle_path: str) -> dict[str, Any]:
    """What a bundle says of its test split shown rightly and with the polarity ignored, paired."""
    bundle = load_bundle(find_bundle(bundle_path, home))
    right = spec.data.model_copy(update={"labels": str(folder / TEST_LABELS), "where": None})
    wrong = right.model_copy(update={"root": str(folder)})
    shown = [
        read_external(data, bundle.classes, bundle.multilabel, bundle.decodes, [], home, _silent)
        for data in (right, wrong)
    ]
    p_right, p_wrong = (
        answer(bundle.about.get("calibration"), outputs_of_bundle(bundle, one.images).each) for one in shown
    )
    about = bundle.about["contents"]
    pictures = shown[0].images[about["decode"]]
    if seen(about, bundle.read(f"contents/{FILE}"), pictures)["development"].any():
        raise Leak(
            f"{folder / TEST_LABELS} lists images that {bundle_path} was made with: it is of another study's test "
            f"split. Write the set again, with --study {bundle.study} and a new --out."
        )
    y, groups = shown[0].y, shown[0].groups
    turned = np.array([not np.array_equal(a, b) for a, b in zip(*(one.images[0] for one in shown), strict=True)])
    found: dict[str, Any] = {"bundle": f"{bundle.study}/{bundle.path.name}", "metric": bundle.metric}
    for name, rows in (("all", np.ones(len(y), dtype=bool)), ("turned", turned)):
        found[name] = _compared(bundle.metric, y[rows], p_right[rows], p_wrong[rows], groups[rows])
    return found


def _compared(
    metric: str, y: NDArray[np.int64], right: NDArray[Any], wrong: NDArray[Any], groups: NDArray[np.str_]
) -> dict[str, Any]:
    return {
        "images": len(y),
        "right": asdict(intervals(y, right, groups, SEED)[metric]),
        "ignored": asdict(intervals(y, wrong, groups, SEED)[metric]),
        "difference": asdict(paired_difference(metric, y, wrong, right, groups, SEED)),
    }


def _silent(what: str, done: int, total: int) -> None: ...


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the set is, or is to be")
    parser.add_argument("--study", default="cxr_multilabel", metavar="NAME")
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="its images, where it has not run in this home")
    parser.add_argument("--evaluate", metavar="BUNDLE", help="show this bundle its test split both ways")
    options = parser.parse_args()
    home, folder = open_home(), options.out.absolute()
    try:
        spec, record = spec_of(home, options.study, options.root)
        if not (folder / TEST_LABELS).is_file():
            written = write_set(home, spec, record, folder)
            print(f"{written['turned']} of {written['images']} images are shown the wrong way", file=sys.stderr)
            print(evaluate_command(spec.data, folder, options.evaluate or "BUNDLE"), file=sys.stderr)
            if options.evaluate is None and options.json:
                print(json.dumps(written))
        if options.evaluate is None:
            return
        found = evaluated(home, spec, folder, options.evaluate)
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    left = found["all"]["ignored"]["value"] / found["all"]["right"]["value"]
    publish(f"ignored_polarity_{spec.name}", left, 1.0, options, **without_nan(found))


if __name__ == "__main__":
    main()
