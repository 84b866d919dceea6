"""Prompts from the files and data sets that people have: text, tables, JSON, Parquet, and data sets of the hub by name."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..runs.hub import Named, fetched, named, sizes_in
from ..runs.settings import read_text
from ..runs.weights import in_one_line, refuse_pointer

COLUMNS = ("prompt", "text", "caption")
"""What the prompts' column may be called, whatever its case; the first that a file has is read."""
ZERO_WIDTH = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")
# joiners, which letters of other scripts and emoji need among themselves
STRAY_JOINERS = re.compile("(?<![^\\x00-\\x7f\\s])[\u200c\u200d]+|[\u200c\u200d]+(?![^\\x00-\\x7f\\s])")
BLANKS = re.compile("[\\s\u2028\u2029]+")
OPTIONS = re.compile(r"(?<!\S)--[a-zA-Z]\S*|<(?:lora|lyco|hypernet):[^>]*>|\([^()]*[^()\d]:\d*\.?\d+\)")


KINDS = (".parquet", ".jsonl", ".csv", ".tsv", ".json", ".txt")
"""What is read of a data set, the first kind that it has."""
SHARD = re.compile(r"-\d+-of-\d+(?=\.)")
LARGEST = 4e9
"""How many bytes of a data set are fetched for its prompts; one with pictures in it has more."""


def read_prompts(source: Path | str) -> list[str]:
    """The prompts in a file, or in a data set of the hub, in its order, repeated ones included.

    By its extension: .tsv (without quoting, as in PartiPrompts), .csv (quoted as RFC 4180 has it), .json (a list), .jsonl and
    .parquet; their rows are objects or lines with a column of COLUMNS, or in JSON plain strings. Any other file has one prompt
    per line. Zero-width characters, blanks at the ends and empty prompts are left out; line breaks and tabs within a prompt of
    a Parquet file are blanks, as for CLIP's tokenizer.

    Args:
        source: a path; or on the hub owner/name, or owner/name/file, where nothing on the disk has that name. Of a data set
            in several parts its train part is read.

    Raises:
        FileNotFoundError: if there is no such file, or the hub does not have or give it.
        ValueError: if it holds no prompt, or no UTF-8 text; if it has no column of prompts (the message has those it has); if
            a row cannot be read, or a prompt holds a control character, a line break included (the message has the place); if
            a data set has several parts of which none is the train part, or is too large to be text.

    Warns:
        UserWarning: for an extension that is none of these; for prompts with options or weights of other tools, such as
            "--ar 3:2" or "(red:1.3)", which are embedded as words.
    """
    hub = dataset_named(source)
    files = [Path(source)] if hub is None else files_of(hub)
    prompts = [prompt for file in files for prompt in _prompts_in(file)]
    if not prompts:
        raise ValueError(f"prompt file {source} is empty; write one prompt a line")
    foreign = [(prompt, option.group()) for prompt in prompts if (option := OPTIONS.search(prompt))]
    if foreign:
        warnings.warn(
            f"{len(foreign)} of {len(prompts)} prompts in {source} hold options of other tools, which are embedded as words, the "
            f"first: {foreign[0][1]!r} in {foreign[0][0]!r}",
            stacklevel=2,
        )
    return prompts


def dataset_named(source: Path | str) -> Named | None:
    """The data set that a text names on the hub; None for a path, and for what is called like a prompt file."""
    hub = named(source, "dataset")
    return None if hub is None or (not hub.inside and Path(source).suffix.lower() in KINDS) else hub


def files_of(hub: Named) -> list[Path]:
    """The files of a data set that have its prompts, fetched: the one named, or those of its only or its train part.

    Raises:
        FileNotFoundError: as `fetched`; if it has no file of KINDS.
        ValueError: if it has several parts of which none or several are called train, or more than LARGEST bytes.
    """
    folder = fetched(hub, ["README.md"])
    sizes = sizes_in(hub, folder)
    inside = [name for name in sizes if name == hub.inside or name.startswith(f"{hub.inside}/" if hub.inside else "")]
    kinds = [kind for kind in KINDS if any(name.lower().endswith(kind) for name in inside)]
    whole = "/".join(part for part in hub[:2] if part)
    if not kinds:
        raise FileNotFoundError(f"data set {whole} has no file of prompts, {', '.join(KINDS)}; see {hub.url}")
    parts: dict[str, list[str]] = {}
    for name in sorted(name for name in inside if name.lower().endswith(kinds[0])):
        parts.setdefault(SHARD.sub("", name), []).append(name)
    train = [part for part in parts if "train" in part.lower()]
    chosen = [*parts] if len(parts) == 1 else train
    if len(chosen) != 1:
        several = ", ".join(parts[part][0] for part in list(chosen or parts)[:4])
        raise ValueError(f"data set {whole} has several files of prompts; name one, {hub.name}/FILE: {several}")
    names = parts[chosen[0]]
    if (total := sum(sizes[name] for name in names)) > LARGEST:
        raise ValueError(
            f"data set {whole} has {total / 1e9:.0f} GB, so more than prompts; name a data set, or a file of it, without pictures"
        )
    return [fetched(hub, names, revision=folder.name) / name for name in names]


def _prompts_in(path: Path) -> Iterator[str]:
    """The prompts in one file. Raises and warns as read_prompts."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no prompt file {path}; name a text file with one prompt a line")
    refuse_pointer(path)
    for place, row in _rows(path, path.suffix.lower()):
        prompt = STRAY_JOINERS.sub("", ZERO_WIDTH.sub("", row)).strip(" \t\r\n")
        strange = next((sign for sign in prompt if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")), None)
        if strange is not None:
            raise ValueError(
                f"prompt file {path}, {place}: the prompt holds the control character U+{ord(strange):04X}; take it out"
                + (", or name the file .tsv if it is a table" if strange == "\t" else "")
            )
        if prompt.strip():
            yield prompt.strip()


def _rows(path: Path, kind: str) -> Iterator[tuple[str, str]]:
    """Place and prompt of each row of a file."""
    if kind == ".parquet":
        return _parquet_rows(path)
    text = read_text(path)
    if kind in (".tsv", ".csv"):
        return _table_rows(path, text, quoted=kind == ".csv")
    if kind in (".json", ".jsonl"):
        return _json_rows(path, text, by_line=kind == ".jsonl")
    if kind not in ("", ".txt"):
        warnings.warn(
            f"{path} is read as text with one prompt per line; files named .tsv, .csv, .json, .jsonl and .parquet are read by "
            "their column of prompts",
            stacklevel=2,
        )
    return ((f"line {place}", line) for place, line in enumerate(text.split("\n"), 1))


def _parquet_rows(path: Path) -> Iterator[tuple[str, str]]:
    """Place and prompt of the rows of a Parquet file, of which only the column of prompts is read, some rows at a time."""
    import pyarrow
    from pyarrow import parquet, types

    count = 0
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            column = schema.field(_column(path, "row 1", schema.names))
            kind = column.type.value_type if types.is_dictionary(column.type) else column.type
            if not (types.is_string(kind) or types.is_large_string(kind)):
                raise ValueError(
                    f"prompt file {path}: column {column.name!r} holds {kind}; name a file with prompts as text"
                )
            for batch in file.iter_batches(batch_size=8192, columns=[column.name]):
                for prompt in batch.column(0).to_pylist():
                    count += 1
                    yield f"row {count}", BLANKS.sub(" ", prompt or "")
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"prompt file {path}, after row {count}: no Parquet ({in_one_line(error, 100)}); copy it again, whole"
        ) from error


def _column(path: Path, place: str, names: Sequence[str]) -> int:
    """Which of these columns has the prompts."""
    plain = [ZERO_WIDTH.sub("", name).strip().lower() for name in names]
    found = [plain.index(name) for name in COLUMNS if plain.count(name) == 1]
    if not found:
        raise ValueError(
            f"prompt file {path}, {place}: no column is called {' or '.join(COLUMNS)} among {', '.join(map(repr, names))}; "
            "rename the one with the prompts"
        )
    return found[0]


def _table_rows(path: Path, text: str, *, quoted: bool) -> Iterator[tuple[str, str]]:
    """Place and prompt of the rows of a table with a header."""
    lines = io.StringIO(text, newline="")
    dialect: dict[str, Any] = {"strict": True} if quoted else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
    reader = csv.reader(lines, **dialect)
    column = names = None
    try:
        for row in reader:
            place = f"line {reader.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if column is None or names is None:
                column, names = _column(path, place, row), row
                continue
            if len(row) <= column or any(cell.strip() for cell in row[len(names) :]):
                raise ValueError(
                    f"prompt file {path}, {place}: there are {len(row)} cells for {len(names)} columns; "
                    + ("put a prompt with commas in double quotes" if quoted else "take out tabs within a prompt")
                )
            yield place, row[column]
    except csv.Error as error:
        raise ValueError(f"prompt file {path}, line {reader.line_num}: {error}; mend its quotes") from error


def _json_rows(path: Path, text: str, *, by_line: bool) -> Iterator[tuple[str, str]]:
    """Place and prompt of the entries of a JSON list, or of lines of JSON."""
    if by_line:
        lines = [(place, line) for place, line in enumerate(text.split("\n"), 1) if line.strip()]
        entries = ((f"line {place}", _parsed(path, line, place)) for place, line in lines)
    else:
        whole = _parsed(path, text, 1) if text.strip() else []
        if not isinstance(whole, list):
            keys = f" with the keys {', '.join(map(repr, whole))}" if isinstance(whole, dict) else ""
            raise ValueError(
                f"prompt file {path} is a JSON {type(whole).__name__}{keys}; give a list of prompts, or of objects with the "
                f"key {COLUMNS[0]!r}"
            )
        entries = ((f"entry {place}", entry) for place, entry in enumerate(whole, 1))
    for where, entry in entries:
        names = list(entry) if isinstance(entry, dict) else []
        prompt = entry[names[_column(path, where, names)]] if isinstance(entry, dict) else entry
        if not isinstance(prompt, str):
            raise ValueError(
                f"prompt file {path}, {where}: the prompt is {json.dumps(prompt)[:50]}; write it as a string"
            )
        yield where, prompt


def _parsed(path: Path, text: str, first: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        line = first + getattr(error, "lineno", 1) - 1
        raise ValueError(
            f"prompt file {path}, line {line}: no JSON ({getattr(error, 'msg', error)}); mend it"
        ) from error
