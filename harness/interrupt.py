"""Ctrl-C and SIGTERM, so that neither is ever lost.

Python raises KeyboardInterrupt wherever the program happens to be. Inside a destructor or a callback of the garbage
collector it is printed as "ignored" and gone, and a training would run on. So the signal is remembered as well, and
`check` raises it again at the next sign of progress. Knows signals only.
"""

import signal
from types import FrameType

_received = False


def catch_signals() -> None:
    """From here on SIGTERM ends a command the way Ctrl-C does: states saved, exit code 130."""
    global _received
    _received = False
    signal.signal(signal.SIGTERM, _remember)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # `nohup` and background jobs ignore it on purpose
        signal.signal(signal.SIGINT, _remember)


def check() -> None:
    """Raise KeyboardInterrupt when a signal came whose own exception got lost."""
    if _received:
        raise KeyboardInterrupt


def _remember(number: int, frame: FrameType | None) -> None:
    global _received
    _received = True
    raise KeyboardInterrupt
