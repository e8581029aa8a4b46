"""What goes wrong, as part of the interface: two kinds, each with its exit code.

A message names the thing, the place (file, line or key) and what to type instead. Unreadable is the one way in which a
file fails to become pixels, whatever the library underneath raised.
"""

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """The work failed (exit code 1)."""

    exit_code = 1


class RequestError(HarnessError):
    """The request was wrong: study file, option, data or path (exit code 2)."""

    exit_code = 2


class Leak(HarnessError):
    """A file does not fit the rows it would be scored on: nothing that rests on it is built, whatever the method."""


class DiskFull(HarnessError):
    """There is no room to write: no fault of the trial that notices it, so the study stops and can go on later."""


class Interrupted(HarnessError):
    """Stopped by Ctrl-C or a termination signal (exit code 130)."""

    exit_code = 130


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """' Did you mean a, b?' for the known names nearest to `name`, or '' when none is near."""
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=0.6)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def listed(names: Iterable[str], command: str = "", most: int = 12) -> str:
    """'a, b, c'; of many the first few, how many more there are, and the command that shows them all."""
    known = list(names)
    more = f", and {len(known) - most} more{f' ({command})' if command else ''}" if len(known) > most else ""
    return (", ".join(known[:most]) or "none") + more


class Unreadable(RequestError):
    """A file that cannot be shown to a model.

    `reason` is short, names no file and holds no value from a DICOM header.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def cannot_open(error: OSError) -> Unreadable:
    """What the operating system said."""
    return Unreadable(f"cannot be opened: {error.strerror or type(error).__name__}")
