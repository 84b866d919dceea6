"""Sphinx's settings for the course's site. tools/site.py prepares the pages that they apply to: run `make site`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from distar_core import __version__

project = "distar_core"
author = "the distar_core contributors"
copyright = "the contributors. Text and figures CC BY 4.0, code MIT"
version = release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["course/student", "course/solutions", "course/instructor", "files", "jupyter_execute"]

# Notebooks come with their outputs; see tools/notebook_pages.py.
nb_execution_mode = "off"
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
smartquotes_action = "D"  # dashes only: a prime in a formula is no quotation mark
myst_heading_anchors = 4
# types that two modules call by one name, such as Kind, are left without a link
suppress_warnings = ["ref.python"]

# Nobody's browser asks another host for anything, nor the site itself for what file:// forbids to fetch.
mathjax_path = "mathjax/tex-chtml.js"
html_copy_source = False
html_show_search_summary = False
html_use_index = False
html_domain_indices = False

copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
viewcode_follow_imported_members = False
add_module_names = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = [str(Path(__file__).parent / "web" / "static")]
html_css_files = ["site.css"]
html_js_files = ["print.js"]
html_favicon = "web/static/ring.svg"
html_sidebars = {"index": [], "play": [], "teaching": [], "glossary": [], "map": [], "cite": []}
html_context = {"default_mode": "auto"}
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "show_prev_next": True,
    "navigation_with_keys": False,
    "back_to_top_button": True,
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def as_restructured_text(lines: list[str]) -> list[str]:
    """A docstring's plain text, where |x| is a norm and a* a star, as reStructuredText; examples stay as they are."""
    found, in_example = [], False
    for line in lines:
        in_example = line.lstrip().startswith(">>>") or (in_example and bool(line.strip()))
        found.append(line if in_example else "`".join(map(_escaped, _literals(line))))
    return found


def _literals(line: str) -> list[str]:
    """A line split at its backquotes, those of closed pairs doubled."""
    parts = line.split("`")
    if len(parts) % 2 == 0:  # one that is not closed
        return [line.replace("`", "\\`")]
    return [f"`{part}`" if number % 2 else part for number, part in enumerate(parts)]


def _escaped(part: str) -> str:
    if part.startswith("`"):
        return part
    return re.sub(r"(?<=\w)_(?!\w)", r"\\_", re.sub(r"(?<!\\)([|*\\])(?!`)", r"\\\1", part))


def process_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Before napoleon turns "Args:" into fields."""
    lines[:] = as_restructured_text(lines)


def skip_member(app: Any, what: str, name: str, obj: Any, skipping: bool, options: Any) -> bool | None:
    """The fields of a NamedTuple say nothing by themselves; the class's docstring does."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def setup(app: Any) -> None:
    """Sphinx calls it."""
    app.connect("autodoc-process-docstring", process_docstring, priority=100)
    app.connect("autodoc-skip-member", skip_member)
