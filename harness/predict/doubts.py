"""A bundle's section `reference`, read: usual images and confidence among development rows."""

from dataclasses import dataclass
from typing import Any

from harness.calibration.uncertainty import Reference, read_reference
from harness.ensemble.bundle import Bundle
from harness.errors import RequestError


@dataclass(frozen=True)
class Doubts:
    reference: Reference | None
    missing: str
    """why there is no reference, '' where there is one"""
    doubt: dict[str, Any] | None
    """what doubt.describe_doubt said of the development rows; None in a bundle without"""


def read_doubts(bundle: Bundle) -> Doubts:
    """Raises RequestError where the section, or its file, is not one that a build wrote."""
    about = bundle.about.get("reference")
    if about is None:
        return Doubts(None, "the bundle was built without a reference", None)
    try:
        doubt = about["doubt"]
        numbers = [*doubt["confidence"], doubt["foreign"]]
        if not all(isinstance(one, int | float) and 0 <= one <= 1 for one in numbers):
            raise ValueError("confidence is no share")
        if about["file"] is None:
            return Doubts(None, str(about["missing"]), doubt)
        reference = read_reference(bundle.read(str(about["file"])), f"{bundle.path}/{about['file']}")
        folds = [len(row) for row in bundle.weights]
        if any(m >= len(folds) or k >= folds[m] for m, k in reference.spaces):
            raise ValueError("an encoder that the bundle does not have")
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"{bundle.path}: its reference cannot be read ({error}). Build the ensemble again."
        ) from error
    return Doubts(reference, "", doubt)
