"""What post-training a text-to-image model depends on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from ..losses import PseudoHuber
from ..methods import find_method
from ..rewards.mix import RewardMix
from ..runs.hub import named
from ..runs.logs import ALSO, COMPARABLE
from ..runs.settings import METHOD_KEYS, Count, CountFrom0, Defaults, Problem, Recipe, RecipeError, read_yaml
from ..schedule import TimeLaw
from .adapters import LORA_TARGETS
from .prompt_files import dataset_named

if TYPE_CHECKING:
    from .models import TextToImage

Decay = Annotated[float, Field(ge=0, lt=1)]
Times = Annotated[list[Annotated[int, Field(ge=0, lt=10**5)]], Field(min_length=2, max_length=2)]
MIDDLE = (20, 979)
"""Nearly all of the 1000 times, as DMD2 draws them."""
MIDDLE_TIMES = TimeLaw.levels(range(MIDDLE[0], MIDDLE[1] + 1))
HUBER_C_OF_ONE = 0.1
"""Our default for pseudo-Huber's constant, by the square root of how many numbers a sample has."""
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
RECIPES = Path(__file__).parent / "recipes"


class PictureRecipe(Recipe):
    """The keys of a run on pictures. What a model has tuned, its subclass gives as defaults.

    Attributes:
        roles: "full" copies of the networks, or "lora": adapters on tied clones.
        rank: of the adapters.
        targets: ends of the names of the layers that get an adapter.
        times, assistant_times: first and last of the integer times that the generator's and the assistant's loss draw from,
            all equally likely.
        prompts: a file or a data set of the hub as `read_prompts` takes it, or how many of the prompts that the model itself
            brings.
        prompt_cache: a file for their embeddings, see Prompts; without one they are embedded when they are drawn, or at once
            where memory holds them. Embeddings from a cache are the same up to rounding.
        ema_decay: of the generator's averaged weights, which are what is evaluated and exported; 0 keeps none.
        optimizer: "adam" with beta_1 = 0, or "rmsprop", which takes the same steps in half of its memory, up to rounding; see
            AdamWithoutMomentum.
        checkpoint_unets, checkpoint_decoder: keep no activations inside the blocks of the UNets, and of the decoder, through
            which the reward's gradient passes; for less memory and more time, with the same numbers.
        panels_every: generator steps between panels, see sdxl.panels; 0 draws none.
        cuda_graphs: on a GPU, record a step once and replay it, see sdxl.replays; a CPU computes it call by call as ever.
    """

    FILES: ClassVar[tuple[str, ...]] = ("prompts", "prompt_cache")
    ON_THE_HUB: ClassVar[Mapping[str, Callable[[str], object]]] = {"prompts": dataset_named}
    """Those of FILES that may name something on the hub, and what finds that in the text."""
    UNBOUND: ClassVar[frozenset[str]] = frozenset({"prompts", "prompt_cache", "panels_every", "cuda_graphs"})

    roles: Literal["full", "lora"] = "full"
    rank: Count = 8
    targets: list[str] = Field(list(LORA_TARGETS), min_length=1)
    times: Times = Field(list(MIDDLE))
    assistant_times: Times = Field(list(MIDDLE))
    prompts: Count | str
    prompt_cache: str | None = None
    ema_decay: Decay
    optimizer: Literal["adam", "rmsprop"] = "adam"
    checkpoint_unets: bool = False
    checkpoint_decoder: bool = False
    panels_every: CountFrom0 = 0
    cuda_graphs: bool = False

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        for key in ("times", "assistant_times"):
            first, last = getattr(self, key)
            if first > last:
                raise self.refusal(key, [first, last], "should be the first time and the last, such as [20, 979]")
        return self

    @property
    def bound(self) -> dict[str, Any]:
        """The keys that a run is bound to, with their values, but for the method's."""
        fields = type(self).model_fields.items()
        free = {name for name, field in fields if name in self.UNBOUND or (field.alias or name) in METHOD_KEYS}
        return self.model_dump(exclude=free)

    @property
    def reward_label(self) -> str:
        """The reward in a few words."""
        return str(self.reward)

    @property
    def time_laws(self) -> dict[str, TimeLaw]:
        """The method's time_law and assistant_time_law: integer times, all equally likely."""
        laws = {"time_law": self.times, "assistant_time_law": self.assistant_times}
        return {name: TimeLaw.levels(range(first, last + 1)) for name, (first, last) in laws.items()}

    @classmethod
    def _with_paths(cls, written: Any, folder: Path) -> dict[str, Any]:
        """Paths relative to the recipe's folder, but for names on the hub."""
        settled = super()._with_paths(written, folder)
        for key, on_the_hub in cls.ON_THE_HUB.items():
            path = settled.get(key)
            if isinstance(path, str) and not Path(path).exists() and on_the_hub(written[key]) is not None:
                settled[key] = written[key]
        return settled


class SdxlRecipe(PictureRecipe):
    """The keys of a run on models of SDXL's kind that are on the disk or on the hub, of any size.

    huber_c is HUBER_C_OF_ONE √n by default, for samples of n numbers; `for_model` fills it in, and pixels.

    Attributes:
        reference: the diffusion that the generator is held to, a pipeline folder or owner/name on the hub; the assistant
            starts as a copy of it.
        generator: the one-step generator, as `load_unet` takes it.
        vae: another autoencoder than the reference's.
        variant: of the reference's files, such as fp16.
        pixels: height and width of the pictures; by default the reference's own.
        base: the type that all networks compute in, the rewards' too.
        vae_type: of the autoencoder alone, see type_of_vae.
        device: where everything is.
        reward: published rewards with weights, see RewardMix; none is loaded where the method has no use for one.
        micro_batch: samples in memory at a time; all by default.
        save_every: steps between checkpoints.
        keep: how many of the latest checkpoints stay.
        best: a column of the log, by which the best checkpoint stays too, see Kept.
        also_log: what is written beside log.csv, names of logs.ALSO.
        tf32: on a GPU, multiply what is float32 in TF32, see products_in_tf32; with base bf16 or fp16 that is the adapters.
        peak_tflops: of the device in `base`, for an estimate of the time and nothing else.
        prompts: None is for counting alone.
    """

    DEFAULTS: ClassVar[Defaults] = Defaults(None)
    FILES: ClassVar[tuple[str, ...]] = (*PictureRecipe.FILES, "reference", "generator", "vae")
    ON_THE_HUB: ClassVar[Mapping[str, Callable[[str], object]]] = {
        **PictureRecipe.ON_THE_HUB,
        **dict.fromkeys(("reference", "generator", "vae"), named),
    }
    UNBOUND: ClassVar[frozenset[str]] = PictureRecipe.UNBOUND | {
        "reference", "generator", "vae", "variant", "device", "micro_batch", "save_every", "keep", "best", "also_log",
        "peak_tflops",
    }  # fmt: skip

    reference: str
    generator: str
    vae: str | None = None
    variant: str | None = None
    pixels: Count | None = None
    base: Literal["bf16", "fp16", "fp32"] = "bf16"
    vae_type: Literal["bf16", "fp16", "fp32"] | None = None
    device: Literal["cuda", "cpu"] = "cuda"
    reward: RewardMix
    tf32: bool = False
    micro_batch: Count | None = None
    save_every: Count = 100
    keep: Count = 1
    best: str | None = None
    also_log: list[str] = Field([])
    peak_tflops: Annotated[float, Field(gt=0)] | None = None
    prompts: str | None = None  # type: ignore[assignment]

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.micro_batch is not None and self.batch % self.micro_batch:
            raise self.refusal("micro_batch", self.micro_batch, f"should divide the batch of {self.batch}")
        return self

    @model_validator(mode="after")
    def _check_kept(self) -> Self:
        if self.best is not None and self.best not in COMPARABLE:
            raise self.refusal("best", self.best, f"should be a column of the log: {', '.join(COMPARABLE)}")
        if self.best is not None and self.best not in self.logged:
            why = f"which a run by {self.method_name} does not log; choose one of {', '.join(self.logged)}"
            raise self.refusal("best", self.best, why)
        if not set(self.also_log) <= ALSO.keys():
            raise self.refusal("also_log", self.also_log, f"known are {', '.join(ALSO)}")
        return self

    @classmethod
    def _huber_c(cls, distance: PseudoHuber) -> float | None:
        return None  # it depends on the model

    @classmethod
    def _with_paths(cls, written: Any, folder: Path) -> dict[str, Any]:
        settled = super()._with_paths(written, folder)
        if isinstance(reward := settled.get("reward"), Mapping):
            settled["reward"] = {
                name: term | {"folder": str((folder / term["folder"]).resolve())}
                if isinstance(term, dict) and isinstance(term.get("folder"), str)
                else term
                for name, term in reward.items()
            }
        return settled

    @property
    def types(self) -> dict[str, torch.dtype | None]:
        """The types that load_pipeline takes."""
        return {"dtype": TYPES[self.base], "vae_dtype": TYPES[self.vae_type] if self.vae_type else None}

    @property
    def bound(self) -> dict[str, Any]:
        found = super().bound
        for term in found["reward"].values():
            del term["folder"]
        return found

    @property
    def reward_label(self) -> str:
        terms = self.reward.root.items()
        return " + ".join(name if term.weight == 1 else f"{term.weight:g} {name}" for name, term in terms)

    @property
    def start_device(self) -> str:
        """Where the generator's start is: full copies are made of it once, and need no room for it beside them."""
        return "cpu" if self.roles == "full" else self.device

    @property
    def checkpoints(self) -> int:
        """How many checkpoints the run leaves at most."""
        return self.keep + (self.best is not None)

    @property
    def logged(self) -> list[str]:
        """The columns of COMPARABLE that a run of this recipe logs at every step of the generator."""
        row = find_method(self.method_name)
        there = {
            "reward": row.reward_at == "sample" and bool(self.reward_scale),
            "regularizer": row.regularizer is not None,
            "cfg": row.guidance == "outside" and bool(self.cfg_scale),
        }
        there |= {
            "assistant": there["regularizer"],
            "gap_norm": there["regularizer"],
            "peak_gib": self.device == "cuda",
        }
        return [name for name in COMPARABLE if there[name.removeprefix("loss_").removeprefix("pull_")]]

    def parts(self, processes: int) -> int:
        """In how many parts what learns lies in so many processes: full copies are spread over them, adapters whole in each."""
        return processes if self.roles == "full" else 1

    @property
    def rewarded(self) -> bool:
        """Whether a reward takes part."""
        return bool(self.reward_scale)

    def for_model(self, model: TextToImage) -> Self:
        """The recipe with what it leaves to the model written out.

        Raises:
            RecipeError: if the model's noise schedule lacks some of the times.
        """
        low, high = int(model.schedule.low), int(model.schedule.high)
        for key in ("times", "assistant_times"):
            first, last = getattr(self, key)
            if first < low or last > high:
                why = f"the reference has times from {low} to {high}; choose among them"
                raise RecipeError([Problem(key, [first, last], f"recipe key {key!r} is {[first, last]}, but {why}")])
        changes: dict[str, Any] = {"pixels": model.pixels}
        if self.huber_c is None and isinstance(find_method(self.method_name).distance, PseudoHuber):
            changes["huber_c"] = HUBER_C_OF_ONE * math.prod(model.latent_shape) ** 0.5
        return self.replace(**changes)


def find_recipe(name: str) -> Path:
    """The file of a recipe: one that comes with the package, by its name, or a path.

    Raises:
        FileNotFoundError: if it is neither; the text has the names.
    """
    known = {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
    if name not in known and not Path(name).is_file():
        raise FileNotFoundError(f"there is no recipe {name!r}; known are {', '.join(known)}, or name a YAML file")
    return known.get(name) or Path(name)


def is_sdxl(recipe: Path) -> bool:
    """Whether a recipe's file is one of SdxlRecipe's, which names its reference, and not of a model that comes with the package."""
    return "reference" in read_yaml(recipe)
