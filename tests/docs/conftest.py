"""A folder like a reader's, in which the documentation's commands run as they stand, only faster.

Studies of the shipped names lie there as small ones on the built-in images: a study file in `studies/` goes before a
shipped one of the same name.
"""

import csv
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from benchmarks._tiny_study import tiny_tree

SMALL = {"head_ct": "phantom", "chest_xray": "films", "breastmnist": "phantom", "lr_aug_sweep": "phantom"}
BUNDLES = ("mean", "stacking", "soup")
PLACEHOLDERS = {
    "README.md": {"FOLDER": "my-images"},
    "evaluate.md": {"STUDY/NAME": "chest_xray/stacking-top5", "FOLDER": "films"},
    "new-networks.md": {"STUDY": "head_ct", "NAME": "head_ct", "--resamples 10": "--resamples 2"},
}
"""what stands on a page for something of the reader's own"""
READS = {"ablation.md": ("lr_aug_sweep", "breastmnist"), "report.md": ("lr_aug_sweep",)}
"""pages that take studies to have been run without naming a bundle of them"""


@dataclass
class DocumentedPlace:
    folder: Path
    _prepared: set[str] = field(default_factory=set)

    def run(self, page: str, script: str) -> "subprocess.CompletedProcess[str]":
        for name in SMALL:
            needed = f"{name}/" in script or f"{name}_" in script or name in PLACEHOLDERS.get(page, {}).values()
            needed = needed or any(f"{name}/" in value for value in PLACEHOLDERS.get(page, {}).values())
            if needed or name in READS.get(page, ()):
                self._study(name)
        for placeholder, value in PLACEHOLDERS.get(page, {}).items():
            script = script.replace(placeholder, value)
        return self._shell(script)

    def _study(self, name: str) -> None:
        """Runs the small study and builds its bundles, once."""
        if name in self._prepared:
            return
        self._prepared.add(name)
        lines = [f"harness study run {name} --quiet"]
        lines += [f"harness ensemble build --method {method} --study {name}" for method in BUNDLES]
        if name == "breastmnist":
            lines += [
                f"harness study run {name} --as {name}_{letter} --set seed={seed}"
                for seed, letter in ((0, "a"), (1, "b"))
            ]
        done = self._shell("\n".join(lines))
        assert done.returncode == 0, done.stderr[-4000:]

    def _shell(self, script: str) -> "subprocess.CompletedProcess[str]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HARNESS_", "MLFLOW_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        variables = {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = ["bash", "-euo", "pipefail", "-c", script]
        return subprocess.run(command, cwd=self.folder, env=variables, capture_output=True, text=True, timeout=3000)


@pytest.fixture(scope="session")
def documented_place(tmp_path_factory: pytest.TempPathFactory) -> DocumentedPlace:
    folder = tmp_path_factory.mktemp("reader")
    _own_images(folder)
    (folder / "studies").mkdir()
    for name, root in SMALL.items():
        tree = tiny_tree(name=name, train__epochs=1, search__trials=6, data__folds=3)
        tree["augment"] = {"hflip": {"choice": [0.0, 0.5]}}
        tree["model"]["weights"] = "start.safetensors" if (folder / "start.safetensors").exists() else "none"
        if root != "phantom":
            tree["data"] |= {"root": root, "classes": ["NORMAL", "PNEUMONIA"]}
        (folder / "studies" / f"{name}.yaml").write_text(yaml.safe_dump(tree))
    return DocumentedPlace(folder)


def _own_images(folder: Path) -> None:
    """`my-images/`: a part of the built-in images as a reader's own; the same with other labels; some to predict."""
    from harness.data.phantom import write_phantom

    drawn = folder / "drawn"
    drawn.mkdir()
    write_phantom(drawn, lambda what, done, total: None)
    with (drawn / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    patients = sorted({row["patient"] for row in rows})[::2]
    rows = [row for row in rows if row["patient"] in patients]
    names = {"normal": ("NORMAL", "0"), "bleed": ("PNEUMONIA", "1")}
    for place, labels in (("my-images", None), ("films", 0), ("there", 1)):
        with _table(folder / place) as stream:
            out = csv.writer(stream)
            out.writerow(["file", "label", "patient", "scanner"])
            for number, row in enumerate(rows):
                target = folder / place / row["file"]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(drawn / row["file"], target)
                label = row["label"] if labels is None else names[row["label"]][labels]
                out.writerow([row["file"], label, row["patient"], "AB"[number % 2]])
    (folder / "there.yaml").write_text(
        yaml.safe_dump({"name": "there", "data": {"root": "there", "group": "patient"}, "search": {"trials": 1}})
    )
    (folder / "scans").mkdir()
    for row in rows[:12]:
        shutil.copy(drawn / row["file"], folder / "scans")
    listed = "\n".join(f"scans/{Path(row['file']).name}" for row in rows[:12])
    (folder / "list.csv").write_text(f"file\n{listed}\n")


def _table(folder: Path):  # type: ignore[no-untyped-def]
    folder.mkdir()
    return (folder / "labels.csv").open("w", newline="")
