"""What a study says of the findings about its data: one that somebody has looked at does not block, and the reason goes
wherever the finding goes. Knows findings only.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import get_args

from harness.config.data import Acknowledgeable
from harness.data.audit import Finding

KINDS: tuple[str, ...] = get_args(Acknowledgeable)


def acknowledge(findings: list[Finding], reasons: Mapping[Acknowledgeable, str] | None) -> list[Finding]:
    """The findings, those of an acknowledged kind as warnings that end in the study's own words; what blocks first."""
    known = {str(kind): reason for kind, reason in (reasons or {}).items()}
    said = [
        replace(finding, severity="warn", message=f"{finding.message.rstrip()} Acknowledged in the study: {reason}")
        if (reason := known.get(finding.kind))
        else finding
        for finding in findings
    ]
    return sorted(said, key=lambda finding: finding.severity != "block")


def way_out(blocking: Collection[str]) -> str:
    """What to type where all the kinds of findings that block may be acknowledged; '' otherwise."""
    kinds = sorted(set(blocking))
    if not kinds or not set(kinds) <= set(KINDS):
        return ""
    said = " ".join(f"--set data.acknowledge.{kind}='why it may stay'" for kind in kinds)
    return f" If it may stay as it is, say why, here or in the study file: {said}"
