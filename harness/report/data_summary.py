"""The data of a study in short: how much there is, how it was divided, what it looks like, what is wrong with it.

Says how many groups there are and never which. The whole page about a data set is dataset.py's.
"""

from html import escape

import numpy as np

from harness.data.summary import rows_of
from harness.output.documents import Section, Table
from harness.output.format import plural
from harness.report.collect import Collected
from harness.report.dataset import called, sample_pictures, told_finding

SAMPLES = 6
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
    shown = sample_pictures(data, SAMPLES) if images else "<p>This page holds no pictures (--no-images).</p>"
    more = f"<p>More: <code>harness data show {escape(found.name)} --out data.html</code></p>"
    answer = f"{whole}: {divided}; {grouped}. {audit}."
    return Section("data", "Data", answer, shown + more, (_balance(found), *_findings(found)))


def _balance(found: Collected) -> Table:
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


def _findings(found: Collected) -> list[Table]:
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
