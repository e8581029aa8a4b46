"""The real program in a process of its own, and tiny real images for it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("HARNESS_", "MLFLOW_", "COLUMNS"))
    }
    return {**kept, "HARNESS_HOME": str(home), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **more}


def run_program(home: Path, cwd: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness", *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env=environment(home, **more),
        timeout=240,
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
  test_fraction: 0.25
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
