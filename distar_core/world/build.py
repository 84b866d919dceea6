"""Trains the world's models from nothing: an autoencoder, a text-to-image diffusion, a one-step generator distilled from
it without pictures, and the judges. Each stage has a folder, stops at Ctrl-C and resumes where it stopped.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..draws import draw
from ..methods import METHODS, Method
from ..rates import cosine_decay, decay
from ..roles import NetworkScore, Roles, Trainable
from ..runs.folders import at_work, claim, replacing, require_writable
from ..runs.progress import Progress, Tell, silent
from ..runs.run import CHECKPOINT, run
from ..schedule import TimeLaw
from ..sdxl.latents import encode
from ..sdxl.loading import diffusion_of, quiet
from ..sdxl.miniature import make_pipeline
from ..sdxl.models import TextToImage
from ..sdxl.prompts import Prompt, PromptedUNet, PromptEncoder, embed
from ..sdxl.recipe import MIDDLE_TIMES
from ..training import State
from .judges import HELD_OUT, PREFERENCE, train_clip, train_preference
from .models import load_world
from .scenes import PIXELS, WORDS, render, training_scenes
from .stages import Seconds, fit, nothing

ALL_TIMES = TimeLaw.levels(range(1000))
LOW_TIMES = TimeLaw.levels(range(20, 600))
GUIDANCE = 1.0  # additive, s_c + w (s_c − s_null): a guidance scale of 2 in diffusers' spelling


@dataclass(frozen=True)
class Recipe:
    """How much each stage works.

    Attributes:
        vae_steps, reference_steps, generator_steps, low_noise_steps: updates; the last two are the generator's.
        stored: pictures whose latents the diffusion is trained on.
        prompts: captions that the generator is distilled on.
        clip_steps, preference_steps: updates of the judges.
        pairs: comparisons that the preference reward is learnt from.
        vae_batch, reference_batch, generator_batch, clip_batch, preference_batch: rows of an update.
        seed: of everything that is drawn.
    """

    vae_steps: int
    reference_steps: int
    generator_steps: int
    low_noise_steps: int
    stored: int
    prompts: int
    clip_steps: int
    preference_steps: int
    pairs: int
    vae_batch: int = 64
    reference_batch: int = 64
    generator_batch: int = 32
    clip_batch: int = 128
    preference_batch: int = 64
    seed: int = 0


RECIPES = {
    "full": Recipe(
        vae_steps=2000,
        reference_steps=7000,
        generator_steps=1200,
        low_noise_steps=300,
        stored=80_000,
        prompts=4096,
        clip_steps=2500,
        preference_steps=1500,
        pairs=6000,
    ),
    "ci": Recipe(3, 3, 3, 2, 64, 16, 3, 3, 8, vae_batch=8, reference_batch=8, generator_batch=8, clip_batch=8),
}


class Autoencoding(nn.Module):
    """An AutoencoderKL's training loss: squared and absolute error of the picture, and KL of the posterior."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pictures: Tensor, noise: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] and noise like the latents -> loss, []."""
        target = 2 * pictures - 1
        posterior = self.vae.encode(target).latent_dist  # type: ignore[operator]
        error = self.vae.decode(posterior.mean + posterior.std * noise).sample - target  # type: ignore[operator]
        return error.square().mean() + 0.3 * error.abs().mean() + 1e-5 * posterior.kl().mean()


def train_vae(folder: Path, pipeline: Any, recipe: Recipe, tell: Tell) -> None:
    """Train the pipeline's autoencoder on the stream of scenes; resumes from the folder's checkpoint."""
    module = Autoencoding(pipeline.vae)
    learner = Trainable(
        module,
        torch.optim.Adam(module.parameters(), betas=(0.9, 0.99)),
        lr=decay(2e-3, recipe.vae_steps, rise=50),
        ema_decay=0.99,
        max_grad_norm=1.0,
    )
    latent_shape = TextToImage(pipeline).latent_shape

    def loss_at(step: int) -> Tensor:
        rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        pictures = render(training_scenes(recipe.vae_batch, rng)[0])
        return module(pictures, torch.randn(recipe.vae_batch, *latent_shape, generator=rng))

    fit(folder, learner, loss_at, recipe.vae_steps, "autoencoder", {"recipe": recipe}, tell)


@torch.no_grad()
def normalise_latents(vae: Any, seed: int) -> None:
    """Give the VAE's configuration the mean and deviation of its latents by channel, on 2048 scenes."""
    vae.register_to_config(latents_mean=None, latents_std=None, scaling_factor=1.0)
    pictures = render(training_scenes(2048, torch.Generator().manual_seed(seed))[0])
    latents = torch.cat([encode(vae, part) for part in pictures.split(256)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist(), scaling_factor=1.0)


@torch.no_grad()
def store_latents(path: Path, vae: Any, recipe: Recipe, tell: Tell) -> tuple[Tensor, list[str]]:
    """Latents [N, C, h, w] of training scenes and their captions; written once, then read."""
    captions_path = path.with_suffix(".json")
    if path.exists() and captions_path.exists():
        captions = json.loads(captions_path.read_text("utf-8"))
        if len(captions) == recipe.stored:
            return load_file(path)["latents"].float(), captions
    parts, captions = [], []
    rng = torch.Generator().manual_seed(recipe.seed + 1)
    while len(captions) < recipe.stored:
        scenes, said = training_scenes(min(500, recipe.stored - len(captions)), rng)
        parts.append(encode(vae, render(scenes)).half().contiguous())
        captions += said
        tell(Progress("latents", len(captions), recipe.stored))
    captions_path.write_text(json.dumps(captions), "utf-8")
    latents = torch.cat(parts)
    with replacing(path) as partial:
        save_file({"latents": latents}, partial)
    return latents.float(), captions


class Captioned(NamedTuple):
    """Which stored pictures a batch is made of, [B], their captions' token ids [B, tokens], and whether to use them."""

    picture: Tensor
    ids: Tensor
    kept: Tensor


class StoredLatents(nn.Module):
    """In the generator's place: yields the stored latents that the condition names, so the loop trains a diffusion."""

    def __init__(self, latents: Tensor) -> None:
        super().__init__()
        self.stored = latents  # no buffer: a checkpoint need not hold the data

    def latent(self, draw: Callable[[str, tuple[int, ...]], Tensor]) -> Tensor:
        """Nothing is drawn."""
        return torch.empty(0)

    def forward(self, z: Tensor, condition: Captioned) -> Tensor:
        return self.stored[condition.picture]


class TextAndUNet(nn.Module):
    """UNet and text encoders as one network (x_t, t, condition) -> eps, so that they are trained together."""

    def __init__(self, unet: nn.Module, encoders: Sequence[nn.Module], *, tokens: int) -> None:
        super().__init__()
        self.network = PromptedUNet(unet, pixels=PIXELS, tokens=tokens)
        self.encoders = nn.ModuleList(encoders)

    def forward(self, x_t: Tensor, t: Tensor, condition: Captioned) -> Tensor:
        prompt = embed(list(self.encoders), [condition.ids] * len(self.encoders))
        kept = condition.kept.to(x_t)
        return self.network(x_t, t, Prompt(prompt.text * kept[:, None, None], prompt.pooled * kept[:, None]))


def train_reference(folder: Path, pipeline: Any, recipe: Recipe, tell: Tell) -> None:
    """Train UNet and text encoders: denoising score matching by the loop's own assistant step, on stored latents."""
    claim(folder, "run")
    latents, captions = store_latents(folder / "latents.safetensors", pipeline.vae, recipe, tell)
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
    (ids, _) = PromptEncoder.of(pipeline).tokens(captions)
    network = TextAndUNet(pipeline.unet, encoders, tokens=ids.shape[1])
    schedule, prediction = diffusion_of(pipeline.scheduler)
    score = NetworkScore(network, schedule, prediction)
    learner = Trainable(
        score,
        torch.optim.Adam(score.parameters(), betas=(0.9, 0.99)),
        lr=decay(2e-3, recipe.reference_steps, rise=200),
        ema_decay=0.999 if recipe.reference_steps > 2000 else 0.9,
    )
    state = State(Roles(Trainable(StoredLatents(latents)), nothing, learner), schedule)
    batch = recipe.reference_batch

    def conditions(step: int, rows: slice) -> Captioned:
        index = (draw(recipe.seed, step, "picture", (batch,), rows, uniform=True) * len(latents)).long()
        kept = draw(recipe.seed, step, "kept", (batch,), rows, uniform=True) >= 0.1
        return Captioned(index, ids[index], kept)

    method = replace(METHODS["diff-instruct"], name="denoising", assistant_time_law=ALL_TIMES, time_law=ALL_TIMES)
    _run_stage(
        folder,
        state,
        method,
        conditions,
        recipe,
        tell,
        "reference",
        steps=0,
        warmup=recipe.reference_steps,
        batch=batch,
    )
    learner.load_ema()


def _run_stage(
    folder: Path,
    state: State,
    method: Method,
    conditions: Callable[[int, slice], Any],
    recipe: Recipe,
    tell: Tell,
    stage: str,
    **options: Any,
) -> None:
    require_writable(folder)
    total = options["steps"] + options["warmup"]
    records = run(
        state,
        method,
        conditions,
        folder,
        resume=(folder / CHECKPOINT).exists(),
        save_every=250,
        settings={"recipe": recipe, "stage": stage},
        seed=recipe.seed,
        **options,
    )
    with Seconds(folder) as clock:
        for record in records:
            clock.tick()
            loss = float(record.losses["assistant"].mean())
            tell(Progress(stage, record.step + 1 + options["warmup"], total, f"loss {loss:.4g}"))


def train_generator(folder: Path, pipeline: Any, recipe: Recipe, tell: Tell) -> Any:
    """Distil the reference into a one-step generator, without pictures: Diff-Instruct with DMD's weight, guidance inside.

    First on nearly all noise levels, which settles what is where; then on the lower ones alone. Some colours are close
    together in the autoencoder's latents, and only little noise shows the difference.

    Returns:
        The generator's UNet.
    """
    _, captions = training_scenes(recipe.prompts, torch.Generator().manual_seed(recipe.seed + 2))
    world = TextToImage(pipeline)
    prompts = world.encoder(captions)
    batch = recipe.generator_batch

    def copied() -> Any:
        return copy.deepcopy(pipeline.unet).requires_grad_(True)

    def conditions(step: int, rows: slice) -> Prompt:
        return prompts.rows((draw(recipe.seed, step, "prompt", (batch,), rows, uniform=True) * recipe.prompts).long())

    generator = world.generator(copied())
    assistant = world.score(copied())
    for name, times, steps in (
        ("generator", MIDDLE_TIMES, recipe.generator_steps),
        ("low noise", LOW_TIMES, recipe.low_noise_steps),
    ):

        def learner(module: nn.Module, rate: float, ema: float = 0.0, steps: int = steps) -> Trainable:
            optimizer = torch.optim.Adam(module.parameters(), betas=(0.0, 0.99))
            return Trainable(module, optimizer, lr=cosine_decay(rate, steps), ema_decay=ema)

        learns = learner(generator, 3e-4, 0.98)
        state = State(Roles(learns, world.reference(), learner(assistant, 7e-4)), world.schedule)
        method = replace(METHODS["dmd"], cfg_scale=GUIDANCE, time_law=times, assistant_time_law=times)
        options = {"steps": steps, "warmup": 0, "batch": batch, "assistant_updates": 2}
        _run_stage(folder / name.replace(" ", "_"), state, method, conditions, recipe, tell, name, **options)
        learns.load_ema()
    return generator.network.unet


def build(folder: Path, recipe: Recipe, tell: Tell = silent) -> Path:
    """All stages; returns the folder of weights, with reference/ (a StableDiffusionXLPipeline), generator/ (a
    UNet2DConditionModel to be used once at t = 399), clip/ (for open_clip) and preference.safetensors.

    Raises:
        Interrupted: at Ctrl-C or SIGTERM; calling again resumes.
        FileExistsError: if the folder holds files of others, or another build is at work in it.
        PermissionError: if the folder cannot be written.
        ValueError: if the folder holds a build with another recipe.
    """
    claim(folder, "world")
    with at_work(folder):
        return _build(folder, recipe, tell)


def _build(folder: Path, recipe: Recipe, tell: Tell) -> Path:
    torch.manual_seed(recipe.seed)
    pipeline = make_pipeline(WORDS, pixels=PIXELS)
    train_vae(folder / "vae", pipeline, recipe, tell)
    pipeline.vae.requires_grad_(False)
    normalise_latents(pipeline.vae, recipe.seed)
    train_reference(folder / "reference", pipeline, recipe, tell)
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2):
        part.requires_grad_(False)
    unet = train_generator(folder / "generator", pipeline, recipe, tell)
    weights = folder / "weights"
    # half precision for what is large; text encoders stay as they are, since transformers loads them in the file's type
    pipeline.vae.half()
    pipeline.unet.half()
    with quiet():
        pipeline.save_pretrained(weights / "reference")
        unet.half().save_pretrained(weights / "generator")
    world = load_world(weights)
    steps, batch = recipe.clip_steps, recipe.clip_batch
    clip = train_clip(folder / "clip", world, steps=steps, batch=batch, seed=recipe.seed, tell=tell)
    shutil.copytree(folder / "clip" / "model", weights / "clip", dirs_exist_ok=True)
    steps, batch = recipe.preference_steps, recipe.preference_batch
    for place, name in {0: Path(PREFERENCE).stem, **dict(enumerate(HELD_OUT, 2))}.items():
        options = {"pairs": recipe.pairs, "steps": steps, "batch": batch, "seed": recipe.seed + 100 * place}
        train_preference(folder / name, world, clip, **options, tell=tell, stage=name)
        shutil.copy(folder / name / PREFERENCE, weights / f"{name}.safetensors")
    return weights


STAGES = ("vae", "reference", "generator/generator", "generator/low_noise", "clip", "preference", *HELD_OUT)


def seconds_of(folder: Path) -> dict[str, float]:
    """Seconds that each stage of a build has worked."""
    return {stage: float((folder / stage / "seconds.txt").read_text()) for stage in STAGES}
