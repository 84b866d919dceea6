"""`python -m tools.publish_lab FOLDER [NAME ...]`: make runs of the full profile the ones that ship.

Copies FOLDER/NAME.csv into the package, draws the figures, and writes notebooks/EXPERIMENTS.md from all tables that ship.
Without names only the figures and the page are made anew. Run it in the project's folder.

The page's words stand in tools/templates/EXPERIMENTS.md.j2. A sentence there is wrapped into `claim(study, comparison, …)`:
each comparison of that study's facts must hold, or the page is not written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from distar_core.evaluation.tables import markdown_table
from distar_core.figures.picture import Picture
from distar_core.lab import STUDIES
from distar_core.lab.study import Row, read_rows, values_of
from distar_core.lab.world_cross import published
from distar_core.toy import report
from distar_core.toy.frontier import read_points
from distar_core.toy.records import read_runs

TEMPLATES = Path(__file__).parent / "templates"


class ClaimError(ValueError):
    """A sentence of the page says what the facts do not.

    Attributes:
        study, comparison: which one.
    """

    def __init__(self, study: str, comparison: str, facts: Mapping[str, float]) -> None:
        named = ", ".join(f"{name} = {value:.4g}" for name, value in facts.items() if name in comparison)
        super().__init__(
            f"the claim {comparison!r} about {study} does not hold: {named}; mend the sentence that makes it"
        )
        self.study, self.comparison = study, comparison


def figure_name(name: str) -> str:
    """The file name of a study's figure in notebooks/figures."""
    return f"lab_{name.replace('-', '_')}.png"


def head(name: str, rows: Sequence[Row], picture: Picture) -> str:
    """The part of a study's section that needs no result: question, command, figure and prediction."""
    study = STUDIES[name]
    minutes = sum(row["seconds"] for row in rows) / 60
    return (
        f"## {name}\n\n{study.question}\n\n`distar lab {name} --profile full` ({len(rows)} runs, "
        f"{len(values_of(rows, 'seed'))} seeds, about {minutes:.0f} core-minutes)\n\n"
        f"![{picture.alt}](figures/{figure_name(name)})\n\n**Predicted.** {study.prediction}\n"
    )


def checker(facts: Mapping[str, Mapping[str, float]]) -> Callable[..., str]:
    """The template's `claim`: the text between its tags, once every comparison holds.

    Raises:
        ClaimError: for a comparison that does not hold; a fact that is not there is jinja2's UndefinedError.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)

    def claim(study: str, *comparisons: str, caller: Callable[[], str]) -> str:
        if not comparisons:
            raise ValueError(f"a claim about {study} names no comparison; say which facts it rests on")
        for comparison in comparisons:
            if not environment.compile_expression(comparison, undefined_to_none=False)(facts[study]):
                raise ClaimError(study, comparison, facts[study])
        return caller().strip()

    return claim


OVERVIEW = "<!-- overview -->"
"""Where the page has its table of studies."""


FOUND = re.compile(r"(?:\*\*(Held|Failed|Undecided)\.\*\* )?(.+?)[.:](?:\s|$)", re.DOTALL)


def overview(text: str) -> str:
    """A table of a page's studies, a row each: name, question, how the prediction fared, and the first sentence of what was found."""
    rows = [["study", "question", "prediction", "found"]]
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        name, question, *rest = section.split("\n\n")
        if rest and rest[0].startswith("`distar "):
            said = next(part for part in rest[1:] if not part.startswith(("![", "**Predicted")))
            found = FOUND.match(said.strip())
            assert found is not None, name
            sentence = " ".join(found[2].split())
            rows.append([f"[{name}](#{name})", " ".join(question.split()), (found[1] or "").lower(), sentence])
    return markdown_table(rows)


def page(records: Mapping[str, Sequence[Row]], pictures: Mapping[str, Picture], demo: Mapping[str, float]) -> str:
    """EXPERIMENTS.md from the rows and the figure of every study, by name, and the facts of the demo.

    Raises:
        ClaimError: if a sentence says what the facts do not.
    """
    facts = {name: STUDIES[name].facts(rows) for name, rows in records.items()} | {"demo": demo}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["fixed"] = lambda value, digits=2: f"{value:.{digits}f}"
    environment.filters["percent"] = lambda value, digits=0: f"{value:.{digits}%}"

    def between(study: str, name: str, digits: int = 2) -> str:
        """mean [low, high] of a fact."""
        mean, low, high = (facts[study][key] for key in (name, f"{name}_low", f"{name}_high"))
        return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    theirs = published()
    names: dict[str, Any] = {
        "facts": facts,
        "claim": checker(facts),
        "between": between,
        "head": lambda name: head(name, records[name], pictures[name]),
        "published": markdown_table([list(theirs[0]), *([*row.values()] for row in theirs)]),
        "verdicts": markdown_table(report.verdict_table(read_runs(), highest_only=True)),
    }
    text = environment.get_template("EXPERIMENTS.md.j2").render(names).rstrip() + "\n"
    return text.replace(OVERVIEW, overview(text))


def publish(root: Path, folder: Path | None = None, names: Sequence[str] = ()) -> None:
    """Take the CSV files of `names` from a folder, then draw and write everything from what ships."""
    data = root / "distar_core" / "lab" / "data"
    for name in names:
        assert folder is not None
        text = (folder / f"{name}.csv").read_text(encoding="utf-8")
        (data / f"{name}.csv").write_text(text, encoding="utf-8", newline="\n")
    for name, picture in write_page(root).items():
        picture.save(root / "notebooks" / "figures" / figure_name(name))


def experiments() -> tuple[str, dict[str, Picture]]:
    """The page of the tables that ship, and the figure of every study."""
    records = {name: read_rows(name) for name in STUDIES}
    pictures = {name: STUDIES[name].picture(rows) for name, rows in records.items()}
    return page(records, pictures, report.facts(read_runs(), read_points())), pictures


def write_page(root: Path) -> dict[str, Picture]:
    """Write notebooks/EXPERIMENTS.md from what ships, and return the figures of its studies."""
    text, pictures = experiments()
    (root / "notebooks" / "EXPERIMENTS.md").write_text(text, encoding="utf-8", newline="\n")
    return pictures


if __name__ == "__main__":
    publish(Path(), Path(sys.argv[1]) if len(sys.argv) > 1 else None, sys.argv[2:])
