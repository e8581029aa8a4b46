"""What a report is made of: sections that answer a question, and tables that are written once and read as HTML,
Markdown or LaTeX.

A table's cells are plain text: every format escapes them in its own way, here and nowhere else. Knows no data set, no
study and no plot.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from harness.words import coverage_note

MORE = 24
"""rows of a table on a page before the rest is folded away"""


@dataclass(frozen=True)
class Table:
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """of text; the first cell names the row"""
    align: str = ""
    """l or r for each column; left out: the first to the left, the others to the right"""
    note: str = ""
    """what its columns mean, in a sentence or two below it"""


@dataclass(frozen=True)
class Section:
    anchor: str
    """of the page's address: search, ensembles"""
    title: str
    answer: str
    """one plain sentence (text): what the reader should take from it"""
    body: str = ""
    """HTML: pictures and plots, above the tables"""
    tables: tuple[Table, ...] = ()
    points: tuple[str, ...] = ()
    """more sentences like the answer (text), where one is not enough"""
    listing: str = ""
    """text of a file, such as a study's YAML, shown as it is below the tables"""


def alignment(table: Table) -> str:
    return table.align or "l" + "r" * (len(table.columns) - 1)


def note_of(table: Table) -> str:
    """The table's own note, and the footnote of intervals that are known to cover too seldom."""
    return " ".join(note for note in (table.note, coverage_note(table.rows)) if note)


def table_html(table: Table) -> str:
    """A table that scrolls by itself, reachable by keyboard; the rows after the first MORE are folded away."""
    sides = alignment(table)
    head = "".join(
        f'<th scope="col" class="{side}">{escape(name) or "&nbsp;"}</th>'
        for side, name in zip(sides, table.columns, strict=True)
    )
    first, rest = table.rows[:MORE], table.rows[MORE:]
    said = f"<h3>{escape(table.caption)}</h3>{_scrolled(table.caption, head, sides, first)}"
    if rest:
        below = _scrolled(f"{table.caption}, the rest", head, sides, rest)
        said += f"<details><summary>{len(rest)} more rows</summary>{below}</details>"
    return said + (f'<p class="soft">{escape(note)}</p>' if (note := note_of(table)) else "")


def _scrolled(name: str, head: str, sides: str, rows: Sequence[Sequence[str]]) -> str:
    def line(row: Sequence[str]) -> str:
        cells = "".join(
            f'<td class="{side}">{_unbroken(cell)}</td>' for side, cell in zip(sides[1:], row[1:], strict=True)
        )
        return f'<tr><th scope="row" class="{sides[0]}">{escape(row[0])}</th>{cells}</tr>'

    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(map(line, rows))}</tbody></table></div>"
    )


def _unbroken(cell: str) -> str:
    """As HTML; an interval goes below its value where there is no room, but is not broken itself."""
    return re.sub(r"\[[^\[\]]{1,24}\]", r'<span class="whole">\g<0></span>', escape(cell))


def table_markdown(table: Table) -> str:
    sides = "|".join("---" if side == "l" else "--:" for side in alignment(table))
    lines = [[_markdown(cell) for cell in row] for row in (table.columns, *table.rows)]
    head, *body = (f"| {' | '.join(cells)} |" for cells in lines)
    note = f"\n\n{_markdown(said)}" if (said := note_of(table)) else ""
    return "\n".join([f"**{_markdown(table.caption)}**", "", head, f"|{sides}|", *body]) + note


def table_latex(table: Table) -> str:
    """For a document with \\usepackage{booktabs}."""
    lines = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in (table.columns, *table.rows)]
    note = f"\n\\par\\smallskip\\footnotesize {_latex(said)}" if (said := note_of(table)) else ""
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{_latex(table.caption)}}}\n"
        f"\\begin{{tabular}}{{{alignment(table)}}}\n\\toprule\n{lines[0]}\n\\midrule\n"
        + "\n".join(lines[1:])
        + f"\n\\bottomrule\n\\end{{tabular}}{note}\n\\end{{table}}"
    )


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Headings, answers and tables; what only a page can show is left out."""
    parts = [f"# {_markdown(title)}"]
    for section in sections:
        parts += [f"## {_markdown(section.title)}", _markdown(section.answer)]
        parts += ["\n".join(f"- {_markdown(point)}" for point in section.points)]
        parts += [table_markdown(table) for table in section.tables if table.rows]
        parts += [f"````yaml\n{section.listing.strip()}\n````"] if section.listing else []
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(title: str, sections: Sequence[Section]) -> str:
    """The same as parts of a document; its preamble needs \\usepackage{booktabs}."""
    parts = [f"% {_one_line(title)}\n% preamble: \\usepackage{{booktabs}}"]
    for section in sections:
        parts += [f"\\section{{{_latex(section.title)}}}", _latex(section.answer)]
        listed = "\n".join(f"\\item {_latex(point)}" for point in section.points)
        parts += [f"\\begin{{itemize}}\n{listed}\n\\end{{itemize}}"] if listed else []
        parts += [table_latex(table) for table in section.tables if table.rows]
        file = section.listing.strip().replace(r"\end{verbatim}", "")
        parts += [f"\\begin{{verbatim}}\n{file}\n\\end{{verbatim}}"] if file else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", escape(_one_line(text), quote=False))


LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", **{char: f"\\{char}" for char in "&%$#_{}"},
}  # fmt: skip


def _latex(text: str) -> str:
    return "".join(LATEX.get(char, char) for char in _one_line(text))
