"""What a bundle says of its probabilities and its thresholds, in a few lines. From plain JSON data."""

from collections.abc import Mapping
from typing import Any

from harness.cli.output import show

MOST_CLASSES = 3
"""each with its own thresholds; of more, the JSON document tells"""

OUT_OF_FOLD = {
    "nested": "Out of fold, nested",
    "nested_full": "Out of fold, by networks trained without each pair of folds",
    "networks-shared": "Out of fold, by networks that have trained on the scored fold (no honest number)",
}
"""what development figures are, by `development_kind`"""
UNKNOWN_MEAN = {
    "no-held-out-rows": (
        "Fitted on one fold model of each member, but the mean of them all answers, which is less extreme: by how much "
        "nothing here can tell, for no image was held out from all of them (data.test_fraction)."
    ),
    "few-held-out-rows": (
        "Fitted on one fold model of each member, but the mean of them all answers, which is less extreme: by how much "
        "so few held-out images cannot tell."
    ),
    "one-network": (
        "Fitted on networks of one fold each, but one network made of them all answers: nothing here can tell how much "
        "they differ."
    ),
}
"""by the section's `reason`"""


def show_trust(about: Mapping[str, Any]) -> None:
    """`about`: bundle.json, or what of it there is; nothing is said of a section that is missing."""
    if about.get("calibration"):
        _show_calibration(about["calibration"])
    if about.get("decisions"):
        _show_decisions(about["decisions"])


def _show_calibration(section: Mapping[str, Any]) -> None:
    from harness.output.format import number

    chosen = [one["method"] for one in section["maps"]]
    named = ", ".join(dict.fromkeys("not calibrated" if method == "none" else method for method in chosen))
    tested = section["judged_on"] == "test"
    where = "On the test split" if tested else OUT_OF_FOLD[section["development_kind"]]
    show(f"\nProbabilities: {named} (chosen out of fold). {where}:")
    measured = section["reliability"]["test" if tested else "development"]
    for raw, one in zip(measured["raw"], measured["calibrated"], strict=True):
        before = "" if raw["ece"] == one["ece"] else f"; {number(raw['ece'])} without calibration"
        chance = number(one["ece_by_chance"])
        show(f"  {one['of']}: calibration error {number(one['ece'])} ({chance} by chance alone){before}")

    if section["fitted_on"] == "fold models":
        show(f"  {UNKNOWN_MEAN[section['reason']]}")


def _show_decisions(section: Mapping[str, Any]) -> None:
    from harness.output.format import interval, number
    from harness.output.tables import numbers_of
    from harness.types import Interval

    rule = section["default"]
    points = [point for point in section["points"] if point["rule"] == rule]
    classes = list(dict.fromkeys(point["class"] for point in section["points"]))
    shown = points if len(classes) <= MOST_CLASSES else []
    tested = section["judged_on"] == "test"
    out_of_fold = OUT_OF_FOLD[section["development_kind"]]
    part, where = ("test", "on the test split") if tested else ("development", out_of_fold[0].lower() + out_of_fold[1:])
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
        if point["promise"] == "trivial":
            who = f"{point['rule']} of {point['class']} per {point['unit']}"
            show(f"  TRIVIAL: {who}: every test row gets one and the same answer at this threshold")
