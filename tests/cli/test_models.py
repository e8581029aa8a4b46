"""harness models: the list, one backbone, and starts that are refused before anything is trained."""

import json

from cli_program import Place


def names(text: str) -> list[str]:
    """The first column of a printed list."""
    lines = text.splitlines()
    assert lines[0].startswith("name")
    return [line.split()[0] for line in lines[1:]]


def test_list_filters_and_sorts(place: Place) -> None:
    shown = names(place.harness("models", "list", "--filter", "resnet10").stdout)
    assert "timm/resnet10t" in shown and all("resnet10" in name for name in shown)
    chosen = ("--family", "resnet", "--library", "torchvision", "--sort", "parameters", "--json")
    found = json.loads(place.harness("models", "list", *chosen).stdout)
    counts = [row["parameters"] for row in found]
    assert counts == sorted(counts) and counts[0] == 11_176_512 and found[0]["name"] == "torchvision/resnet18"
    assert {row["family"] for row in found} == {"resnet"}
    few = place.harness("models", "list", "--sort", "embedding", "--limit", "3")
    assert len(names(few.stdout)) == 3 and "3 of 14" in few.stderr


def test_list_has_a_line_for_each_backbone(place: Place) -> None:
    done = place.harness("models", "list", "--filter", "deit_tiny", COLUMNS="80")
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("timm/deit_tiny_patch16_224")]
    assert line.split() == ["timm/deit_tiny_patch16_224", "5.5M", "192", "224", "apache-2.0"]
    narrow = place.harness("models", "list", "--filter", "deit_tiny", COLUMNS="60").stdout
    assert "licence" not in narrow and max(map(len, narrow.splitlines())) <= 60


def test_list_says_what_it_does_not_find(place: Place) -> None:
    for arguments, saying in (
        (("--filter", "nonesuch"), "no backbone fits --filter nonesuch"),
        (("--family", "resnets"), "Did you mean resnet"),
        (("--filter", "deit", "--library", "torchvision"), "--filter deit --library torchvision"),
    ):
        done = place.harness("models", "list", *arguments)
        assert done.returncode == 2 and done.stdout == "" and saying in done.stderr, done.stderr


def test_show_says_what_each_level_freezes(place: Place) -> None:
    document = json.loads(place.harness("models", "show", "resnet10t", "--json").stdout)
    assert [stage["name"] for stage in document["stages"]] == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert document["embedding"] == 512 and document["weights"] == ["c3_in1k"]
    left = [level["trainable"] for level in document["freeze"]]
    assert left[0] == sum(stage["parameters"] for stage in document["stages"])
    assert left[5] == document["stages"][5]["parameters"]
    assert document["freeze"][2]["frozen"] == ["stem", "layer1"]
    for columns in ("80", "60"):
        shown = place.harness("models", "show", "resnet10t", COLUMNS=columns).stdout
        assert max(map(len, shown.splitlines())) <= int(columns)
        assert "layer3" in shown and f"{left[4]:,}" in shown and "backbone: timm/resnet10t" in shown
    wrong = place.harness("models", "show", "resnet10x")
    assert wrong.returncode == 2 and "resnet10t" in wrong.stderr


def refused(place: Place, *settings: str, **more: str) -> str:
    """A study with these settings ends with code 2 before trial 0; what it says."""
    arguments = [word for setting in settings for word in ("--set", setting)]
    done = place.harness("study", "run", "tiny", *arguments, **more)
    assert done.returncode == 2, done.stderr
    assert done.stdout == "" and "Traceback" not in done.stderr
    left = [path.name for path in place.home.rglob("*")] if place.home.exists() else []
    assert not {"study.json", "mlflow.db", "optuna.journal", "spec.yaml"} & set(left), left
    return done.stderr


def test_starts_that_are_not_there_are_refused_before_trial_0(place: Place) -> None:
    hub = {"HF_HOME": str(place.cwd / "hf"), "TORCH_HOME": str(place.cwd / "torch"), "HF_HUB_OFFLINE": "1"}
    said = refused(place, "model.weights=pretrained", **hub)
    assert "hf download timm/resnet10t.c3_in1k model.safetensors" in said and hub["HF_HOME"] in said
    said = refused(place, "model.backbone=torchvision/resnet18", "model.weights=pretrained", **hub)
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in said and hub["TORCH_HOME"] in said
    assert "c3_in1k" in refused(place, "model.weights=c4_in1k")
    assert "has not run" in refused(place, "model.weights=study:base")
    said = refused(place, "model.weights={choice: [none, lost.pth]}")
    assert "no file at lost.pth" in said


def test_networks_that_cannot_be_are_refused_before_trial_0(place: Place) -> None:
    said = refused(place, "train.freeze={int: [0, 6]}")
    assert "train.freeze: 6" in said and "layer4" in said and "from 0 to 5" in said
    assert "model.pooling" in refused(place, "model.backbone=pit_ti_224", "model.pooling={choice: [native, gem]}")
    said = refused(
        place, "model.backbone={choice: [resnet10t, torchvision/resnet18]}", "model.drop_path={float: [0, 0.2]}"
    )
    assert "model.drop_path: torchvision/resnet18 has no stochastic depth" in said
