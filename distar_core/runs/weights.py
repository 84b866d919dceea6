"""Files of weights and tokenizers: read whole or refused, and held to the network that they are for."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

STORED_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
CODE_IN_A_PICKLE = ("unsupported global", "unrecognized function")
"""How torch.load words its refusal of a file whose loading would run code, in contrast to a damaged one."""


def in_one_line(error: BaseException, length: int = 300) -> str:
    """The message of an error without line breaks, cut; its type where it has none."""
    return " ".join(str(error).split())[:length] or type(error).__name__


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what loaders raise for a file below `path` into one ValueError that names it: a damaged file, or a pickle that
    would run code, also where a library wraps that refusal in an error of its own.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        pickle.UnpicklingError,
        SafetensorError,
    ) as error:
        if _would_run_code(error):
            raise ValueError(
                f"{path} holds more than tensors, and loading it could run code; ask for a .safetensors file"
            ) from error
        raise ValueError(
            f"{path} is damaged or of another model ({in_one_line(error)}); copy it again, whole"
        ) from error


def _would_run_code(error: BaseException | None) -> bool:
    while error is not None:
        told = str(error).lower()
        if isinstance(error, pickle.UnpicklingError) and any(phrase in told for phrase in CODE_IN_A_PICKLE):
            return True
        error = error.__cause__ or error.__context__
    return False


def refuse_pointer(path: Path) -> None:
    """Raise ValueError for a Git LFS pointer, the few lines that stand in a clone where a large file was not fetched."""
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs"):
            raise ValueError(f"{path} is a Git LFS pointer and no weights; fetch them with: git lfs pull")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of keys and values. Raises FileNotFoundError, or ValueError if it is something else."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; copy the folder again, whole")
    refuse_pointer(path)
    with reading(path):
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds {type(found).__name__}")
    return found


def read_weights(path: Path, within: str | None = None) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file, or one of torch.save's, whose other contents are refused unread.

    They are views of the file, which is read where they are; only what torch.save wrote before its version 1.6 is read at
    once. So names, shapes and types cost little, whatever the size.

    Args:
        within: the key of a training checkpoint of torch.save's that the tensors are under; others, such as an optimizer's,
            are passed over.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, a Git LFS pointer, lacks the key, or holds anything but tensors by name.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; name a file of weights")
    refuse_pointer(path)
    with reading(path):
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if within is not None:
        if not isinstance(found, dict) or within not in found:
            told = (
                ", ".join(str(key)[:40] for key in list(found)[:3]) if isinstance(found, dict) else type(found).__name__
            )
            raise ValueError(
                f"{path} has no {within!r} but {told}; name a training checkpoint, or copy it again, whole"
            )
        found = found[within]
    others = (
        [key for key, value in found.items() if not isinstance(value, Tensor)] if isinstance(found, dict) else [found]
    )
    if others:
        told = ", ".join(str(other)[:40] for other in others[:3])
        raise ValueError(f"{path} does not hold tensors by name but {told}; save the network's own state_dict")
    return found


def refuse_quantized(source: Path | str, found: Mapping[str, Tensor]) -> None:
    """Raise ValueError, with their number, type and first names, if any weights are stored in a type that a cast does not
    bring back: integers, whose scales are elsewhere, or eight bits. Positions, which are integers by nature, pass.
    """
    names = sorted(n for n, v in found.items() if v.dtype not in STORED_TYPES and not n.endswith("position_ids"))
    if names:
        kept = str(found[names[0]].dtype).removeprefix("torch.")
        raise ValueError(
            f"{source} stores {len(names)} weights as {kept} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}), "
            "and a cast does not undo a quantization; use a file in float16, bfloat16 or float32"
        )


def digest(networks: Iterable[torch.nn.Module], types: Sequence[torch.dtype] | None = None) -> str:
    """Which weights networks hold, to the last bit and in their types, adapters included; sixteen hexadecimal digits.

    Args:
        types: as if each network had been cast to its type before.
    """
    found = hashlib.sha256()
    for place, network in enumerate(networks):
        for name, own in sorted(network.state_dict().items()):
            value = own.to(types[place]) if types and own.is_floating_point() else own
            found.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def check_weights(source: Path | str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError, as `refuse_misfits`, unless these are the weights of a network, by name and shape."""
    refuse_misfits(
        source,
        missing=expected.keys() - found.keys(),
        unexpected=found.keys() - expected.keys(),
        misshapen=[name for name in found.keys() & expected.keys() if found[name].shape != expected[name].shape],
    )


def refuse_misfits(
    source: Path | str, *, missing: Collection[str], unexpected: Collection[str], misshapen: Collection[str]
) -> None:
    """Raise ValueError, with their number and first names, if any weights are missing, unexpected or of another shape."""
    kinds = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    told = [
        f"{len(names)} {kind} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in kinds.items()
        if names
    ]
    if told:
        prefix = _common_prefix(missing, unexpected)
        remedy = f"remove {prefix!r}, with which every name begins" if prefix else "copy the model's own again, whole"
        raise ValueError(f"{source} does not hold this model's weights: {', '.join(told)}; {remedy}")


def refuse_not_finite(source: Path | str, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError, with their number, first names and type, if any weights hold NaN or infinity, be it from the file or
    because the type that they were loaded in is too narrow for them.
    """
    if names := sorted(name for name, value in weights.items() if not bool(value.isfinite().all())):
        told = f"{len(names)} weights ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        kept = str(weights[names[0]].dtype).removeprefix("torch.")
        raise ValueError(
            f"{source} has NaN or infinity in {told} as {kept}; copy it again, whole, or load it in a wider type"
        )


def check_merges(source: Path | str, tokenizer: Any) -> None:
    """Raise ValueError, with their number and the first, if words in a CLIP tokenizer's vocabulary are made by no merge.

    Such a tokenizer, as a lost list of merges leaves it, spells the words in letters. Others than CLIP's byte-pair encoding,
    which marks the end of a word by </w>, pass: their vocabularies may hold tokens that need no merge.

    Args:
        tokenizer: one of transformers; any other passes.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = {} if backend is None else json.loads(backend.to_str())["model"]
    if model.get("type") != "BPE" or model.get("end_of_word_suffix") != "</w>":
        return
    merged = {"".join(pair if isinstance(pair, list) else pair.split()) for pair in model["merges"]}
    made = [t for t in model["vocab"] if len(t.removesuffix("</w>")) > 1 and t not in tokenizer.all_special_tokens]
    if lost := [token for token in made if token not in merged]:
        raise ValueError(
            f"{source} has no merges that make {len(lost)} words of its vocabulary, such as {lost[0]!r}; copy it again, whole"
        )


def check_end(source: Path | str, tokenizer: Any, end: Any) -> None:
    """Raise ValueError, with both tokens, unless a CLIP text model of transformers pools where its tokenizer ends a prompt, or
    if prompts are not padded on the right.

    The pooled embedding is taken at the largest id of a prompt where the model's eos_token_id is 2, and else at the first place
    with this id, which is place 0 of every prompt, and the same for all, where the tokenizer never writes it.

    Args:
        end: the text model's eos_token_id.
    """
    own, largest = tokenizer.eos_token_id, len(tokenizer) - 1
    if type(end) is not int or (own != largest if end == 2 else end != own):
        raise ValueError(
            f"{source} ends a prompt with token {own}, but its text encoder, whose eos_token_id is {end!r}, pools at "
            f"{f'the largest, {largest}' if end == 2 else repr(end)}; correct eos_token_id in the text encoder's config.json"
        )
    if tokenizer.padding_side != "right":
        raise ValueError(
            f"{source} has padding_side {tokenizer.padding_side!r}, but CLIP reads prompts padded on the 'right'; correct "
            "tokenizer_config.json"
        )


def _common_prefix(missing: Collection[str], unexpected: Collection[str]) -> str | None:
    """What stands before every expected name, as a wrapper around the saved network leaves it."""
    first = min(missing, default="")
    for name in unexpected:
        prefix = name.removesuffix(first)
        if name.endswith(f".{first}") and {prefix + other for other in missing} == set(unexpected):
            return prefix
    return None
