"""Writes the commit that a wheel or sdist is made from into it, for `harness --version` and every run's record.

A container's build has no git: there HARNESS_COMMIT says it. A wheel made from an sdist keeps the sdist's.
"""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FILE = "harness/commit.txt"


class CommitHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or Path(self.root, FILE).exists():
            return
        self.folder = tempfile.TemporaryDirectory()
        file = Path(self.folder.name, "commit.txt")
        file.write_text(f"{self._commit()}\n")
        build_data["force_include"][str(file)] = FILE

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def _commit(self) -> str:
        if said := os.environ.get("HARNESS_COMMIT"):
            return said
        if not Path(self.root, ".git").exists():  # git would look further up, and find another project's
            return "unknown"
        command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
        try:
            return subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return "unknown"
