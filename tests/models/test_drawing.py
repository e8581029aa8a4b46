"""Drawings as text that Mermaid and PlantUML take, whatever stands in the boxes."""

import os
import subprocess
from pathlib import Path

import pytest
from drawn_text import read_drawing

from harness.models.diagram import Arrow, Box, Drawing, mermaid, plantuml

AWKWARD = 'a "quoted" <b>`tag`</b> & end; #35 \\n ~ | ]) { }\nsecond line'
DRAWING = Drawing(
    (
        Box("in", ("image", AWKWARD), round=True),
        Box("one", ("end",), ("outer", "inner")),
        Box("two", (AWKWARD, "subgraph"), ("outer",)),
        Box("out", ("logits",), round=True),
    ),
    (Arrow("in", "one", "3 x 8 x 8"), Arrow("one", "two"), Arrow("two", "out", AWKWARD)),
)


@pytest.mark.parametrize("write", [mermaid, plantuml])
def test_every_text_is_carried_safely(write) -> None:
    boxes, arrows = read_drawing(write(DRAWING), write.__name__)
    assert len(boxes) == 4 and len(arrows) == 3
    assert {(start, end) for start, end, _ in arrows} == {("b0", "b1"), ("b1", "b2"), ("b2", "b3")}
    assert "<b>" not in write(DRAWING) or write is plantuml


def test_frames_hold_what_lies_in_them() -> None:
    lines = [line.strip() for line in mermaid(DRAWING).splitlines()]
    outer, inner = (next(i for i, line in enumerate(lines) if f'"{title}"' in line) for title in ("outer", "inner"))
    ends = [i for i, line in enumerate(lines) if line == "end"]
    assert outer < inner < lines.index('b1["end"]') < ends[0] < next(i for i, s in enumerate(lines) if s[:2] == "b2")
    assert lines[-1].startswith("b2 -->") and ends[1] < len(lines) - 3


def test_the_reader_of_these_tests_refuses_what_mermaid_would() -> None:
    for wrong in ("    b9[no quotes]", '    b9["a"quote"]', "    b0 --> b77", "    end"):
        with pytest.raises(AssertionError):
            read_drawing(mermaid(DRAWING) + wrong + "\n", "mermaid")


@pytest.mark.skipif("MERMAID_PARSER" not in os.environ, reason="MERMAID_PARSER names no program that parses a file")
def test_mermaid_itself_takes_it(tmp_path: Path) -> None:
    (tmp_path / "a.mmd").write_text(mermaid(DRAWING))
    subprocess.run([*os.environ["MERMAID_PARSER"].split(), str(tmp_path / "a.mmd")], check=True)
