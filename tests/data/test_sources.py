"""Sources of rows: tables of any kind, names of files, cases, folders; filters; what is without a partner is told."""

from pathlib import Path

import pandas as pd
import pytest
from small_data import film, picture, scan

from harness.config.load import check_study, load_study
from harness.data.sources import NO_FILE, NO_FOLDER, NO_LABEL, NO_MATCH, pattern_folder, read_table
from harness.errors import RequestError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no development data at {SHARED}")
SLIDE = r"images/(?P<case>case\d+)_(?P<stain>[a-z]+)_slice(?P<slice>\d)\.png"
CASES = {"pattern": SLIDE, "join": "case", "group": "case"}


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """Three cases, two stains, two slices each, of different sizes; one label for each case."""
    root = tmp_path / "slides"
    for case in range(3):
        for stain in ("he", "hema"):
            for number in range(2):
                picture(root / f"images/case{case:03d}_{stain}_slice{number}.png", width=20 + 10 * case)
    (root / "labels.csv").write_text("case,label,age\ncase000,benign,40\ncase001,grade,50.5\ncase002,benign,60\n")
    return root


def problems(table: pd.DataFrame) -> dict[str, str]:
    return {name: problem for name, problem in zip(table["id"], table["problem"], strict=True) if problem}


def test_labels_of_cases_join_on_a_part_of_the_file_name(slides: Path, tmp_path: Path) -> None:
    table = scan(slides, tmp_path / "home", **CASES).manifest
    assert len(table) == 12 and set(table["problem"]) == {""}
    assert list(table["id"]) == sorted(table["id"])
    assert list(table["label"]) == ["benign"] * 4 + ["grade"] * 4 + ["benign"] * 4
    assert table["group"].nunique() == 3 and table.groupby("group")["label"].nunique().max() == 1
    assert not table["group"].str.contains("case").any()


def test_without_partner_both_ways(slides: Path, tmp_path: Path) -> None:
    (slides / "labels.csv").write_text("case,label\ncase000,benign\ncase001,grade\ncase009,grade\n")
    picture(slides / "images/thumbnail.png")
    picture(slides / "elsewhere/case000_he_slice0.png")
    found = problems(scan(slides, tmp_path / "home", **CASES).manifest)
    names = [f"images/case002_{stain}_slice{number}.png" for stain in ("he", "hema") for number in range(2)]
    assert found == {**dict.fromkeys(names, NO_LABEL), "images/thumbnail.png": NO_MATCH, "labels.csv:4": NO_FILE}


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ({"stain": "he"}, 6),
        ({"stain": ["he", "hema"]}, 12),
        ({"slice": 1}, 6),
        ({"slice": [0, 0]}, 6),
        ({"age": [50, None]}, 8),
        ({"age": [40, 50.5]}, 8),
        ({"width": [25, 40]}, 8),
        ({"width": [20, 30], "stain": "he"}, 4),
        ({"width": [20, 40, 99]}, None),
        ({"height": 10, "mode": "L", "format": ["PNG"]}, 12),
        ({"label": ["benign", "grade"], "age": [40, 50.5]}, 8),
    ],
)
def test_filters(slides: Path, tmp_path: Path, where: dict[str, object], left: int | None) -> None:
    study = check_study(
        {"name": "s", "data": {"root": str(slides), "where": where, **CASES}, "search": {"trials": 1}}, ""
    )
    assert study.tree["data"]["where"] == where
    if left is None:
        with pytest.raises(RequestError, match=r"no row.*width 99.*20, 30, 40"):
            scan(slides, tmp_path / "home", where=where, **CASES)
        return
    found = scan(slides, tmp_path / "home", where=where, **CASES)
    assert len(found.manifest) == left and sum(found.filtered.values()) == 12 - left
    assert set(found.manifest["problem"]) == {""}


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"where": {"stan": "he"}}, r"data\.where\.stan.*Did you mean stain.*case, stain, slice.*width"),
        ({"where": {"stain": "h e"}}, r"no row.*stain 'h e'.*Did you mean he.*he, hema"),
        ({"where": {"stain": [1, 2]}}, r"stain holds no numbers"),
        ({"where": {"age": [60, 40]}}, r"low end 60 is above"),
        ({"where": {"age": [61, 90]}}, r"age: \[61, 90\] leaves no row"),
        ({"where": {"width": [90, 99]}}, r"width: \[90, 99\] leaves no row"),
        ({"where": {"stain": "he", "dicom.PatientID": "7"}}, r"dicom\.PatientID tells who a person is"),
        ({"where": {"dicom.Modalty": "CT"}}, r"Did you mean dicom\.Modality"),
        ({"label": "stains"}, r"data\.label.*Did you mean stain"),
        ({"label": "dicom.StudyInstanceUID"}, r"can only be data\.group"),
        ({"pattern": SLIDE.replace("png", "jpg")}, r"matches none of the 12 images.*first is images/case000_he"),
        ({"pattern": SLIDE.replace("slice>", "age>")}, r"age is also a column"),
        ({"pattern": SLIDE.replace("images", "pictures")}, r"no image was found under .*pictures"),
        ({"pattern": SLIDE.replace(r"(?P<case>case\d+)", r"case(?P<case>\d+)")}, r"'000'.*line 2.*letter by letter"),
        ({"labels": "folders"}, r"data\.join.*no table"),
    ],
)
def test_what_is_wrong_is_named(slides: Path, tmp_path: Path, keys: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError, match=f"(?s){said}"):
        scan(slides, tmp_path / "home", **{**CASES, **keys})


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"pattern": "(?P<a>"}, "data.pattern: no regular expression"),
        ({"pattern": "(a)"}, "names no group"),
        ({"join": "case"}, "case is no group of data.pattern"),
        ({"pattern": "(?P<a>.)", "join": "case"}, "case is no group of data.pattern"),
        ({"where": {"a": []}}, "a: write a value"),
        ({"where": {"a": True}}, "in quotes"),
        ({"where": {"p": "Miller"}, "group": "p"}, "p is data.group, whose values tell who somebody is"),
        ({"where": {"a": [None, "b"]}}, "open end of a range"),
    ],
)
def test_keys_are_checked_before_any_file(keys: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_study({"name": "s", "data": {"root": "x", "group": "none", **keys}, "search": {"trials": 1}}, "s.yaml")


def test_a_filter_from_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("data: {root: x, group: none, where: {stain: he}}\nsearch: {trials: 1}\n")
    assert load_study(str(file), ["data.where.age=[40, 50]"]).spec.data.where == {"stain": "he", "age": (40, 50)}
    assert load_study(str(file), ["data.where.dicom.Modality=CT"]).spec.data.where == {
        "stain": "he",
        "dicom.Modality": "CT",
    }
    assert load_study(str(file), ["data.where=null"]).spec.data.where is None


def test_a_case_twice_is_refused_with_its_lines(slides: Path, tmp_path: Path) -> None:
    (slides / "labels.csv").write_text("case,label\ncase000,benign\ncase001,grade\ncase000,grade\n")
    with pytest.raises(RequestError, match=r"2 rows that share their case.*lines 2, 4"):
        scan(slides, tmp_path / "home", **CASES)


def test_rows_that_a_filter_leaves_out_are_neither_judged_nor_missed(slides: Path, tmp_path: Path) -> None:
    rows = "".join(f"case000_{stain}_slice{n}.png,{stain},{n}\n" for stain in ("he", "hema") for n in range(2))
    rows += "gone.png,hema,0\ncase000_he_slice0.png,hema,0\n"
    (slides / "files.csv").write_text("file,stain,label\n" + rows)
    (slides / "images/case001_he_slice0.png").write_bytes(b"broken")
    keys = {"labels": "files.csv", "image": "images/{file}"}
    with pytest.raises(RequestError, match=r"more than once.*case000_he_slice0.png \(lines 2, 7\)"):
        scan(slides, tmp_path / "home", **keys)
    found = scan(slides, tmp_path / "home", where={"stain": "he"}, **keys)
    assert list(found.manifest["id"][:2]) == [f"images/case000_he_slice{n}.png" for n in range(2)]
    assert set(problems(found.manifest).values()) == {NO_LABEL}
    assert not any("case000" in name for name in problems(found.manifest))


def test_a_file_that_cannot_be_read_is_told_whatever_the_filter_of_its_header(slides: Path, tmp_path: Path) -> None:
    (slides / "images/case001_he_slice0.png").write_bytes(b"broken")
    found = scan(slides, tmp_path / "home", where={"width": [25, 40]}, **CASES).manifest
    assert len(found) == 8 and list(problems(found)) == ["images/case001_he_slice0.png"]


def test_a_pattern_adds_columns_to_a_table_of_images(slides: Path, tmp_path: Path) -> None:
    rows = "".join(
        f"case{c:03d}_{s}_slice{n}.png,{c % 2}\n" for c in range(3) for s in ("he", "hema") for n in range(2)
    )
    (slides / "files.csv").write_text("file,y\n" + rows)
    keys = {"labels": "files.csv", "image": "images/{file}", "label": "y", "pattern": SLIDE, "group": "case"}
    table = scan(slides, tmp_path / "home", **keys).manifest
    assert len(table) == 12 and table["group"].nunique() == 3 and set(table["problem"]) == {""}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    root = tmp_path / "folders"
    for number in range(3):
        picture(root / f"cat/deep/p{number}_a.png")
        picture(root / f"dog/p{number + 3}_a.jpg")
    return root


def test_a_folder_for_each_class(folders: Path, tmp_path: Path) -> None:
    found = scan(folders, tmp_path / "home", labels="folders")
    assert found.classes == ("cat", "dog") and list(found.manifest["label"]) == ["cat"] * 3 + ["dog"] * 3
    picture(folders / "loose.png")
    pattern = r".*?(?P<patient>[^/]+?)(_a)?\.\w+"
    found = scan(folders, tmp_path / "home", labels="folders", pattern=pattern, group="patient")
    assert problems(found.manifest) == {"loose.png": NO_FOLDER} and found.manifest["group"].nunique() == 7
    by_name = scan(folders, tmp_path / "home", labels="folders", pattern=r"(?P<kind>\w+)/.*", label="kind")
    assert by_name.classes == ("cat", "dog") and problems(by_name.manifest) == {"loose.png": NO_MATCH}


def test_where_no_row_can_be_used_it_says_why(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RequestError, match=r"none of the 6 rows can be used: 6 x .*header has no value for data\.group"
    ):
        scan(folders, tmp_path / "home", labels="folders", group="dicom.PatientID")
    for number in range(2):
        picture(tmp_path / f"loose/{number}.png")
    with pytest.raises(RequestError, match=r"none of the 2 rows.*in no folder under the root.*first is 0\.png"):
        scan(tmp_path / "loose", tmp_path / "home", labels="folders")


def test_folders_that_cannot_be_classes_are_refused(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"data\.group.*'patients'.*file, folder, label.*none"):
        scan(folders, tmp_path / "home", labels="folders", group="patients")
    with pytest.raises(RequestError, match="has 1 class"):
        scan(folders / "cat", tmp_path / "home", labels="folders")
    with pytest.raises(RequestError, match="no image was found"):
        scan(
            picture(tmp_path / "empty/a/x.txt.png").parents[1] / "a",
            tmp_path / "home",
            labels="folders",
            pattern="b/(?P<c>.)",
        )


def test_parquet_says_what_csv_says(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "file": ["a.png", "b.png", "c.png"],
            "age": [40.0, None, 61.0],
            "x": [1.5, 2.0, None],
            "patient": ["007", None, "8 "],
        }
    ).assign(ok=[True, False, True], nested=[[1], [2], [3]], n=[1, 2, 3])
    frame.to_parquet(tmp_path / "labels.parquet")
    header, rows, lines = read_table(tmp_path / "labels.parquet")
    assert header == ["file", "age", "x", "patient", "ok", "n"] and lines == [1, 2, 3]
    assert rows[0] == ["a.png", "40", "1.5", "007", "True", "1"]
    assert rows[1] == ["b.png", "", "2.0", "", "False", "2"] and rows[2][2:4] == ["", "8"]
    (tmp_path / "labels.parquet").write_bytes((tmp_path / "labels.parquet").read_bytes()[:-30])
    with pytest.raises(RequestError, match=r"labels\.parquet: not readable as Parquet"):
        read_table(tmp_path / "labels.parquet")


def test_labels_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcd":
        picture(tmp_path / f"images/{name}.png")
    (tmp_path / "tables").mkdir()
    pd.DataFrame({"file": list("abcd"), "label": [0, 1, 0, 1]}).to_parquet(tmp_path / "tables/t.parquet")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").write_text("file,label\na,0\nb,1\nc,0\nd,1\n")
    with pytest.raises(RequestError, match=r"there is no file .*images/labels\.csv"):
        scan(tmp_path / "images", tmp_path / "home", image="{file}.png")
    for place in ("../tables/t.parquet", str(tmp_path / "tables/t.parquet"), "tables/t.parquet"):
        table = scan(tmp_path / "images", tmp_path / "home", labels=place, image="{file}.png").manifest
        assert list(table["label"]) == ["0", "1", "0", "1"] and set(table["problem"]) == {""}


@pytest.mark.parametrize(
    ("pattern", "folder"),
    [
        (r"images/(?P<a>.)", "images"),
        (r"a/b/c(?P<a>.)", "a/b"),
        (r"(?P<a>.)/images/x", ""),
        (r"images/?(?P<a>.)", ""),
        (r"images/(?P<a>.)|films/(?P<b>.)", ""),
        (r"a\.b/(?P<a>.)", ""),
    ],
)
def test_the_folder_of_a_pattern_holds_all_that_it_can_match(pattern: str, folder: str) -> None:
    assert pattern_folder(pattern) == folder


@needs_shared
def test_real_slides_by_case_and_stain(tmp_path: Path) -> None:
    found = scan(SHARED / "slides", tmp_path, where={"stain": "he", "width": [0, 400]}, **{**CASES, "pattern": SLIDE})
    assert set(found.manifest["problem"]) == {""} and found.manifest["width"].max() <= 400
    assert found.filtered["stain: he"] == 65
    assert len(found.manifest) == 240 - sum(found.filtered.values())


def test_films_without_a_suffix_are_found_by_content(tmp_path: Path) -> None:
    for name in ("a/IM0001", "b/1.2.840.113619.7", "b/DICOMDIR", "a/scan.dcm"):
        film(tmp_path / name)
    for name in ("a/README", "b/0.5", "b/notes.txt"):
        (tmp_path / name).write_text("no film")
    found = scan(tmp_path, tmp_path / "home", labels="folders").manifest
    assert list(found["id"]) == ["a/IM0001", "a/scan.dcm", "b/1.2.840.113619.7"] and set(found["problem"]) == {""}


def test_films_by_what_their_headers_say(tmp_path: Path) -> None:
    root = tmp_path / "films"
    for number in range(6):
        film(
            root / f"{'CHEST' if number % 2 else 'HEAD'}/study{number // 2}/{number}",
            PatientID=f"SECRET{number // 2}",
            PatientName="Secret^Name",
            PatientBirthDate="19700101",
            Modality="CT" if number < 4 else "MR",
            Manufacturer="Maker",
        ).rename(root / f"{'CHEST' if number % 2 else 'HEAD'}/study{number // 2}/{number}.dcm")
    table = scan(root, tmp_path / "home", labels="folders", group="dicom.PatientID").manifest
    assert table["group"].nunique() == 3 and set(table["dicom.Manufacturer"]) == {"Maker"}
    assert "dicom.PatientID" not in table
    left = scan(root, tmp_path / "home", labels="folders", group="dicom.PatientID", where={"dicom.Modality": "CT"})
    assert len(left.manifest) == 4 and left.filtered == {"dicom.Modality: CT": 2}
    assert scan(root, tmp_path / "home", labels="folders", label="dicom.Modality").classes == ("CT", "MR")
    picture(root / "HEAD/x.png")
    film(root / "CHEST/y.dcm", PatientID="")
    found = problems(scan(root, tmp_path / "home", labels="folders", group="dicom.PatientID").manifest)
    assert set(found) == {"HEAD/x.png", "CHEST/y.dcm"} and "data.group" in found["CHEST/y.dcm"]
    for file in (tmp_path / "home").rglob("*"):
        text = pd.read_parquet(file).to_csv() if file.suffix == ".parquet" else ""
        assert "SECRET" not in text and "Secret" not in text and "19700101" not in text
        assert not file.is_file() or b"SECRET" not in file.read_bytes()
    assert any(file.suffix == ".parquet" for file in (tmp_path / "home").rglob("*"))
