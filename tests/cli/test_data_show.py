"""harness data show: on the terminal, as JSON, as a page."""

import json

from cli_program import Place


def test_sizes_formats_and_modes_are_said(place: Place) -> None:
    done = place.harness("data", "show", "tiny")
    assert done.returncode == 0
    assert "24 wide, 20 to 35 high (16 different sizes)" in done.stdout
    assert "format  PNG 32" in done.stdout and "mode    L 32" in done.stdout and "fold 1" in done.stdout


def test_what_was_left_out_is_said(place: Place) -> None:
    (place.data / "images/p03_1.png").unlink()
    done = place.harness("data", "show", "tiny", "--json")
    document = json.loads(done.stdout)
    assert document["rows"] == 31 and list(document["left_out"].values()) == [1] and document["page"] is None
    assert "no such file: 1" in place.harness("data", "show", "tiny").stdout


def test_the_page_is_written_where_it_was_asked_for(place: Place) -> None:
    done = place.harness("data", "show", "tiny", "--out", "pages/tiny.html")
    assert done.returncode == 0 and "pages/tiny.html" in done.stderr
    document = (place.cwd / "pages/tiny.html").read_text()
    assert document.startswith("<!doctype html>") and "pat-3" not in document and document.count("<img") > 20
    refused = place.harness("data", "show", "tiny", "--out", "pages")
    assert refused.returncode == 2 and "pages/data.html" in refused.stderr
