"""Which bytes `model.weights` meant when a study began, so that a file that has changed since is noticed."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from harness.errors import RequestError
from harness.models.backbones import resolve, weights_file
from harness.store.files import file_sha256


def pin_weights(weights: Iterable[str], backbones: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the file that each of `weights` means for each backbone, by "WEIGHTS BACKBONE"; none and study:NAME
    mean no file. Raises RequestError where there is none."""
    names = list(backbones)
    files = {_pin(one, name): weights_file(resolve(name), one) for one in weights for name in names}
    return {pin: file_sha256(file.resolve()) for pin, file in files.items() if file is not None}


def require_same_weights(pinned: Mapping[str, str], weights: str, backbone: str, study: str) -> None:
    """Raises RequestError where the file that `weights` means is not the one that the study began with.

    A study of an earlier version has pinned nothing, and is not asked.
    """
    wanted = pinned.get(_pin(weights, backbone))
    if wanted is None:
        return
    file: Path | None = weights_file(resolve(backbone), weights)
    found = "none" if file is None else file_sha256(file.resolve())
    if found != wanted:
        raise RequestError(
            f"model.weights: {file} has changed since study {study!r} began (SHA-256 {wanted[:16]}... then, "
            f"{found[:16]}... now), so further trials could not be compared with those that there are. Bring the old "
            f"file back, or start anew: harness study run {study} --as NEWNAME"
        )


def _pin(weights: str, backbone: str) -> str:
    return f"{weights} {backbone}"
