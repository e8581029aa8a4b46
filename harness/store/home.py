"""The only file that knows paths under mlruns/, and how to write there so that a crash costs nothing.

Layout (everything relative, so that the folder can be moved):
    mlflow.db  optuna.journal  salt
    artifacts/STUDY/RUN_ID/artifacts/    one MLflow run's files: spec.yaml, fold_0/..., DONE
    bundles/STUDY/NAME/                  ensembles that predict by themselves
    pixels/KEY/                          decode-once stores, shared by every study
    work/STUDY/                          study.json, folds, trial records, states of running folds, locks
"""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from harness.errors import HarnessError
from harness.store.files import write_text


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
        """One line of JSON for each epoch that a trial has trained (harness.store.records)."""
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
