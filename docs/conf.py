"""The site: every Markdown page of docs/ through Sphinx. `make docs` builds it into site/, warnings are errors."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "harness"
author = "the authors of harness"
version = release = installed("harness")
html_title = f"harness {release}"

extensions = ["myst_parser", "mermaid_pictures", "accessible_pages"]
exclude_patterns = ["diagrams/*"]
myst_heading_anchors = 4  # links to headings, as on GitHub
myst_fence_as_directive = ["mermaid"]
suppress_warnings = ["myst.header"]  # a page may begin with a figure's heading level
highlight_language = "none"

# Furo brings its fonts' names, its scripts and its styles with it: a page asks no other machine for anything.
html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#0b5c86", "color-brand-content": "#0b5c86"},
    "dark_css_variables": {"color-brand-primary": "#7cc4ea", "color-brand-content": "#7cc4ea"},
}
