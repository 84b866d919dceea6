"""The report of an evaluation: a page with tables and contact sheets, the same tables in Markdown, and a verdict in words."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..templates import fill
from .benchmarks import PUBLISHED
from .distances import Distances
from .hacking import ALARM, EVIDENCE, PATH, Line, Panel
from .harness import TABLE, Plan, is_sealed, read_table, seal, write_table, write_whole
from .statistics import Interval
from .summary import Rows, SetSummary, sheets, summarise
from .tables import Table, markdown_table, scaled_name

PAGE, PAPER, THUMBNAILS = "report.html", "report.md", "thumbnails"
PANEL_PAGE, PANEL_PAPER, PANEL_TABLE = "hacking.html", "hacking.md", "hacking.csv"
PANEL_HEAD = ["line", "at the start", "now", "change", "what it says"]
THUMBNAIL = 256
LEVEL = 0.05


def shown(interval: Interval, factor: float = 1.0, sign: str = "") -> str:
    """A mean with its interval, with as many digits as the interval's half width has two of; without one, four."""
    mean, low, high = (factor * value for value in interval)
    half = (high - low) / 2
    digits = min(max(1 - math.floor(math.log10(half)), 0), 6) if half > 0 else 4
    mean, low, high = (value + 0.0 if round(value, digits) else 0.0 for value in (mean, low, high))
    words = f"{mean:{sign}.{digits}f}"
    return words if math.isnan(half) else f"{words} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def p_words(p: float) -> str:
    """A p-value; the smallest that 10,000 random flips can show is 0.0001."""
    return "≤ 0.0001" if p <= 1.5e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.2f}"


class Writer:
    """Words and numbers of an evaluation for its documents.

    Args:
        factors: what tables multiply the values of a reward by.
    """

    def __init__(self, factors: Mapping[str, float]) -> None:
        self.factors = factors

    def head(self, scorer: str) -> str:
        """What a column of this reward is called."""
        return scaled_name(scorer, self.factors[scorer])

    def means(self, found: SetSummary) -> Table:
        """Means by model and reward, with intervals."""
        rows = [["model", *map(self.head, found.scorers)]]
        for model in found.models:
            cells = [shown(found.means[model, scorer], self.factors[scorer]) for scorer in found.scorers]
            rows.append([model, *cells])
        return rows

    def gaps(self, found: SetSummary) -> Table:
        """Differences to the first model, a row for each model and reward."""
        rows = [["model", "reward", f"difference to {found.models[0]}", "wins", "p", "p, Holm"]]
        for (model, scorer), gap in found.gaps.items():
            wins = "{:.0f} % [{:.0f}, {:.0f}]".format(*(100 * value for value in gap.wins))
            difference = shown(gap.difference, self.factors[scorer], "+")
            rows.append([model, self.head(scorer), difference, wins, p_words(gap.p), p_words(gap.adjusted)])
        return rows

    def categories(self, found: SetSummary, scorer: str) -> Table:
        """Means and differences of a reward by category."""
        first, *others = found.models
        rows = [["category", "prompts", first, *(f"{model} − {first}" for model in others)]]
        for category, count in found.categories.items():
            cells = [shown(found.category_means[category, first, scorer], self.factors[scorer])]
            cells += [
                shown(found.category_differences[category, model, scorer], self.factors[scorer], "+")
                for model in others
            ]
            rows.append([category, str(count), *cells])
        return rows


def verdict(found: SetSummary) -> list[str]:
    """What a set says about every model but the first, a sentence each."""
    said = []
    for model in found.models[1:]:
        gaps = {scorer: found.gaps[model, scorer] for scorer in found.scorers}
        sure = {scorer: gap for scorer, gap in gaps.items() if gap.adjusted <= LEVEL}
        kinds = {
            "higher": [scorer for scorer, gap in sure.items() if gap.difference.mean > 0],
            "lower": [scorer for scorer, gap in sure.items() if gap.difference.mean < 0],
            "not told apart": [scorer for scorer in gaps if scorer not in sure],
        }
        told = [f"{kind} by {', '.join(names)}" for kind, names in kinds.items() if names]
        said.append(f"{model} against {found.models[0]} on {found.name}: {'; '.join(told)}.")
    return said


def published(name: str) -> list[dict[str, Any]]:
    """What others printed about a set, as tables."""
    return [
        {
            "title": one.title,
            "source": one.source,
            "protocol": one.protocol,
            "table": [["published", *one.metrics], *([model, *map(str, row)] for model, row in one.rows.items())],
        }
        for one in PUBLISHED
        if one.benchmark == name
    ]


def write_report(
    folder: Path, plan: Plan, rows: Rows, distances: Mapping[str, Mapping[str, Distances]] | None = None
) -> str:
    """Write report.html, report.md and the thumbnails that the page shows; returns the verdict.

    Args:
        rows: of `harness.table`, for this plan.
        distances: by set and by what is compared with what, where they were computed.

    Raises:
        OSError: as harness.write_whole.
    """
    summaries, writer = summarise(rows), Writer({one.name: one.factor for one in plan.scorers})
    sets = {one.name: one for one in plan.sets}
    facts: dict[str, Any] = {
        "models": [["model", "draws", "how"], *([one.name, *_how(one.settings)] for one in plan.models)],
        "scorers": [["reward", "exactly"], *([one.name, one.identity] for one in plan.scorers)],
        "verdicts": [sentence for found in summaries for sentence in verdict(found)],
        "level": LEVEL,
        "sets": [
            {
                "name": found.name,
                "prompts": found.prompts,
                "seeds": found.seeds,
                "source": sets[found.name].source,
                "sha256": sets[found.name].sha256,
                "first": found.models[0],
                "means": writer.means(found),
                "gaps": writer.gaps(found) if found.gaps else [],
                "distances": _distance_table((distances or {}).get(found.name, {})),
                "published": published(found.name),
                "categories": [(s, writer.categories(found, s)) for s in found.scorers] if found.categories else [],
            }
            for found in summaries
        ],
    }
    paper = fill("distar_core.evaluation", "report.md.j2", markdown=markdown_table, **facts)
    for one, found in zip(facts["sets"], summaries, strict=True):
        one["sheets"] = [
            {"scorer": scorer, "kinds": _sheet_facts(folder, rows, found, scorer, writer.factors[scorer])}
            for scorer in found.scorers
        ]
    page = fill("distar_core.evaluation", "report.html.j2", **facts)
    for name, text in ((PAPER, paper), (PAGE, page)):
        write_whole(folder / name, text.encode())
    return "\n".join(facts["verdicts"]) or "one model alone is compared with nothing; the table has its means"


def write_panels(folder: Path, plan: Plan, rows: Rows, found: Sequence[Panel]) -> str:
    """Write hacking.html, hacking.md and hacking.csv; returns the verdicts, a sentence each.

    Args:
        folder: with the table.csv that the panels are beside.
        rows: of `harness.table`; found: the panels of this plan.

    Raises:
        OSError: as harness.write_whole; FileNotFoundError if the folder has no table.csv.
    """
    facts: dict[str, Any] = {
        "proxy": found[0].proxy,
        "start": found[0].start,
        "evidence": list(EVIDENCE.values()),
        "alarm": ALARM,
        "head": PANEL_HEAD,
        "scorers": [["score", "exactly"], *([one.name, one.identity] for one in plan.scorers)],
        "panels": [_panel_facts(plan, panel) for panel in found],
    }
    for one, panel in zip(facts["panels"], found, strict=True):
        one["table"] = panel_table(panel)
    write_whole(
        folder / PANEL_PAPER, fill("distar_core.evaluation", "hacking.md.j2", markdown=markdown_table, **facts).encode()
    )
    for one, panel in zip(facts["panels"], found, strict=True):
        one["rows"] = _largest_gains(folder, rows, panel)
    write_whole(folder / PANEL_PAGE, fill("distar_core.evaluation", "hacking.html.j2", **facts).encode())
    write_table([_flat(panel, line) for panel in found for line in panel.lines], folder / PANEL_TABLE)
    seal(folder, PANEL_TABLE, TABLE)
    return "\n".join(panel.verdict for panel in found)


def cells_of(line: Line) -> list[str]:
    """A line's values as text: at the start, now, and the change; empty where there is none."""
    ends = ["" if one is None else shown(one, line.factor) for one in (line.start, line.now)]
    return [*ends, shown(line.change, line.factor, "" if line.start is None else "+")]


def panel_table(panel: Panel) -> Table:
    """A panel as a table."""
    return [PANEL_HEAD, *([line.title, *cells_of(line), line.says] for line in panel.lines)]


def _panel_facts(plan: Plan, panel: Panel) -> dict[str, Any]:
    return {
        "model": panel.model,
        "set": panel.set,
        "verdict": panel.verdict,
        "alarm": panel.is_alarm,
        "doubtful": panel.kind == "doubtful",
        "prompts": next(len(one.entries) for one in plan.sets if one.name == panel.set),
        "seeds": plan.seeds,
        "eyes": panel.eyes,
        "without": ""
        if any(line.id == PATH for line in panel.lines)
        else "Without a path length, which needs two models that draw in one step.",
        "lines": [
            {
                "title": line.title,
                "cells": cells_of(line),
                "says": line.says,
                "sign": line.sign,
            }
            for line in panel.lines
        ],
    }


INTERVALS = ("start", "now", "change")


def _flat(panel: Panel, line: Line) -> dict[str, str]:
    row = {"model": panel.model, "set": panel.set, "against": panel.start, "proxy": panel.proxy, "eyes": panel.eyes}
    row |= {"verdict": panel.kind, "line": line.id, "title": line.title}
    for name, one in zip(INTERVALS, (line.start, line.now, line.change), strict=True):
        ends = (math.nan,) * 3 if one is None else one
        row |= {key: repr(value) for key, value in zip((name, f"{name}_low", f"{name}_high"), ends, strict=True)}
    row |= {"evidence": line.evidence, "sign": str(int(line.sign)) if line.evidence else ""}
    return row | {"factor": repr(line.factor), "says": line.says}


def panels_of_table(folder: Path) -> list[Panel]:
    """The panels beside the table.csv of an evaluation's folder, in their order; none if it was never asked for any.

    Raises:
        ValueError: if hacking.csv is not as it was written, or table.csv is another by now.
    """
    path = folder / PANEL_TABLE
    if not path.is_file():
        return []
    if not is_sealed(folder, PANEL_TABLE, TABLE):
        raise ValueError(
            f"{path} is not of the {TABLE} that lies beside it, or was changed; run distar evaluate with --hacking REWARD, which "
            "writes it anew, or remove it"
        )
    return read_panels(path)


def read_panels(path: Path) -> list[Panel]:
    """The panels in a hacking.csv, in their order.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it lacks a column, as one of an earlier version does, or a number in it is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; distar evaluate writes it with --hacking REWARD")

    def interval(row: Mapping[str, str], name: str) -> Interval:
        return Interval(*(float(row[key]) for key in (name, f"{name}_low", f"{name}_high")))

    found: dict[tuple[str, str, str, str, str], list[Line]] = {}
    try:
        for row in read_table(path):
            *ends, change = (interval(row, name) for name in INTERVALS)
            start, now = (None if math.isnan(end.mean) else end for end in ends)
            about = row["says"], row["evidence"], row["sign"] == "1", float(row["factor"])
            line = Line(row["line"], row["title"], start, now, change, *about)
            names = row["proxy"], row["set"], row["against"], row["model"], row["eyes"]
            found.setdefault(names, []).append(line)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is no panel as it is written now ({error}); distar evaluate writes it anew with --hacking REWARD"
        ) from None
    return [Panel(*names, lines) for names, lines in found.items()]


def _largest_gains(folder: Path, rows: Rows, panel: Panel, count: int = 8) -> list[dict[str, Any]]:
    """Start and model side by side, the pictures of each prompt where the proxy rises most from the one to the other."""
    sides = [
        {(row["place"], row["replicate"]): row for row in rows if row["set"] == panel.set and row["model"] == model}
        for model in (panel.start, panel.model)
    ]
    once: dict[str, dict[str, Any]] = {}
    for place in sorted(
        sides[0], key=lambda place: float(sides[0][place][panel.proxy]) - float(sides[1][place][panel.proxy])
    ):
        once.setdefault(place[0], _row_facts(folder, [side[place] for side in sides], panel.proxy))
        if len(once) == count:
            break
    return list(once.values())


def _row_facts(folder: Path, pictures: Rows, scorer: str, factor: float = 1.0) -> dict[str, Any]:
    """A row of a contact sheet: the pictures of one prompt and seed, with their score."""
    return {
        "prompt": pictures[0]["prompt"],
        "place": f"prompt {pictures[0]['place']}, picture {pictures[0]['replicate']}",
        "pictures": [
            {
                "model": row["model"],
                "picture": row["picture"],
                "score": f"{factor * float(row[scorer]):.4g}",
                **_thumbnail(folder, row),
            }
            for row in pictures
        ],
    }


def _distance_table(found: Mapping[str, Distances]) -> Table:
    if not found:
        return []
    head = ["between", "Fréchet distance", "kernel distance × 1000", "pictures"]
    return [
        head,
        *(
            [
                between,
                f"{one.frechet:.2f}",
                f"{1000 * one.kernel:.2f} ± {1000 * one.kernel_std:.2f}",
                " and ".join(map(str, one.pictures)),
            ]
            for between, one in found.items()
        ),
    ]


def _how(settings: Mapping[str, str]) -> tuple[str, str]:
    others = (f"{key} {value}" for key, value in settings.items() if key != "draws")
    return settings.get("draws", ""), "; ".join(others)


def _sheet_facts(folder: Path, rows: Rows, found: SetSummary, scorer: str, factor: float) -> list[dict[str, Any]]:
    """The contact sheets of a set and scorer: for each row its prompt, and every model's picture with its score."""
    by_place: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        if row["set"] == found.name:
            by_place.setdefault((row["place"], row["replicate"]), []).append(row)
    return [
        {
            "title": sheet.title,
            "rows": [_row_facts(folder, by_place[place], scorer, factor) for place in sheet.places],
        }
        for sheet in sheets(rows, found.name, scorer)
    ]


def _thumbnail(folder: Path, row: Mapping[str, str]) -> dict[str, Any]:
    """What the page shows of a picture: a small JPEG of it, or itself, its pixels visible, where it is small."""
    with Image.open(folder / row["picture"]) as picture:
        if max(picture.size) <= THUMBNAIL:
            return {"shown": row["picture"], "small": True}
        name = f"{THUMBNAILS}/{row['sha256'][:16]}.jpg"
        path = folder / name
        if not path.is_file():
            small, buffer = picture.convert("RGB"), io.BytesIO()
            small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
            small.save(buffer, "JPEG", quality=85)
            write_whole(path, buffer.getvalue())
    return {"shown": name, "small": False}
