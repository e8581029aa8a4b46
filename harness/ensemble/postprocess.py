"""Calibration, operating points and uncertainty of a built ensemble.

How far a fitted ensemble can be trusted: the `calibration` and `decisions` sections of its bundle.

Everything is fitted on leak-free development probabilities, and acts on the distribution that it was fitted on (see
calibration.py and deployed.py). Of the test rows the fit reads, at most, how far apart the fold models are on them,
never a label; and what is reported of a half of the test groups comes from a fit that read the other half alone. Knows
arrays only. N: development rows, T: test rows, K: fold indices, C: classes.

What a bundle keeps for answers with a doubt: the section `reference` (usual images, confidence) and `augment`.

All of it is of development rows, each seen by networks that held it out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.calibration.deployed import Parts, alike, merged
from harness.calibration.maps import FULL, UNSEEN, Calibration, answer, fit_after, fit_calibration
from harness.calibration.operating_points import Answers, HeldOut, Rule, fit_decisions
from harness.calibration.uncertainty import HeldOut as ReferenceHeldOut
from harness.calibration.uncertainty import (
    NoReference,
    confidence,
    coverage_curve,
    describe_doubt,
    fit_reference,
    reference_file,
)
from harness.config.load import read_spec
from harness.config.spec import Augment
from harness.ensemble.bundle_files import NetworkSet, Part
from harness.ensemble.embed import run_encoder
from harness.ensemble.inputs import Gathered
from harness.ensemble.members import best_first
from harness.ensemble.scores import Rows
from harness.stats.calibration import Bin, Reliability, questions, reliability
from harness.types import Interval, Progress

Floats = NDArray[np.float64]
REPS = 200
"""bootstrap replicates of each part of a reliability: there are many parts"""
CALIBRATED = "calibrated.npz"
"""file of the section `calibration`: calibrated probabilities of the development and the test rows, in the order of
predictions.parquet, each by a fit that did not read the row; and `test_part`, see Trust"""
SHARED = "networks-shared"
"""why development figures have no interval: what was learned from out-of-fold predictions was judged on them, and the
networks behind the other folds' predictions have trained on the fold that is scored"""


@dataclass(frozen=True)
class Development:
    """The development rows' raw probabilities."""

    oof: Floats
    """(N, C) leak-free, by the ensemble's own members: what is calibrated"""
    judged: Floats | None = None
    """(N, C) as `oof`, by members that were chosen without the row's fold; None: `oof`"""
    rest: Sequence[Floats] | None = None
    """for each fold k, (N, C) the other folds' rows by members chosen and fits made without the labels of fold k; None
    where no fit and no choice reads labels of other folds"""
    full: Floats | None = None
    """(J, N, C) by J networks, or fold indices, none of which trained on the row; None where there are no such"""
    learned: bool = False
    """whether members were chosen, or weights fitted, on out-of-fold predictions"""

    @property
    def kind(self) -> str:
        """What the development figures are: nested_full, nested; networks-shared, which is no honest number."""
        return FULL if self.full is not None else SHARED if self.learned else "nested"


@dataclass(frozen=True)
class Trust:
    sections: dict[str, dict[str, Any]]
    """`calibration`: the maps, how the candidates did, and `reliability` by part (development, test) and state (raw,
    calibrated). `decisions`: see decisions.fit_decisions. Both: `judged_on` and `development_kind`"""
    calibration: Calibration
    nested: Floats
    """(N, C) calibrated development probabilities, each by fits without the row's fold"""
    test: Floats
    """(T, C) calibrated, each by a fit that did not read the row"""
    test_part: NDArray[np.int64]
    """(T,) which of the fits that was, and so which of a point's `test_thresholds` judges the row"""


def trust_sections(
    development: Development,
    test: Floats,
    development_rows: Rows,
    test_rows: Rows,
    fold: NDArray[np.int64],
    classes: tuple[str, ...],
    seed: int,
    decide: Rule | None = None,
    parts: Parts | None = None,
) -> Trust:
    """test (K, T, C): raw, by the networks of each fold index (see deployed.by_fold_index); parts: fold indices that
    are averaged before they are calibrated (deployed.merged); fold (N,) of the development rows."""
    multilabel = development_rows.y.ndim == 2
    each = merged(test, parts)
    raw = np.asarray(test.mean(axis=0))
    oof = development.oof
    calibration = fit_calibration(
        oof,
        development_rows.y,
        development_rows.groups,
        fold,
        multilabel,
        each if len(test_rows.y) or len(test) == 1 else None,
        development.rest,
        development.full,
        development.judged,
    )
    about = calibration.about | ({} if parts is None else {"parts": [list(part) for part in parts]})
    calibrated, part_of = np.empty_like(raw), np.zeros(len(raw), dtype=np.int64)
    held_out: list[HeldOut] = []
    for here, read in halves(test_rows.groups, about["fitted_on"] == UNSEEN):
        own, deployed = calibration.about, calibration.deployed
        if about["fitted_on"] == UNSEEN:
            own, deployed = fit_after(own, oof, development_rows.y, each[:, read])
        part_of[here] = len(held_out)
        calibrated[here] = answer(own, each[:, here])
        like = Answers(development_rows.y, deployed, development_rows.groups)
        held_out.append(HeldOut(like, Answers(test_rows.y[here], calibrated[here], test_rows.groups[here])))
    reason = SHARED if development.kind == SHARED else ""
    shown = oof if development.judged is None else development.judged
    if development.full is not None:
        shown = development.full.mean(axis=0)
    states = {
        "development": (development_rows, {"raw": shown, "calibrated": calibration.oof}, reason),
        "test": (test_rows, {"raw": raw, "calibrated": calibrated}, ""),
    }
    measured = {
        part: {
            state: [
                without_intervals(one, why) if why else one
                for one in reliabilities(rows.y, p, rows.groups, classes, multilabel, seed)
            ]
            for state, p in of_part.items()
        }
        for part, (rows, of_part, why) in states.items()
    }
    decisions = fit_decisions(
        Answers(development_rows.y, calibration.oof, development_rows.groups, calibration.parts, calibration.others),
        Answers(development_rows.y, calibration.deployed, development_rows.groups),
        held_out,
        classes,
        multilabel,
        development_rows.per_group,
        decide,
        reason,
    )
    judged = {
        "judged_on": "test" if len(test_rows.y) else FULL if development.full is not None else "none",
        "development_kind": development.kind,
    }
    about |= {"alike": alike(each) if len(test_rows.y) else float("nan"), "reliability": measured, **judged}
    return Trust(
        {"calibration": about, "decisions": decisions | judged}, calibration, calibration.oof, calibrated, part_of
    )


def halves(groups: NDArray[np.str_], apart: bool) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """(rows that are judged, rows that the fit may read): two halves of whole groups, each read for the other. All at
    once where nothing is read of them, and where there is one group."""
    everyone = np.ones(len(groups), dtype=bool)
    names, of_row = np.unique(groups, return_inverse=True)
    if not len(groups):
        return []
    if not apart or len(names) < 2:
        return [(everyone, everyone)]
    first = of_row % 2 == 0
    return [(first, ~first), (~first, first)]


def reliabilities(
    y: NDArray[np.int64],
    p: Floats,
    groups: NDArray[np.str_],
    classes: tuple[str, ...],
    multilabel: bool,
    seed: int,
) -> list[Reliability]:
    """One for each question (see stats.calibration.questions) that has rows."""
    return [
        reliability(name, answer, said, groups[rows], seed, REPS)
        for name, rows, answer, said in questions(y, p, classes, multilabel)
        if len(rows)
    ]


def without_intervals(found: Reliability, reason: str) -> Reliability:
    """The same values, none of them with an interval; each says why."""
    return replace(
        found,
        bins=tuple(Bin(one.n, one.predicted, bare(one.observed, reason)) for one in found.bins),
        error=bare(found.error, reason),
        brier=bare(found.brier, reason),
        reliability=bare(found.reliability, reason),
        resolution=bare(found.resolution, reason),
        uncertainty=bare(found.uncertainty, reason),
    )


def bare(found: Interval, reason: str) -> Interval:
    """The value without an interval, and why."""
    return Interval(found.value, float("nan"), float("nan"), reason=reason)


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


def _held_out(found: Gathered, networks: list[NetworkSet], device: str, report: Progress) -> list[ReferenceHeldOut]:
    """The best members' networks, each on the development rows of the fold that it held out."""
    places = best_first(found.members, found.metric)[:MEMBERS]
    own = _own(found)
    if not _are_members(found, networks):
        places = list(range(len(networks)))[:MEMBERS]  # networks that the method made: of one kind, no best among them
    rows, numbers = found.data.folds.development_rows(), np.arange(len(found.table.y))
    total = sum(len(networks[m].networks) for m in places)
    held_out: list[ReferenceHeldOut] = []
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
            held_out.append(ReferenceHeldOut((m, k), here, x))
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
