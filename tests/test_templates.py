"""Templates are filled with every fact they ask for, and pages are escaped."""

import sys

import jinja2
import pytest

from distar_core.templates import fill


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with one text in two templates, for Markdown and for HTML."""
    folder = tmp_path / "with_templates"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name in ("a.md.j2", "a.html.j2"):
        (folder / name).write_text("{{ fact }} & more\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder.name
    sys.modules.pop(folder.name, None)


def test_html_is_escaped_and_markdown_is_not(package):
    assert fill(package, "a.html.j2", fact="<b>") == "&lt;b&gt; & more\n"
    assert fill(package, "a.md.j2", fact="<b>") == "<b> & more\n"


def test_a_missing_fact_or_template_is_an_error(package):
    with pytest.raises(jinja2.UndefinedError, match="fact"):
        fill(package, "a.md.j2", other="<b>")
    with pytest.raises(jinja2.TemplateNotFound):
        fill(package, "b.md.j2")
