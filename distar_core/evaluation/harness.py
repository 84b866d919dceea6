"""Draw and score: pictures of the same prompts and seeds by several models, judged by several rewards, resumable.

Every process of an evaluation appends to a journal of its own, a line for each picture and for each score, and does only
what no journal has; the table is made of all journals together. One picture is drawn, and one is scored, at a time: in a
batch its last bits would depend on what it is drawn with, so on where a run was cut and into how many processes.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import platform
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..errors import DistarError, NonFiniteError
from ..rewards.base import PictureReward, check_pictures, values_of
from ..runs.folders import at_work, claim, replacing
from ..runs.progress import Progress, Tell, silent
from .benchmarks import PromptSet

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
PLAN, JOURNALS, TABLE, SEALS = "plan.json", "rows", "table.csv", "seals.json"
KEYS = ("model", "set", "place", "replicate")
COLUMNS = (*KEYS, "seed", "category", "prompt", "picture", "sha256", "weights")
"""Of the table, before two for each scorer: NAME, its value, and NAME.scorer, what exactly gave it."""


class Drawing(Protocol):
    """Pictures [B, 3, H, W] in [0, 1] from prompts and seeds, B each; the same for the same, whatever else is drawn."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor: ...


class Drawer(NamedTuple):
    """A model that is loaded.

    Attributes:
        draw: pictures of prompts and seeds.
        weights: which weights draw, such as a digest.
        noise: the z of seeds, [B, ...], and
        draw_from: pictures of prompts and z, B each; of a model that draws in one step.
    """

    draw: Drawing
    weights: str
    noise: Callable[[Sequence[int]], Tensor] | None = None
    draw_from: Callable[[Sequence[str], Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Model:
    """A model to be evaluated.

    Attributes:
        settings: how it draws, for the report; rows of other settings are not continued.
        load: called if pictures are missing.
        one_step: whether it draws in one step, so that what it loads has noise and draw_from.
    """

    name: str
    settings: Mapping[str, str]
    load: Callable[[], Drawer]
    one_step: bool = False


@dataclass(frozen=True)
class Scorer:
    """A reward that judges pictures.

    Attributes:
        identity: revision of its weights, version of its preprocessing and type: what gives one value for one picture.
        load: called if scores are missing.
        device: where it computes.
        factor: what tables usually multiply it by.
        family: which network looks at the pictures: rewards of one family share blind spots.
        has_features: whether it has features(images), unit embeddings [B, width].
        beside: whether it is what only the maker of a world knows, so shown and never a judge.
    """

    name: str
    identity: str
    load: Callable[[], PictureReward]
    device: str = "cpu"
    factor: float = 1.0
    family: str = ""
    has_features: bool = False
    beside: bool = False


class Key(NamedTuple):
    """Which picture.

    Attributes:
        place: of the prompt in its set, from 0.
        replicate: of the picture among those of its prompt, from 0.
    """

    model: str
    set: str
    place: int
    replicate: int

    @property
    def picture(self) -> str:
        """Its file, from the evaluation's folder."""
        return f"pictures/{self.model}/{self.set}/{self.place:05d}-{self.replicate}.png"

    @property
    def seed(self) -> int:
        """By position, the same for every model: 32 bits, which is what torch's source on the CPU takes."""
        position = f"{self.set}/{self.place}/{self.replicate}".encode()
        return int.from_bytes(hashlib.blake2b(position, digest_size=4).digest(), "big")


class Shard(NamedTuple):
    """The part of the prompts that a process has: those whose place is its number modulo the processes."""

    part: int = 0
    processes: int = 1

    def __str__(self) -> str:
        return f"{self.part}-of-{self.processes}"

    @classmethod
    def read(cls, text: str) -> Shard:
        """From "0/2", the first of two. Raises ValueError for anything else."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        shard = cls(int(found[1]), int(found[2])) if found else cls(1, 0)
        if shard.part >= shard.processes:
            raise ValueError(f"shard {text!r} is none; write PART/PROCESSES, such as 0/2 and 1/2 for two processes")
        return shard


@dataclass(frozen=True)
class Plan:
    """What is to be drawn and scored.

    Attributes:
        models: the others are compared with the first.
        seeds: pictures for each prompt.

    Raises:
        ValueError: for no model or set, two of one name, or a name that is no folder's on every system.
    """

    models: Sequence[Model]
    sets: Sequence[PromptSet]
    scorers: Sequence[Scorer]
    seeds: int = 1

    def __post_init__(self) -> None:
        for what, named in (("model", self.models), ("prompt set", self.sets), ("reward", self.scorers)):
            names = [one.name for one in named]
            if not names:
                raise ValueError(f"an evaluation needs a {what}; name one")
            folded = Counter(name.casefold() for name in names)
            if twice := next((name for name in names if folded[name.casefold()] > 1), None):
                raise ValueError(f"two {what}s are called {twice!r}; name one of them otherwise, as OTHER=...")
            odd = [name for name in names if not NAME.fullmatch(name)]
            if odd and what != "reward":
                raise ValueError(f"{what} {odd[0]!r} cannot name a folder; call it by letters, digits and . _ + -")
        if self.seeds < 1:
            raise ValueError(f"seeds is {self.seeds}; draw at least one picture for each prompt")

    def keys(self, shard: Shard = Shard(), model: Model | None = None) -> Iterator[Key]:  # noqa: B008
        """All pictures, or a process's, or a model's, in the table's order."""
        for one in self.models if model is None else [model]:
            for prompts in self.sets:
                for place in range(shard.part, len(prompts.entries), shard.processes):
                    for replicate in range(self.seeds):
                        yield Key(one.name, prompts.name, place, replicate)

    def prompt(self, key: Key) -> str:
        """The prompt of a picture."""
        return next(one for one in self.sets if one.name == key.set).entries[key.place].prompt


class IncompleteError(DistarError):
    """The table lacks rows, which other processes have still to make."""


class Drawn(NamedTuple):
    """What a journal says about a picture: the SHA-256 of its file, and which weights drew it."""

    sha256: str
    weights: str


class Scored(NamedTuple):
    """What a journal says about a score: of which picture, its value, and what exactly gave it."""

    sha256: str
    value: float
    identity: str


class Rows(NamedTuple):
    """What all journals of a folder have."""

    drawn: dict[Key, Drawn]
    scored: dict[tuple[Key, str], Scored]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what a full disk, or one that fails, raises into one sentence with the file and what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space" if full else "see to it"
        raise OSError(
            error.errno,
            f"it could not be written ({error.strerror}); every finished row is kept: {remedy}, and run the same command again",
            str(path),
        ) from error


def write_whole(path: Path, data: bytes, *, by: str = "") -> None:
    """Write a file so that it is there whole or not at all, whoever else writes it. Raises OSError as `writing`.

    Args:
        by: who writes it, of whom there is one at a time: what such a one has left when it was killed is overwritten. By default
            this process.
    """
    part = path.with_name(f".{path.name}.{by or f'{platform.node()}-{os.getpid()}'}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, part):
            part.write_bytes(data)


class Journal:
    """Lines of JSON in a file that outlives its process: a last line that was cut is dropped when it is opened again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
            self._file.seek(0)
            self._file.truncate(self._file.read().rfind(b"\n") + 1)

    def write(self, **row: Any) -> None:
        """Append a row. Raises OSError as `writing`."""
        with writing(self.path):
            self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what could not be written has been told
            self._file.close()


def _text(row: Mapping[str, Any], name: str) -> str:
    if not isinstance(row[name], str):
        raise ValueError(f"its {name} is {row[name]!r}")
    return row[name]


def _number(row: Mapping[str, Any], name: str) -> float:
    if type(row[name]) is not float or not math.isfinite(row[name]):
        raise ValueError(f"its {name} is {str(row[name])[:40]}")
    return row[name]


def read_rows(folder: Path) -> Rows:
    """What the journals in an evaluation's folder have, whoever wrote them; a last line without its end is not there yet.

    Raises:
        ValueError: if a line is none of ours, or two processes have drawn or scored the same differently.
    """
    rows = Rows({}, {})
    for path in sorted((folder / JOURNALS).glob("*.jsonl")):
        whole = path.read_bytes().rpartition(b"\n")[0]
        for place, line in enumerate(whole.split(b"\n") if whole else [], 1):
            try:
                row = json.loads(line)
                key = Key(*(row[name] for name in KEYS))
                if "scorer" in row:
                    scored = Scored(_text(row, "sha256"), _number(row, "value"), _text(row, "identity"))
                    kept: tuple[Any, Any] = (rows.scored.setdefault((key, row["scorer"]), scored), scored)
                else:
                    drawn = Drawn(_text(row, "sha256"), _text(row, "weights"))
                    kept = (rows.drawn.setdefault(key, drawn), drawn)
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                why = f"it lacks {error}" if isinstance(error, KeyError) else error
                raise ValueError(
                    f"{path}, line {place} is no row of an evaluation ({why}); remove that line"
                ) from error
            if kept[0] != kept[1]:
                raise ValueError(
                    f"{path}, line {place} says {tuple(kept[1])} about {key.picture}, but another row says {tuple(kept[0])}; "
                    "devices or versions were mixed: remove one of them"
                )
    return rows


_Written = dict[str, dict[str, dict[str, Any]]]
PARTS = ("models", "sets", "rewards")


def _read_plan(path: Path) -> _Written:
    """What plan.json says of models, sets and rewards by name. Raises ValueError if it is not as `prepare` writes it."""
    try:
        found = json.loads(path.read_text("utf-8"))
        whole = all(isinstance(one, dict) for part in PARTS for one in (found[part], *found[part].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(
            f"{path} is not as an evaluation writes it; remove it, and the same distar evaluate writes it anew and draws nothing again"
        )
    return found


def prepare(folder: Path, plan: Plan) -> None:
    """Make a folder that of an evaluation, or hold the plan to what is there, before anything is loaded.

    A later command may add models, sets, scorers and seeds, and change what has no row yet.

    Raises:
        FileExistsError, PermissionError: as runs.folders.claim.
        ValueError: if a model has other settings, a set other prompts or a scorer another identity than its rows here.
    """
    claim(folder, "evaluation")
    path = folder / PLAN
    known = _read_plan(path) if path.is_file() else {}
    asked: _Written = {
        "models": {one.name: dict(one.settings) for one in plan.models},
        "sets": {one.name: {"prompts": len(one.entries), "sha256": one.sha256} for one in plan.sets},
        "rewards": {one.name: {"scorer": one.identity} for one in plan.scorers},
    }
    rows = read_rows(folder)
    used = {
        "models": {key.model for key in rows.drawn},
        "sets": {key.set for key in rows.drawn},
        "rewards": {name for _, name in rows.scored},
    }
    for kind, named in asked.items():
        for name in named.keys() & known.get(kind, {}).keys() & used[kind]:
            there, here = known[kind][name], named[name]
            for key in dict.fromkeys([*there, *here]):
                if there.get(key) != here.get(key):
                    remedy = (
                        "choose another folder" if kind == "rewards" else "call it otherwise, or choose another folder"
                    )
                    raise ValueError(
                        f"{folder} has rows of {kind[:-1]} {name} with {key} {there.get(key)!r}, but now it is {here.get(key)!r}; "
                        f"{remedy}"
                    )
    merged = {kind: known.get(kind, {}) | named for kind, named in asked.items()}
    if merged != known:
        write_whole(path, (json.dumps(merged, indent=1, ensure_ascii=False) + "\n").encode())


def png(image: Tensor) -> bytes:
    """A picture [3, H, W] in [0, 1] as PNG, rounded to 8 bits."""
    array = (image.float() * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


REMEDY = "remove it, and the same command draws it again"


def _drawn_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}, which was drawn; run the same command again to draw it anew")
    return path.read_bytes()


def _refuse_other_file(path: Path, data: bytes, sha256: str) -> None:
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise ValueError(f"{path} has SHA-256 {found}, but {sha256} was drawn; {REMEDY}")


def read_picture(path: Path, sha256: str) -> Tensor:
    """A picture that was drawn, [3, H, W] in [0, 1].

    Raises:
        FileNotFoundError: if it is gone.
        ValueError: if it is another file than was drawn, or no picture.
    """
    data = _drawn_bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as opened:
            array = np.asarray(opened.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError(f"{path} is no picture; {REMEDY}") from None
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} is damaged ({error}); {REMEDY}") from None
    _refuse_other_file(path, data, sha256)
    return torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255


def draw(folder: Path, plan: Plan, shard: Shard = Shard(), tell: Tell = silent) -> None:  # noqa: B008
    """Draw the pictures of a process that are missing, model by model; a model without any is not loaded.

    Raises:
        ValueError: if a model's weights are others than those of its rows, or a picture drawn anew is another one.
        NonFiniteError: if a picture has NaN.
        FileExistsError: if another process works on this shard.
        OSError: if the disk is full; what is drawn is kept.
    """
    with at_work(folder, str(shard)), _journal(folder, shard) as journal:
        rows = read_rows(folder)
        for model in plan.models:
            every = list(plan.keys(shard, model))
            missing = [key for key in every if key not in rows.drawn or not (folder / key.picture).is_file()]
            if not missing:
                continue
            drawer = load_for(folder, model, rows)
            done = len(every) - len(missing)
            for key in _told(missing, f"draw {model.name}", done, tell):
                with torch.no_grad():
                    image = drawer.draw([plan.prompt(key)], [key.seed]).cpu()
                check_pictures(image)
                data = png(image[0])
                sha256 = hashlib.sha256(data).hexdigest()
                if (before := rows.drawn.get(key)) is not None and before.sha256 != sha256:
                    raise ValueError(
                        f"{folder / key.picture} is gone, and drawn anew it has SHA-256 {sha256}, not {before.sha256}: device or "
                        "versions are others; bring the file back, or choose another folder"
                    )
                write_whole(folder / key.picture, data, by=str(shard))
                if before is None:
                    journal.write(**key._asdict(), sha256=sha256, weights=drawer.weights)
            del drawer  # before the next model comes into memory


def score(folder: Path, plan: Plan, shard: Shard = Shard(), tell: Tell = silent) -> None:  # noqa: B008
    """Score a process's pictures where a score is missing, scorer by scorer; one without any is not loaded.

    Raises:
        FileNotFoundError, ValueError: as read_picture; ValueError if a scorer's identity is another than that of its rows.
        NonFiniteError: if a score is not finite.
        FileExistsError, OSError: as `draw`.

    Warns:
        UserWarning: once for each scorer that warned, with how often and its first text.
    """
    with at_work(folder, str(shard)), _journal(folder, shard) as journal:
        rows = read_rows(folder)
        for scorer in plan.scorers:
            _refuse_other_scorer(folder, scorer, rows)
            every = [key for key in plan.keys(shard) if key in rows.drawn]
            missing = [key for key in every if not _is_scored(rows, key, scorer)]
            if not missing:
                continue
            reward = scorer.load()
            done = len(every) - len(missing)
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                for key in _told(missing, f"score {scorer.name}", done, tell):
                    sha256 = rows.drawn[key].sha256
                    image = read_picture(folder / key.picture, sha256).to(scorer.device)
                    with torch.no_grad():
                        value = float(values_of(reward, images=image[None], prompts=[plan.prompt(key)]))
                    if not np.isfinite(value):
                        raise NonFiniteError(f"{scorer.name} gives {folder / key.picture} {value}; see to its weights")
                    journal.write(
                        **key._asdict(), sha256=sha256, scorer=scorer.name, value=value, identity=scorer.identity
                    )
            del reward  # before the next comes into memory
            if told := list(dict.fromkeys(str(one.message) for one in warned)):
                more = f" (and {len(told) - 1} more of this kind)" if len(told) > 1 else ""
                warnings.warn(f"{scorer.name}: {told[0]}{more}", stacklevel=2)


def _journal(folder: Path, shard: Shard) -> Journal:
    return Journal(folder / JOURNALS / f"{shard}.jsonl")


def _told(keys: Sequence[Key], stage: str, done: int, tell: Tell) -> Iterator[Key]:
    total = done + len(keys)
    tell(Progress(stage, done, total))
    for count, key in enumerate(keys, done + 1):
        yield key
        tell(Progress(stage, count, total))


def _weights_of(rows: Rows, model: Model) -> set[str]:
    """Which weights have drawn a model's pictures."""
    return {drawn.weights for key, drawn in rows.drawn.items() if key.model == model.name}


def load_for(folder: Path, model: Model, rows: Rows) -> Drawer:
    """A model, loaded. Raises ValueError if its weights are not those that drew its rows."""
    drawer = model.load()
    there = _weights_of(rows, model)
    if there - {drawer.weights}:
        raise ValueError(
            f"{folder} has pictures of model {model.name} by weights {', '.join(sorted(there))}, but now they are "
            f"{drawer.weights}; give the model another name, or choose another folder"
        )
    return drawer


def _refuse_other_scorer(folder: Path, scorer: Scorer, rows: Rows) -> None:
    there = {scored.identity for (_, name), scored in rows.scored.items() if name == scorer.name}
    if other := sorted(there - {scorer.identity}):
        raise ValueError(
            f"{folder} has scores by {scorer.name} as {other[0]!r}, but now it is {scorer.identity!r}; choose another folder, or "
            "use the version that gave them"
        )


def _is_scored(rows: Rows, key: Key, scorer: Scorer) -> bool:
    scored = rows.scored.get((key, scorer.name))
    return scored is not None and scored.sha256 == rows.drawn[key].sha256


def table(folder: Path, plan: Plan) -> list[dict[str, str]]:
    """The rows of a plan, one for each picture in its order, all of them texts as in table.csv.

    Raises:
        IncompleteError: if pictures or scores are missing.
        FileNotFoundError: if a picture that was drawn is gone.
        ValueError: as read_rows; if scores are by another scorer, a model's pictures by several weights, or a picture is another
            file than was drawn.
    """
    rows = read_rows(folder)
    for scorer in plan.scorers:
        _refuse_other_scorer(folder, scorer, rows)
    keys = list(plan.keys())
    lacking = [key for key in keys if key not in rows.drawn]
    unscored = sum(not _is_scored(rows, key, one) for key in keys if key in rows.drawn for one in plan.scorers)
    if lacking or unscored:
        raise IncompleteError(
            f"{len(lacking)} of {len(keys)} pictures and {unscored} scores are still missing in {folder}; run the other "
            "shards, or the same command without --shard"
        )
    for model in plan.models:
        if len(weights := _weights_of(rows, model)) > 1:
            raise ValueError(
                f"{folder} has pictures of model {model.name} by weights {' and '.join(sorted(weights))}, which several processes "
                "have drawn at once; choose another folder, and give all of them the same files"
            )
    sets = {one.name: one for one in plan.sets}
    found = []
    for key in keys:
        entry, drawn = sets[key.set].entries[key.place], rows.drawn[key]
        _refuse_other_file(folder / key.picture, _drawn_bytes(folder / key.picture), drawn.sha256)
        values = (*key, key.seed, entry.category, entry.prompt, key.picture, *drawn)
        row = dict(zip(COLUMNS, map(str, values), strict=True))
        for scorer in plan.scorers:
            scored = rows.scored[key, scorer.name]
            row |= {scorer.name: repr(scored.value), f"{scorer.name}.scorer": scored.identity}
        found.append(row)
    return found


def columns(plan: Plan) -> list[str]:
    """What a plan's table has, in order."""
    return [*COLUMNS, *(name for one in plan.scorers for name in (one.name, f"{one.name}.scorer"))]


def write_table(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """A table as CSV, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table.csv."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def seal(folder: Path, *names: str) -> None:
    """Note that the first of these files was made beside the others, as they are now. Raises OSError as `writing`."""
    kept = _read_seals(folder) | {names[0]: _seal_of(folder, names)}
    write_whole(folder / SEALS, (json.dumps(kept, indent=1) + "\n").encode())


def is_sealed(folder: Path, *names: str) -> bool:
    """Whether `seal` was called with these files, and all of them are as they were."""
    there = all((folder / name).is_file() for name in names)
    return there and _read_seals(folder).get(names[0]) == _seal_of(folder, names)


def _read_seals(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / SEALS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _seal_of(folder: Path, names: Sequence[str]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256((folder / name).read_bytes()).digest() for name in names)).hexdigest()


class Finished(NamedTuple):
    """An evaluation that was summarised: the settings of the models in its table, the first what the others are compared with,
    and its rows.
    """

    models: dict[str, dict[str, str]]
    rows: list[dict[str, str]]


def read_finished(folder: Path) -> Finished:
    """The evaluation in a folder, as it was written or not at all.

    Raises:
        FileNotFoundError: if it has no table.
        ValueError: if its table or plan is not the one that was written, or was written by an evaluation that has gone on since.
    """
    if not (folder / TABLE).is_file():
        raise FileNotFoundError(f"there is no {folder / TABLE}; name the folder of a finished distar evaluate")
    if not is_sealed(folder, TABLE, PLAN):
        raise ValueError(
            f"{folder / TABLE} and {PLAN} are not as an evaluation that is finished left them; run the same distar evaluate again, "
            "which makes the table anew"
        )
    plan, rows = _read_plan(folder / PLAN), read_table(folder / TABLE)
    return Finished({name: plan["models"][name] for name in dict.fromkeys(row["model"] for row in rows)}, rows)


def write_parquet(rows: Sequence[Mapping[str, str]], path: Path) -> None:
    """The table as Parquet, with numbers as numbers."""
    import polars

    numbers = [name for name in rows[0] if f"{name}.scorer" in rows[0]]
    whole = ["place", "replicate", "seed"]
    frame = polars.DataFrame(list(rows)).with_columns(
        polars.col(numbers).cast(polars.Float64), polars.col(whole).cast(polars.Int64)
    )
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    write_whole(path, buffer.getvalue())
