"""The machines of a cluster, and whether one may train a study's trials: same home, same software.

The check runs on each machine; it knows nothing of how it came there.
"""

import secrets
import time
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path

from harness.hardware import commit
from harness.store.files import write_text

PATIENCE = 5.0
"""seconds that a network file system may take to show what another machine wrote"""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, and what one trial gets of it."""

    address: str = "auto"
    """HOST:PORT of the head node, or auto: the cluster that this machine is a node of"""
    cpus: int = 1
    """cores of a trial, and its threads"""
    gpus: float = 0.0
    """cards of a trial: 0, 1, or the part of one that it shares with others"""

    @property
    def device(self) -> str:
        """What a trial trains on: Ray shows an actor its own card only."""
        return "cuda:0" if self.gpus else "cpu"

    @property
    def demand(self) -> dict[str, float]:
        return {"num_cpus": self.cpus, "num_gpus": self.gpus}


@dataclass(frozen=True)
class Software:
    """What must be equal for trials of several machines to be comparable."""

    harness: str
    commit: str
    torch: str


def software() -> Software:
    """Of this machine; torch is not imported for it."""
    return Software(version("harness"), commit(), version("torch"))


def leave_token(path: Path) -> str:
    """Write a new random word there and return it."""
    token = secrets.token_hex(16)
    write_text(path, token)
    return token


def misfit(path: Path, token: str, wanted: Software, patience: float = PATIENCE) -> str:
    """What makes this machine unfit, '' if nothing does. `token` was left at `path` by the driver."""
    end = time.monotonic() + patience
    while (found := _read(path)) != token:
        if time.monotonic() > end:
            what = "there is no such file" if found is None else "it says something else here"
            return (
                f"does not see the driver's home: {path} was written there, and {what}. Mount the home on every "
                "machine at the same path, and name it in HARNESS_HOME."
            )
        time.sleep(0.2)
    here = software()
    pairs = [(field.name, getattr(here, field.name), getattr(wanted, field.name)) for field in fields(Software)]
    different = [f"{name} {own} where the driver has {its}" for name, own, its in pairs if own != its]
    return f"has {', '.join(different)}. Install the same on every machine." if different else ""


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
