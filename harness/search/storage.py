"""Where Optuna keeps the trials of a study: the home's journal, or a database for clusters."""

import json
import os
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from harness.config.spec import Search
from harness.search.samplers import directions, quiet_optuna
from harness.store.home import Home

BLOCK = 1 << 16
"""bytes read at a time from the journal's end"""


class _FileLock(BaseJournalFileLock):
    """A lock that the operating system frees when its holder dies: a stale one never has to be waited out."""

    def __init__(self, path: str) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


@quiet_optuna()
def open_optuna(home: Home, name: str, search: Search) -> optuna.Study:
    """The Optuna study of that name, made when missing, in HARNESS_STORAGE or in the home's journal."""
    url = os.environ.get("HARNESS_STORAGE")
    storage: Any
    if url:
        from harness.search.database import open_database

        storage = open_database(url)
    else:
        path = home.optuna_journal
        file_lock = _FileLock(str(path) + ".lock")
        _cut_torn_line(home, file_lock)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(path), lock_obj=file_lock))
    # Points are proposed elsewhere (search.samplers): a sampler here would only read the whole store at every trial.
    return optuna.create_study(
        storage=storage,
        study_name=name,
        directions=directions(search),
        sampler=optuna.samplers.RandomSampler(),
        load_if_exists=True,
    )


def _cut_torn_line(home: Home, file_lock: _FileLock) -> None:
    """Cut the journal back to its last whole line: a line torn by a crash would break every later open.

    Reads the end of the file only: a journal of thousands of trials is megabytes long.
    """
    path = home.optuna_journal
    if not path.exists():
        return
    file_lock.acquire()
    try:
        with open(path, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            start, tail = size, b""
            while start and tail.rstrip(b"\n").count(b"\n") < 2:  # the last whole line is in it, and what comes after
                start = max(0, start - BLOCK)
                file.seek(start)
                tail = file.read(size - start)
            end = tail.rfind(b"\n") + 1
            last = tail[:end].rstrip(b"\n").rpartition(b"\n")[2]
            if last and not _is_json(last):
                end -= len(last) + 1
            if end < len(tail):
                file.truncate(start + end)
    finally:
        file_lock.release()


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
