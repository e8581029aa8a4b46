"""The Optuna side of a study: where its trials are kept, and who proposes the next point."""

import json
import os
import warnings
from typing import TYPE_CHECKING, Any

import optuna
from filelock import FileLock
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from harness.home import Home
from harness.metrics import METRICS
from harness.search.grid import grid_points
from harness.seeds import derive_seed
from harness.study.search import Search
from harness.study.space import Choice, FloatRange, Range, Space

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


class _FileLock(BaseJournalFileLock):
    """A lock that the operating system frees when its holder dies: a stale one never has to be waited out."""

    def __init__(self, path: str) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def open_optuna(home: Home, name: str, search: Search) -> optuna.Study:
    """The Optuna study of that name, made when missing, in HARNESS_STORAGE or in the home's journal."""
    url = os.environ.get("HARNESS_STORAGE")
    storage: Any
    if url:
        storage = optuna.storages.RDBStorage(url)
    else:
        path = home.optuna_journal
        file_lock = _FileLock(str(path) + ".lock")
        _cut_torn_line(home, file_lock)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=file_lock))
    higher = METRICS[search.metric].higher_is_better
    direction = optuna.study.StudyDirection.MAXIMIZE if higher else optuna.study.StudyDirection.MINIMIZE
    return optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)


def _cut_torn_line(home: Home, file_lock: _FileLock) -> None:
    """Cut the journal back to its last whole line: a line torn by a crash would break every later open."""
    path = home.optuna_journal
    if not path.exists():
        return
    file_lock.acquire()
    try:
        with open(path, "rb+") as file:
            text = file.read()
            end = text.rfind(b"\n") + 1
            last = text[:end].rstrip(b"\n").rpartition(b"\n")[2]
            if last and not _is_json(last):
                end -= len(last) + 1
            if end < len(text):
                file.truncate(end)
    finally:
        file_lock.release()


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def ask(study: optuna.Study, search: Search, space: Space, seed: int) -> optuna.Trial:
    """The next trial. The sampler's seed comes from the study's seed and the trial's number, so that an interrupted
    study proposes what the uninterrupted one would have proposed, and never an old point again."""
    number = len(study.get_trials(deepcopy=False))
    study.sampler = _sampler(search, space, number, seed)
    trial = study.ask()
    for name, range_ in space.items():
        suggest(trial, name, range_)
    return trial


def suggest(trial: optuna.Trial, name: str, range_: Range) -> None:
    if isinstance(range_, Choice):
        trial.suggest_categorical(name, range_.options)
    elif isinstance(range_, FloatRange):
        trial.suggest_float(name, range_.low, range_.high, step=range_.step, log=range_.log)
    else:
        trial.suggest_int(name, range_.low, range_.high, step=range_.step, log=range_.log)


def _sampler(search: Search, space: Space, number: int, seed: int) -> "BaseSampler":
    own_seed = derive_seed(seed, "sampler", number) % 2**31
    if search.sampler == "grid":
        points = grid_points(space, seed)
        return optuna.samplers.PartialFixedSampler(
            points[number % len(points)], optuna.samplers.RandomSampler(own_seed)
        )
    if search.sampler == "qmc":  # one sequence for the whole study: its place in the sequence is kept in the storage
        return optuna.samplers.QMCSampler(seed=seed, scramble=True)
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=own_seed)
    return optuna.samplers.TPESampler(n_startup_trials=search.startup, seed=own_seed)
