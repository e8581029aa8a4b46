"""The wheel and the sdist: what is in them, and that an installed wheel needs nothing of the checkout."""

import csv
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from email import message_from_bytes
from pathlib import Path

import pytest

from harness.hardware import commit

ROOT = Path(__file__).parents[1]
UV = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
STUDIES = sorted(path.name for path in (ROOT / "studies").glob("*.yaml"))
FORBID = """
import sys
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path = arguments[0]
        if path.startswith({root!r}) and not path.startswith({packages!r}):
            raise SystemExit("it opened " + path)
sys.addaudithook(watch)
"""
"""Ends the program that opens a file of the checkout, other than the libraries that are installed in its .venv."""


def run(command: list[object], cwd: Path, **variables: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HARNESS_", "MLFLOW_", "PYTHON"))}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**kept, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """An sdist of this checkout, and the wheel that is made from it."""
    folder = tmp_path_factory.mktemp("dist")
    run([UV, "build", "-q", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder, ROOT], folder)
    return Built(next(folder.glob("*.whl")), next(folder.glob("*.tar.gz")))


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel and, by a .pth, the libraries that are installed here."""
    environment = tmp_path_factory.mktemp("elsewhere") / "venv"
    run([UV, "venv", "-q", "--no-project", "--python", sys.executable, environment], environment.parent)
    run([UV, "pip", "install", "-q", "--no-deps", "--python", environment, built.wheel], environment.parent)
    site = next(environment.glob("lib/*/site-packages"))
    libraries = sysconfig.get_path("purelib")
    (site / "forbidden.py").write_text(FORBID.format(root=f"{ROOT}/", packages=f"{Path(sys.prefix).resolve()}/"))
    (site / "libraries.pth").write_text(f"{libraries}\nimport forbidden\n")
    return environment / "bin"


def test_the_wheel_holds_the_package_the_studies_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        names = wheel.namelist()
        about = message_from_bytes(wheel.read(next(name for name in names if name.endswith("/METADATA"))))
        said = wheel.read("harness/commit.txt").decode().strip()
    package = {name for name in names if ".dist-info/" not in name}
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "harness"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    here = {name for name in files.stdout.split("\n") if (ROOT / name).is_file()}
    on_disk = {path.relative_to(ROOT).as_posix() for path in (ROOT / "harness").rglob("*.py")}
    assert on_disk and on_disk | {"harness/py.typed", "harness/models/backbones.csv"} <= here
    assert package == here | {f"harness/studies/{name}" for name in STUDIES} | {"harness/commit.txt"}
    assert len(STUDIES) >= 9
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert said == commit() and said != "unknown"
    assert about["License-Expression"] == "MIT" and about["Requires-Python"] == "<3.14,>=3.11"
    assert {"ray", "postgres", "onnx", "docs"} <= set(about.get_all("Provides-Extra") or [])
    assert str(about.get_payload()).startswith("# harness")  # README.md, as a package index shows it
    with tarfile.open(built.sdist) as sdist:
        tops = {name.split("/")[1] for name in sdist.getnames() if "/" in name}
    assert {"harness", "studies", "pyproject.toml", "hatch_build.py", "LICENSE", "README.md"} <= tops
    assert not tops & {"tests", "benchmarks", "docs", "scripts", ".ci", "mlruns", "uv.lock"}


def test_an_installed_wheel_knows_its_commit_its_studies_and_its_types(installed: Path, tmp_path: Path) -> None:
    # Somebody else's repository, whose commit must not be taken for this program's.
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert run([installed / "harness", "--version"], tmp_path).strip().endswith(f"(commit {commit()})")
    assert run([installed / "python", "-m", "harness", "--version"], tmp_path).endswith(f"(commit {commit()})\n")
    shown = run([installed / "harness", "study", "list"], tmp_path)
    for name in STUDIES:
        assert name.removesuffix(".yaml") in shown

    (tmp_path / "consumer.py").write_text(
        "from harness import api\n"
        "from harness.config.load import check_study\n"
        'reveal_type(check_study({"name": "x"}, "x").spec.optim.lr)\n'
        'reveal_type(api.run_study("lr_aug_sweep")["study"])\n'
        "api.run_study(3)\n"
    )
    mypy = ["-m", "mypy", "--strict", "--python-executable", installed / "python", "--cache-dir", tmp_path / "cache"]
    told = subprocess.run(
        [sys.executable, *map(str, mypy), "consumer.py"], cwd=tmp_path, capture_output=True, text=True
    ).stdout
    assert 'Revealed type is "float"' in told.replace("builtins.", ""), told
    assert 'Argument 1 to "run_study" has incompatible type "int"' in told, told
    assert told.count("error:") == 1, told  # and so no module without types


@pytest.mark.slow
def test_search_ensemble_and_prediction_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    harness = installed / "harness"
    small = [f"--set={key}" for key in ("search.trials=2", "train.epochs=1", "data.folds=2", "search.pruner=none")]
    ran = json.loads(run([harness, "study", "run", "lr_aug_sweep", *small, "--json"], tmp_path, OMP_NUM_THREADS="1"))
    assert [trial["state"] for trial in ran["trials"]] == ["complete"] * 2
    build = [harness, "ensemble", "build", "--method", "stacking", "--json"]
    bundle = json.loads(run(build, tmp_path))["bundle"]
    images = sorted((tmp_path / "mlruns/pixels/phantom").rglob("*.png"))[:2]
    assert images
    run([harness, "predict", bundle, *images, "--csv", "scores.csv"], tmp_path)
    assert len(list(csv.reader((tmp_path / "scores.csv").open()))) == 3
    run([harness, "data", "audit", "lr_aug_sweep", "--json"], tmp_path)
    run([harness, "study", "report", "lr_aug_sweep", "--out", "report.html"], tmp_path)
    run([harness, "models", "list", "--filter", "resnet18"], tmp_path)
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlruns", "report.html", "scores.csv"]


def test_what_opens_a_file_of_the_checkout_is_caught(installed: Path, tmp_path: Path) -> None:
    code = f"open({str(ROOT / 'README.md')!r})"
    done = subprocess.run([installed / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "it opened" in done.stderr
