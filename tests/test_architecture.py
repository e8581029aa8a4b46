"""The rules of the house, held by reading the code: floors, doors, no cycles, empty packages.

Each rule is a function of a tree of files. The tests run it on the code (and demand that it finds nothing) and on
small trees that break it (and demand that it finds exactly that), so that no rule can rot into one that never fails.
Imports inside functions count like any others; `if TYPE_CHECKING:` counts too, because a type is knowledge.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "harness"

FLOORS = {
    "api": 8,
    "cli": 8,
    "__main__": 9,
    "report": 7,
    "doctor": 7,
    "predict": 6,
    "search": 5,
    "ensemble": 5,
    "train": 4,
    "data": 3,
    "augment": 3,
    "images": 2,
    "models": 2,
    "track": 2,
    "calibration": 2,
    "config": 1,
    "store": 1,
    "stats": 1,
    "output": 1,
    "hardware": 1,
    "types": 0,
    "errors": 0,
    "metrics": 0,
    "seeds": 0,
    "numbering": 0,
    "interrupt": 0,
}
DOORS = {  # a library, or a part of one that has a door of its own
    "mlflow": ("track/", "predict/mlflow_model.py"),
    "optuna": ("search/",),
    "ray": ("search/ray_workers.py",),
    "xgboost": ("ensemble/boosting.py",),
    "yaml": ("config/load.py",),
    "pydicom": ("images/dicom.py",),
    "imagecodecs": ("images/dicom_codecs.py",),
    "captum": ("predict/explain.py",),
    "matplotlib": ("predict/explain.py",),
    "timm": ("models/timm_backbones.py",),
    "timm.optim": ("train/optim.py",),
    "torchvision": ("models/torchvision_backbones.py",),
    "onnx": ("models/onnx.py",),
    "onnxscript": ("models/onnx.py",),
    "onnxruntime": ("models/onnx.py",),
    "typer": ("cli/",),
    "rich": ("cli/", "output/", "search/status.py"),
}
TORCH_FREE = (
    "config/",
    "store/",
    "stats/",
    "output/",
    "track/",
    "calibration/",
    "report/",
    "types.py",
    "errors.py",
    "metrics.py",
)
ENSEMBLE_WITH_TORCH = (
    "ensemble/embed.py",
    "ensemble/bundle.py",
    "ensemble/bundle_files.py",
    "ensemble/build.py",
    "ensemble/inputs.py",
    "ensemble/new_networks.py",
)
"""ensemble's door to networks; the fitting half is everything else"""


def imports(file: Path) -> list[tuple[str, int]]:
    """(dotted module, line) of every import in a file, wherever it stands; `from a import b` gives a and a.b."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                found.append(("." * node.level + module, node.lineno))
                continue
            found.append((module, node.lineno))
            found += [(f"{module}.{alias.name}", node.lineno) for alias in node.names]
    return found


def sources(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def room(package: Path, file: Path) -> str:
    first = file.relative_to(package).parts[0]
    return first.removesuffix(".py")


def floor_problems(package: Path) -> list[str]:
    """Imports of a higher floor, or of another room on the same floor; rooms that no floor is known for."""
    problems = []
    for file in sources(package):
        here, place = room(package, file), file.relative_to(package).as_posix()
        if place == "__init__.py":
            continue
        if here not in FLOORS:
            problems.append(f"{place}: no floor is known for {here}")
            continue
        for module, line in imports(file):
            if module.startswith("."):
                problems.append(f"{place}:{line}: relative import")
                continue
            parts = module.split(".")
            if parts[0] != "harness" or len(parts) < 2:
                continue
            there = parts[1]
            if there == here:
                continue
            above = FLOORS.get(there, 99) > FLOORS[here]
            beside = FLOORS.get(there) == FLOORS[here]
            if above or beside:
                problems.append(f"{place}:{line}: {here} (floor {FLOORS[here]}) imports {there}")
    return sorted(set(problems))


def door_problems(package: Path) -> list[str]:
    """Libraries imported elsewhere than behind their one door, and torch where it must not be."""
    problems = []
    for file in sources(package):
        place = file.relative_to(package).as_posix()
        for module, line in imports(file):
            library = module.split(".")[0]
            door = next((name for name in DOORS if library != name and f"{module}.".startswith(f"{name}.")), library)
            if door in DOORS and not place.startswith(DOORS[door]):
                problems.append(f"{place}:{line}: {door} is imported outside {' '.join(DOORS[door])}")
            fitting = place.startswith("ensemble/") and place not in ENSEMBLE_WITH_TORCH
            if library == "torch" and (place.startswith(TORCH_FREE) or fitting):
                problems.append(f"{place}:{line}: torch is imported in a torch-free room")
    return sorted(set(problems))


def cycles(package: Path) -> list[str]:
    """Chains of modules that import each other, at whatever time."""
    names = {".".join(("harness", *file.relative_to(package).with_suffix("").parts)): file for file in sources(package)}
    graph = {name: sorted({m for m, _ in imports(file) if m in names} - {name}) for name, file in names.items()}
    found: set[str] = set()
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> None:
        if name in path:
            ring = path[path.index(name) :]
            start = ring.index(min(ring))
            found.add(" -> ".join([*ring[start:], *ring[:start], min(ring)]))
            return
        if name in done:
            return
        for other in graph[name]:
            walk(other, [*path, name])
        done.add(name)

    for name in graph:
        walk(name, [])
    return sorted(found)


def shape_problems(package: Path) -> list[str]:
    """Packages that re-export, folders in folders, modules without a docstring."""
    problems = []
    for file in sources(package):
        place = file.relative_to(package)
        text = file.read_text()
        if file.name == "__init__.py":
            if text.strip():
                problems.append(f"{place}: not empty")
            continue
        if len(place.parts) > 2:
            problems.append(f"{place}: more than one level of folders")
        if not ast.get_docstring(ast.parse(text)):
            problems.append(f"{place}: no docstring")
    return problems


RULES = [floor_problems, door_problems, cycles, shape_problems]


@pytest.mark.parametrize("rule", RULES)
def test_the_code_keeps_the_rule(rule) -> None:
    assert len(sources(PACKAGE)) > 30
    assert rule(PACKAGE) == []


BREAKS = [
    (floor_problems, {"train/loop.py": "import harness.search.run"}, "train (floor 4) imports search"),
    (floor_problems, {"train/loop.py": "def f():\n    from harness.track import mlflow_store"}, None),
    (floor_problems, {"data/a.py": "def f():\n    from harness.train.loop import N"}, "imports train"),
    (floor_problems, {"data/a.py": "from harness import train"}, "imports train"),
    (floor_problems, {"data/a.py": "from . import b"}, "relative import"),
    (floor_problems, {"attic/a.py": "x = 1"}, "no floor is known for attic"),
    (floor_problems, {"config/a.py": "from harness.store.home import Home"}, "config (floor 1) imports store"),
    (
        door_problems,
        {"train/a.py": "def f():\n    import mlflow.tracking"},
        "mlflow is imported outside track/ ",
    ),
    (door_problems, {"ensemble/stacking.py": "from xgboost import XGBClassifier"}, "xgboost is imported outside"),
    (door_problems, {"stats/a.py": "def f():\n    import torch"}, "torch-free room"),
    (door_problems, {"ensemble/stacking.py": "import torch.nn"}, "torch-free room"),
    (door_problems, {"track/a.py": "import mlflow"}, None),
    (door_problems, {"train/optim.py": "def f():\n    from timm.optim import create_optimizer_v2"}, None),
    (door_problems, {"train/optim.py": "import timm.models"}, "timm is imported outside models/timm_backbones.py"),
    (door_problems, {"train/loop.py": "import timm.optim"}, "timm.optim is imported outside train/optim.py"),
    (cycles, {"data/a.py": "import harness.data.b", "data/b.py": "def f():\n    from harness.data import a"}, "data.a"),
    (cycles, {"data/a.py": "import harness.data.b", "data/b.py": "x = 1"}, None),
    (shape_problems, {"data/__init__.py": "from harness.data.a import x"}, "not empty"),
    (shape_problems, {"data/deep/a.py": '"""Doc."""'}, "one level"),
    (shape_problems, {"data/a.py": "x = 1"}, "no docstring"),
    (shape_problems, {"data/a.py": '"""Doc."""'}, None),
]


@pytest.mark.parametrize(("rule", "files", "finding"), BREAKS)
def test_the_rule_finds_what_breaks_it(rule, files: dict[str, str], finding: str | None, tmp_path: Path) -> None:
    for place, text in files.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(text)
    problems = rule(tmp_path)
    if finding is None:
        assert problems == []
    else:
        assert len(problems) == 1 and finding in problems[0]


HEAVY = ("torch", "mlflow", "pandas", "optuna", "timm", "torchvision", "xgboost", "sklearn")
LIGHT_MODULES = [
    ("harness.config.load", HEAVY),
    ("harness.metrics", HEAVY),
    ("harness.store.records", HEAVY),
    ("harness.models.catalog", HEAVY),
    ("harness.stats.intervals", ("torch", "mlflow", "optuna")),
    ("harness.stats.paired", ("torch", "mlflow", "optuna")),
    ("harness.track.mlflow_store", ("torch",)),
    ("harness.ensemble.stacking", ("torch",)),
    ("harness.ensemble.boosting", ("torch",)),
    ("harness.ensemble.bagging", ("torch",)),
    ("harness.cli.app", (*HEAVY, "rich", "pydantic", "numpy")),
]


def loaded_by(code: str) -> set[str]:
    """Top-level packages in sys.modules after running code in a fresh interpreter."""
    script = f"import sys\n{code}\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env={**os.environ}, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(("module", "unwanted"), LIGHT_MODULES)
def test_light_rooms_stay_light(module: str, unwanted: tuple[str, ...]) -> None:
    loaded = loaded_by(f"import {module}")
    assert "harness" in loaded
    assert loaded.isdisjoint(unwanted)


def test_the_light_check_can_fail() -> None:
    assert "numpy" in loaded_by("import harness.metrics")


def test_help_imports_nothing_heavy() -> None:
    loaded = loaded_by(
        "import contextlib, io\nfrom harness.cli.app import run\n"
        "with contextlib.redirect_stdout(io.StringIO()) as out:\n    assert run(['--help']) == 0\n"
        "assert 'ensemble' in out.getvalue()"
    )
    assert loaded.isdisjoint((*HEAVY, "rich", "pydantic", "numpy", "yaml"))
