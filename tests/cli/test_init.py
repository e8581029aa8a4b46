"""harness init: the file that it writes is a study that works, and says what to look at."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli_program import Place
from PIL import Image

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
REAL = ("head_ct", "chest_xray", "chest_xray_dicom", "ham10000", "slides", "medmnist/breastmnist.npz")


def test_the_written_study_works(place: Place) -> None:
    done = place.harness("init", place.data)
    assert done.returncode == 0, done.stderr
    path = place.cwd / "studies/my_data.yaml"
    text = path.read_text()
    assert "group: patient" in text and "root: my data" in text and "#   - Is label the label?" in text
    assert str(path.relative_to(place.cwd)) in done.stdout and "Next: harness data show" in done.stdout
    shown = json.loads(place.harness("data", "show", "my_data", "--json").stdout)
    assert shown["rows"] == 32 and shown["groups"] == 16 and shown["classes"] == ["well", "sick"]
    told = place.harness("study", "run", "my_data", "--set", "search.trials=1", "--set", "train.epochs=1", "--json")
    assert told.returncode == 0, told.stderr


def test_without_a_group_it_says_so_loudly(place: Place) -> None:
    (place.data / "labels.csv").write_text((place.data / "labels.csv").read_text().replace("patient", "site"))
    done = place.harness("init", place.data, "--out", "mine.yaml", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["file"] == "mine.yaml" and document["data"]["group"] == "none"
    text = (place.cwd / "mine.yaml").read_text()
    assert "group: none" in text and "NOTHING HERE SAYS WHO BELONGS TOGETHER" in text
    assert place.harness("data", "show", "mine.yaml").returncode == 0


def test_nothing_is_overwritten_and_wrong_requests_are_refused(place: Place) -> None:
    before = place.study.read_text()
    done = place.harness("init", place.data, "--out", place.study)
    assert done.returncode == 2 and "there already" in done.stderr and place.study.read_text() == before
    assert place.harness("init", place.cwd / "gone").returncode == 2
    done = place.harness("init", place.data, "--out", "x.txt")
    assert done.returncode == 2 and "x.yaml" in done.stderr and not (place.cwd / "x.txt").exists()


def test_a_draft_with_a_fault_is_written_with_the_fault_named(place: Place) -> None:
    lines = (place.data / "labels.csv").read_text().splitlines()
    (place.data / "labels.csv").write_text("\n".join([*lines, lines[1]]) + "\n")
    done = place.harness("init", place.data)
    assert done.returncode == 0, done.stderr
    assert "refused" in done.stdout and "more than once" in done.stdout
    assert "more than once" in (place.cwd / "studies/my_data.yaml").read_text()


def test_few_groups_of_a_class_make_fewer_folds(place: Place) -> None:
    rows = (place.data / "labels.csv").read_text().splitlines()
    kept = [row for row in rows if "sick" not in row or row.endswith(("-1", "-3", "-5", "-7"))]
    (place.data / "labels.csv").write_text("\n".join(kept) + "\n")
    for image in (place.data / "images").iterdir():
        if f"images/{image.name}" not in "\n".join(kept):
            image.unlink()
    done = place.harness("init", place.data)
    assert done.returncode == 0 and "too few for five folds" in done.stdout, done.stderr
    assert "folds: 3" in (place.cwd / "studies/my_data.yaml").read_text()
    assert place.harness("data", "show", "my_data").returncode == 0


def test_names_that_are_no_plain_yaml(place: Place) -> None:
    root = place.cwd / "yes: #1"
    for number in range(24):
        (root / ["null", "é: x"][number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(root / ["null", "é: x"][number % 2] / f"{number}.png")
    done = place.harness("init", root, "--out", "odd.yaml")
    assert done.returncode == 0, done.stderr
    shown = json.loads(place.harness("data", "show", "odd.yaml", "--json").stdout)
    assert sorted(shown["classes"]) == ["null", "é: x"] and shown["rows"] == 24


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development data at {SHARED}")
@pytest.mark.parametrize("name", REAL)
def test_real_data_sets(place: Place, name: str) -> None:
    done = place.harness("init", SHARED / name, "--out", "real.yaml")
    assert done.returncode == 0, done.stderr
    shown = place.harness("data", "show", "real.yaml", "--set", "data.decode.size=16", "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["rows"] >= 200
