"""The page of a data set, read as a browser would: whole, alone, in order, and with nothing that must not be in it."""

import base64
import io
import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from read_page import Read, read

from harness.config.load import check_study
from harness.data.audit import Finding
from harness.data.prepare import prepare, scan
from harness.output.documents import Section, Table, colour, curves, page, table
from harness.report.data_page import DRAWS, PAGE_SAMPLES, dataset_page
from harness.store.home import Home

EVIL = "<script>alert(1)</script>"


@dataclass(frozen=True)
class Made:
    document: str
    read: Read
    prepared: object
    root: Path


def write_set(root: Path) -> None:
    """Two classes of twelve patients, one class and one file with hostile names, one torn file, one without label."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    lines = ["file,label,patient"]
    for i in range(24):
        name = f"images/{EVIL.replace('/', '_') if i == 3 else f'img{i:02d}'}.png"
        Image.fromarray(rng.integers(0, 256, (20 + i, 24), dtype=np.uint8)).save(root / name)
        lines.append(f"{name},{EVIL if i % 2 else 'well'},secret-patient-{i // 2}")
    (root / "images/torn.png").write_bytes((root / "images/img00.png").read_bytes()[:200])
    lines.append("images/torn.png,well,secret-patient-99")
    (root / "images/spare.png").write_bytes((root / "images/img00.png").read_bytes())
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("page")
    write_set(folder / "set")
    home = Home(folder / "home")
    data = {"root": str(folder / "set"), "group": "patient", "folds": 2, "test_fraction": 0.3, "on_error": "drop"}
    tree = {
        "name": "tiny",
        "description": f"A set {EVIL}",
        "data": {**data, "classes": ["well", EVIL], "decode": {"size": 16}},
        "augment": {"rotate": {"float": [0.0, 45.0]}, "policy": "randaugment", "cutmix": 1.0},
    }
    study = check_study(tree, "test")
    prepared = prepare(study.spec.data, 0, home, lambda what, done, total: None)
    group = str(prepared.dataset.groups[0])
    told = Finding("group_overlap", "warn", ("images/img00.png",), f"1 group(s) are in two parts: {group} (img).")
    prepared = replace(prepared, findings=[*prepared.findings, told])
    manifest = scan(study.spec.data, home, lambda what, done, total: None)
    document = dataset_page(study, prepared, manifest, 0)
    return Made(document, read(document), prepared, folder)


def test_the_page_needs_nothing_else_and_runs_nothing(made: Made) -> None:
    assert not any(tag in ("script", "link", "iframe", "object") for tag, _ in made.read.tags)
    assert all(
        (attrs.get("src") or "data:").startswith("data:image/png") for tag, attrs in made.read.tags if tag == "img"
    )
    assert not re.search(r"(url\(|@import|https?:)", made.document)
    assert all(not name.startswith("on") for _, attrs in made.read.tags for name in attrs)


def test_no_patient_no_group_and_no_absolute_path_is_on_it(made: Made) -> None:
    assert "secret-patient" not in made.document and str(made.root) not in made.document
    groups = set(made.prepared.dataset.groups.tolist())
    assert len(groups) > 5 and not any(group in made.document for group in groups)
    assert "1 group(s) are in two parts: a group (img)." in made.read.text


def test_hostile_names_are_text(made: Made) -> None:
    assert EVIL in made.read.text and EVIL not in made.document


def test_every_class_and_split_has_its_pictures_and_they_are_the_pixels(made: Made) -> None:
    dataset, folds, pixels = made.prepared.dataset, made.prepared.folds, made.prepared.pixels
    pictures = {attrs["alt"]: attrs["src"] for tag, attrs in made.read.tags if tag == "img"}
    for c, name in enumerate(dataset.classes):
        for part, rows in (("development", folds.development_rows()), ("test", folds.test_rows())):
            of_class = [row for row in rows.tolist() if dataset.y[row] == c]
            shown = [alt for alt in pictures if alt.startswith(f"{name}, {part}: ")]
            assert len(shown) == min(PAGE_SAMPLES, len(of_class)) > 0
            for alt in shown:
                row = dataset.ids.tolist().index(alt.split(": ", 1)[1])
                assert row in of_class
                stored = base64.b64decode(pictures[alt].split(",")[1])
                assert (np.asarray(Image.open(io.BytesIO(stored))) == pixels[row][..., 0]).all()
    assert sum(", draw " in alt for alt in pictures) == 2 * DRAWS
    mixed = {alt.removesuffix(", mixed"): pictures[alt] for alt in pictures if alt.endswith(", mixed")}
    assert len(mixed) == DRAWS + 1 and any(pictures[f"{name}, unmixed"] != src for name, src in mixed.items())


def test_counts_findings_and_what_was_left_out_are_on_it(made: Made) -> None:
    text = made.read.text
    folds = made.prepared.folds
    assert f"{len(folds.development_rows())} for development in 2 folds" in text and "2 files or rows were left" in text
    assert (
        "image without label" in text
        and "unreadable" in text
        and "rotate 45, policy randaugment, policy_ops 2, policy_magnitude 0.3" in text
    )
    assert "mixed after that (cutmix 1)" in text


def test_it_can_be_walked_by_keyboard_and_by_headings(made: Made) -> None:
    ids = {attrs["id"] for _, attrs in made.read.tags if "id" in attrs}
    links = [attrs["href"] for tag, attrs in made.read.tags if tag == "a"]
    assert links[0] == "#content" and {link[1:] for link in links} <= ids
    scrolling = [attrs for _, attrs in made.read.tags if attrs.get("class") == "scroll"]
    assert scrolling and all(attrs.get("tabindex") == "0" and attrs.get("aria-label") for attrs in scrolling)
    assert all(attrs.get("alt") for tag, attrs in made.read.tags if tag == "img")
    levels = [int(tag[1]) for tag, _ in made.read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


def luminance(colour_: str) -> float:
    parts = np.array([int(colour_[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_is_readable_in_light_and_in_dark(scheme: int) -> None:
    blocks = re.findall(r":root \{(.*?)\}", page("t", "", []), re.S)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", blocks[scheme]))
    assert len(blocks) == 2 and set(colours) >= {"text", "soft", "back", "card", "link", "warn", "block", "c0", "c6"}
    for name, least in [(n, 4.5) for n in ("text", "soft", "link", "warn", "block")]:
        for behind in ("back", "card"):
            low, high = sorted((luminance(colours[name]), luminance(colours[behind])))
            assert (high + 0.05) / (low + 0.05) >= least, (name, behind)


def test_parts_escape_what_they_are_given() -> None:
    assert EVIL not in table(EVIL, [EVIL], []) + curves([EVIL], [EVIL], np.ones((1, 3)), (EVIL, EVIL))
    assert (
        EVIL not in page(EVIL, "", [Section("a", EVIL, EVIL, tables=(Table(EVIL, (EVIL,), [(EVIL,)]),))])
        and colour(0) != colour(6)
        and colour(7) == colour(0)
    )
