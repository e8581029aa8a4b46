"""The page about a data set, and the data section of a report.

One page about a data set: its classes by part, its pictures, sizes and grey levels, its faults, its augmentation.

Shows no group, hashed or not, and images only by their path from the data's root. Knows a study and its prepared
data; trains nothing, reads no records.

The data of a study in short: how much there is, how it was divided, what it looks like, what is wrong with it.

Says how many groups there are and never which. The whole page about a data set is `dataset_page`'s.
"""

from html import escape

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.augment.drawn_lesions import draw_lesions
from harness.augment.pipeline import mixed_pictures
from harness.augment.preview import augmented, changes, largest_augmentation
from harness.config.load import Study
from harness.config.spec import Augment
from harness.data.audit import Finding
from harness.data.prepare import Prepared
from harness.data.summary import Spread, by_class, grey_spread, left_out, rows_of, samples, size_spread, usable_rows
from harness.output.documents import Section, Table, curves, page, picture, share_cell, strip, table
from harness.output.format import plural
from harness.report.collect import Collected
from harness.types import Dataset

Ints = NDArray[np.int64]

PAGE_SAMPLES, DRAWS, PREVIEWED = 8, 7, 4
"""pictures of each class and split; draws of each previewed picture; pictures previewed"""
MOST_CLASSES = 24
"""classes with pictures and curves; the counts name all"""
LISTED = 200
"""images of a finding that are listed"""


def dataset_page(study: Study, prepared: Prepared, manifest: pd.DataFrame, seed: int) -> str:
    """The whole document, self-contained. `manifest`: all rows, those with problems too."""
    dataset, folds = prepared.dataset, prepared.folds
    classes = dataset.classes
    groups = len(set(dataset.groups.tolist()))
    of = "" if study.spec.data.group == "none" else f" of {groups:,} groups ({escape(study.spec.data.group)})"
    out = sum(left_out(manifest, dataset).values())
    lead = (
        f"<p>{escape(study.spec.description)}</p>"
        f"<p>{len(dataset.y):,} images{of}: {len(folds.development_rows()):,} for development in {folds.k} folds, "
        f"{len(folds.test_rows()) or 'none'} held out as the test split. {len(classes)} classes. "
        f"{f'{out:,} files or rows were left out.' if out else 'Every file could be used.'}</p>"
    )
    shown = "" if len(classes) <= MOST_CLASSES else f"<p>The first {MOST_CLASSES} of {len(classes)} classes.</p>"
    rows = usable_rows(manifest, dataset)
    sections = [
        Section("classes-by-part", "Classes by part", "", _page_balance(prepared)),
        Section("findings", "Findings", "", _page_findings(prepared)),
        Section("pictures", "Pictures", "", shown + sample_pictures(prepared)),
        Section("sizes-and-formats", "Sizes and formats", "", shown + _sizes(rows, dataset)),
        Section("grey-levels", "Grey levels", "", shown + _grey_levels(prepared)),
        Section("augmentation", "Augmentation", "", _augmentation(study, prepared, seed)),
        Section("left-out", "Left out", "", _left_out(manifest, prepared)),
    ]
    return page(f"{study.name}: the data", lead, sections)


def called(name: str) -> str:
    """A class that is a number is called one."""
    return f"class {name}" if name.isdigit() else name


def _page_balance(prepared: Prepared) -> str:
    dataset, folds = prepared.dataset, prepared.folds
    parts = [(f"fold {k}", folds.held_out_rows(k)) for k in range(folds.k)]
    parts += [("development", folds.development_rows()), ("test", folds.test_rows())]
    rows = []
    for name, part in parts:
        counts = [len(np.intersect1d(part, rows_of(dataset, c))) for c in range(len(dataset.classes))]
        groups = len(set(dataset.groups[part].tolist()))
        cells = [share_cell(count, len(part), c) for c, count in enumerate(counts)]
        rows.append([name, str(len(part)), str(groups), *cells])
    caption = "Images and groups of each part, and of each class with its share of the part"
    return table(caption, ["part", "images", "groups", *map(called, dataset.classes)], rows)


def _page_findings(prepared: Prepared) -> str:
    if not prepared.findings:
        return "<p>The audit found nothing wrong.</p>"
    return "".join(_finding(finding, prepared.dataset) for finding in prepared.findings)


def told_finding(finding: Finding, dataset: Dataset) -> str:
    """What the audit says, with no group's name in it."""
    message = finding.message
    if finding.kind == "group_overlap":  # the one kind that names groups
        for group in sorted(set(dataset.groups.tolist()) - set(dataset.ids.tolist()), key=len, reverse=True):
            message = message.replace(group, "a group")
    return message


def _finding(finding: Finding, dataset: Dataset) -> str:
    message, images = told_finding(finding, dataset), ""
    if finding.images:
        listed = "".join(f"<li>{escape(name)}</li>" for name in finding.images[:LISTED])
        more = f"<li>and {len(finding.images) - LISTED} more</li>" if len(finding.images) > LISTED else ""
        count = f"{len(finding.images)} image{'s' if len(finding.images) != 1 else ''}"
        images = f"<details><summary>{count}</summary><ul>{listed}{more}</ul></details>"
    what = {"block": "blocks the study", "warn": "warning"}[finding.severity]
    title = finding.kind.replace("_", " ")
    return (
        f'<div class="finding {finding.severity}"><p><b>{escape(title)}</b> <span class="soft">({what})</span></p>'
        f"<p>{escape(message)}</p>{images}</div>"
    )


def sample_pictures(prepared: Prepared, count: int = PAGE_SAMPLES) -> str:
    """Some pictures of each class and part, as the network is shown them."""
    dataset, folds = prepared.dataset, prepared.folds
    parts = [("development", folds.development_rows()), ("test", folds.test_rows())]
    said = ["<p>As the network is shown them, evenly spread over the rows of each class.</p>"]
    for c, name in enumerate(dataset.classes[:MOST_CLASSES]):
        for part, rows in parts:
            chosen = samples(dataset, rows, c, count)
            figures = [
                picture(prepared.pixels[row], f"{called(name)}, {part}: {dataset.ids[row]}", str(dataset.ids[row]))
                for row in chosen.tolist()
            ]
            said.append(f"<h3>{escape(called(name))} <span class=soft>({part})</span></h3>")
            said.append(strip(figures) if figures else "<p>None.</p>")
    return "".join(said)


def _sizes(rows: pd.DataFrame, dataset: Dataset) -> str:
    said = []
    for name in ("width", "height"):
        spread = size_spread(name, rows[name], dataset)
        if spread.low == spread.high:
            said.append(f"<p>Every {name} is {spread.low:.0f} pixels.</p>")
        else:
            said.append(f"<h3>{name}, pixels</h3>" + _curves(spread, dataset, spread.shares / spread.shares.max()))
    for name in ("format", "mode"):
        counts = by_class(rows[name], dataset)
        of_class = [len(rows_of(dataset, c)) for c in range(len(dataset.classes))]
        cells = [
            [escape(kind or "(none)"), *(share_cell(n, of_class[c], c) for c, n in enumerate(of_kind))]
            for kind, of_kind in counts.items()
        ]
        said.append(
            table(
                f"Images by {name} of the file, and their share of the class",
                [name, *map(called, dataset.classes)],
                cells,
            )
        )
    return "".join(said)


def _grey_levels(prepared: Prepared) -> str:
    spread = grey_spread(prepared.pixels, prepared.dataset)
    how = (
        "<p>Of the pixels that the network is shown, borders included. The first and the last bar may be cut off: "
        "a black background would make all others flat.</p>"
    )
    inside = np.maximum(spread.shares[:, 1:-1].max(axis=1, keepdims=True), 1e-12)
    return how + _curves(spread, prepared.dataset, spread.shares / inside)


def _curves(spread: Spread, dataset: Dataset, heights: NDArray[np.float64]) -> str:
    names = [called(name) for name in dataset.classes[:MOST_CLASSES]]
    notes = [
        "no images" if np.isnan(q).any() else f"median {q[1]:.0f}, 90% in {q[0]:.0f} to {q[2]:.0f}"
        for q in spread.quantiles[: len(names)]
    ]
    return curves(names, notes, heights[: len(names)], (f"{spread.low:.0f}", f"{spread.high:.0f}"))


def _augmentation(study: Study, prepared: Prepared, seed: int) -> str:
    spec = largest_augmentation(study)
    on, mixing = changes(spec), _mixing(spec, prepared, seed)
    if not on:
        return mixing or "<p>This study changes no picture: every augmentation is off.</p>"
    listed = ", ".join(
        f"{name} {value}" if isinstance(value, str) else f"{name} {value:g}" for name, value in on.items()
    )
    said = [
        f"<p>Random draws at the largest changes that this study allows: {escape(listed)}. "
        "The first of each row is the picture itself.</p>",
    ]
    dataset = prepared.dataset
    rows = [samples(dataset, prepared.folds.development_rows(), c, 1) for c in range(len(dataset.classes))]
    for row in np.concatenate(rows).tolist()[:PREVIEWED]:
        drawn = augmented(prepared.pixels[row], spec, DRAWS, seed + row)
        name = str(dataset.ids[row])
        figures = [picture(prepared.pixels[row], f"{name}, unchanged", name)]
        figures += [picture(one, f"{name}, draw {i + 1}", f"draw {i + 1}") for i, one in enumerate(drawn)]
        said.append(strip(figures))
    return "".join([*said, mixing])


def _mixing(spec: Augment, prepared: Prepared, seed: int) -> str:
    """Pictures of all classes and what they become as one batch; generated ones are only spoken of."""
    said = ""
    if spec.mixup or spec.cutmix:
        dataset, development = prepared.dataset, prepared.folds.development_rows()
        each = -(-(DRAWS + 1) // len(dataset.classes))
        rows = np.concatenate([samples(dataset, development, c, each) for c in range(len(dataset.classes))]).tolist()
        first = [row for row in rows if prepared.pixels[row].shape == prepared.pixels[rows[0]].shape][: DRAWS + 1]
        names = [str(dataset.ids[row]) for row in first]
        pixels = np.stack([prepared.pixels[row] for row in first])
        mixed = mixed_pictures(pixels, spec, seed)
        listed = ", ".join(f"{name} {getattr(spec, name):g}" for name in ("mixup", "cutmix") if getattr(spec, name))
        said += f"<p>Pairs of pictures are mixed after that ({listed}). A batch, and what becomes of it:</p>"
        said += strip([picture(one, f"{name}, unmixed", name) for one, name in zip(pixels, names, strict=True)])
        said += strip([picture(one, f"{name}, mixed", name) for one, name in zip(mixed, names, strict=True)])
    if spec.drawn_lesions:
        said += _drawn(prepared, seed)
    if spec.synthetic:
        said += (
            f"<p>Not shown: {spec.synthetic:g} generated images for each training image, from a generator that is "
            "fitted to each fold's training rows.</p>"
        )
    return said


def _drawn(prepared: Prepared, seed: int) -> str:
    """What augment.drawn_lesions makes of the first pictures of the first class."""
    dataset, development = prepared.dataset, prepared.folds.development_rows()
    rows = samples(dataset, development, 0, DRAWS)
    pixels = np.stack([prepared.pixels[row] for row in rows.tolist()])
    made, labels = draw_lesions(pixels, np.zeros(len(rows), np.int64), 2.0, seed)
    said = "<p>Drawn into training images of the first class, half of them a lesion of the last class:</p>"
    return said + strip(
        [picture(x, f"drawn, {dataset.classes[c]}", dataset.classes[c]) for x, c in zip(made, labels, strict=True)]
    )


def _left_out(manifest: pd.DataFrame, prepared: Prepared) -> str:
    reasons = left_out(manifest, prepared.dataset)
    reasons |= {f"data.where, {condition}": rows for condition, rows in prepared.filtered.items() if rows}
    if not reasons:
        return "<p>Nothing: every row has its file, every file its row, and all could be decoded.</p>"
    rows = [[escape(reason), str(count)] for reason, count in reasons.items()]
    return table("Rows and files that are not used, by reason", ["reason", "images"], rows)


SECTION_SAMPLES = 6
"""pictures of each class and part"""


def data_section(found: Collected, images: bool) -> Section:
    """`images`: whether pictures may be in the page."""
    data = found.data
    if data is None:
        return Section("data", "Data", "The data are not there any more, so nothing is shown of them.")
    dataset, folds = data.dataset, data.folds
    groups = len(set(dataset.groups.tolist()))
    column = str(found.record.tree["data"]["group"])
    whole = f"{plural(len(dataset.y), 'image')} of {plural(len(dataset.classes), 'class').replace('classs', 'classes')}"
    divided = (
        f"{len(folds.development_rows()):,} for development in {folds.k} folds and "
        f"{len(folds.test_rows()) or 'none'} held out as the test split"
    )
    together = found.record.tree["data"].get("copies") == "together"
    if column == "none" and together:
        grouped = f"group: none, but copies of one picture are one case ({groups:,} groups)"
    elif column == "none":
        grouped = "group: none, so every image counts as a case of its own"
    else:
        what = f"{column}, and no copy of an image," if together else column
        grouped = f"no {what} stands in two parts ({groups:,} groups)"
    blocking = sum(finding.severity == "block" for finding in data.findings)
    audit = f"The audit found {plural(len(data.findings), 'thing')} to know" if data.findings else "The audit is clean"
    audit += f", {blocking} of which block" if blocking else ""
    shown = sample_pictures(data, SECTION_SAMPLES) if images else "<p>This page holds no pictures (--no-images).</p>"
    more = f"<p>More: <code>harness data show {escape(found.name)} --out data.html</code></p>"
    answer = f"{whole}: {divided}; {grouped}. {audit}."
    return Section("data", "Data", answer, shown + more, (_section_balance(found), *_section_findings(found)))


def _section_balance(found: Collected) -> Table:
    data = found.data
    assert data is not None
    dataset, folds = data.dataset, data.folds
    parts = [(f"fold {k}", folds.held_out_rows(k)) for k in range(folds.k)]
    parts += [("development", folds.development_rows())]
    parts += [("test", folds.test_rows())] if len(folds.test_rows()) else []
    members = [rows_of(dataset, c) for c in range(len(dataset.classes))]
    rows = []
    for name, part in parts:
        counts = [len(np.intersect1d(part, of)) for of in members]
        cells = [f"{count:,} ({count / max(len(part), 1):.0%})" for count in counts]
        rows.append((name, f"{len(part):,}", f"{len(set(dataset.groups[part].tolist())):,}", *cells))
    columns = ("part", "images", "groups", *map(called, dataset.classes))
    return Table("Balance of the folds", columns, rows, note="Of each class, images and their share of the part.")


def _section_findings(found: Collected) -> list[Table]:
    """What the audit found, and what data.where leaves out."""
    tables = []
    if found.data and found.data.findings:
        rows = [
            (one.kind.replace("_", " "), f"{len(one.images):,}" if one.images else "-", told_finding(one, dataset))
            for dataset in (found.data.dataset,)
            for one in found.data.findings
        ]
        tables.append(Table("What the audit found", ("finding", "images", "what"), rows, "lrl"))
    left_out = found.data.filtered if found.data else {}
    if left_out:
        dropped = [(condition, f"{count:,}") for condition, count in left_out.items()]
        tables.append(Table("Left out by data.where", ("condition", "images"), dropped, "lr"))
    return tables
