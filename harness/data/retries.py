"""Storage that fails now and then (network drives, tired disks) is asked again, a few times, ever more slowly."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FLAKY = frozenset((errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY))
"""failures that may pass; that a file is not there or may not be read does not"""
PAUSES = (0.1, 0.4, 1.6)
"""seconds before each further try"""


def patiently(read: Callable[[], T], pause: Callable[[float], None] = time.sleep) -> T:
    """What `read` returns. A failure of FLAKY is tried again after each of PAUSES; raises the last one."""
    for seconds in PAUSES:
        try:
            return read()
        except OSError as error:
            if error.errno not in FLAKY:
                raise
        pause(seconds)
    return read()
