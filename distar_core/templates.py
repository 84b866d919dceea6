"""Documents written around facts: jinja2 templates that lie beside the code whose facts they show."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def fill(package: str, name: str, **facts: Any) -> str:
    """A package's template, filled in; what goes into a file NAME.html.j2 is escaped.

    Raises:
        jinja2.TemplateNotFound: if the package has no such template.
        jinja2.UndefinedError: if the template asks for a fact that is not given.
    """
    environment = Environment(
        loader=PackageLoader(package, ""),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name).render(facts)
