"""The prompt sets that papers evaluate on, what they published on them, and the folders that the sets' own scripts read."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..rewards.files import File, verify
from ..runs.hub import Named, fetched
from ..runs.weights import in_one_line, refuse_pointer


class Entry(NamedTuple):
    """A prompt of a set.

    Attributes:
        category: of the prompt; empty where the set has none.
        record: the line that the set's own script wants beside the pictures; empty where it wants none.
    """

    prompt: str
    category: str = ""
    record: str = ""


@dataclass(frozen=True)
class PromptSet:
    """Prompts to draw, under a name.

    Attributes:
        source: where they are from, for the report.

    Raises:
        ValueError: for no prompts.
    """

    name: str
    entries: Sequence[Entry]
    source: str

    def __post_init__(self) -> None:
        if not self.entries:
            raise ValueError(f"prompt set {self.name} is empty; name a file with prompts")

    @property
    def sha256(self) -> str:
        """Of the prompts in their order."""
        return hashlib.sha256("\n".join(entry.prompt for entry in self.entries).encode()).hexdigest()


STYLES = ("anime", "concept-art", "paintings", "photo")
"""HPSv2's, each with 800 prompts; a picture is known by its place within its style."""
PER_STYLE = 800


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    refuse_pointer(path)
    for place, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        if line.strip():
            yield place, line


def _parti(path: Path) -> list[Entry]:
    lines = (line for _, line in _lines(path))
    # without quoting: csv's own would take the quotes off a prompt that begins with a quoted word
    head, *rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    if head[:2] != ["Prompt", "Category"]:
        raise ValueError(f"its columns are {', '.join(head)[:80]}")
    return [Entry(row[0].strip(), row[1]) for row in rows]


def _hpsv2(folder: Path) -> list[Entry]:
    found = []
    for style in STYLES:
        path = folder / f"{style}.json"
        refuse_pointer(path)
        prompts = json.loads(path.read_text("utf-8"))
        if len(prompts) != PER_STYLE or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(
                f"{path.name} holds {len(prompts)} entries, but {PER_STYLE} prompts are in the published one"
            )
        found += [Entry(prompt.strip(), style) for prompt in prompts]
    return found


def _coco(path: Path) -> list[Entry]:
    return [Entry(line.strip()) for _, line in _lines(path)]


def _geneval(path: Path) -> list[Entry]:
    rows = [(json.loads(line), line.strip()) for _, line in _lines(path)]
    return [Entry(row["prompt"].strip(), row["tag"], line) for row, line in rows]


def _hpsv2_from_hub() -> Path:
    return fetched(Named("zhwang/HPDv2", kind="dataset"), [f"benchmark/{style}.json" for style in STYLES]) / "benchmark"


@dataclass(frozen=True)
class Benchmark:
    """A published prompt set. None is part of this package: it is fetched once, or read from a copy.

    Attributes:
        name: what commands call it.
        count: of its prompts.
        about: what it is, and whose.
        copy: what a copy is: a file or a folder, and what it holds.
        read: the copy -> its prompts.
        fetch: where it is fetched to.
        file: as published, where it is one file; its SHA-256 is held to the published one where that is known, and else
            to what it was when it was first read here.
    """

    name: str
    count: int
    about: str
    copy: str
    read: Callable[[Path], list[Entry]]
    fetch: Callable[[], Path] = field(repr=False)
    file: File | None = None

    def load(self, path: Path | str | None = None) -> PromptSet:
        """The prompts, whole and as published.

        Args:
            path: of a copy; by default it is fetched once.

        Raises:
            FileNotFoundError: if there is no copy there, or it cannot be fetched.
            ValueError: if it is another file than was published, or has another number of prompts.
        """
        found = self._find(None if path is None else Path(path))
        if self.file is not None and path is not None:  # what is fetched is verified on its way
            verify(found, self.file.identity, size=self.file.size, sha256=self.file.sha256)
        try:
            entries = self.read(found)
        except (ValueError, KeyError, IndexError, TypeError, csv.Error) as error:
            raise ValueError(f"{found} is not {self.copy} ({in_one_line(error)}); copy it again, whole") from error
        if len(entries) != self.count:
            raise ValueError(
                f"{found} has {len(entries)} prompts, but {self.name} has {self.count}; copy it again, whole, or name it as "
                f"a set of your own, such as mine={found}"
            )
        source = self.about if self.file is None else f"{self.about}: {self.file.identity}"
        return PromptSet(self.name, entries, source)

    def _find(self, path: Path | None) -> Path:
        if path is not None:
            if not path.exists():
                raise FileNotFoundError(f"there is no {path}; name {self.copy}")
            return path
        try:
            return self.fetch()
        except OSError as error:
            raise FileNotFoundError(
                f"prompt set {self.name} is not here and could not be fetched ({in_one_line(error)}); connect to the network "
                f"once, or name {self.copy}: {self.name}=PATH"
            ) from error


def _of_file(name: str, count: int, about: str, read: Callable[[Path], list[Entry]], file: File) -> Benchmark:
    return Benchmark(name, count, about, f"a copy of {Path(file.name).name}", read, lambda: file.find(None), file)


BENCHMARKS = {
    one.name: one
    for one in (
        _of_file(
            "parti",
            1632,
            "PartiPrompts (Yu et al. 2022; Apache-2.0), 12 categories",
            _parti,
            File(
                "PartiPrompts.tsv",
                "https://github.com/google-research/parti",
                "2c99f6652cbc7f0d0441aa91f4c7e7055bcb0071",
                size=123_107,
                sha256="fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb",
            ),
        ),
        Benchmark(
            "hpsv2",
            4 * PER_STYLE,
            "HPSv2's benchmark (Wu et al. 2023), four styles: data set zhwang/HPDv2",
            f"a folder with {', '.join(f'{style}.json' for style in STYLES)}",
            _hpsv2,
            _hpsv2_from_hub,
        ),
        _of_file(
            "coco30k",
            30_000,
            "Captions of MS COCO 2014's validation pictures, as GigaGAN, DMD2 and SiD-LSG drew them",
            _coco,
            File(
                "main/coco_eval/captions_coco14_test.txt",
                "https://github.com/tianweiy/DMD2",
                "4e54501cbe96b31f8a90f15aae3d4e6658b6001c",
            ),
        ),
        _of_file(
            "geneval",
            553,
            "GenEval (Ghosh et al. 2023; MIT), six tasks; four pictures per prompt are its protocol",
            _geneval,
            File(
                "prompts/evaluation_metadata.jsonl",
                "https://github.com/djghosh13/geneval",
                "16382b084e1f9ceeefed3a8cb102044e67486dd8",
            ),
        ),
    )
}
"""By name."""


@dataclass(frozen=True)
class Published:
    """A table that a paper or its repository printed: never a row of ours, since the pictures are others.

    Attributes:
        benchmark: the prompt set it is about.
        title, source: of the table, and where it stands.
        protocol: how its numbers came about, and what is not stated.
        metrics: its columns, in the units that it prints.
        rows: model -> values.
    """

    benchmark: str
    title: str
    source: str
    protocol: str
    metrics: Sequence[str]
    rows: dict[str, Sequence[float]]


_DI_STAR = "README of pkulwj1994/diff_instruct_star (arXiv 2410.20898), commit 0113155"
PUBLISHED = (
    Published(
        "parti",
        "Parti, 1024 px, Table 1 of Diff-Instruct*",
        _DI_STAR,
        "One-step models at time 399 by LCMScheduler; SDXL with 50 steps. How many pictures per prompt, which CLIP, and the "
        "uncertainty are not stated. PickScore is a cosine; CLIP score is 100 × a cosine. Table 3 there has 0.938 for DMD2's "
        "ImageReward.",
        ("ImageReward", "aesthetic", "PickScore", "CLIP score"),
        {
            "SDXL, 50 steps": (0.887, 5.72, 0.2274, 32.72),
            "SDXL-DPO, 50 steps": (1.102, 5.77, 0.2290, 33.03),
            "SD3.5-large, 28 steps": (1.133, 5.70, 0.2306, 32.70),
            "FLUX-dev, 50 steps": (1.132, 5.90, 0.2317, 31.70),
            "DMD2": (0.930, 5.51, 0.2249, 32.97),
            "Diff-Instruct": (1.058, 5.60, 0.2253, 33.02),
            "SIM": (1.049, 5.66, 0.2273, 32.93),
            "Diff-Instruct++": (1.061, 5.58, 0.2260, 32.94),
            "Diff-Instruct*": (1.067, 5.74, 0.2304, 32.82),
            "Diff-Instruct*, longer": (1.140, 5.83, 0.2331, 32.75),
        },
    ),
    Published(
        "hpsv2",
        "HPSv2.1 by style, 1024 px, Table 2 of Diff-Instruct*",
        _DI_STAR,
        "100 × a cosine. HPSv2's own protocol scores JPEGs of quality 75 under float16 autocast; whether that was done, and "
        "with which version of torchvision, whose resizing changed, is not stated.",
        ("anime", "concept-art", "paintings", "photo", "average"),
        {
            "SDXL, 50 steps": (30.85, 29.30, 28.98, 27.05, 29.05),
            "SDXL-DPO, 50 steps": (32.01, 30.75, 30.70, 28.24, 30.42),
            "SD3.5-large, 28 steps": (31.89, 30.19, 30.39, 28.01, 30.12),
            "FLUX-dev, 50 steps": (32.09, 30.44, 31.17, 29.09, 30.70),
            "DMD2": (29.72, 27.96, 27.64, 26.55, 27.97),
            "Diff-Instruct": (31.15, 29.71, 29.72, 28.20, 29.70),
            "SIM": (31.97, 30.46, 30.13, 28.08, 30.16),
            "Diff-Instruct++": (31.19, 29.88, 29.61, 28.21, 29.72),
            "Diff-Instruct*": (32.26, 30.57, 30.10, 27.95, 30.22),
            "Diff-Instruct*, longer": (33.22, 31.67, 31.25, 28.62, 31.19),
        },
    ),
)
"""What others published, by protocol."""
