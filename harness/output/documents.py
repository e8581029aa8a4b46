"""Sections and their tables as documents: text, Markdown, LaTeX and one HTML page.

What a report is made of: sections that answer a question, and tables that are written once and read as HTML,
Markdown or LaTeX.

A table's cells are plain text: every format escapes them in its own way, here and nowhere else. Knows no data set, no
study and no plot.

The parts that pages are made of: one file, no scripts unless asked for, nothing fetched, readable on a phone, in
light and dark.

Colours are Okabe and Ito's, which differ for colour-blind eyes too, and never the only sign: every row, cell and curve
carries its name. Knows text and numbers, no data set and no study.
"""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from harness.output.format import coverage_note

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


LARGEST = 128
"""side of the pictures on a page, in pixels"""

STYLE = """
:root { color-scheme: light dark; --text: #1c1c1c; --soft: #595959; --back: #ffffff; --card: #f4f4f2; --line: #d3d3cf;
  --link: #005a8c; --warn: #8a4b00; --block: #a31515;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #cc79a7; --c4: #e69f00; --c5: #56b4e9; --c6: #8a8a00; }
@media screen and (prefers-color-scheme: dark) { :root { --text: #ececea; --soft: #b0b0ab; --back: #161616;
  --card: #222221; --line: #454543; --link: #7cc4ee; --warn: #f0b35a; --block: #ff8f8f; --c0: #4ba3d9;
  --c1: #f08a4b; --c2: #2cc39a;
  --c3: #dd9cc1; --c4: #f0b840; --c5: #8accf2; --c6: #c9c94a; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body { margin: 0; background: var(--back); color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
main, header, footer { max-width: 72rem; margin: 0 auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 1.2rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .5rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; overflow-wrap: anywhere; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
a { color: var(--link); }
a:focus-visible, summary:focus-visible, [tabindex]:focus-visible {
  outline: 3px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: .5rem; background: var(--back); padding: .3rem .6rem; z-index: 1; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid var(--line); }
th.l, td.l { text-align: left; }
th.r, td.r { text-align: right; }
@media (min-width: 40rem) { td.r { white-space: nowrap; } }
@media (max-width: 40rem) { table { font-size: .9rem; } th, td { padding-right: .5rem; } }
.whole { white-space: nowrap; }
@media (min-width: 40rem) { td.l { min-width: 6rem; } }
.answer { font-size: 1.1rem; font-weight: 600; }
.plot { margin: 1rem 0; }
.plot h3 { margin-bottom: 0; color: var(--text); }
.plot p { margin: 0 0 .3rem; }
.plots { display: grid; column-gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); }
.drawing { width: 100%; max-width: 60rem; }
.drawing :is(.xtick, .ytick, .g-xtitle, .g-x2title, .g-ytitle, .g-y2title, .annotation, .colorbar) text,
.drawing .legendtext { fill: var(--text) !important; }
.drawing :is(.xgrid, .ygrid) { stroke: var(--line) !important; }
.drawing :is(.xtick, .ytick, .ticks) path { stroke: var(--soft) !important; }
.drawing .annotation .bg { fill: var(--back) !important; }
summary { cursor: pointer; }
pre { overflow-x: auto; background: var(--card); padding: .6rem .8rem; font-size: .85rem; }
.share { display: block; height: .35rem; margin-top: .15rem; min-width: 4rem; background: var(--card); }
.share i { display: block; height: 100%; }
.curve { display: grid; grid-template-columns: minmax(6rem, 11rem) 1fr; gap: .2rem .8rem; align-items: end; }
.curve > span { overflow-wrap: anywhere; line-height: 1.25; padding-bottom: .2rem; }
.curve small { color: var(--soft); display: block; }
.curve svg { width: 100%; height: 2.6rem; display: block; border-bottom: 1px solid var(--line); }
.axis { display: flex; justify-content: space-between; color: var(--soft); font-size: .85rem; }
.strip { display: grid; gap: .5rem; margin: .3rem 0 .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(7.5rem, 21vw), 1fr)); }
.strip.pairs { grid-template-columns: repeat(auto-fill, minmax(min(15rem, 42vw), 1fr)); }
figure { margin: 0; min-width: 0; }
figure img { width: 100%; height: auto; display: block; background: #000; border: 1px solid var(--line); }
figcaption { font-size: .75rem; color: var(--soft); overflow-wrap: anywhere; line-height: 1.2; }
.finding { background: var(--card); border-left: .3rem solid var(--warn); padding: .5rem .8rem; margin: .5rem 0; }
.finding.block { border-color: var(--block); }
.finding b { color: var(--warn); }
.finding.block b { color: var(--block); }
.finding p { margin: .1rem 0; }
@media (max-width: 40rem) { th, td { font-size: .9rem; padding-right: .5rem; } .share { min-width: 2.5rem; }
  th:first-child { position: sticky; left: 0; background: var(--back); } }
@media print { nav, .skip, details:not([open]) { display: none; }
  section, figure, tr { break-inside: avoid; } .scroll { overflow: visible; } }
details ul { font-size: .85rem; columns: 16rem; padding-left: 1.2rem; }
"""


def page(title: str, lead: str, sections: Sequence[Section], head: str = "") -> str:
    """A whole document. `lead` is HTML; `head` are scripts that may run (figure.scripts)."""
    links = "".join(f'<li><a href="#{one.anchor}">{escape(one.title)}</a></li>' for one in sections)
    # nothing is ever fetched, nor run where there are no scripts, whatever a name in the data says
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    policy += "; script-src 'unsafe-inline'" if head else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n{head}</head>\n<body>\n"
        f'<a class="skip" href="#content">Skip to the content</a>\n<header><h1>{escape(title)}</h1>\n{lead}\n'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n<main id="content">\n'
        f"{''.join(map(_section, sections))}</main>\n"
        "<footer><p>&nbsp;</p></footer>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    answer = f'<p class="answer">{escape(section.answer)}</p>\n' if section.answer else ""
    if section.points:
        answer += f"<ul>{''.join(f'<li>{escape(point)}</li>' for point in section.points)}</ul>\n"
    tables = "".join(table_html(one) for one in section.tables if one.rows)
    if section.listing:
        named = f'tabindex="0" role="region" aria-label="{escape(section.title)}: the file"'
        tables += f"<pre {named}>{escape(section.listing)}</pre>"
    return (
        f'<section aria-labelledby="{section.anchor}"><h2 id="{section.anchor}">{escape(section.title)}</h2>\n'
        f"{answer}{section.body}\n{tables}\n</section>\n"
    )


def colour(c: int) -> str:
    """Of class c; the seven repeat, names tell them apart."""
    return f"var(--c{c % 7})"


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Numbers to the right, the first column names the row. Cells are HTML, columns and caption are text."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    # what scrolls must be reachable by keyboard, and named
    return (
        f"<h3>{escape(caption)}</h3>"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def share_cell(count: int, whole: int, c: int) -> str:
    """'12 (34%)' above a bar of that share."""
    share = count / whole if whole else 0.0
    bar = f'<span class="share" aria-hidden="true"><i style="width:{share:.1%};background:{colour(c)}"></i></span>'
    return f"{count}&nbsp;<span class=soft>({share:.0%})</span>{bar}"


def curves(names: Sequence[str], notes: Sequence[str], heights: NDArray[np.float64], axis: tuple[str, str]) -> str:
    """One filled curve a row, all on one axis: heights (rows, bins), of which 1 fills a row and more is cut off."""
    parts = []
    for c, (name, note) in enumerate(zip(names, notes, strict=True)):
        tops = np.clip(heights[c], 0, 1)
        steps = " ".join(f"{i},{40 - 38 * t:.1f} {i + 1},{40 - 38 * t:.1f}" for i, t in enumerate(tops.tolist()))
        shape = f'<polygon points="0,40 {steps} {len(tops)},40" fill="{colour(c)}"/>'
        parts.append(
            f"<span>{escape(name)}<small>{escape(note)}</small></span>"
            f'<svg viewBox="0 0 {len(tops)} 40" preserveAspectRatio="none" role="img" '
            f'aria-label="{escape(f"{name}: {note}")}">{shape}</svg>'
        )
    ends = f'<span></span><div class="axis"><span>{escape(axis[0])}</span><span>{escape(axis[1])}</span></div>'
    return f'<div class="curve">{"".join(parts)}{ends}</div>'


def picture(pixels: NDArray[np.uint8], alt: str, caption: str = "", largest: int = LARGEST) -> str:
    """(H, W, channels) as a figure, at most `largest` a side. Texts are text."""
    image = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    image.thumbnail((largest, largest))
    stored = io.BytesIO()
    image.save(stored, "PNG", optimize=True)
    data = base64.b64encode(stored.getvalue()).decode()
    below = f"<figcaption>{escape(caption).replace('/', '/<wbr>')}</figcaption>" if caption else ""
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(alt)}" width="{image.width}" '
        f'height="{image.height}">{below}</figure>'
    )


def strip(figures: Sequence[str]) -> str:
    """Figures side by side, as many as fit."""
    return f'<div class="strip">{"".join(figures)}</div>'
