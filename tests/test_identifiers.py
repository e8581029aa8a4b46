"""Names, birth dates and patient numbers of DICOM files and labels reach nothing that a study writes or says."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from every_method import build_every

from harness.config.load import check_study
from harness.images.dicom import write_dicom
from harness.predict.predict import predict
from harness.search.run import run_study
from harness.store.home import Home
from harness.store.records import require_study

PATIENTS = 24


def secrets(patient: int) -> dict[str, str]:
    return {
        "PatientName": f"ZEBRASECRET{patient:02d}^QUAGGA",
        "PatientBirthDate": f"1937{patient % 12 + 1:02d}17",
        "PatientID": f"PIDHIDDEN{patient:03d}",
        "AccessionNumber": f"ACCHIDDEN{patient:03d}",
    }


def draw(folder: Path) -> None:
    """Two slices of each patient, half with a bright spot; one file is cut off, so that something is refused too."""
    rng = np.random.default_rng(0)
    lines = ["file,sick,patient"]
    for patient in range(PATIENTS):
        for number in range(2):
            pixels = rng.integers(0, 2000, (32, 32)).astype(np.uint16)
            if patient % 2:
                pixels[8:20, 8:20] = 4000
            name = f"s{patient:02d}_{number}.dcm"
            write_dicom(folder / name, pixels, window=(2000, 4000))
            dataset = pydicom.dcmread(folder / name)
            for keyword, value in secrets(patient).items():
                setattr(dataset, keyword, value)
            dataset.save_as(folder / name)
            lines.append(f"{name},{patient % 2},{secrets(patient)['PatientID']}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    broken = folder / "s03_1.dcm"
    broken.write_bytes(broken.read_bytes()[:-700])


def written(root: Path) -> dict[Path, bytes]:
    """Every file under a folder as bytes; tables also as text, which compression would hide."""
    found = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        found[path] = path.read_bytes()
        if path.suffix == ".parquet":
            found[path] += json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
    return found


@pytest.mark.parametrize("group", ["patient", "dicom.PatientID"])
def test_nothing_that_tells_who_somebody_is_is_ever_written(tmp_path: Path, group: str) -> None:
    images, home = tmp_path / "images", Home(tmp_path / "home")
    images.mkdir()
    draw(images)
    tree = {
        "name": "secret",
        "data": {
            "root": str(images),
            "label": "sick",
            "classes": ["0", "1"],
            "group": group,
            "folds": 2,
            "on_error": "drop",
            "decode": {"size": 32},
        },
        "model": {"backbone": "test_resnet"},
        "optim": {"lr": {"choice": [1e-3]}},
        "train": {"epochs": 1, "batch_size": 8, "precision": "fp32"},
        "search": {"trials": 1, "sampler": "grid", "pruner": "none"},
    }
    said: list[object] = []
    run_study(check_study(tree, "test"), home, 1, "cpu", said.append)
    built = build_every(home, [require_study(home, "secret")], ["stacking"], 5, 0, "cpu")[0]
    said += [built, predict(built.bundle, [images], "cpu")]
    assert len(list(home.root.rglob("weights.safetensors"))) >= 2  # the study did run

    everything = written(home.root) | {Path("said"): repr(said).encode()}
    assert any(b"s04_0.dcm" in data for data in everything.values())  # what was looked through is what was written
    for patient in range(PATIENTS):
        for keyword, value in secrets(patient).items():
            held = [str(path) for path, data in everything.items() if value.encode() in data]
            assert not held, (keyword, held)
