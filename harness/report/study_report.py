"""A study's report, or that of one of its trials: sections in the order in which a reader asks, in any format.

`html` is one file that needs nothing else; `md` and `latex` are its answers and tables.
"""

from collections.abc import Sequence
from html import escape

from harness.output.documents import Section, latex, markdown, page
from harness.output.format import plural
from harness.output.plots import scripts
from harness.report.ablation import ablation_section
from harness.report.collect import Collected
from harness.report.cost import cost_section
from harness.report.data_summary import data_section
from harness.report.learning import learning_section
from harness.report.question import question_section
from harness.report.reproduce import reproduce_section
from harness.report.search_section import search_section

FORMATS = ("html", "md", "latex")
ENDINGS = {"html": ".html", "md": ".md", "latex": ".tex"}


def sections_of(found: Collected, predictions: Sequence[Section], images: bool) -> list[Section]:
    """`predictions`: what the other half of the report says of single predictions and of ensembles."""
    before = [question_section(found)]
    if not found.asked:
        before += [data_section(found, images), search_section(found)]
    before += [learning_section(found), ablation_section(found)]
    return [*before, *predictions, cost_section(found), reproduce_section(found)]


def title_of(found: Collected) -> str:
    return f"{found.name}, trial {found.chosen.number}" if found.asked and found.chosen else found.name


def write_report(found: Collected, sections: Sequence[Section], format_: str, images: bool) -> str:
    """The whole document."""
    if format_ == "md":
        return markdown(title_of(found), sections)
    if format_ == "latex":
        return latex(title_of(found), sections)
    whole = found.record.tree["description"]
    lead = (
        f'<p class="soft">Report of a study of {plural(len(found.trials), "trial")}: {escape(str(whole).strip())}</p>'
    )
    if images and found.data is not None:
        lead += '<p class="soft">This file holds pictures from the data: it may be shown to whom the data may be.</p>'
    return page(f"{title_of(found)}: report", lead, sections, scripts())
