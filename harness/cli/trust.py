"""What a bundle says of its probabilities and its thresholds, in a few lines. From plain JSON data."""

from collections.abc import Mapping
from typing import Any

from harness.cli.output import show

MOST_CLASSES = 3
"""each with its own thresholds; of more, the JSON document tells"""


def show_trust(about: Mapping[str, Any]) -> None:
    """`about`: bundle.json, or what of it there is; nothing is said of a section that is missing."""
    if about.get("calibration"):
        _show_calibration(about["calibration"])
    if about.get("decisions"):
        _show_decisions(about["decisions"])


def _show_calibration(section: Mapping[str, Any]) -> None:
    from harness.words import number

    chosen = [one["method"] for one in section["maps"]]
    named = ", ".join(dict.fromkeys("not calibrated" if method == "none" else method for method in chosen))
    tested = section["reliability"]["test"]["raw"]
    show(f"\nProbabilities: {named} (chosen out of fold). {'On the test split' if tested else 'Out of fold'}:")
    measured = section["reliability"]["test" if tested else "development"]
    for raw, one in zip(measured["raw"], measured["calibrated"], strict=True):
        before = "" if raw["ece"] == one["ece"] else f"; {number(raw['ece'])} without calibration"
        chance = number(one["ece_by_chance"])
        show(f"  {one['of']}: calibration error {number(one['ece'])} ({chance} by chance alone){before}")


def _show_decisions(section: Mapping[str, Any]) -> None:
    from harness.cli.tables import numbers_of
    from harness.records import Interval
    from harness.words import interval, number

    rule = section["default"]
    points = [point for point in section["points"] if point["rule"] == rule]
    classes = list(dict.fromkeys(point["class"] for point in section["points"]))
    shown = points if len(classes) <= MOST_CLASSES else []
    tested = any(point["test"]["sensitivity"]["value"] is not None for point in section["points"])
    part, where = ("test", "on the test split") if tested else ("development", "out of fold")
    show(f"\nDecides by {rule}{f', {where}:' if shown else '; --json has every threshold.'}")
    for point in shown:
        found = {name: interval(Interval(**numbers_of(point[part][name]))) for name in ("sensitivity", "specificity")}
        show(
            f"  {point['class']} at p >= {number(point['threshold'])} per {point['unit']}: "
            f"sensitivity {found['sensitivity']}, specificity {found['specificity']}"
        )
    for point in section["points"]:
        if point["promise"] == "missed":
            kind = point["rule"].partition("=")[0]
            there = interval(Interval(**numbers_of(point["test"][kind])))
            show(f"  NOT KEPT: {point['rule']} of {point['class']} per {point['unit']}, {there} there")
