"""The only file that knows paths under mlruns/, and how to write there so that a crash costs nothing.

Layout (everything relative, so that the folder can be moved):
    mlflow.db  optuna.journal  salt
    artifacts/STUDY/RUN_ID/artifacts/    one MLflow run's files: spec.yaml, fold_0/..., DONE
    bundles/STUDY/NAME/                  ensembles that predict by themselves
    pixels/KEY/                          decode-once stores, shared by every study
    work/STUDY/                          study.json, folds, trial records, states of running folds, locks
"""

import errno
import json
import math
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.errors import DiskFull, HarnessError


@dataclass(frozen=True)
class Home:
    root: Path

    @property
    def mlflow_uri(self) -> str:
        """The tracking store: MLFLOW_TRACKING_URI, or the SQLite file in this home."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def optuna_journal(self) -> Path:
        return self.root / "optuna.journal"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def study_artifacts(self, study: str) -> Path:
        return self.artifacts / study

    def run_artifacts(self, study: str, run_id: str) -> Path:
        """Where MLflow itself looks for a run's artifacts, given the experiment's location."""
        return self.artifacts / study / run_id / "artifacts"

    def fold(self, study: str, run_id: str, fold: int) -> Path:
        return self.run_artifacts(study, run_id) / f"fold_{fold}"

    @property
    def pixels(self) -> Path:
        return self.root / "pixels"

    @property
    def phantom(self) -> Path:
        return self.root / "pixels" / "phantom"

    @property
    def work_root(self) -> Path:
        return self.root / "work"

    def work(self, study: str) -> Path:
        return self.root / "work" / study

    def trial_record(self, study: str, number: int) -> Path:
        return self.work(study) / "trials" / f"{number:04d}.json"

    def trial_epochs(self, study: str, number: int) -> Path:
        """One line of JSON for each epoch that a trial has trained (harness.epochs)."""
        return self.work(study) / "trials" / f"{number:04d}.epochs.jsonl"

    def trial_state(self, study: str, number: int) -> Path:
        """Folder of the resume state of a running trial; removed when the trial ends."""
        return self.work(study) / "running" / f"trial-{number:04d}"

    def cluster_token(self, study: str) -> Path:
        """A word that the driver leaves here: a machine that reads the same sees the same home."""
        return self.work(study) / "cluster.token"

    def pending_run(self, study: str, number: int) -> Path:
        """What the MLflow run of a trial will be given that began while MLflow was away."""
        return self.work(study) / "pending" / f"{number:04d}.json"

    def report(self, study: str, trial: int | None, ending: str) -> Path:
        return self.work(study) / f"{'report' if trial is None else f'report-trial-{trial:04d}'}{ending}"

    def bundles(self, study: str) -> Path:
        return self.root / "bundles" / study

    def salt(self) -> str:
        """The random salt of this home's group hashes, made once."""
        path = self.root / "salt"
        if not path.exists():
            with lock(self.root / "salt.lock", "the salt of this home"):
                if not path.exists():
                    write_text(path, secrets.token_hex(16))
        return path.read_text()


def open_home() -> Home:
    """The home of this working directory: HARNESS_HOME, or mlruns/ here."""
    root = Path(os.environ.get("HARNESS_HOME") or "mlruns").absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarnessError(
            f"cannot write to {root}: {error.strerror}. Set HARNESS_HOME to a folder that can be written."
        ) from error
    return Home(root)


def write_bytes(path: Path, data: bytes) -> None:
    """Write so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def without_nan(node: Any) -> Any:
    """JSON knows no NaN and no infinity: null in their place."""
    if isinstance(node, dict):
        return {key: without_nan(child) for key, child in node.items()}
    if isinstance(node, list | tuple):
        return [without_nan(child) for child in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(without_nan(data), indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises HarnessError that names the file where it is no JSON: written by hand, or the disk is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one, too
        raise HarnessError(f"{path} is damaged ({error}). Restore it from a copy, or move its folder away.") from error


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has no links between the two places."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears at `path` whole, with DONE in it, or not at all. Replaces an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    os.chmod(temporary, 0o755)
    try:
        yield temporary
        (temporary / "DONE").touch()
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sweep(folder: Path) -> None:
    """Remove what writes that a crash cut off left in a folder: it was never part of it. Nobody else writes there."""
    for left in folder.glob(".*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def disk_used(folders: Iterable[Path]) -> list[int]:
    """Bytes of the files in each folder. A file with several names (a bundle's weights are a fold's) counts once, in
    the first; one that vanishes meanwhile, or a folder that is not there, counts nothing."""
    seen: set[tuple[int, int]] = set()
    used = []
    for folder in folders:
        total = 0
        for path, _, names in os.walk(folder):
            for name in names:
                try:
                    facts = os.lstat(os.path.join(path, name))
                except OSError:
                    continue
                total += facts.st_size if (facts.st_dev, facts.st_ino) not in seen else 0
                seen.add((facts.st_dev, facts.st_ino))
        used.append(total)
    return used


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""a full disk, a quota that is used up, a limit on the size of files"""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that there is no room to write."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in NO_ROOM):
            return True
        if "disk is full" in str(error):  # SQLite says it in words
            return True
        error = error.__cause__ or error.__context__
    return False


def is_done(folder: Path) -> bool:
    return (folder / "DONE").exists()


def mark_used(folder: Path) -> None:
    """Remember that a kept folder was used just now: the time of its DONE."""
    with suppress(OSError):  # somebody else's home may be readable and no more
        os.utime(folder / "DONE")


@contextmanager
def lock(path: Path, what: str, wait_seconds: float = 600) -> Iterator[None]:
    """Hold a file lock where processes meet. The lock ends with its process, however that ends.

    Raises HarnessError when another process holds it for longer than `wait_seconds`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=wait_seconds):
            yield
    except Timeout as error:
        raise HarnessError(
            f"{what} is in use by another process (lock {path}). Wait for it to end, or end it."
        ) from error
