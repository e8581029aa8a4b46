"""What a bundle keeps for answers with a doubt: the section `reference` (usual images, confidence) and `augment`.

All of it is of development rows, each seen by networks that held it out.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.calibration.uncertainty import (
    HeldOut,
    NoReference,
    confidence,
    coverage_curve,
    describe_doubt,
    fit_reference,
    reference_file,
)
from harness.config.load import read_spec
from harness.config.spec import Augment
from harness.ensemble.embed import run_encoder
from harness.ensemble.gather import Gathered
from harness.ensemble.members import best_first
from harness.ensemble.save import NetworkSet, Part
from harness.ensemble.trust import Trust
from harness.types import Progress

MEMBERS = 3
"""best members whose spaces are described: more cost time and megabytes and find hardly more"""
FILE = "usual.npz"


@dataclass(frozen=True)
class Usual:
    """What usual images look like to some networks: the same for all methods that keep these."""

    encoders: list[list[int]]
    file: bytes
    percentile: NDArray[np.float64] | None
    """(N,) of the development rows; None where there can be none"""
    missing: str = ""
    """why there is none"""


NOT_ASKED = Usual([], b"", None, "built with --no-reference")


def usual_images(found: Gathered, networks: list[NetworkSet], seed: int, device: str, report: Progress) -> Usual:
    """Each encoder's usual embeddings, or why there are none."""
    y = found.table.y
    try:
        held_out = _held_out(found, networks, device, report)
        classes = np.zeros(len(y), np.int64) if found.table.multilabel else y
        reference, percentile = fit_reference(held_out, classes, found.table.groups, seed)
    except NoReference as error:
        return Usual([], b"", None, str(error))
    return Usual([list(one.encoder) for one in held_out], reference_file(reference), percentile)


def reference_part(found: Gathered, trust: Trust, usual: Usual) -> Part:
    """The section `reference` and its file. Where there can be no reference, `missing` says why, and the bundle is
    built without."""
    multilabel = found.table.multilabel
    doubt = describe_doubt(confidence(trust.calibration.deployed, multilabel), usual.percentile)
    calibration = trust.sections["calibration"]
    doubt |= {
        "judged_on": calibration["judged_on"],
        "development_kind": calibration["development_kind"],
        "curve": {
            "development": coverage_curve(trust.nested, found.table.y, usual.percentile),
            "test": coverage_curve(trust.test, found.test.y),
        },
    }
    if usual.percentile is None:
        return Part({"file": None, "missing": usual.missing, "doubt": doubt})
    about = {"file": f"reference/{FILE}", "missing": "", "encoders": usual.encoders, "doubt": doubt}
    return Part(about, {FILE: usual.file})


def _held_out(found: Gathered, networks: list[NetworkSet], device: str, report: Progress) -> list[HeldOut]:
    """The best members' networks, each on the development rows of the fold that it held out."""
    places = best_first(found.members, found.metric)[:MEMBERS]
    own = _own(found)
    if not _are_members(found, networks):
        places = list(range(len(networks)))[:MEMBERS]  # networks that the method made: of one kind, no best among them
    rows, numbers = found.data.folds.development_rows(), np.arange(len(found.table.y))
    total = sum(len(networks[m].networks) for m in places)
    held_out: list[HeldOut] = []
    for m in places:
        for k, network in enumerate(networks[m].networks):
            here = numbers[found.table.fold == network.meta.fold]
            if not len(here):
                raise NoReference(
                    f"{networks[m].name} was made of all folds: no development row was held out from it, so nothing "
                    "can be said of what a usual image looks like to it"
                )
            if network.weights in own:
                x = found.outputs.held_out_embeddings(*own[network.weights])[here]
            else:
                (out,), _ = run_encoder(network.weights, found.data.pixels, [rows[here]], device)
                x = out.embeddings
            held_out.append(HeldOut((m, k), here, x))
            report("usual images", len(held_out), total)
    return held_out


def _own(found: Gathered) -> dict[Path, tuple[int, int]]:
    """Member and fold of each of the members' checkpoints."""
    return {member.weights(k): (m, k) for m, member in enumerate(found.members) for k in range(found.table.k)}


def _are_members(found: Gathered, networks: list[NetworkSet]) -> bool:
    """Whether the bundle keeps the members' own networks, and no new ones."""
    own = _own(found)
    return all(network.weights in own for one in networks for network in one.networks)


def augment_part(found: Gathered) -> Part:
    """The section `augment`: the flips and rotations that every member trained with, for averaging over them."""
    return Part(shared_views([read_spec(member.folder / "spec.yaml").augment for member in found.members]))


def shared_views(augments: list[Augment]) -> dict[str, Any]:
    """Flips that all made, and the smallest of their largest rotations, degrees."""
    return {
        "hflip": all(one.hflip > 0 for one in augments),
        "vflip": all(one.vflip > 0 for one in augments),
        "rotate": min(one.rotate for one in augments),
    }
