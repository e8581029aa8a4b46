"""The real program in a process of its own, and tiny real images for it."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HARNESS_", "MLFLOW_", "COLUMNS"))
    }
    return {**kept, "HARNESS_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


PRELOAD = [
    "harness.cli.app",
    "harness.search.run",
    "harness.search.storage",
    "harness.ensemble.build",
    "harness.predict.predict",
]
PRELOAD += [
    "harness.output.tables",
    "harness.output.progress",
    "rich.live",
    "timm",
    "torchvision.models",
    "mlflow.tracking",
    "yaml",
]


def run_program(home: Path, cwd: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own: its entry point, real streams, its exit code.

    The process is forked from a server that has imported the heavy libraries once; `start_program` starts a bare one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    command = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / "stdout", Path(folder) / "stderr"]
        process = context.Process(target=_inside, args=(command, cwd, environment(home, **more), streams))
        process.start()
        process.join(timeout=240)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"harness {' '.join(command)}: {streams[1].read_text()}")
        out, err = (stream.read_text() for stream in streams)
    return subprocess.CompletedProcess(command, process.exitcode, out, err)


def _inside(arguments: list[str], cwd: Path, variables: dict[str, str], streams: list[Path]) -> None:
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(variables)
    from harness.cli.app import run

    sys.exit(run(arguments))


def start_program(home: Path, cwd: Path, *arguments: object, **streams: Any) -> "subprocess.Popen[str]":
    """`python -m harness ...` started from nothing and still running."""
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment(home), stdin=subprocess.DEVNULL, text=True, start_new_session=True, **streams
    )


def write_images(folder: Path, patients: int = 16, per_patient: int = 2) -> None:
    """Bright squares on noise for one class, none for the other; labels.csv with file, label, patient."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    lines = ["file,label,patient"]
    for patient in range(patients):
        label = "sick" if patient % 2 else "well"
        for number in range(per_patient):
            name = f"images/p{patient:02d}_{number}.png"
            image = rng.integers(0, 120, (20 + patient, 24), dtype=np.uint8)
            if label == "sick":
                image[5:11, 5:11] = 250
            Image.fromarray(image).save(folder / name)
            lines.append(f"{name},{label},pat-{patient}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


STUDY = """
name: tiny
description: A study of the tests.
data:
  root: DATA
  classes: [well, sick]
  group: patient
  folds: 2
  test_fraction: 0.375
  decode: {size: 32, channels: 1}
model: {backbone: resnet10t}
optim:
  lr: {float: [1.0e-4, 1.0e-2], log: true}
train: {epochs: 1, batch_size: 8, precision: fp32}
augment:
  hflip: {choice: [0.0, 0.5]}
search: {trials: 2, pruner: none}
"""


@dataclass(frozen=True)
class Place:
    """A working directory with a study `tiny`, its images, and a home that is still empty."""

    cwd: Path
    home: Path
    data: Path
    study: Path

    def harness(self, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        return run_program(self.home, self.cwd, *arguments, **more)


def make_place(folder: Path) -> Place:
    place = Place(folder, folder / "home", folder / "my data", folder / "studies" / "tiny.yaml")
    write_images(place.data)
    place.study.parent.mkdir()
    place.study.write_text(STUDY.replace("DATA", place.data.name))
    return place
