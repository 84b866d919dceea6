"""The command that evaluates models on prompts: distar evaluate, and which models, prompts and rewards it knows by name."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, NamedTuple

import typer

from ..extras import require
from .sdxl import opened
from .terminal import Shown, say, stoppable

if TYPE_CHECKING:
    from ..evaluation.benchmarks import PromptSet
    from ..evaluation.distances import Distances
    from ..evaluation.harness import Drawer, Model, Plan, Scorer
    from ..sdxl.models import TextToImage
    from ..sdxl.published import PublishedModel

SETTINGS = ("steps", "guidance_scale", "base", "lora")
SPEC = re.compile(r"(?:(?P<name>[^=,/\\]+)=)?(?P<source>[^,]+)(?P<settings>(?:,[^,=]+=[^,]*)*)")
STEPS, GUIDANCE_SCALE = 50, 5.0
WORLD, WORLD_REFERENCE, WORLD_PREFIX = "world", "world-reference", "world:"


def named(text: str) -> tuple[str | None, str]:
    """NAME=REST in its two parts; None where there is no name."""
    name, equals, rest = text.partition("=")
    return (name, rest) if equals and not re.search(r"[/\\]", name) else (None, text)


class Asked(NamedTuple):
    """What --model says: the text as a whole, where the model is, and its settings as they are written."""

    text: str
    source: str
    given: Mapping[str, str]

    def refuse(self, *keys: str, why: str) -> None:
        """Raise ValueError if one of these settings is given."""
        if key := next((key for key in keys if key in self.given), None):
            raise ValueError(f"model {self.text!r} has {key}, but {why}; leave it out")

    def number(self, key: str, otherwise: float) -> float:
        """A setting that is a number. Raises ValueError unless it is at least 1, and for steps whole."""
        try:
            value = float(self.given.get(key, otherwise))
        except ValueError:
            value = 0
        if not 1 <= value < 10_000 or (key == "steps" and value % 1):
            raise ValueError(f"model {self.text!r} has {key} {self.given[key]!r}; write a number of at least 1")
        return value


class Found(NamedTuple):
    """How a model draws, in words, what loads it in a type on a device, and whether it draws in one step."""

    settings: Mapping[str, str]
    load: Callable[[str, str], Drawer]
    one_step: bool = True


def find_model(text: str, *, dtype: str, device: str) -> Model:
    """The model of [NAME=]SOURCE[,steps=...][,guidance_scale=...][,base=...][,lora=...]; nothing is loaded or fetched yet.

    Raises:
        ValueError: for a setting that is unknown, no number, or does not fit the kind of model.
        FileNotFoundError: if the source is neither on the disk nor could be a name on the hub.
        OSError: as on_disk.
    """
    from ..evaluation.harness import Model
    from ..runs.run import holds_run
    from ..sdxl.export import LORA
    from ..sdxl.files import SINGLE_FILES
    from ..sdxl.flux import is_flux_folder
    from ..sdxl.published import FLUX, MODELS

    parts = SPEC.fullmatch(text)
    if parts is None:
        raise ValueError(f"model {text!r} is no [NAME=]SOURCE[,{'=...][,'.join(SETTINGS)}=...]; write it so")
    asked = Asked(text, parts["source"], dict(one.split("=", 1) for one in parts["settings"].split(",")[1:]))
    if unknown := next((key for key in asked.given if key not in SETTINGS), None):
        raise ValueError(f"model {text!r} has the setting {unknown!r}; known are {', '.join(SETTINGS)}")
    source, folder = asked.source, Path(asked.source)
    known = MODELS[FLUX] if source == MODELS[FLUX].source and not folder.exists() else MODELS.get(source)
    if source in (WORLD, WORLD_REFERENCE):
        found = _of_world(asked)
    elif holds_run(folder):
        asked.refuse(*SETTINGS, why="a run has its own settings")
        draws = f"{one_step_words()}, the run's averaged generator"
        found = Found({"draws": draws}, partial(_load_run, folder))
    elif (folder / LORA).is_file():
        raise ValueError(f"{source} holds a LoRA; name the model that it is for, such as world,lora={source}")
    elif known is MODELS[FLUX] or is_flux_folder(folder):
        found = _of_flux(asked, known)
    elif (known and known.steps > 1) or (folder / "model_index.json").is_file() or _is_repository(source):
        found = _of_pipeline(asked, known)
    elif known or folder.exists() or _is_on_hub(source):
        found = _of_unet(asked, known)
    else:
        raise FileNotFoundError(
            f"there is no {source}, and no model of that name; known are {WORLD}, {WORLD_REFERENCE}, {', '.join(MODELS)}"
        )
    # run/ and ./run are the same folder
    settings = {"source": known.source if known else str(folder) if folder.exists() else source, **found.settings}
    settings |= {key: asked.given[key] for key in ("lora",) if key in asked.given}
    places = {key: Path(asked.given[key]) for key in ("base", "lora") if key in asked.given}
    if not known and source not in (WORLD, WORLD_REFERENCE):
        places["source"] = folder
    settings |= {f"{key} on the disk": on_disk(place) for key, place in places.items() if place.exists()}
    if known:
        settings["is"] = f"{known.about}; licence: {known.licence}"
    settings["computes"] = f"in {dtype} on {device.split(':')[0]}"
    name = parts["name"] or (folder.stem if folder.suffix in SINGLE_FILES else folder.name)
    return Model(name, settings, partial(found.load, dtype, device), found.one_step)


def on_disk(place: Path) -> str:
    """Which weights lie in a file or a folder, sixteen hexadecimal digits. A run's are known by its checkpoint's header, which has
    a digest of every tensor.

    Raises:
        OSError: if one cannot be read.
    """
    from ..runs.run import CHECKPOINT
    from ..sdxl.files import SINGLE_FILES

    found, run = hashlib.sha256(), place / CHECKPOINT
    files = [run] if run.is_file() else sorted(place.rglob("*")) if place.is_dir() else [place]
    for path in (path for path in files if path.suffix in SINGLE_FILES and path.is_file()):
        with path.open("rb") as file:
            if path.suffix == ".safetensors":
                found.update(_header(file))
            if path != run:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]


def _header(file: BinaryIO) -> bytes:
    """A safetensors file's header, its entries in order: writing it again may turn them. One that cannot be read is for whoever
    loads it to refuse.
    """
    length = file.read(8)
    text = file.read(min(int.from_bytes(length, "little"), 1 << 27))
    try:
        return length + json.dumps(json.loads(text), sort_keys=True).encode()
    except (ValueError, RecursionError):
        return length + text


def _of_world(asked: Asked) -> Found:
    from ..world.models import GUIDANCE_SCALE as GUIDANCE_OF_WORLD
    from ..world.models import STEPS as STEPS_OF_WORLD

    lora, base = asked.given.get("lora"), asked.given.get("base")
    own = {"weights": base} if base else {}
    if asked.source == WORLD:
        asked.refuse("steps", "guidance_scale", why=f"it draws in one step; {WORLD_REFERENCE} has steps")
        return Found({"draws": one_step_words(), **own}, partial(_load_world, base, None, None, lora))
    steps = int(asked.number("steps", STEPS_OF_WORLD))
    guidance_scale = asked.number("guidance_scale", GUIDANCE_OF_WORLD)
    draws = steps_words(steps, guidance_scale)
    return Found({"draws": draws, **own}, partial(_load_world, base, steps, guidance_scale, lora), False)


def _of_pipeline(asked: Asked, known: PublishedModel | None) -> Found:
    asked.refuse("base", why="a pipeline is whole")
    source = known.source if known else asked.source
    steps = int(asked.number("steps", 1 if _is_export(Path(source)) else known.steps if known else STEPS))
    if steps == 1:
        asked.refuse("guidance_scale", why="one step has no guidance")
    guidance_scale = asked.number("guidance_scale", known.guidance_scale if known else GUIDANCE_SCALE)
    draws = one_step_words() if steps == 1 else steps_words(steps, guidance_scale)
    load = partial(_load_pipeline, source, steps, guidance_scale, "steps" in asked.given, asked.given.get("lora"))
    return Found({"draws": draws}, load, steps == 1)


def _of_flux(asked: Asked, known: PublishedModel | None) -> Found:
    from ..sdxl.flux import takes_guidance
    from ..sdxl.published import FLUX, MODELS

    asked.refuse("base", "lora", why="FLUX is drawn with as it is published")
    published = MODELS[FLUX]
    if not known and not takes_guidance(Path(asked.source)):
        raise ValueError(
            f"{asked.source} is a FLUX pipeline whose network takes no guidance, such as FLUX.1 [schnell]; only FLUX.1 [dev] is drawn"
        )
    steps = int(asked.number("steps", published.steps))
    guidance_scale = asked.number("guidance_scale", published.guidance_scale)
    load = partial(_load_flux, known.source if known else asked.source, steps, guidance_scale)
    return Found({"draws": steps_words(steps, guidance_scale)}, load, False)


def _of_unet(asked: Asked, known: PublishedModel | None) -> Found:
    from ..sdxl.published import SDXL_NAME

    asked.refuse("steps", "guidance_scale", why="a UNet alone draws in one step")
    source, base = (known.source if known else asked.source), asked.given.get("base", SDXL_NAME)
    return Found({"draws": one_step_words(), "base": base}, partial(_load_unet, source, base, asked.given.get("lora")))


def one_step_words() -> str:
    """How a one-step generator draws, in words."""
    from ..sdxl import T_STAR

    return f"one step at time {T_STAR}, without guidance"


def steps_words(steps: int, guidance_scale: float) -> str:
    """How a diffusion draws, in words."""
    return f"{steps} steps of its own scheduler, guidance_scale {guidance_scale:g}"


def _is_export(folder: Path) -> bool:
    from ..runs.folders import MARK

    return (folder / MARK).is_file() and (folder / MARK).read_text("utf-8").strip() == "export"


def _is_on_hub(source: str) -> bool:
    from ..runs.hub import named as on_hub

    return on_hub(source) is not None


def _is_repository(source: str) -> bool:
    """Whether it is a whole repository of the hub, owner/name, so a pipeline."""
    from ..runs.hub import named as on_hub

    found = on_hub(source)
    return found is not None and not found.inside


def _drawer(
    model: TextToImage, unet: Any, lora: str | None, draw: Callable[..., Any] | None = None, generator: Any = None
) -> Drawer:
    """The model with a LoRA on its UNet, if there is one.

    Args:
        draw: of several steps; without it the model draws in one, by `generator` or its own.
    """
    from ..evaluation.harness import Drawer
    from ..sdxl.export import load_lora

    if lora is not None:
        load_lora(model.one_step_pipeline(unet), lora)
    weights = weights_of(model, unet)
    if draw is not None:
        return Drawer(draw, weights)
    generator = generator or model.generator(unet)
    return Drawer(
        partial(model.draw, generator=generator), weights, model.noise, partial(model.draw_from, generator=generator)
    )


def weights_of(model: TextToImage, unet: Any, dtype: str | None = None) -> str:
    """Which weights a model draws with, through a UNet of its kind: what an evaluation writes beside each picture.

    Args:
        dtype: as if it had been loaded in this type; by default as it is.
    """
    from ..runs.weights import digest
    from ..sdxl.loading import type_of_vae

    pipeline = model.pipeline
    types = None
    if dtype is not None:
        cast = _dtype(dtype)
        types = [cast, type_of_vae(pipeline.vae.config, cast), cast, cast]
    return digest([unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2], types)


def _dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _load_world(
    folder: str | None, steps: int | None, guidance_scale: float | None, lora: str | None, dtype: str, device: str
) -> Drawer:
    """The miniature's reference in so many steps, or without a number its one-step generator."""
    from ..world.models import SHIPPED, load_world

    world = load_world(folder or SHIPPED, dtype=_dtype(dtype), device=device)
    if steps is None:
        return _drawer(world, world.unet, lora)
    draw = partial(world.draw_reference, steps=steps, guidance_scale=guidance_scale)
    return _drawer(world, world.pipeline.unet, lora, draw)


def _load_run(folder: Path, dtype: str, device: str) -> Drawer:
    from ..sdxl.compute import compute_in
    from ..sdxl.loading import quiet, type_of_vae
    from ..sdxl.post_training import load_run

    recipe, model, _ = opened(folder)
    state = load_run(recipe, model, None, folder)
    state.roles.generator.load_ema()
    generator: Any = state.roles.generator.module
    generator.to(device=device, dtype=_dtype(dtype))
    if recipe.roles == "full":  # whose layers cast to the type that the run computed in
        compute_in(generator.network.unet, _dtype(dtype))
    pipeline = model.pipeline
    with quiet():  # diffusers says of every network that it was cast
        for part in (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2):
            part.to(device, _dtype(dtype))
        pipeline.vae.to(device, type_of_vae(pipeline.vae.config, _dtype(dtype)))
    return _drawer(model, generator.network.unet, None, generator=generator)


def _load_pipeline(
    source: str, steps: int, guidance_scale: float, asked: bool, lora: str | None, dtype: str, device: str
) -> Drawer:
    from ..sdxl.models import load_text_to_image

    model = load_text_to_image(source, dtype=_dtype(dtype), device=device)
    scheduler = type(model.pipeline.scheduler).__name__
    if scheduler == "LCMScheduler" and steps > 1 and not asked:
        raise ValueError(f"{source} has an {scheduler}, so it draws in few steps; say how many: {source},steps=1")
    unet = model.pipeline.unet
    if steps == 1:
        return _drawer(model, unet, lora)
    return _drawer(model, unet, lora, partial(model.draw_reference, steps=steps, guidance_scale=guidance_scale))


def _load_flux(source: str, steps: int, guidance_scale: float, dtype: str, device: str) -> Drawer:
    from ..evaluation.harness import Drawer
    from ..runs.weights import digest
    from ..sdxl.flux import NETWORKS, draw, load_flux

    pipeline = load_flux(source, dtype=_dtype(dtype), device=device)
    weights = digest([getattr(pipeline, part) for part in NETWORKS])
    return Drawer(partial(draw, pipeline, steps=steps, guidance_scale=guidance_scale), weights)


def _load_unet(source: str, base: str, lora: str | None, dtype: str, device: str) -> Drawer:
    from ..sdxl.models import load_text_to_image

    model = load_text_to_image(base, generator=source, dtype=_dtype(dtype), device=device)
    return _drawer(model, model.unet, lora)


def find_prompts(text: str) -> PromptSet:
    """The prompts of a benchmark's name, of NAME=PATH, or of a file of one's own.

    Raises:
        FileNotFoundError, ValueError: as Benchmark.load and read_prompts.
    """
    from ..evaluation.benchmarks import BENCHMARKS, Entry, PromptSet
    from ..sdxl.prompt_files import read_prompts

    name, path = named(text)
    if text == WORLD:
        from ..world.evaluation import held_out_captions

        return held_out_captions()
    if name is None and text in BENCHMARKS:
        return BENCHMARKS[text].load()
    if name in BENCHMARKS:
        return BENCHMARKS[name].load(path)
    if name is None and not Path(path).exists() and "/" not in path:
        raise FileNotFoundError(
            f"there is no prompt file {path}, and no set of that name; known are {WORLD}, {', '.join(BENCHMARKS)}"
        )
    return PromptSet(name or Path(path).stem, [Entry(prompt) for prompt in read_prompts(path)], path)


def find_scorer(text: str, device: str) -> Scorer:
    """The reward of a published name, of NAME=FOLDER, or of world:JUDGE; nothing is loaded yet.

    Raises:
        ValueError: as rewards.published.find_reward; for an unknown judge.
    """
    from ..evaluation.harness import Scorer
    from ..rewards.published import find_reward

    name, equals, folder = text.partition("=")
    if not equals and text.startswith(WORLD_PREFIX):
        return _world_judge(text, device)
    published = find_reward(name)

    def load() -> Any:
        return published.load(folder if equals else None).to(device)

    return Scorer(
        published.name,
        published.identity,
        load,
        device,
        published.factor,
        published.family,
        has_features=published.has_logit,
    )


def _world_judge(text: str, device: str) -> Scorer:
    from ..world.evaluation import scorers

    known = {scorer.name: scorer for scorer in scorers(device).values()}
    if text not in known:
        raise ValueError(f"reward {text!r} is unknown; the world has {', '.join(known)}")
    return known[text]


def require_device(device: str) -> None:
    """Raise ValueError unless torch can compute there."""
    import torch

    kind, _, number = device.partition(":")
    known = ["cpu", *(f"cuda:{count}" for count in range(torch.cuda.device_count()))]
    if device != "cpu" and (kind != "cuda" or f"cuda:{number or 0}" not in known):
        raise ValueError(f"device {device!r} is none here; torch finds {', '.join(known)}")


def distances_of(folder: Path, plan: Plan, to: str, device: str) -> dict[str, dict[str, Distances]]:
    """Distances by set: of every model but the first to the first, or of every model to the pictures in a folder."""
    from ..evaluation.distances import distances, pictures_in

    def drawn(model: Model, name: str) -> list[Path]:
        return [folder / key.picture for key in plan.keys(model=model) if key.set == name]

    first, *others = plan.models
    found: dict[str, dict[str, Distances]] = {}
    for name in (one.name for one in plan.sets):
        real = drawn(first, name) if to == "first" else pictures_in(Path(to))
        target = first.name if to == "first" else to
        found[name] = {
            f"{model.name} and {target}": distances(drawn(model, name), real, device=device)
            for model in (others if to == "first" else plan.models)
        }
    return found


def split(texts: Sequence[str]) -> list[str]:
    """Names that were given one by one, or several with commas between them."""
    return [one for text in texts for one in text.split(",") if one]


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Where pictures, scores and the report go.")],
    model: Annotated[
        list[str],
        typer.Option(
            metavar="[NAME=]SOURCE",
            help="A published model by name (sdxl, dmd2, di-star, ...), world, world-reference, a run's folder, an export, a "
            "pipeline's folder or its name on the hub, or a UNet's; behind a comma steps=, guidance_scale=, base= (the pipeline "
            "around a UNet, or the world's weights) or lora=. Repeat it: the others are compared with the first.",
        ),
    ],
    prompts: Annotated[
        list[str],
        typer.Option(
            metavar="SET",
            help="parti, hpsv2, coco30k or geneval, fetched once or from a copy as parti=PATH; world; or a file of your own, "
            "PATH or NAME=PATH. May be repeated.",
        ),
    ],
    rewards: Annotated[
        list[str],
        typer.Option(
            metavar="NAMES",
            help="Names with commas, as distar rewards lists them; with their files in a folder NAME=FOLDER; for the miniature "
            "world world:gold, world:preference and world:clip.",
        ),
    ],
    seeds: Annotated[int, typer.Option(min=1, help="Pictures for each prompt, the same seeds for every model.")] = 1,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Do only a part of the prompts, so that N processes share the work.")
    ] = "0/1",
    dtype: Annotated[str, typer.Option(help="What the models compute in: float32, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...; by default cuda where there is one.")] = "",
    distances: Annotated[
        str,
        typer.Option(
            metavar="first|FOLDER",
            help="Also Fréchet and kernel distances to the first model's pictures, or to the real ones in a folder.",
        ),
    ] = "",
    hacking: Annotated[
        str,
        typer.Option(
            metavar="REWARD",
            help="Also ask whether the gain is a hack: which of the rewards the models were trained on. The first model is their "
            "start, the other rewards judge.",
        ),
    ] = "",
    parquet: Annotated[bool, typer.Option("--parquet", help="Also write the table as Parquet.")] = False,
    layouts: Annotated[
        bool,
        typer.Option(
            "--layouts", help="Also copy the pictures into the folders that GenEval's or HPSv2's own script reads."
        ),
    ] = False,
) -> None:
    """Draw, score, compare: models side by side on the same prompts and seeds, with intervals, in a report with pictures.

    Stopped or killed at any moment, the same command continues; a later one may add models, prompts, rewards and seeds.
    """
    require("models")
    if parquet or distances:
        require("evaluation")
    from dataclasses import replace

    import torch

    from ..evaluation import harness
    from ..evaluation.hacking import controls, judged, measure_paths, panels
    from ..evaluation.layouts import require_layout, write_layouts
    from ..evaluation.report import PAGE, PANEL_PAGE, panels_of_table, write_panels, write_report

    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype {dtype!r} is unknown; known are float32, bfloat16 and float16")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    require_device(device)
    if distances and distances != "first":
        from ..evaluation.distances import pictures_in

        pictures_in(Path(distances))
    part = harness.Shard.read(shard)
    plan = harness.Plan(
        [find_model(text, dtype=dtype, device=device) for text in model],
        [find_prompts(text) for text in prompts],
        [find_scorer(text, device) for text in split(rewards)],
        seeds,
    )
    if layouts:
        require_layout(plan)
    judges = judged(plan, hacking) if hacking else None
    whole = replace(plan, scorers=[*plan.scorers, *controls(plan, judges.proxy)]) if judges else plan
    harness.prepare(folder, whole)
    if device == "cpu":
        torch.set_num_threads(1)  # the last bits of a picture depend on the number of threads
    with stoppable(lambda: f"while evaluating; what is done is kept in {folder}: run the same command to continue"):
        with Shown() as shown:
            harness.draw(folder, whole, part, shown)
            if judges:
                measure_paths(folder, whole, judges.eyes, part, shown)
            harness.score(folder, whole, part, shown)
        try:
            rows = harness.table(folder, whole)
        except harness.IncompleteError as error:
            if part.processes == 1:
                raise
            say(f"shard {shard} is done; {error}")
            return
        named = [{key: row[key] for key in harness.columns(plan)} for row in rows]
        harness.write_table(named, folder / harness.TABLE)
        harness.seal(folder, harness.TABLE, harness.PLAN)
        if parquet:
            harness.write_parquet(named, folder / "table.parquet")
        if layouts:
            for path in write_layouts(folder, plan):
                say(f"for its own script: {path}")
        if judges:
            with Shown() as shown:
                found = panels(folder, whole, judges, rows, shown)
            say(write_panels(folder, whole, rows, found))
        else:
            try:
                panels_of_table(folder)
            except ValueError as error:
                say(str(error))
        say(write_report(folder, plan, named, distances_of(folder, plan, distances, device) if distances else None))
    page = folder / (PANEL_PAGE if judges else PAGE)
    say(f"report, table and pictures are in {folder}: open {page}")
