"""Wrong requests: exit code 2, one message with the name, the place and what to type, and nothing half-written."""

import shutil
from pathlib import Path

import pytest
from cli_program import Place


def refused(place: Place, *arguments: object, saying: list[str]) -> str:
    """The command is refused with a message that holds every text of `saying`, and leaves no trace of a study."""
    done = place.harness(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    for text in saying:
        assert text in done.stderr, done.stderr
    left = {path.relative_to(place.home).as_posix() for path in place.home.rglob("*")} if place.home.exists() else set()
    assert not {path for path in left if path.endswith(("study.json", "mlflow.db", "optuna.journal"))}, left
    assert not {path for path in left if Path(path).name.startswith(".") and not path.endswith(".lock")}, left
    return done.stderr


def rewrite_labels(place: Place, change: dict[str, str]) -> None:
    labels = place.data / "labels.csv"
    text = labels.read_text()
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    labels.write_text(text)


def test_unknown_option(place: Place) -> None:
    refused(place, "study", "run", "tiny", "--jbos", "2", saying=["--jbos", "--jobs"])


def test_unknown_command(place: Place) -> None:
    refused(place, "stuyd", saying=["stuyd", "study"])


def test_unknown_study_names_the_nearest(place: Place) -> None:
    refused(place, "study", "run", "tinny", saying=["studies/tinny.yaml", "tiny"])


def test_study_that_never_ran(place: Place) -> None:
    refused(place, "study", "show", "tiny", saying=["tiny", "harness study run tiny"])


def test_no_study_at_all(place: Place) -> None:
    refused(place, "ensemble", "build", "--method", "mean", saying=["harness study run"])


def test_unknown_method_lists_the_known(place: Place) -> None:
    refused(place, "ensemble", "build", "--method", "blending", saying=["blending", "bagging", "stacking"])


def test_unknown_key_in_the_file(place: Place) -> None:
    place.study.write_text(place.study.read_text().replace("epochs: 1", "epoch: 1"))
    refused(place, "study", "run", "tiny", saying=["tiny.yaml", "train.epoch", "epochs"])


def test_unknown_key_on_the_command_line(place: Place) -> None:
    refused(place, "study", "run", "tiny", "--set", "optim.lrr=1", saying=["--set", "optim.lrr", "optim.lr"])


def test_wrong_type(place: Place) -> None:
    refused(place, "study", "run", "tiny", "--set", "train.epochs=many", saying=["train.epochs", "many", "integer"])


def test_unknown_backbone(place: Place) -> None:
    refused(place, "study", "run", "tiny", "--set", "model.backbone=resnet18x", saying=["resnet18x", "resnet18"])


def test_missing_image_root(place: Place) -> None:
    refused(place, "study", "run", "tiny", "--set", "data.root=nowhere", saying=["nowhere", "data.root"])


def test_missing_label_column(place: Place) -> None:
    refused(place, "study", "run", "tiny", "--set", "data.label=lable", saying=["lable", "label", "labels.csv"])


def test_missing_group_column(place: Place) -> None:
    refused(place, "study", "run", "tiny", "--set", "data.group=patients", saying=["patients", "patient"])


def test_label_without_image(place: Place) -> None:
    (place.data / "images/p03_1.png").unlink()
    refused(place, "study", "run", "tiny", saying=["images/p03_1.png", "data.on_error"])


def test_image_without_label(place: Place) -> None:
    rewrite_labels(place, {"images/p03_1.png,sick,pat-3\n": ""})
    refused(place, "study", "run", "tiny", saying=["images/p03_1.png", "data.on_error"])


def test_truncated_image(place: Place) -> None:
    image = place.data / "images/p03_1.png"
    image.write_bytes(image.read_bytes()[:200])
    refused(place, "study", "run", "tiny", saying=["images/p03_1.png", "data.on_error"])


def test_a_group_in_two_splits(place: Place) -> None:
    lines = (place.data / "labels.csv").read_text().splitlines()
    rows = [lines[0] + ",split", *(f"{line},{'test' if i % 2 else 'train'}" for i, line in enumerate(lines[1:]))]
    (place.data / "labels.csv").write_text("\n".join(rows) + "\n")
    message = refused(place, "study", "run", "tiny", "--set", "data.split=split", saying=["split", "group"])
    assert "pat-" not in message, "a patient's name is shown"


def test_fewer_samples_of_a_class_than_folds(place: Place) -> None:
    refused(place, "study", "run", "tiny", "--set", "data.folds=12", saying=["12", "data.folds"])


@pytest.mark.parametrize(("option", "value"), [("--jobs", "0"), ("--jobs", "many")])
def test_a_wrong_number_of_jobs_is_refused(place: Place, option: str, value: str) -> None:
    refused(place, "study", "run", "tiny", option, value, saying=[option, "it should be"])


def test_an_empty_new_name_is_refused(place: Place) -> None:
    refused(place, "study", "run", "tiny", "--as", "", saying=["name", "letters"])


def test_unknown_bundle(place: Place) -> None:
    refused(place, "predict", "tiny/stacking-top5", place.data, saying=["tiny/stacking-top5", "harness ensemble build"])


def test_a_home_that_cannot_be_written_is_a_failure_not_a_request(place: Place, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = place.harness("study", "list", HARNESS_HOME=str(blocked / "home"))
    assert done.returncode == 1
    assert "HARNESS_HOME" in done.stderr and "Traceback" not in done.stderr


def test_dropped_images_are_counted_and_the_study_runs_on(place: Place) -> None:
    image = place.data / "images/p03_1.png"
    image.write_bytes(image.read_bytes()[:200])
    done = place.harness("data", "scan", "tiny", "--set", "data.on_error=drop")
    assert done.returncode == 0, done.stderr
    assert "31 images" in done.stdout
    assert "p03_1.png" in done.stdout


def test_traceback_only_when_asked_for(place: Place) -> None:
    assert "Traceback" in place.harness("study", "run", "tinny", HARNESS_DEBUG="1").stderr


def test_a_broken_study_file_does_not_hide_the_others(place: Place) -> None:
    (place.study.parent / "broken.yaml").write_text("name: [")
    done = place.harness("study", "list")
    assert done.returncode == 0
    assert "broken" in done.stdout and "tiny" in done.stdout and "lr_aug_sweep" in done.stdout


@pytest.mark.parametrize("name", ["[red]x[/red] :bomb:", "d\x1b[31mred"])
def test_odd_names_are_printed_as_they_are(place: Place, name: str) -> None:
    shutil.move(place.data, place.cwd / name)
    (place.cwd / name / "images/p03_1.png").unlink()
    done = place.harness("data", "scan", "tiny", "--set", f'data.root="{name.encode("unicode_escape").decode()}"')
    assert done.returncode == 2
    assert "\x1b" not in done.stderr
    assert "p03_1.png" in done.stderr
