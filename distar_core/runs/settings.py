"""Settings: recipes as people write them in YAML, and any setting as JSON."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from ..losses import HUBER_C, PseudoHuber
from ..methods import ALIASES, LARGEST_SCALE, METHODS, Method, find_method
from ..schedule import TimeLaw

RECIPE = "recipe.yaml"
METHOD_KEYS = ("method", "reward_scale", "cfg_scale", "huber_c")
GUIDANCE_KEYS = ("cfg_scale", "guidance_scale")
LOOP_KEYS = ("steps", "batch", "warmup", "assistant_updates", "seed")
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


Count = Annotated[int, Field(ge=1, lt=2**63)]
CountFrom0 = Annotated[int, Field(ge=0, lt=2**63)]
Rate = Annotated[float, Field(gt=0, lt=1e30)]


class Problem(NamedTuple):
    """What is wrong with one key of a recipe: its value, and a sentence with the remedy."""

    key: str
    value: Any
    sentence: str


class RecipeError(ValueError):
    """A recipe that cannot be honoured; its text has one sentence per wrong key.

    Attributes:
        problems: by key.
        key, value: of the first problem.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__(problems)
        self.problems = tuple(problems)
        self.key, self.value, _ = problems[0]

    def __str__(self) -> str:
        return "\n".join(problem.sentence for problem in self.problems)


class Defaults(NamedTuple):
    """What the keys of a method mean for a model where a recipe leaves them out; None: as in METHODS.

    Attributes:
        reward_scales: by name of the reward, which has to be one of these, and of the method; where a reward has none
            for the method, the recipe has to give one. None: the reward is whatever the recipe's type for it takes, and
            none has a default.
        huber_c: of methods with the pseudo-Huber distance.
        cfg_scale: of methods with guidance.
    """

    reward_scales: Mapping[str, Mapping[str, float]] | None
    huber_c: float | None = None
    cfg_scale: float | None = None


class Recipe(BaseModel):
    """What a post-training run depends on, besides the weights it starts from. One subclass per kind of model adds its own
    keys and defaults.

    Attributes:
        method_name: the key "method": a name of METHODS or an alias, kept as the full name.
        reward: which reward is climbed, by name, or as the kind of model writes it.
        reward_scale: strength of the reward; None for a method without one.
        cfg_scale: additive strength of guidance, s_c + w (s_c − s_null); −1 is the null score alone; None for a method
            without guidance. May be given as guidance_scale, which is larger by 1.
        huber_c: pseudo-Huber's constant; None for a method with another distance or none.
        steps, batch, warmup, assistant_updates, seed: as in post_train.
        lr, assistant_lr: the generator's and the assistant's learning rate at their first step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    DEFAULTS: ClassVar[Defaults]
    TIMES: ClassVar[TimeLaw | None] = None
    """The noise levels of generator and assistant; None: the method's own."""
    FILES: ClassVar[tuple[str, ...]] = ()
    """Keys that hold a path wherever they hold a text."""
    UNBOUND: ClassVar[frozenset[str]] = frozenset()
    """Keys that a run is not bound to: they say where things are or how the work is shared out, and what they name is compared
    by its contents."""

    method_name: str = Field("diff-instruct*", alias="method")
    reward: Any
    reward_scale: float | None = Field(None, ge=0, le=LARGEST_SCALE)
    cfg_scale: float | None = Field(None, ge=-1, le=LARGEST_SCALE)
    huber_c: float | None = Field(None, ge=HUBER_C[0], le=HUBER_C[1])
    steps: Count
    batch: Count
    warmup: CountFrom0 = 50
    assistant_updates: Count = 1
    seed: CountFrom0 = 0
    lr: Rate
    assistant_lr: Rate

    @classmethod
    def read(cls, source: Mapping[str, Any] | Path | str, /, **changes: Any) -> Self:
        """A recipe from a YAML file or a mapping; paths in a file are relative to its folder.

        Args:
            changes: keys that win over those of the source. Another method takes with it the source's keys that have no place
                in it, such as the strength of guidance for one without guidance.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: as read_yaml.
            RecipeError: for unknown or missing keys, and values of another type, out of range, or without a place in the
                method.
        """
        written, folder, place = source, Path(), ""
        if not isinstance(source, Mapping):
            path = Path(source)
            if not path.is_file():
                raise FileNotFoundError(
                    f"there is no recipe {path}; name a YAML file with lines such as method: di-star"
                )
            written, folder, place = read_yaml(path), path.parent, f"{path}: "
        settled = cls._with_paths(written, folder)
        replaced = set(GUIDANCE_KEYS) if changes.keys() & set(GUIDANCE_KEYS) else set()
        if changes.get("method") in (*METHODS, *ALIASES):
            replaced |= _without_place(find_method(changes["method"]))
        settled = {key: value for key, value in settled.items() if key not in replaced}
        try:
            return cls.model_validate(settled | cls._with_paths(changes, Path()))
        except ValidationError as error:
            raise RecipeError(_problems(error, cls.known_keys(), place)) from None

    @classmethod
    def of_run(cls, folder: Path) -> Self:
        """The recipe of the run in a folder. Raises FileNotFoundError if there is none, else as `read`."""
        if not (folder / RECIPE).is_file():
            raise FileNotFoundError(f"there is no run in {folder}; name the folder of a run, or start a new one")
        return cls.read(folder / RECIPE)

    def refuse_other(self, folder: Path, /, **asked: Any) -> None:
        """Raise RecipeError if the run in the folder, whose recipe this is, was started with other values than those asked
        for.
        """
        own = self.written
        if "method" in asked:
            asked["method"] = ALIASES.get(asked["method"], asked["method"])
        problems = [
            Problem(
                key,
                value,
                f"the run in {folder} has {key} {own.get(key)}, not {value}; leave it out, or start a new run in another "
                "folder (the learning rates decay over the steps)",
            )
            for key, value in asked.items()
            if own.get(key) != value
        ]
        if problems:
            raise RecipeError(problems)

    @classmethod
    def known_keys(cls) -> list[str]:
        """The keys that a recipe may have."""
        return [field.alias or name for name, field in cls.model_fields.items()] + ["guidance_scale"]

    @classmethod
    def _with_paths(cls, written: Any, folder: Path) -> dict[str, Any]:
        return {
            key: str((folder / value).resolve()) if key in cls.FILES and isinstance(value, str) else value
            for key, value in written.items()
        }

    @model_validator(mode="before")
    @classmethod
    def _settle(cls, written: dict[str, Any]) -> dict[str, Any]:
        """The method by its full name, guidance in its additive spelling, and defaults for the keys that the method has."""
        settled = {"method": cls.model_fields["method_name"].default, **written}
        for key, value in settled.items():
            if value is None:
                raise _refusal(key, value, "give it a value, or leave the key out")
        row, reward = _row(settled["method"]), settled.get("reward", _default(cls, "reward"))
        scales = cls.DEFAULTS.reward_scales
        if scales is not None and reward not in list(scales):
            raise _refusal("reward", reward, f"known are {', '.join(scales)}")
        for key in [key for key in OFF if key in _without_place(row) & settled.keys()]:
            if (value := settled.pop(key)) != OFF[key]:
                raise _refusal(key, value, f"has no place in method {row.name!r}; leave it out")
        if "guidance_scale" in settled:
            settled["cfg_scale"] = _additive(settled.pop("guidance_scale"), settled.get("cfg_scale"))
        elif row.guidance != "none":
            settled.setdefault("cfg_scale", row.cfg_scale if cls.DEFAULTS.cfg_scale is None else cls.DEFAULTS.cfg_scale)
        if isinstance(row.distance, PseudoHuber) and (huber_c := cls._huber_c(row.distance)) is not None:
            settled.setdefault("huber_c", huber_c)
        if row.reward_at != "nowhere" and "reward_scale" not in settled:
            if scales is None or row.name not in scales[reward]:
                raise _refusal("reward_scale", None, f"reward {reward!r} has no default for it; give one")
            settled["reward_scale"] = scales[reward][row.name]
        return settled | {"method": row.name}

    @classmethod
    def _huber_c(cls, distance: PseudoHuber) -> float | None:
        """Pseudo-Huber's constant where a recipe leaves it out; None where it depends on more than the recipe."""
        return cls.DEFAULTS.huber_c or distance.c

    @property
    def time_laws(self) -> dict[str, TimeLaw]:
        """The method's time_law and assistant_time_law, where they are not its own."""
        return {} if self.TIMES is None else {"time_law": self.TIMES, "assistant_time_law": self.TIMES}

    @property
    def method(self) -> Method:
        """The row of METHODS with the values of this recipe. Raises ValueError if one is left to the model and not known yet."""
        row = find_method(self.method_name)
        if isinstance(row.distance, PseudoHuber) and self.huber_c is None:
            raise ValueError(f"huber_c of {row.name!r} depends on the model; fill it in, or give it")
        distance = None if self.huber_c is None else PseudoHuber(self.huber_c)
        changes: dict[str, Any] = {"reward_scale": self.reward_scale, "cfg_scale": self.cfg_scale, "distance": distance}
        changes |= self.time_laws
        return replace(row, **{key: value for key, value in changes.items() if value is not None})

    @property
    def loop(self) -> dict[str, Any]:
        """The keyword arguments of post_train."""
        return {key: getattr(self, key) for key in LOOP_KEYS}

    @property
    def written(self) -> dict[str, Any]:
        """Every key with its value; `read` gives the same recipe back."""
        return self.model_dump(by_alias=True, exclude_none=True)

    @staticmethod
    def refusal(key: str, value: Any, why: str) -> Exception:
        """What a validator raises, so that `read` refuses a key: "recipe key 'key' is value, but why"."""
        return _refusal(key, value, why)

    def replace(self, /, **changes: Any) -> Self:
        """The recipe with other values for some keys; raises as `read`."""
        return self.read(self.written, **changes)

    def write(self, path: Path) -> None:
        """Write a YAML file that `read` gives the same recipe back from."""
        path.write_text(write_yaml(self.written), encoding="utf-8")


def _row(name: Any) -> Method:
    """The row that a recipe names."""
    if name not in (known := [*METHODS, *ALIASES]):
        raise _refusal("method", name, f"known are {', '.join(known)}")
    row = find_method(name)
    if row.reward_at == "every_level":
        raise _refusal("method", name, "that needs a tilt in closed form, which no model has; use didr-proxy")
    return row


def _additive(guidance_scale: Any, cfg_scale: Any) -> float:
    """cfg_scale from the other spelling of guidance, s_null + w (s_c − s_null)."""
    if cfg_scale is not None:
        why = f"cfg_scale {cfg_scale!r} gives guidance, too; keep one (cfg_scale = guidance_scale − 1)"
        raise _refusal("guidance_scale", guidance_scale, why)
    is_number = isinstance(guidance_scale, (int, float)) and not isinstance(guidance_scale, bool)
    if not is_number or not 0 <= guidance_scale <= LARGEST_SCALE:
        raise _refusal("guidance_scale", guidance_scale, f"should be from 0 to {LARGEST_SCALE:g}; {NUMBERS_IN_YAML}")
    return guidance_scale - 1


OFF: dict[str, float | None] = {"guidance_scale": 1, "cfg_scale": 0, "reward_scale": 0, "huber_c": None}
"""What says that a key of a method is off, and may stand where it has no place."""


def _without_place(row: Method) -> set[str]:
    """The keys that have no place in a method."""
    without = set(GUIDANCE_KEYS) if row.guidance == "none" else set()
    without |= set() if isinstance(row.distance, PseudoHuber) else {"huber_c"}
    return without | ({"reward_scale"} if row.reward_at == "nowhere" else set())


def _default(kind: type[BaseModel], name: str) -> Any:
    """A field's default; None for a field without one."""
    field = kind.model_fields[name]
    return None if field.is_required() else field.default


def _refusal(key: str, value: Any, why: str) -> PydanticCustomError:
    """What a validator raises: `why` goes on after "but"."""
    return PydanticCustomError("recipe", "{why}", {"key": key, "value": value, "why": why})


def _problems(error: ValidationError, known: Sequence[str], place: str) -> list[Problem]:
    """What pydantic found, as one sentence per key."""
    values: dict[str, Any] = {}
    reasons: dict[str, dict[str, None]] = {}
    for found in error.errors(include_url=False):
        context = found.get("ctx", {})
        key = str(context.get("key") or found["loc"][0])
        values[key] = context["value"] if "key" in context else found["input"]
        why = found["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if found["type"] == "extra_forbidden":
            why = f"there is no such key; known are {', '.join(known)}"
        elif found["type"] == "missing":
            values[key], why = None, f"add a line such as {key}: …"
        elif isinstance(values[key], str) and found["type"] in ("int_type", "float_type"):
            why = f"{why}; {NUMBERS_IN_YAML}"
        reasons.setdefault(key, {})[why] = None
    shown = {key: "missing:" if value is None else f"{_SHORT.repr(value)}, but" for key, value in values.items()}
    text = {key: " or ".join(why).replace(" or should be ", " or ") for key, why in reasons.items()}
    return [Problem(key, values[key], f"{place}recipe key {key!r} is {shown[key]} {why}") for key, why in text.items()]


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200


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


def read_value(text: str) -> Any:
    """A value as it stands in a YAML file, read as read_yaml does. Raises ValueError if it is not YAML."""
    import yaml

    try:
        return yaml.load(text, _yaml()[0])
    except yaml.YAMLError as error:
        raise ValueError(f"{text!r} is not YAML ({' '.join(str(error).split())}); correct it") from None


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
    """A description from earlier with the fields that the dataclasses of `setting` gained since then, at their defaults.

    A method has the name of today, since the name is only what logs and figures call it, and its fields say what it is.
    """
    if not isinstance(described, dict):
        return described
    if isinstance(setting, Mapping):
        return {key: complete(value, setting.get(key)) for key, value in described.items()}
    if not is_dataclass(setting) or isinstance(setting, type):
        return described
    if not isinstance(setting, Method):
        name = type(setting).__name__
        return described | {name: _complete_fields(described[name], setting)} if name in described else described
    return _complete_fields(described, setting) | {"name": setting.name}


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
