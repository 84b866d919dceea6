"""The commands for models of SDXL's kind: distar train sdxl, distar sample, and distar export, which writes models for others
to load."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..extras import require
from .doctor import memory_gib
from .runs import chosen_recipe, resume_command, run_hints, summary, train_on_pictures
from .terminal import hint, print_table, say, silent_unless

if TYPE_CHECKING:
    from ..runs.processes import Alone
    from ..sdxl.ledger import Ledger
    from ..sdxl.models import TextToImage
    from ..sdxl.recipe import PictureRecipe, SdxlRecipe

GIB = 2**30
EXAMPLES = {"world": "a red circle", "sdxl": "a red fox in the snow"}
"""A prompt by what a run trains."""
COUNTING = "counting what a step takes; for SDXL that is a minute or two"


def settings_in(words: Sequence[str]) -> dict[str, Any]:
    """The settings that --set gives, by key. Raises ValueError for one without =, one that is not YAML, and a key that stands twice."""
    from ..runs.settings import read_value

    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {word} is no setting; write KEY=VALUE, such as --set steps=100")
        if key in found:
            raise ValueError(f"--set {key} stands twice; keep one")
        try:
            found[key] = read_value(text)
        except ValueError as error:
            raise ValueError(f"--set {key}: {error}") from None
        if found[key] is None:
            raise ValueError(f"--set {word} gives no value; write KEY=VALUE, or leave it out for the recipe's own")
    return found


def train_sdxl(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")],
    recipe: Annotated[
        str | None, typer.Option(help="24gb, 80gb, n-gpus, or a YAML file; a copy of one of these is a good start.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Wins over the recipe; may stand several times."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run takes: memory, time, disk and downloads; and stop.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the folder's checkpoint with its own recipe.")
    ] = False,
    processes: Annotated[
        int,
        typer.Option(min=1, help="With --dry-run: count one of so many processes; a run has those of its launcher."),
    ] = 1,
) -> None:
    """Post-train SDXL, or another model of its kind, held to its reference; stops and resumes.

    The first experiments of Diff-Instruct*, each with --recipe 24gb --set prompts=FILE and in a RUN of its own:

    reward alone: --set cfg_scale=0

    guidance alone: --set reward_scale=0

    both, over scales: for a in 10 100; do for w in 4.5 7.5; do distar train sdxl RUN-$a-$w --recipe 24gb --set prompts=FILE --set
    reward_scale=$a --set cfg_scale=$w; done; done

    --dry-run says first what a run takes. docs/sdxl.md has more.

    On several GPUs: torchrun --standalone --nproc-per-node 8 --no-python distar train sdxl RUN ...; see docs/processes.md.
    """
    require("models")
    from ..runs.folders import nothing_left
    from ..runs.processes import launched
    from ..sdxl.recipe import SdxlRecipe, find_recipe

    if recipe is None and not resume:
        raise ValueError("a new run needs a recipe; add --recipe 24gb, 80gb, n-gpus or a YAML file, or --resume")
    if processes > 1 and not dry_run:
        raise ValueError(
            f"--processes {processes} is for --dry-run; to start so many: torchrun --standalone --nproc-per-node {processes} "
            "--no-python distar train sdxl ..."
        )
    source = None if recipe is None else find_recipe(recipe)
    own = chosen_recipe(SdxlRecipe, folder, source, resume, **settings_in(settings or ()))
    if dry_run:
        tell_plan(own, processes)
        return
    require_device(own)
    if own.prompts is None:
        raise ValueError(
            "the recipe has no prompts; name a file or a data set of the hub with them: --set prompts=FILE"
        )
    if "tensorboard" in own.also_log:
        require("tensorboard")
    with (
        launched(own.device) as others,
        silent_unless(others.first),
        run_hints(
            "choose a lower lr or reward_scale in a new folder",
            lambda: resume_command("sdxl", folder, set=settings or [] if resume else []),
        ),
        nothing_left(folder) if others.first else nullcontext(),
    ):
        train_by_recipe(own, own.prompts, folder, others, resume=resume)


def train_by_recipe(own: SdxlRecipe, source: str, folder: Path, processes: Alone, *, resume: bool) -> None:
    """Look whether a run can be, load what it needs and train; in each of the processes that share it.

    Args:
        source: of the prompts.
    """
    from ..runs.folders import at_work, claim
    from ..sdxl.compute import products_in_tf32
    from ..sdxl.ledger import require_fit
    from ..sdxl.plan import counted_prompts, model_on_meta, require_disk, rewards_on_meta
    from ..sdxl.post_training import peak_memory
    from ..sdxl.prompt_files import read_prompts

    prompts = read_prompts(source)
    share = share_of(own, processes)

    def enter() -> None:
        if not resume:
            claim(folder, "run")
        with at_work(folder):
            pass  # nobody else is; the run itself takes the lock

    processes.by_first(enter)

    # what the files say, before any weights are fetched or read
    sketch = model_on_meta(own)
    own = own.for_model(sketch)
    say(COUNTING)
    memory = memory_of(own)
    ledger = require_fit(
        own.replace(batch=share),
        sketch,
        rewards_on_meta(own),
        counted_prompts(len(prompts)),
        memory=memory,
        micro_batch=own.micro_batch,
        processes=processes.count,
    )
    require_disk(folder, ledger, own.checkpoints, own.parts(processes.count))
    say(
        f"counted at the peak: {ledger.peak / GIB:.3g} GiB, {ledger.need / GIB:.3g} with reserves, of {memory / GIB:.3g}"
    )
    del sketch

    reward = own.reward.load(device=own.device, dtype=own.types["dtype"]) if own.rewarded else None
    model = loaded(own, own.device)
    with products_in_tf32(own.tf32):
        train_on_pictures(
            own,
            model,
            reward,
            prompts,
            folder,
            processes=processes,
            resume=resume,
            save_every=own.save_every,
            micro_batch=own.micro_batch,
            keep=own.keep,
            best=own.best,
            also_log=own.also_log,
        )
    if (peak := peak_memory(model.device)) is not None:
        say(f"memory at the peak: {ledger.peak / GIB:.3g} GiB counted, {peak():.3g} allocated")
    say(f"recipe, log and checkpoint are in {folder}")
    say(f"pictures: distar sample {folder} PROMPT; a folder for diffusers: distar export {folder} FOLDER")


def require_device(recipe: SdxlRecipe) -> None:
    """Raise ValueError if the recipe's device is a GPU and there is none."""
    import torch

    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "the recipe computes on a GPU (device: cuda), and torch finds none here; distar doctor tells more, --dry-run "
            "needs none, and --set device=cpu is for small models"
        )


def memory_of(recipe: SdxlRecipe) -> int:
    """Bytes that are free on the recipe's device; of several GPUs, on the one that this process has taken."""
    import torch

    if recipe.device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return int((memory_gib() or float("inf")) * GIB)


def share_of(recipe: SdxlRecipe, processes: Alone) -> int:
    """How many samples of a step a process has. Raises ValueError unless processes and micro-batches divide the batch evenly."""
    share = len(range(recipe.batch)[processes.rows(recipe.batch)])
    if recipe.micro_batch is not None and share % recipe.micro_batch:
        raise ValueError(
            f"micro_batch is {recipe.micro_batch}, which does not divide the {share} samples that each of the "
            f"{processes.count} processes has of a batch of {recipe.batch}; choose a divisor: --set micro_batch=1"
        )
    return share


def loaded(recipe: SdxlRecipe, device: str) -> TextToImage:
    """The models of a recipe. Raises as load_text_to_image."""
    from ..sdxl.models import load_text_to_image

    return load_text_to_image(
        recipe.reference,
        generator=recipe.generator,
        device=device,
        generator_device=None if device == "cpu" else recipe.start_device,
        variant=recipe.variant,
        vae=recipe.vae,
        pixels=recipe.pixels,
        **recipe.types,  # type: ignore[arg-type]
    )


def tell_plan(recipe: SdxlRecipe, processes: int = 1) -> None:
    """Say what a run takes, from shapes alone: it needs no GPU, and for SDXL itself no network.

    Args:
        processes: how many will share the run; memory is that of each.
    """
    from ..sdxl.ledger import count_step
    from ..sdxl.plan import (
        LAUNCHING,
        OF_PEAK,
        checkpoint_bytes,
        counted_prompts,
        downloads,
        hours_of_run,
        model_on_meta,
        rewards_on_meta,
    )
    from ..sdxl.processes import Share
    from ..sdxl.prompt_files import dataset_named, read_prompts

    share = share_of(recipe, Share(processes))
    fetched = recipe.prompts is None or dataset_named(recipe.prompts) is not None
    prompts = counted_prompts(2**31 if fetched else len(read_prompts(recipe.prompts or "")))
    sketch = model_on_meta(recipe, offline=True)
    recipe = recipe.for_model(sketch)
    say(f"{summary(recipe)}, {recipe.batch} samples each")
    say(COUNTING)
    ledger = count_step(
        recipe.replace(batch=share),
        sketch,
        rewards_on_meta(recipe),
        prompts,
        micro_batch=recipe.micro_batch,
        processes=processes,
    )
    print_table(table_of(ledger), "GiB by phase of a step, and what is computed")
    say(
        f"memory{f', in each of {processes} processes' if processes > 1 else ''}: {ledger.peak / GIB:.1f} GiB counted at the peak, {ledger.static / GIB:.1f} of them held between steps; "
        f"{ledger.need / GIB:.1f} with reserves for what kernels need besides"
    )
    hours = hours_of_run(recipe, ledger)
    time = "tell peak_tflops of your card for an estimate"
    if hours is not None:
        time = f"{hours / processes:.1f} h, an estimate at {OF_PEAK:.0%} of {recipe.peak_tflops:g} TFLOP/s. {LAUNCHING}"
    say(f"time: {time}")
    checkpoint = checkpoint_bytes(ledger, recipe.parts(processes)) / 1e9
    say(
        f"disk: {(recipe.checkpoints + 1) * checkpoint:.3g} GB, for checkpoints of {checkpoint:.3g}, of which "
        f"{recipe.checkpoints} {'stays' if recipe.checkpoints == 1 else 'stay'} while the next is written; as much main memory as one meanwhile"
    )
    for one in downloads(recipe, sketch):
        size = "of unknown size" if one.gigabytes is None else f"about {one.gigabytes:.1f} GB"
        say(f"download, unless it is in the cache: {one.what}, {size} from {one.source}; licence: {one.licence}")
    if recipe.prompts is None:
        say("prompts: none yet; a run needs --set prompts=FILE, or a data set of the hub")


def table_of(ledger: Ledger) -> list[list[str]]:
    """A ledger's rows by phase."""
    rows = [["phase", "GiB at most", "TFLOP a sample"]]
    for phase, size in ledger.peaks.items():
        rows.append([phase, f"{size / GIB:.3g}", f"{ledger.flops.get(phase, 0) / ledger.samples / 1e12:.3g}"])
    return [*rows, ["in all", f"{ledger.peak / GIB:.3g}", f"{ledger.flops_per_sample / 1e12:.4g}"]]


def opened(run: Path, *, on_its_device: bool = False) -> tuple[PictureRecipe, TextToImage, str]:
    """A run's recipe, the model that it started from, and what its command is called.

    Args:
        on_its_device: put the model where the run computes, if that is here; else it is on the CPU.

    Raises:
        FileNotFoundError: if there is no run.
    """
    import torch

    from ..runs.settings import RECIPE
    from ..sdxl.recipe import SdxlRecipe, is_sdxl
    from ..world.models import load_world
    from ..world.recipe import WorldRecipe

    if (run / RECIPE).is_file() and is_sdxl(run / RECIPE):
        recipe = SdxlRecipe.of_run(run)
        device = recipe.device if on_its_device and torch.cuda.is_available() else "cpu"
        return recipe, loaded(recipe, device), "sdxl"
    with hint(FileNotFoundError, lambda: "(distar train world starts one, and so does distar train sdxl)"):
        return WorldRecipe.of_run(run), load_world(), "world"


def sample(
    run: Annotated[Path, typer.Argument(help="Folder of a run of distar train world or sdxl.")],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="One picture each.")],
    folder: Annotated[Path, typer.Option("--out", help="Where the pictures go, as 0.png, 1.png, ….")] = Path("samples"),
    seed: Annotated[int, typer.Option(min=0, help="Of the noise; the same for every prompt.")] = 0,
) -> None:
    """Draw with a run's averaged generator, in one step; before its last step, too."""
    require("models")
    from torchvision.utils import save_image

    from ..runs.folders import claim
    from ..sdxl.post_training import load_run
    from ..sdxl.prompts import check_prompts

    check_prompts(prompts)
    recipe, model, _ = opened(run, on_its_device=True)
    claim(folder, "samples")
    generator = load_run(recipe, model, None, run).roles.generator
    pictures = model.draw(prompts, [seed] * len(prompts), generator.averaged)
    for number, picture in enumerate(pictures):
        save_image(picture, folder / f"{number}.png")
    say(f"{len(prompts)} pictures of {model.pixels} pixels are in {folder}: open {folder / '0.png'}")


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run of distar train world or sdxl.")],
    folder: Annotated[Path, typer.Argument(help="Where the pipeline or the LoRA goes.")],
    lora: Annotated[bool, typer.Option("--lora", help="Only the adapters, of a run with roles: lora.")] = False,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of distar evaluate with this model in it; its tables, and its panel of hacking, go into the card.",
        ),
    ] = None,
) -> None:
    """Write a run's averaged generator as a diffusers pipeline folder, or as LoRA safetensors, with a model card beside it."""
    require("models")
    import torch

    from ..runs.folders import claim
    from ..runs.weights import read_weights
    from ..sdxl.card import CARD, drawing_line, evaluated, loading_lines, origins_of, write_card
    from ..sdxl.export import LORA, export_lora, export_pipeline, fingerprint, fingerprint_of, merged, reloaded
    from ..sdxl.post_training import load_run
    from ..sdxl.recipe import SdxlRecipe
    from ..world.models import ORIGINS
    from .evaluate import weights_of

    replaced = folder.is_dir() and any(folder.iterdir())
    recipe, model, command = opened(run)
    state = load_run(recipe, model, None, run)
    state.roles.generator.load_ema()
    unet: Any = state.roles.generator.module.network.unet  # type: ignore[union-attr]
    whole: Any = None if lora and evaluation is None else merged(unet)
    scores = None
    if evaluation is not None:
        forms = [unet, whole]  # of the run, and of what is exported of it
        if lora:
            forms.append(reloaded(model.pipeline, unet))
        scores = evaluated(evaluation, [run, folder], lambda dtype: {weights_of(model, form, dtype) for form in forms})
    claim(folder, "export")
    if lora:
        export_lora(unet, folder)
        identity = fingerprint_of(read_weights(folder / LORA), torch.float32)
    else:
        export_pipeline(model.pipeline, whole, folder)
        identity = fingerprint(whole)
    done = max(state.step or 0, 0)
    prompt = EXAMPLES[command]
    write_card(
        folder,
        run,
        recipe,
        origins_of(recipe) if isinstance(recipe, SdxlRecipe) else ORIGINS,
        done=done,
        lora=lora,
        fingerprint=identity,
        pixels=model.pixels,
        prompt=prompt,
        evaluation=scores,
    )
    if done < recipe.steps:
        rest = f"{done} of {recipe.steps} steps are done"
        say(f"the run is not finished, {rest}; continue with: {resume_command(command, run)}")
    say(
        f"written to {folder}{' in place of the earlier export' if replaced else ''}, with the model card {CARD}; load and draw with:"
    )
    enlarged = ".resize((256, 256))" if command == "world" else ""
    for line in [
        *loading_lines(recipe, str(folder), lora=lora),
        drawing_line(prompt),
        f'picture{enlarged}.save("picture.png")',
    ]:
        say(f"    {line}")
    say("diffusers warns that 399 is not where its schedule begins; it is where this generator draws")
