"""The report in a real browser: nothing fetched, nothing complained of, at phone and desktop width, light and dark, on
paper; and read by an accessibility checker."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def page_file(hostile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("browser") / "report.html"
    command = [sys.executable, "-m", "harness", "study", "report", hostile.name, "--out", str(file)]
    subprocess.run(command, check=True, env={**os.environ, "HARNESS_HOME": str(hostile.home.root)})
    return file


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_it_opens_alone_and_is_accessible(page_file: Path, browser: Any, width: int, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append("a name in the data was run"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    page.wait_for_selector("body[data-drawn]", state="attached")
    assert page.title() == "hostile: report"
    assert page.locator(".drawing").count() > 8 and page.locator(".drawing:not(:has(.main-svg))").count() == 0
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert asked == [page_file.as_uri()] and said == []
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"][:300]) for one in found if one["impact"] in SERIOUS] == []
    # the page's own policy holds: it could fetch nothing if a name in the data asked it to
    fetched = page.evaluate("() => fetch('data:text/plain,x').then(() => 'fetched', () => 'refused')")
    assert fetched == "refused"
    context.close()


def test_every_plot_is_drawn_on_paper(page_file: Path, browser: Any, tmp_path: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(page_file.as_uri())
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert page.locator(".drawing").count() > 8 and page.locator(".drawing:not(:has(.main-svg))").count() == 0
    assert (tmp_path / "report.pdf").stat().st_size > 50_000
    page.close()
