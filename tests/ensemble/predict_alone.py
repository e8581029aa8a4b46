"""python predict_alone.py FORBIDDEN BUNDLE IMAGE...: what `harness predict --json` says, as elsewhere it would be said.

Whatever opens a file below FORBIDDEN (the home that the bundle was built in) or reaches for the network ends the
process: an audit hook sees every such call of Python, whichever library makes it.
"""

import sys
from pathlib import Path
from typing import Any

FORBIDDEN = Path(sys.argv[1]).resolve()
NETWORK = ("socket.connect", "socket.getaddrinfo", "urllib.Request", "http.client.connect")


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in NETWORK:
        raise SystemExit(f"it went to the network: {event} {arguments}")
    if event == "open" and isinstance(arguments[0], str | bytes):
        path = Path(arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()).absolute()
        if path.is_relative_to(FORBIDDEN):
            raise SystemExit(f"it opened {path}")


sys.addaudithook(watch)

from harness.cli.app import run  # noqa: E402

sys.exit(run(["predict", *sys.argv[2:], "--json", "--device", "cpu", "--quiet"]))
