"""Settings as people write them: from a mapping to a Method, and from settings to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from .losses import PseudoHuber
from .methods import Method, find_method

LARGEST = 1e30
NUMBERS_IN_YAML = "write numbers without quotes, and in YAML 1e-4 as 1.0e-4"


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
