"""Records `make demo` and writes docs/demo.md: what is on the terminal in each minute of it.

The commands of `make demo` run in a terminal of 80 columns inside tmux, in a fresh home; its screen is read every few
seconds. Nothing in the page is typed by hand but the words between the screens.

    python -m benchmarks._demo_recording [--every 60] [--columns 80] [--out docs/demo.md]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.hardware import commit
from harness.output.format import duration

ROOT = Path(__file__).parents[1]
MOST_SECONDS = 3600.0
HEAD = """# What is on the terminal while `make demo` runs

Written by `python -m benchmarks._demo_recording`, which runs the commands of `make demo` in a terminal of {columns}
columns and {lines} lines with an empty home, and reads the screen. {machine}; commit `{commit}`; the whole took {took}.
What is drawn again and again while it works (the bar, and the lines below it) stands at the end of each screen; what
stands above it stays. A quiet machine is faster than one that does other things: the clock below is this recording's.
"""


@dataclass
class Terminal:
    """A terminal of its own, on a tmux server of its own."""

    socket: str
    columns: int
    lines: int

    def tmux(self, *words: str) -> str:
        done = subprocess.run(["tmux", "-L", self.socket, *words], capture_output=True, text=True, check=True)
        return done.stdout

    def start(self, variables: dict[str, str]) -> None:
        given = [f"{name}={value}" for name, value in variables.items()]
        size = ["-x", str(self.columns), "-y", str(self.lines)]
        self.tmux("-f", "/dev/null", "new-session", "-d", *size, "env", *given, "sh")

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)
        self.tmux("send-keys", "Enter")

    def screen(self) -> str:
        """What a person sees, without the blank lines around it."""
        return self.tmux("capture-pane", "-p").strip()

    def at_prompt(self) -> bool:
        return self.screen().rstrip().endswith("\n$")

    def close(self) -> None:
        self.tmux("kill-server")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two screens")
    parser.add_argument("--columns", type=int, default=80)
    parser.add_argument("--lines", type=int, default=36)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "demo.md")
    options = parser.parse_args()
    listed = subprocess.run(["make", "-n", "demo"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    commands = [line for line in listed.splitlines() if line.startswith(".venv/bin/harness")]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        text = ""
        for section in record([line.removeprefix(".venv/bin/") for line in commands], Path(home), options):
            text += f"\n{section}"  # kept as it grows, so that a recording that is cut off is one, too
            options.out.write_text(_head(options, time.monotonic() - began) + text)


def _head(options: argparse.Namespace, took: float) -> str:
    machine = f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[2]:.0f}"
    return HEAD.format(
        columns=options.columns, lines=options.lines, machine=machine, commit=commit(), took=duration(took)
    )


def record(commands: list[str], home: Path, options: argparse.Namespace) -> Iterator[str]:
    """The page's sections, as they come."""
    terminal = Terminal(f"harness-{os.getpid()}", options.columns, options.lines)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    terminal.start({"HARNESS_HOME": str(home / "mlruns"), "PATH": path, "PS1": "$ ", "TERM": "xterm-256color"})
    try:
        for command in commands:
            terminal.type("clear")
            time.sleep(1)
            terminal.type(command)
            time.sleep(1)
            yield f"## `{command}`\n"
            start = time.monotonic()
            shown = 5.0  # the first screen is early, then one every minute
            while not terminal.at_prompt() and time.monotonic() - start < MOST_SECONDS:
                time.sleep(0.5)
                if time.monotonic() - start >= shown:
                    yield _section(f"After {duration(shown)}", terminal.screen(), home)
                    shown = options.every * (shown // options.every + 1)
            time.sleep(1)
            took = duration(time.monotonic() - start)
            yield _section(f"At the end, after {took}", terminal.screen(), home)
    finally:
        terminal.close()


def _section(title: str, screen: str, home: Path) -> str:
    """A screen, without the folder of the recording and the prompt that waits below it."""
    plain = screen.replace(str(home / "mlruns"), "mlruns").removesuffix("\n$")
    lines = "\n".join(line.rstrip() for line in plain.split("\n"))
    return f"{title}:\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    main()
