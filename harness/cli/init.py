"""harness init: a first study file for a folder of images, with what was guessed and what to look at."""

import json as json_
import os
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli.output import claim_stdout, print_json, show
from harness.cli.study import Json

if TYPE_CHECKING:
    from harness.data.guess import Guess
    from harness.data.manifest import Scan

WIDTH = 118
ORDER = ("labels", "image", "pattern", "join", "label", "missing", "classes", "group", "split", "decode")
REST = """
model:
  backbone: resnet10t
  dropout: {choice: [0.0, 0.3]}

optim:
  name: adamw
  lr: {float: [1.0e-4, 1.0e-2], log: true}
  weight_decay: 0.05

train:
  epochs: 12
  batch_size: 32

augment:                 # leave out what would change the answer: is left not right here?
  hflip: {choice: [0.0, 0.5]}
  rotate: {choice: [0.0, 10.0]}
  translate: {choice: [0.0, 0.1]}
  contrast: {choice: [0.0, 0.2]}

search:
  trials: 8
  metric: auroc
  startup: 4
"""


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of images, or a MedMNIST .npz file.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The study file; studies/NAME.yaml when left out.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a first study file for a folder: its table of labels, classes, groups, file names.

    Says what it guessed and what to look at. A group is taken from a column whose name says so, and never made up.
    """
    claim_stdout()
    from harness.config.load import check_study
    from harness.errors import RequestError
    from harness.output.progress import step_progress
    from harness.store.files import write_text
    from harness.store.home import open_home

    name = _study_name(folder, out)
    path = out or Path("studies") / f"{name}.yaml"
    if path.exists():
        raise RequestError(f"{path} is there already. Name another: --out studies/{name}-2.yaml")
    if path.suffix not in (".yaml", ".yml"):
        raise RequestError(f"--out {path}: a study file ends in .yaml, such as {path.with_suffix('.yaml')}.")
    home = open_home()
    with step_progress() as progress:
        from harness.data.guess import guess
        from harness.data.manifest import scan_data

        found = guess(folder, home)
        root = _from_here(folder)
        tree = {"name": name, "data": {"root": root, **found.keys}, "search": {"trials": 1}}
        scan = None
        try:
            scan = scan_data(check_study(tree, str(path)).spec.data, home, progress)
            _fit_folds(found, scan)
        except RequestError as error:  # a draft with its fault named is more use than none
            found.check.insert(0, f"As it stands this is refused. {error}")
    text = study_text(name, root, path, found, scan)
    write_text(path, text)
    if json:
        print_json({"file": str(path), "data": {"root": root, **found.keys}, "why": found.why, "check": found.check})
        return
    show(f"{path} written: {_count(scan)}\n")
    for key in ORDER:
        if key in found.keys:
            why = f"   ({found.why[key]})" if key in found.why else ""
            show(f"  {key}: {_value(found.keys[key])}{why}")
    show("\nLook at:")
    for one in found.check:
        show(f"  - {one}")
    show(f"\nNext: harness data show {path}")


def _study_name(folder: Path, out: Path | None) -> str:
    stem = out.stem if out is not None else folder.absolute().name.removesuffix(".npz")
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", stem).strip("_.-")[:64] or "study"


def _from_here(folder: Path) -> str:
    """Relative where the folder lies inside the working directory, so that the two can move together."""
    inside = os.path.relpath(folder.expanduser())
    return str(folder.expanduser().absolute()) if inside.startswith("..") else Path(inside).as_posix()


def _fit_folds(found: "Guess", scan: "Scan") -> None:
    """Five folds, or as many as the rarest class has groups for."""
    usable = scan.manifest[scan.manifest["problem"] == ""]
    labels = usable["label"]
    several = isinstance(found.keys["label"], list)
    held_out = usable["split"].str.lower() == "test" if "split" in found.keys else labels != labels
    development = usable[~held_out]
    if several or not len(development):
        return
    fewest = int(development.groupby("label")["group"].nunique().min()) - ("split" not in found.keys)
    found.keys["folds"] = max(2, min(5, fewest))
    if found.keys["folds"] < 5:
        found.check.append(
            f"The rarest class has {fewest + ('split' not in found.keys)} groups: too few for five folds."
        )


def _count(scan: "Scan | None") -> str:
    from harness.output.format import plural

    if scan is None:
        return "a draft that is refused as it stands"
    usable = scan.manifest[scan.manifest["problem"] == ""]
    bad = len(scan.manifest) - len(usable)
    faulty = f", and {bad} that cannot be used (harness data scan lists them)" if bad else ""
    return f"{plural(len(usable), 'image')} of {plural(usable['group'].nunique(), 'group')}{faulty}"


def study_text(name: str, root: str, path: Path, found: "Guess", scan: "Scan | None") -> str:
    """The study file with what was guessed, why, and what to look at as comments."""
    lines = _comment(f"{name}: {_count(scan)} under {root}. A first draft, written by `harness init`.")
    lines += ["#", f"#   command   harness study run {path if path.parent != Path('studies') else name}", "#"]
    lines += ["# Look at:"]
    for one in found.check:
        lines += _comment(one, "#   - ", "#     ")
    lines += ["", f"name: {_value(name)}", "seed: 0", "", "data:", f"  root: {_value(root)}"]
    for key in (*ORDER[:-1], "folds", "decode"):
        if key not in found.keys:
            continue
        if key == "group" and found.keys[key] == "none":
            lines += [f"  # {'!' * 20} {found.why['group']} {'!' * 20}"]
            lines += _comment("Images of one patient in two folds make every score too good.", "  # ", "  # ")
        elif key in found.why:
            lines += _comment(found.why[key], "  # ", "  # ")
        lines.append(f"  {key}: {_value(found.keys[key])}")
    return "\n".join(lines) + "\n" + REST


def _comment(text: str, first: str = "# ", rest: str = "# ") -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False
    )


def _value(value: Any) -> str:
    """As YAML on one line; JSON is YAML, and plain words need no quotes."""
    if isinstance(value, list):
        return f"[{', '.join(_value(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_value(one)}' for key, one in value.items())}}}"
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_/][\w./-]*( [\w./-]+)*", value)
        words = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
        return value if plain and value.lower() not in words else json_.dumps(value, ensure_ascii=False)
    return str(value)
