"""Mermaid fences as pictures: GitHub draws a fence itself, the site shows a drawing that was made once and is kept.

    python docs/mermaid_pictures.py     draws what is missing, removes what no page shows (needs npx and Chromium)

A drawing is named by the hash of its fence, so a changed fence has none, and the site's build says so. Its few colours
are written as CSS variables (site.css): one drawing for light and dark, and no script in any page.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
DRAWINGS = DOCS / "diagrams"
TOOL = "@mermaid-js/mermaid-cli@12.2.0"
CHROMIUM = "/usr/bin/chromium"
COLOURS = {"#e8f1f7": "box", "#5b7f95": "line", "#16222b": "ink", "#f7f7f5": "frame", "#fefefd": "paper"}
"""colours that Mermaid is told, and the names that stand in their places afterwards"""
THEME = {
    "theme": "base",
    "htmlLabels": False,
    "flowchart": {"htmlLabels": False, "useMaxWidth": True, "padding": 12},
    "themeVariables": {
        "fontFamily": "system-ui, sans-serif",
        "fontSize": "15px",
        "primaryColor": "#e8f1f7",
        "mainBkg": "#e8f1f7",
        "primaryBorderColor": "#5b7f95",
        "nodeBorder": "#5b7f95",
        "lineColor": "#5b7f95",
        "primaryTextColor": "#16222b",
        "textColor": "#16222b",
        "nodeTextColor": "#16222b",
        "titleColor": "#16222b",
        "clusterBkg": "#f7f7f5",
        "clusterBorder": "#5b7f95",
        "edgeLabelBackground": "#fefefd",
    },
}


def fences(docs: Path = DOCS) -> list[str]:
    """Every Mermaid fence of every page."""
    pages = [page.read_text() for page in sorted(docs.glob("*.md"))]
    return [fence for page in pages for fence in re.findall(r"^```mermaid\n(.*?)^```", page, re.DOTALL | re.MULTILINE)]


def drawing(fence: str) -> Path:
    """Where the drawing of a fence is kept."""
    return DRAWINGS / f"{hashlib.sha256(fence.strip().encode()).hexdigest()[:12]}.svg"


def draw(fence: str) -> None:
    """Mermaid's own program draws the fence; colours become variables."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "fence.mmd").write_text(fence)
        (place / "theme.json").write_text(json.dumps(THEME))
        (place / "browser.json").write_text(json.dumps({"executablePath": CHROMIUM, "args": ["--no-sandbox"]}))
        files = ["-i", "fence.mmd", "-o", "drawing.svg", "-c", "theme.json", "-p", "browser.json"]
        settings = ["--backgroundColor", "transparent", "--svgId", f"d{drawing(fence).stem}", "--quiet"]
        # An installed program is used where MMDC names one; npx fetches it otherwise.
        program = [os.environ["MMDC"]] if "MMDC" in os.environ else ["npx", "--yes", TOOL]
        variables = {**os.environ, "PUPPETEER_SKIP_DOWNLOAD": "1"}
        subprocess.run([*program, *files, *settings], cwd=place, env=variables, check=True)
        picture = (place / "drawing.svg").read_text()
    for colour, name in COLOURS.items():
        picture = picture.replace(colour, f"var(--diagram-{name}, {colour})")
    drawing(fence).write_text(picture)


def main() -> None:
    wanted = {drawing(fence): fence for fence in fences()}
    for path, fence in wanted.items():
        if not path.is_file():
            draw(fence)
            print(path.name, fence.splitlines()[1].strip(), file=sys.stderr)
    for path in DRAWINGS.glob("*.svg"):
        if path not in wanted:
            path.unlink()


def setup(app: Any) -> dict[str, bool]:
    """Sphinx calls this: a fence becomes its drawing, with its source below for whoever cannot see it."""
    from docutils import nodes
    from sphinx.util.docutils import SphinxDirective

    class Mermaid(SphinxDirective):  # type: ignore[misc]
        has_content = True

        def run(self) -> list[nodes.Node]:
            fence = "\n".join(self.content)
            path = drawing(fence)
            if not path.is_file():
                said = "this diagram has no drawing. Type: python docs/mermaid_pictures.py"
                return [self.state.document.reporter.warning(said, line=self.lineno)]
            self.env.note_dependency(str(path))
            figure = f'<figure class="diagram" tabindex="0" role="img" aria-label="Diagram">{path.read_text()}</figure>'
            return [nodes.raw("", figure, format="html")]

    app.add_directive("mermaid", Mermaid)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    main()
