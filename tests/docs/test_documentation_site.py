"""The site builds without a warning and asks no other machine for anything; its generated parts are up to date.

Sphinx itself checks every link between pages and to their headings: one that leads nowhere is a warning.
"""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from shell_blocks import PAGES, ROOT

DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))
import generated  # noqa: E402
import mermaid_pictures  # noqa: E402

AGAIN = "Type: python docs/generated.py"


def build(docs: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-b", "html"]
    return subprocess.run([*command, "-d", f"{out}.doctrees", str(docs), str(out)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    done = build(DOCS, out)
    assert done.returncode == 0, done.stderr
    return out


class _Fetched(HTMLParser):
    """Addresses that a browser fetches by itself to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        loaded = given.get("rel") in ("stylesheet", "icon", "preload", "preconnect", "modulepreload")
        if tag in ("script", "img", "iframe", "source", "video", "audio", "object", "embed") or (
            tag == "link" and loaded
        ):
            self.found += [value for key in ("src", "href", "data") if (value := given.get(key))]


def fetched(page: str) -> list[str]:
    parser = _Fetched()
    parser.feed(page)
    return parser.found


def test_no_page_needs_a_network(site: Path) -> None:
    pages = sorted(site.glob("*.html"))
    assert len(pages) >= 25
    assert fetched('<script src="https://x/y.js"></script><img src="a.png">') == ["https://x/y.js", "a.png"]
    for page in pages:
        text = page.read_text()
        for address in fetched(text):
            assert not re.match(r"(https?:)?//", address), (page.name, address)
            assert address.startswith("data:") or (site / address.partition("?")[0]).is_file(), (page.name, address)
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//|@import\s+['\"]?(https?:)?//", style.read_text()), style.name


def test_search_works_from_the_folder_alone(site: Path) -> None:
    index = (site / "searchindex.js").read_text()
    assert index.startswith("Search.setIndex(") and "holm" in index.lower()
    assert 'id="search-results"' in (site / "search.html").read_text()


def test_every_page_is_in_the_navigation(site: Path) -> None:
    navigation = (site / "index.html").read_text()
    for page in DOCS.glob("*.md"):
        assert f'href="{page.stem}.html"' in navigation or page.stem == "index", page.name


def test_diagrams_are_drawn_and_none_is_left_over(site: Path) -> None:
    wanted = {mermaid_pictures.drawing(fence).name for fence in mermaid_pictures.fences()}
    assert len(wanted) >= 8
    assert {path.name for path in mermaid_pictures.DRAWINGS.glob("*.svg")} == wanted
    assert 'class="diagram"' in (site / "architecture.html").read_text()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_pages_have_no_serious_barrier(site: Path, browser: Any, width: int, scheme: str) -> None:
    """axe-core reads the page with most tables, the one with most code and the one with diagrams."""
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    for name in ("index", "study-file", "tutorial", "architecture"):
        page.goto((site / f"{name}.html").as_uri())
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        found = Axe().run(page).response["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert [(name, one["id"], one["nodes"][0]["html"][:300]) for one in serious] == []
    context.close()


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    """The strictness that the other tests rely on: a page, an anchor, a file, a diagram without a drawing."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("conf.py", "mermaid_pictures.py", "accessible_pages.py", "site.css"):
        (docs / name).write_text((DOCS / name).read_text())
    page = "# A\n\n[a](gone.md) [b](#gone) [c](gone.json) [d](index.md#a)\n\n```mermaid\nflowchart LR\n a --> b\n```\n"
    (docs / "index.md").write_text(page)
    done = build(docs, tmp_path / "site")
    assert done.returncode != 0
    for target in ("gone.md", "'gone'", "gone.json", "no drawing"):
        assert target in done.stderr, (target, done.stderr)
    assert done.stderr.count("WARNING") == 4


@pytest.mark.parametrize("name", sorted({*generated.PAGES, *(page for page, _ in generated.PARTS.values())}))
def test_generated_pages_are_what_the_program_says(name: str) -> None:
    assert (DOCS / name).read_text() == generated.generated()[name], AGAIN


def test_the_drawing_of_rooms_is_read_from_the_modules(tmp_path: Path) -> None:
    for room, text in (
        ("a", "from harness.b.x import y\nfrom harness.c import z"),
        ("b", "import harness.c.z"),
        ("c", ""),
    ):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").touch()
        (tmp_path / room / "m.py").write_text(text)
    known = generated.room_imports(tmp_path)
    assert known == {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert generated.without_detours(known) == [("a", "b"), ("b", "c")]


PRIVATE = re.compile(r"(?<![\w.])/(work|home|root|Users|opt|mnt)/|/tmp/|/bash_jobs")


def test_no_page_names_a_machine() -> None:
    assert (
        PRIVATE.search("see /home/me/x") and PRIVATE.search("in /tmp/h/x") and not PRIVATE.search("mlruns/work/STUDY")
    )
    for page in [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CITATION.cff"]:
        found = PRIVATE.search(page.read_text())
        assert not found, (page.name, found)


def test_links_of_the_pages_outside_of_docs() -> None:
    """GitHub shows these where they lie; the site shows them included, where Sphinx cannot see what GitHub sees."""
    checked = 0
    for page in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / page).read_text()):
            path, _, anchor = link.partition("#")
            target = ROOT / path
            assert target.is_file(), (page, link)
            if anchor:
                slugs = [heading_slug(line) for line in re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)]
                assert anchor in slugs, (page, link)
            checked += 1
    assert checked > 20


def heading_slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
