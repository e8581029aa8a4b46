"""The one way in which a file fails to become pixels, whatever the library underneath raised. Knows no library."""

from harness.errors import RequestError


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
