"""Reads the Mermaid and PlantUML that this program writes, strictly: any line of another form is refused."""

import re

MERMAID_TEXT = r'"(?P<text>(?:[^"<>`&#\\]|<br/>|#\w+;)*)"'
PLANTUML_TEXT = r'"(?P<text>[^"]*)"'
FORMS = {
    "mermaid": {
        "first": "flowchart TB",
        "box": rf"(?P<key>b\d+)(?:\[{MERMAID_TEXT}\]|\(\[{MERMAID_TEXT.replace('text', 'round')}\]\))",
        "open": rf"subgraph f\d+\[{MERMAID_TEXT}\]",
        "close": "end",
        "arrow": rf"(?P<start>b\d+) -->(?:\|{MERMAID_TEXT}\|)? (?P<end>b\d+)",
        "last": None,
    },
    "plantuml": {
        "first": "@startuml",
        "box": rf"(?:storage|rectangle) {PLANTUML_TEXT} as (?P<key>b\d+)",
        "open": rf"frame {PLANTUML_TEXT} as f\d+ \{{",
        "close": r"\}",
        "arrow": r"(?P<start>b\d+) --> (?P<end>b\d+)(?: : (?P<text>.+))?",
        "last": "@enduml",
    },
}


def read_drawing(text: str, language: str) -> tuple[dict[str, str], set[tuple[str, str, str]]]:
    """Boxes (title line by key) and arrows (start, end, label). Raises AssertionError where a line fits no form, a
    frame is not closed, or an arrow leads to no box."""
    forms = FORMS[language]
    lines = text.splitlines()
    assert lines.pop(0) == forms["first"]
    if forms["last"]:
        assert lines.pop() == forms["last"]
    boxes, arrows, depth = {}, set(), 0
    for line in lines:
        plain = line.strip()
        if found := re.fullmatch(forms["box"], plain):
            assert found["key"] not in boxes
            boxes[found["key"]] = found["text"] if found["text"] is not None else found["round"]
        elif found := re.fullmatch(forms["arrow"], plain):
            arrows.add((found["start"], found["end"], found["text"] or ""))
        elif re.fullmatch(forms["open"], plain):
            depth += 1
        elif re.fullmatch(forms["close"], plain):
            depth -= 1
            assert depth >= 0
        else:
            raise AssertionError(f"no form of {language}: {line!r}")
    assert depth == 0
    assert {end for start, end, _ in arrows} | {start for start, _, _ in arrows} <= set(boxes)
    return boxes, arrows
