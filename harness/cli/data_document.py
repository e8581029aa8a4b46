"""A study's images as plain data: `data scan|show|audit --json`. No image and no group is named but in a finding."""

from typing import TYPE_CHECKING, Any

from harness.output.progress import step_progress

if TYPE_CHECKING:
    from pandas import DataFrame

    from harness.config.load import Study
    from harness.data.prepare import Prepared
    from harness.store.home import Home


def scan_document(study: "Study", home: "Home", force: bool = False) -> dict[str, Any]:
    """`data scan`: classes by part, and what cannot be used."""
    found = [finding for finding in findings_of(study, home, force) if finding["kind"] == "unreadable"]
    return {**_parts(study, usable(study, home)), "findings": found}


def files_document(study: "Study", prepared: "Prepared", manifest: "DataFrame") -> dict[str, Any]:
    """`data show`: classes by part, sizes and formats."""
    from harness.data.facts import summary

    return {**_parts(study, prepared), **summary(manifest, prepared.dataset)}


def usable(study: "Study", home: "Home") -> "Prepared":
    """The images that can be used, and their folds, whatever data.on_error says of the others and the audit of all."""
    with step_progress() as progress:
        from harness.data.prepare import look

        return look(study.spec.data, study.spec.seed, home, progress)


def manifest_of(study: "Study", home: "Home") -> "DataFrame":
    """Every row and file of the study, those with a problem too."""
    with step_progress() as progress:
        from harness.data.prepare import scan

        return scan(study.spec.data, home, progress)


def findings_of(study: "Study", home: "Home", force: bool = False) -> list[dict[str, Any]]:
    """`data audit`: every finding; files that cannot be used block a study that refuses them."""
    with step_progress() as progress:
        from harness.data.audit import findings_to_json
        from harness.data.prepare import findings

        return findings_to_json(findings(study.spec.data, study.spec.seed, home, progress, force))


def _parts(study: "Study", prepared: "Prepared") -> dict[str, Any]:
    dataset, folds = prepared.dataset, prepared.folds
    parts = [(f"fold {k}", folds.held_out_rows(k)) for k in range(folds.k)] + [("test", folds.test_rows())]
    return {
        "study": study.name,
        "root": study.spec.data.root,
        "rows": len(dataset.y),
        "groups": len(set(dataset.groups.tolist())),
        "classes": list(dataset.classes),
        "filtered": prepared.filtered,
        "parts": [
            {
                "part": part,
                "rows": len(rows),
                "groups": len(set(dataset.groups[rows].tolist())),
                "counts": dict(zip(dataset.classes, dataset.counts(rows), strict=True)),
            }
            for part, rows in parts
        ],
        "data_hash": dataset.data_hash,
        "folds_hash": folds.folds_hash,
    }
