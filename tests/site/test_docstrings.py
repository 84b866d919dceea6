"""Docstrings are plain text; the reference shows them to the letter."""

from __future__ import annotations

import runpy

from docutils.core import publish_parts

from tools.site import ROOT

CONF = runpy.run_path(str(ROOT / "docs" / "conf.py"))


def shown(text: str) -> str:
    """A docstring as a page shows it."""
    source = "\n".join(CONF["as_restructured_text"](text.splitlines()))
    return publish_parts(source, writer="html5", settings_overrides={"report_level": 5})["fragment"]


def test_formulas_stay_as_they_are() -> None:
    assert shown("|x_0 − x̂_0| of a*, and b*; s_ is no link, nor is p_theta,t") == (
        "<p>|x_0 − x̂_0| of a*, and b*; s_ is no link, nor is p_theta,t</p>\n"
    )


def test_code_is_code() -> None:
    literal = '<span class="docutils literal">'
    assert shown("`post_train` runs `a*b`.").count(literal) == 2
    assert "a*b" in shown("`a*b`")
    assert shown("one ` alone") == "<p>one ` alone</p>\n"


def test_examples_stay_as_they_are() -> None:
    assert "2 * |3|\n6" in shown("Before.\n\n>>> 2 * |3|\n6\n\nA* after.").replace("<span></span>", "")


def test_control_without_the_escapes() -> None:
    bare = publish_parts("*a* and |x|", writer="html5", settings_overrides={"report_level": 5})["fragment"]
    assert "<em>" in bare
    assert "<em>" not in shown("*a* and |x|")
