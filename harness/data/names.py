"""What the path of an image says about it: templates that build the path from columns, patterns that take it apart.

Paths are from the root, with forward slashes. Knows text only.
"""

import posixpath
import re
import string
from pathlib import Path

import pandas as pd

from harness.errors import RequestError

META = re.compile(r"[\\^$.|?*+(){}\[\]]")
"""what begins the part of a pattern that is not plain text"""


def template_columns(template: str) -> list[str]:
    """The columns that an image template asks for. Raises RequestError where it is no template of columns."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise RequestError(f"data.image: {template!r} is no template ({error}). Write e.g. images/{{file}}") from None
    columns = [name.strip() for _, name, _, _ in parts if name is not None]
    if not columns or any(not name or set(name) & set(".[]") for name in columns):
        raise RequestError(
            f"data.image: {template!r} must name columns in braces and nothing more, "
            "e.g. images/{file} or images/{id:0>3}.png"
        )
    return columns


def fixed_folder(template: str) -> str:
    """The folder that all images of a template lie in: 'images' for 'images/{file}', '' for '{file}'."""
    return template.split("{", 1)[0].rpartition("/")[0]


def image_ids(table: pd.DataFrame, template: str, path: Path, lines: list[int]) -> list[str]:
    """Each row's path from the root, normalised, forward slashes. Raises RequestError where one leaves the root."""
    columns = template_columns(template)
    pattern = "".join(
        text + ("" if name is None else f"{{{name.strip()}{':' + spec if spec else ''}}}")
        for text, name, spec, _ in string.Formatter().parse(template)
    )
    ids: list[str] = []
    cells = zip(*(table[column] for column in columns), strict=True)
    for line, row in zip(lines, cells, strict=True):
        try:
            name = pattern.format_map(dict(zip(columns, row, strict=True))).replace("\\", "/")
        except ValueError as error:
            raise RequestError(
                f"data.image: {template!r} cannot be filled in ({error}). Cells are text: pad with {{id:0>3}}."
            ) from None
        normal = posixpath.normpath(name)
        if posixpath.isabs(normal) or normal.startswith("..") or normal == ".":
            raise RequestError(
                f"{path}, line {line}: the image {name!r} is not inside the root. "
                "Set data.root to a folder that holds all images and name them from there."
            )
        ids.append(normal)
    return ids


def pattern_folder(pattern: str) -> str:
    """The folder that all images of a pattern lie in: 'images' for r'images/(?P<case>.+)', '' for r'(?P<case>.+)'."""
    if "|" in pattern:
        return ""
    found = META.search(pattern)
    plain = pattern if found is None else pattern[: found.start()]
    if found is not None and found.group() in "?*+{":
        plain = plain[:-1]  # a quantifier belongs to the letter before it
    return plain.rpartition("/")[0]


def pattern_columns(pattern: str) -> list[str]:
    """The names of a pattern's groups, in order."""
    return list(re.compile(pattern).groupindex)


def take_apart(ids: list[str], pattern: str) -> pd.DataFrame:
    """(N, groups) text: what the pattern's named groups match in each path as a whole; missing where it does not.

    A group that takes no part in a match is ''.
    """
    compiled = re.compile(pattern)
    matches = [compiled.fullmatch(name) for name in ids]
    columns = {
        group: [None if match is None else match.group(group) or "" for match in matches]
        for group in compiled.groupindex
    }
    return pd.DataFrame(columns, index=range(len(ids)), dtype=object)
