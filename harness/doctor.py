"""What this machine and this home have, as plain data, and what is wrong with them: each problem with what to type.

Looks only: takes no lock for longer than a look, makes no store, and asks servers once. Knows no rich.
"""

import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.hardware import cards, processor
from harness.store.home import Home, disk_used

if TYPE_CHECKING:
    from harness.store.records import StudyRecord

PACKAGES = ("harness", "torch", "torchvision", "timm", "optuna", "mlflow", "xgboost", "scikit-learn", "pydicom")
OLDEST, TOO_NEW = (3, 11), (3, 14)
LITTLE_DISK, LITTLE_MEMORY = 2.0, 2.0
"""GiB below which a study is likely to stop for want of room"""
ASK_SECONDS = 5
PARTS = ("artifacts", "bundles", "pixels", "work")


@dataclass(frozen=True)
class Problem:
    what: str
    type: str
    """what to type, or to do, about it"""
    breaks: bool
    """whether a study cannot run as things are"""


def examine(home: Home | None = None) -> dict[str, Any]:
    """Everything that doctor says. Raises nothing for what is merely broken: that is what is looked for."""
    problems: list[Problem] = []
    packages = _packages(problems)
    threads, memory, bf16 = processor()
    if memory is not None and memory < LITTLE_MEMORY:
        problems.append(Problem(f"only {memory:.1f} GiB of memory are free", "--set train.batch_size=8", False))
    gpus, torch_error = cards()
    if torch_error and packages["torch"]:
        problems.append(
            Problem(f"torch cannot be imported: {torch_error}", "pip install --force-reinstall torch", True)
        )
    found: dict[str, Any] = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "packages": packages,
        "cores": threads,
        "cpu_bf16": bf16,
        "memory_free_gib": memory,
        "gpus": gpus,
        "weights": [] if torch_error else _weights(),
        "codecs": _codecs(problems),
    }
    root = home.root if home else Path(os.environ.get("HARNESS_HOME") or "mlruns").absolute()
    found |= {"home": str(root), **_disk(root, problems)}
    studies: list[StudyRecord] = []
    if any(problem.breaks and str(root) in problem.what for problem in problems):
        found |= {"mlflow": None, "optuna": None}
    else:
        home = Home(root)
        found |= {"mlflow": _mlflow(home, problems), "optuna": _optuna(home, problems)}
        studies = _studies(home, problems)
    found["studies"] = {record.name: record.state for record in studies}
    return {**found, "problems": problems, "next": _next(found["studies"], problems)}


def _packages(problems: list[Problem]) -> dict[str, str | None]:
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
            problems.append(Problem(f"{name} is not installed", f"pip install {name}", True))
    if not OLDEST <= sys.version_info[:2] < TOO_NEW:
        problems.append(Problem(f"Python {platform.python_version()} is not 3.11 to 3.13", "python3.12 -m venv", True))
    return found


def _weights() -> list[dict[str, Any]]:
    """Pretrained weights in the libraries' own caches."""
    from harness.models.weights import ENDINGS, hub_folder, torch_folder

    hub, plain = hub_folder(), torch_folder()
    files = [path for path in plain.glob("*") if path.suffix in ENDINGS]
    files += [path for path in hub.glob("models--*/snapshots/*/*") if path.suffix in ENDINGS]
    return [{"file": str(path), "bytes": path.stat().st_size} for path in sorted(files) if path.exists()]


def _codecs(problems: list[Problem]) -> dict[str, bool]:
    """Which kinds of image files can be read."""
    from harness.images.dicom_codecs import readable

    try:
        found = readable()
    except ImportError as error:
        problems.append(Problem(f"images cannot be decoded: {error}", "pip install imagecodecs pyjpegls", True))
        return {}
    for name, there in found.items():
        if not there:
            problems.append(Problem(f"{name} cannot be read", "pip install imagecodecs pyjpegls", False))
    return found


def _disk(root: Path, problems: list[Problem]) -> dict[str, Any]:
    """Room, what is used, and whether the home can be written."""
    missing: dict[str, Any] = {"disk_free_gib": None, "used": {}}
    way_out = "export HARNESS_HOME=FOLDER   (one that can be written)"
    near = next(folder for folder in (root, *root.parents) if folder.exists())
    if not near.is_dir():
        problems.append(Problem(f"the home {root} cannot be made: {near} is a file", way_out, True))
        return missing
    try:
        with tempfile.TemporaryFile(dir=near):
            pass
    except OSError as error:
        problems.append(Problem(f"the home {root} cannot be written: {error.strerror}", way_out, True))
        return missing
    free = shutil.disk_usage(near).free / 2**30
    if free < LITTLE_DISK:
        way_out = "harness data cache prune   (or export HARNESS_HOME=FOLDER on a larger disk)"
        problems.append(Problem(f"only {free:.1f} GiB are free at {root}", way_out, free < 0.1))
    return {"disk_free_gib": free, "used": dict(zip(PARTS, disk_used(root / part for part in PARTS), strict=True))}


def _mlflow(home: Home, problems: list[Problem]) -> dict[str, Any]:
    address, way_out = home.mlflow_uri, "unset MLFLOW_TRACKING_URI   (the home's own store), or start that server"
    error = None
    if address.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=ASK_SECONDS):
                pass
        except (urllib.error.URLError, OSError, ValueError) as failed:
            error = str(getattr(failed, "reason", failed))
    elif address.startswith("sqlite:///"):
        path = Path(address.removeprefix("sqlite:///"))
        error = _sqlite_error(path) if path.exists() else None
        way_out = f"mv {path} {path}.damaged   (harness study resume NAME fills a new one with the next trials)"
    else:
        error = _database_error(address)
    if error:
        problems.append(
            Problem(f"the MLflow store {without_password(address)} does not answer: {error}", way_out, False)
        )
    return {"store": without_password(address), "error": error}


def _optuna(home: Home, problems: list[Problem]) -> dict[str, Any]:
    address = os.environ.get("HARNESS_STORAGE")
    if not address:
        return {"store": str(home.optuna_journal), "error": None}
    error = _database_error(address)
    if error:
        what = f"HARNESS_STORAGE={without_password(address)} does not answer: {error}"
        problems.append(Problem(what, "unset HARNESS_STORAGE   (the home's journal), or start that server", True))
    return {"store": without_password(address), "error": error}


def _sqlite_error(path: Path) -> str | None:
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=ASK_SECONDS) as store:
            said = store.execute("pragma quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        return str(error)
    return None if said == "ok" else str(said)


def _database_error(address: str) -> str | None:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    server = address.startswith(("postgresql", "mysql", "mariadb"))
    try:
        engine = create_engine(address, connect_args={"connect_timeout": ASK_SECONDS} if server else {})
        with engine.connect():
            return None
    except ArgumentError:
        return "it is no database URL"
    except ImportError:
        return "its driver is missing (pip install 'harness[postgres]'; the URL begins with postgresql+psycopg://)"
    except SQLAlchemyError as error:
        return (str(error.__cause__ or error).strip().splitlines() or ["no message"])[0]


def _studies(home: Home, problems: list[Problem]) -> "list[StudyRecord]":
    """The studies of this home; one that was killed, and what it left over, is a problem that has a command."""
    from harness.data.cache import list_caches
    from harness.errors import HarnessError
    from harness.search.status import look
    from harness.store.records import list_studies

    try:
        studies = list_studies(home)
    except HarnessError as error:
        problems.append(Problem(str(error), "mv that folder somewhere else", True))
        return []
    for record in studies:
        if record.state == "running" and look(home, record, ()).driver is None:
            way_on = f"ablate {record.ablates}" if record.ablates else f"resume {record.name}"
            problems.append(
                Problem(f"study {record.name} was cut off: nothing runs it", f"harness study {way_on}", False)
            )
    left = [cache for cache in list_caches(home) if cache.kind == "leftover" and not cache.in_use]
    if left:
        size = sum(cache.bytes for cache in left) / 1e6
        what = f"{len(left)} unfinished parts of pixel stores are left over ({size:.0f} MB)"
        problems.append(Problem(what, "harness data cache prune", False))
    return studies


def without_password(uri: str) -> str:
    """A database URL without its user and password."""
    scheme, separator, rest = uri.partition("://")
    if not separator or "@" not in rest:
        return uri
    return f"{scheme}://...@{rest.rsplit('@', 1)[1]}"


def _next(studies: dict[str, str], problems: list[Problem]) -> str:
    broken = next((problem for problem in problems if problem.breaks), None)
    if broken:
        return broken.type
    if not studies:
        return "harness study run lr_aug_sweep"
    if "complete" in studies.values():
        return "harness ensemble build"
    return f"harness study resume {next(iter(studies))}"
