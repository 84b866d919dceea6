"""Settings as people write them: from a mapping to a Method, and from settings to JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ..losses import PseudoHuber
from ..methods import Method, find_method

LARGEST = 1e30
NUMBERS_IN_YAML = "write numbers as 300 or 1e-4, without quotes and underscores"
CORE_SCHEMA: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "null": ("~nN", r"~|null|Null|NULL|", lambda _: None),
    "bool": ("tTfF", r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    "int": (
        "-+0123456789",
        r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
        lambda text: int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)),
    ),
    "float": (
        "-+.0123456789",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.lower())),
    ),
}
"""What a plain scalar is in YAML 1.2 (section 10.3.2): by type its first characters, form and value; all else is text."""


def read_method(recipe: Mapping[str, Any]) -> Method:
    """A Method from a recipe: "method" names the row, every other key replaces one of its fields.

    Two keys are translated: huber_c sets the distance, and guidance_scale, the spelling s_null + w (s_c − s_null) with
    1 as "off", becomes cfg_scale = w − 1.

    Raises:
        ValueError: for an unknown method or key, both guidance spellings, or a value that the row refuses.
    """
    settings = dict(recipe)
    if "method" not in settings:
        raise ValueError("the recipe names no method; add a line such as method: di-star")
    row = find_method(settings.pop("method"))
    known = {field.name for field in fields(Method)} - {"name"} | {"huber_c", "guidance_scale"}
    for key, value in settings.items():
        if key not in known:
            raise ValueError(f"recipe key {key!r} (value {value!r}) is unknown; known are {', '.join(sorted(known))}")
        if key in ("cfg_scale", "guidance_scale", "reward_scale", "huber_c") and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LARGEST
        ):
            raise ValueError(f"recipe key {key!r} must be a finite number, got {value!r}; {NUMBERS_IN_YAML}")
        if key in ("cfg_scale", "guidance_scale", "reward_scale") and value < 0:
            raise ValueError(f"recipe key {key!r} must not be negative, got {value!r}; choose 0 or more")
    if "guidance_scale" in settings:
        if "cfg_scale" in settings:
            raise ValueError(
                f"the recipe gives guidance twice, cfg_scale {settings['cfg_scale']} and guidance_scale "
                f"{settings['guidance_scale']}; keep one (cfg_scale = guidance_scale − 1)"
            )
        settings["cfg_scale"] = settings.pop("guidance_scale") - 1
    if "huber_c" in settings:
        if "distance" in settings or row.distance is None:
            raise ValueError(
                f"huber_c {settings['huber_c']} does not fit: method {row.name!r} "
                + ("gets its distance from the key distance" if "distance" in settings else "has no distance")
                + "; leave huber_c out"
            )
        settings["distance"] = PseudoHuber(settings.pop("huber_c"))
    return replace(row, **settings)


def read_text(path: Path) -> str:
    """A text file, with or without a byte order mark. Raises ValueError if it is not UTF-8."""
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text (byte {error.start}); save it as UTF-8") from None


@cache
def _yaml() -> tuple[Any, Any]:
    """A loader and a dumper for PyYAML, which is for YAML 1.1: there 0300 is 192, 1:30 is 90, no is False, 1e-4 a text."""
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[Any] = set()
            for key, _ in node.value:
                name = self.construct_object(key, deep=True)
                if isinstance(name, Hashable) and name in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {name!r} stands twice", key.start_mark
                    )
                seen |= {name} if isinstance(name, Hashable) else set()
            return super().construct_mapping(node, deep)

    class Dumper(yaml.SafeDumper):
        """Puts into quotes what either version takes for something else than a text."""

        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
            first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
        }

    def scalar(form: re.Pattern[str], value: Callable[[str], Any]) -> Callable[[Any, Any], Any]:
        def construct(loader: Any, node: Any) -> Any:
            text = loader.construct_scalar(node)
            if not form.match(text):  # where the type is given in so many words, as in !!int three
                raise yaml.constructor.ConstructorError(None, None, f"{text!r} is no {node.tag}", node.start_mark)
            return value(text)

        return construct

    for name, (first, form, value) in CORE_SCHEMA.items():
        tag, whole = f"tag:yaml.org,2002:{name}", re.compile(rf"(?:{form})\Z")
        Loader.add_constructor(tag, scalar(whole, value))
        for kind in (Loader, Dumper):
            kind.add_implicit_resolver(tag, whole, [*first, ""])
    return Loader, Dumper


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file, read as version 1.2: 0300 is 300, 1e-4 a number, yes and no are texts.

    Raises:
        ValueError: if it is not YAML or not UTF-8, no mapping, or a key stands in it twice or is no text.
    """
    import yaml

    try:
        written = yaml.load(read_text(path), _yaml()[0])
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())}); correct that line") from None
    if not isinstance(written, dict):
        raise ValueError(f"{path} holds {type(written).__name__}, not keys with values; write lines such as steps: 300")
    for key in written:
        if not isinstance(key, str):
            raise ValueError(f"key {key!r} in {path} is no name; write lines such as steps: 300")
    return written


def write_yaml(settings: Mapping[str, Any]) -> str:
    """Settings as YAML in their order; read_yaml gives them back."""
    import yaml

    return yaml.dump(dict(settings), Dumper=_yaml()[1], sort_keys=False)


def describe(value: Any) -> Any:
    """A setting as JSON: dataclasses by field, functions by name; equal settings give equal descriptions.

    Two functions of one name are taken for equal; give a weight or regularizer of your own a name.
    """
    if is_dataclass(value) and not isinstance(value, type):
        inside = {field.name: describe(getattr(value, field.name)) for field in fields(value)}
        return inside if isinstance(value, Method) else {type(value).__name__: inside}
    if isinstance(value, Mapping):
        return {str(key): describe(inside) for key, inside in value.items()}
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, partial):
        return [describe(value.func), describe(value.args), describe(value.keywords)]
    if isinstance(value, (list, tuple)):
        return [describe(inside) for inside in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    own_repr = type(value).__repr__ is not object.__repr__
    return getattr(value, "__name__", None) or (repr(value) if own_repr else type(value).__qualname__)


def complete(described: Any, setting: Any) -> Any:
    """A description from earlier with the fields that the dataclasses of `setting` gained since then, at their defaults."""
    if not isinstance(described, dict):
        return described
    if isinstance(setting, Mapping):
        return {key: complete(value, setting.get(key)) for key, value in described.items()}
    if not is_dataclass(setting) or isinstance(setting, type):
        return described
    if not isinstance(setting, Method):
        name = type(setting).__name__
        return described | {name: _complete_fields(described[name], setting)} if name in described else described
    return _complete_fields(described, setting)


def _complete_fields(described: dict[str, Any], setting: Any) -> dict[str, Any]:
    made = {field.name: field.default_factory() for field in fields(setting) if field.default_factory is not MISSING}
    plain = {field.name: field.default for field in fields(setting) if field.default is not MISSING}
    inside = {key: complete(value, getattr(setting, key, None)) for key, value in described.items()}
    return describe(plain | made) | inside


def fill(described: Any, defaults: Any) -> Any:
    """A description with the keys that it lacks taken from another, at every depth."""
    if not isinstance(described, dict) or not isinstance(defaults, dict):
        return described
    return defaults | {key: fill(value, defaults.get(key)) for key, value in described.items()}


def differences(here: Any, there: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Where two descriptions differ: (dotted name, value here, value there); None stands for a missing key."""
    if isinstance(here, dict) and isinstance(there, dict):
        keys = sorted(here.keys() | there.keys())
        parts = [differences(here.get(key), there.get(key), f"{name}.{key}" if name else key) for key in keys]
        return [difference for part in parts for difference in part]
    return [] if here == there else [(name, here, there)]
