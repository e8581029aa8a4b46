"""Which commit this program is of: a checkout asks git, a wheel carries what it was built from.

Knows nothing but its own place on disk.
"""

import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parent


def commit(package: Path = PACKAGE) -> str:
    """Twelve digits, with '+' when a checkout's files differ from it; 'unknown' where nothing says."""
    try:
        return (package / "commit.txt").read_text().strip() or "unknown"
    except OSError:
        pass
    if not (package.parent / ".git").exists():  # git would look further up, and find another project's
        return "unknown"
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=package,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() if found.returncode == 0 else "unknown"
