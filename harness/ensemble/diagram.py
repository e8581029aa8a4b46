"""How a bundle answers, as a drawing: decoding, members and their fold models, method, calibration, decision.

Drawn from the bundle's own bundle.json; no network is loaded.
"""

from collections.abc import Mapping
from typing import Any

from harness.config.data import Decode
from harness.ensemble.about import About, Member
from harness.ensemble.methods import METHODS
from harness.ensemble.names import FITTED
from harness.models.diagram import Arrow, Box, Drawing

SHOWN = 8
"""members drawn one by one, and classes named"""


def ensemble_diagram(about: Mapping[str, Any], found: About) -> Drawing:
    """`about`, `found`: what about.read_about gives."""
    method = METHODS.get(found.method)
    classes, needs = len(found.classes), method is not None and method.needs_embeddings
    boxes = [Box("image", ("image file", "PNG, JPEG, TIFF, DICOM"), round=True)]
    arrows = []
    for number, decode in enumerate(found.decodes):
        boxes.append(Box(f"decode {number}", ("decode", *_decoding(decode))))
        arrows.append(Arrow("image", f"decode {number}"))
    fitted = FITTED.get(found.method, "")
    for place, member in enumerate(found.members[:SHOWN]):
        boxes.append(Box(f"member {place}", _member(member), ("members",)))
        decode = found.decodes[member.decode]
        arrows.append(Arrow(f"decode {member.decode}", f"member {place}", _shape(decode)))
        logits = f"{len(member.folds)} x {classes} logits"
        arrows.append(Arrow(f"member {place}", "method", f"{logits}, embeddings" if needs else logits))
    more = len(found.members) - SHOWN
    if more > 0:
        boxes.append(
            Box("more", (f"{more} more members", f"{_folds(found.members[SHOWN:])} fold models"), ("members",))
        )
        arrows += [Arrow(f"decode {number}", "more") for number in sorted({m.decode for m in found.members[SHOWN:]})]
        arrows.append(Arrow("more", "method"))
    boxes.append(Box("method", (found.method, fitted) if fitted else (found.method,)))
    last = "method"
    for key, lines in (("calibration", _calibration(about)), ("decisions", _decisions(about))):
        if key in about:
            boxes.append(Box(key, lines))
            arrows.append(Arrow(last, key, f"{classes} probabilities"))
            last = key
    named = ", ".join(found.classes[:SHOWN]) + (f" and {classes - SHOWN} more" if classes > SHOWN else "")
    kind = "a probability for each label" if found.multilabel else "probabilities that sum to 1"
    boxes.append(Box("answer", ("answer", kind, named), round=True))
    arrows.append(Arrow(last, "answer", f"{classes} probabilities" if last != "decisions" else "and a decision"))
    if "reference" in about:
        boxes.append(Box("reference", ("reference", "how far an image is from the development images")))
        arrows += [
            Arrow(f"member {place}", "reference", "embeddings") for place in range(min(SHOWN, len(found.members)))
        ]
        arrows.append(Arrow("reference", "answer", "out-of-distribution score"))
    return Drawing(tuple(boxes), tuple(arrows))


def _decoding(decode: Decode) -> tuple[str, ...]:
    colour = "grey" if decode.channels == 1 else "RGB"
    size = f"own size, up to {decode.longest} px" if decode.size == "native" else f"{decode.size} x {decode.size} px"
    window = () if decode.window is None else (f"DICOM window {decode.window}",)
    return (f"{size}, {colour}", f"fit: {decode.fit}", *window)


def _shape(decode: Decode) -> str:
    side = "H x W" if decode.size == "native" else f"{decode.size} x {decode.size}"
    return f"{decode.channels} x {side}"


def _member(member: Member) -> tuple[str, ...]:
    folds = len(member.folds)
    return (member.name, str(member.model.get("backbone", "?")), f"{folds} fold model{'s' if folds > 1 else ''}")


def _folds(members: list[Member]) -> int:
    return sum(len(member.folds) for member in members)


def _calibration(about: Mapping[str, Any]) -> tuple[str, ...]:
    maps = about.get("calibration", {}).get("maps", [])
    kinds = dict.fromkeys(str(one.get("method", "?")) for one in maps)
    return ("calibration", ", ".join(kinds) or "?")


def _decisions(about: Mapping[str, Any]) -> tuple[str, ...]:
    chosen = about.get("decisions", {}).get("default")
    return ("decision", str(chosen)) if isinstance(chosen, str) else ("decision",)
