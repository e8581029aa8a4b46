"""harness data cache, by the real program."""

import json
import os
from pathlib import Path

from cli_program import Place


def as_of_last_year(home: Path) -> None:
    for mark in (home / "pixels").glob("*/DONE"):
        os.utime(mark, (1.7e9, 1.7e9))


def test_what_is_kept_is_listed_planned_to_go_and_gone(place: Place) -> None:
    assert "Nothing is kept" in place.harness("data", "cache", "list").stdout
    assert place.harness("data", "scan", "tiny").returncode == 0
    as_of_last_year(place.home)
    listed = json.loads(place.harness("data", "cache", "list", "--json").stdout)
    assert {one["kind"] for one in listed["caches"]} == {"scan", "store"}
    assert all(one["last_used"] == "2023-11-14T22:13:20+00:00" and one["studies"] == [] for one in listed["caches"])
    table = place.harness("data", "cache", "list").stdout
    assert "32 images, 32 x 32" in table and "prune --dry-run" in table
    planned = json.loads(place.harness("data", "cache", "prune", "--dry-run", "--json").stdout)
    assert planned["dry_run"] is True and len(planned["pruned"]) == 3 and planned["bytes"] > 32 * 32 * 32
    assert "would be freed" in place.harness("data", "cache", "prune", "--dry-run").stdout
    assert " freed." in place.harness("data", "cache", "prune").stdout
    assert json.loads(place.harness("data", "cache", "list", "--json").stdout)["caches"] == []


def test_what_a_study_reads_is_kept_and_said_why(finished: tuple) -> None:
    place, _ = finished
    listed = json.loads(place.harness("data", "cache", "list", "--json").stdout)["caches"]
    assert len(listed) == 3 and all(one["studies"] == ["tiny"] for one in listed)
    done = place.harness("data", "cache", "prune")
    assert done.returncode == 0 and done.stdout == "Nothing to throw away.\n"
    assert done.stderr.count("used in the last quarter of an hour") + done.stderr.count("read by tiny") == 3


def test_a_wrong_number_of_days_is_refused(place: Place) -> None:
    done = place.harness("data", "cache", "prune", "--days", "-1")
    assert done.returncode == 2 and "--days" in done.stderr
