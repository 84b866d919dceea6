"""What a picture of 1024 px costs: one step of SDXL's one-step generator, fifty guided steps of SDXL, and fifty of FLUX-dev, all with
random weights: FLOPs and bytes counted on the meta device, and on a GPU the clock.

What is found is a dictionary of numbers and texts, as JSON has them; `tables` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from string import ascii_lowercase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..evaluation.tables import Table
from ..runs.progress import Progress, Tell, silent
from ..sdxl.ledger import GIB, Tally, with_reserves
from ..sdxl.models import TextToImage
from ..sdxl.shapes import untrained_flux, untrained_sdxl
from .bench_sdxl import TERA
from .clock import peaks_of, seconds_on

STEPS = 50
GUIDANCE_SCALE = 7.5
FLUX_TOKENS = 512
FLUX_GUIDANCE = 3.5
ONE, ONE_WIDE, MANY, FLUX = (
    "SDXL, one step",
    "SDXL, one step, decoder in float32",
    f"SDXL, {STEPS} guided steps",
    f"FLUX-dev, {STEPS} steps",
)
PUBLISHED = {"time": 0.0188, "memory": 0.2930}
"""One step against FLUX-dev's fifty: what is published with Diff-Instruct* (2410.20898), without a card, types, or what was counted."""


class Part(NamedTuple):
    """A part of a picture: how often it is called for one, and a call of it."""

    calls: int
    call: Callable[[], Any]


@dataclass(frozen=True)
class Route:
    """A way from words to pixels.

    Attributes:
        networks: all that has to be there.
        parts: in their order; together they are what `draw` does, but for the sampler's arithmetic on latents.
        draw: one picture, as diffusers' own pipeline or the model draws it.
    """

    networks: tuple[nn.Module, ...]
    parts: Mapping[str, Part]
    draw: Callable[[], Tensor]


def sdxl_routes(model: TextToImage, steps: int = STEPS) -> tuple[Route, Route]:
    """One step of a model's generator, and so many guided steps of its reference, where the UNet sees two rows a step.

    Both hold one UNet, and the same embedded prompt: the null condition of SDXL is zeros, which takes no text encoder.
    """
    pipeline = model.pipeline
    around = (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.vae)
    words = cycle(ascii_lowercase)  # another prompt for each picture, or its embedding would be at hand
    z, prompt = model.noise([0]), model.encoder.embed(["a"])
    two, twice = torch.cat([z, z]), prompt.rows(torch.tensor([0, 0]))
    t = torch.tensor([999, 999], device=model.device)
    reference, generator = model.prompted(pipeline.unet), model.generator()
    text, decoder = Part(1, lambda: model.encoder.embed(["a"])), Part(1, lambda: model.pictures(z))

    def one() -> Tensor:
        return model.draw([next(words)], [0])

    def many() -> Tensor:
        return model.draw_reference([next(words)], [0], guidance_scale=GUIDANCE_SCALE, steps=steps)

    return (
        Route(
            (*around, generator),
            {"text": text, "network": Part(1, lambda: generator(z, prompt)), "decoder": decoder},
            one,
        ),
        Route(
            (*around, reference),
            {"text": text, "network": Part(steps, lambda: reference(two, t, twice)), "decoder": decoder},
            many,
        ),
    )


def flux_route(pipeline: Any, pixels: int = 1024, steps: int = STEPS, tokens: int = FLUX_TOKENS) -> Route:
    """So many steps of a FLUX pipeline; its guidance is an input of the network, which sees one row a step."""
    device, dtype = pipeline.transformer.device, pipeline.transformer.dtype
    factor = pipeline.vae_scale_factor
    side, channels = pixels // factor, pipeline.vae.config.latent_channels
    ids = {
        count: torch.zeros(1, count, dtype=torch.long, device=device)
        for count in (pipeline.text_encoder.config.max_position_embeddings, tokens)
    }
    short, long = ids.values()

    def text() -> dict[str, Tensor]:
        pooled = pipeline.text_encoder(short).pooler_output
        return {"prompt_embeds": pipeline.text_encoder_2(long)[0], "pooled_prompt_embeds": pooled}

    embedded = text()
    latents = torch.zeros(1, channels, side, side, device=device, dtype=dtype)
    packed = torch.zeros(1, (side // 2) ** 2, 4 * channels, device=device, dtype=dtype)
    inputs = {
        "hidden_states": packed,
        "encoder_hidden_states": embedded["prompt_embeds"],
        "pooled_projections": embedded["pooled_prompt_embeds"],
        "timestep": torch.ones(1, device=device, dtype=dtype),
        "guidance": torch.full((1,), FLUX_GUIDANCE, device=device),
        "img_ids": torch.zeros(packed.shape[1], 3, device=device),
        "txt_ids": torch.zeros(tokens, 3, device=device),
    }

    def draw() -> Tensor:
        pipeline.set_progress_bar_config(disable=True)
        found = pipeline(
            **text(),
            height=pixels,
            width=pixels,
            num_inference_steps=steps,
            guidance_scale=FLUX_GUIDANCE,
            output_type="pt",
        )
        return found.images

    return Route(
        (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.transformer, pipeline.vae),
        {
            "text": Part(1, text),
            "network": Part(steps, lambda: pipeline.transformer(**inputs)),
            "decoder": Part(1, lambda: pipeline.vae.decode(latents)),
        },
        draw,
    )


@torch.no_grad()
def count_route(route: Route) -> dict[str, Any]:
    """Bytes of weights, and by part the calls for a picture, the FLOPs of one, and the most live bytes, weights included."""
    weights = [tensor for network in route.networks for tensor in (*network.parameters(), *network.buffers())]
    tally = Tally(weights[0].device.type)
    tally.adopt("weights", weights)
    held = tally.now
    with tally:
        for name, part in route.parts.items():
            tally.enter(name)
            part.call()
    return {
        "weights": held,
        "parts": {
            name: {"calls": part.calls, "flops": tally.flops[name], "peak": tally.peaks[name]}
            for name, part in route.parts.items()
        },
    }


@torch.no_grad()
def time_route(route: Route, *, repeats: int = 3) -> dict[str, Any]:
    """Seconds of a call of each part and of a picture, medians after one to warm up; on a GPU also its peaks."""
    device = next(route.networks[0].parameters()).device

    def typical(call: Callable[[], Any]) -> float:
        return median([seconds_on(device, call) for _ in range(repeats + 1)][1:])

    peaks = peaks_of(device, route.draw)
    return {
        "parts": {name: typical(part.call) for name, part in route.parts.items()},
        "picture": typical(route.draw),
        "peaks": None if peaks is None else peaks._asdict(),
    }


def total_flops(counted: Mapping[str, Any]) -> int:
    """FLOPs of a picture, from what `count_route` has found."""
    return sum(part["calls"] * part["flops"] for part in counted["parts"].values())


def peak(counted: Mapping[str, Any]) -> int:
    """The most live bytes of a picture."""
    return max(part["peak"] for part in counted["parts"].values())


def need(counted: Mapping[str, Any]) -> int:
    """The most live bytes of a picture with the ledger's reserves: what a card has to have."""
    return with_reserves(peak(counted), counted["weights"])


def _sdxl(device: torch.device | str, dtype: torch.dtype) -> TextToImage:
    """With one UNet, which is reference and generator."""
    pipeline = untrained_sdxl(device, dtype).pipeline
    return TextToImage(pipeline, pipeline.unet)


MAKERS: dict[str, Callable[[torch.device | str], Route]] = {
    ONE: lambda device: sdxl_routes(_sdxl(device, torch.bfloat16))[0],
    ONE_WIDE: lambda device: sdxl_routes(_sdxl(device, torch.float16))[0],
    MANY: lambda device: sdxl_routes(_sdxl(device, torch.bfloat16))[1],
    FLUX: lambda device: flux_route(untrained_flux(device=device)),
}
"""By name. In float16 diffusers decodes in float32 with the autoencoder that SDXL was published with, which overflows in float16."""


def bench_inference(device: torch.device, tell: Tell = silent) -> dict[str, Any]:
    """Counts of all routes, and on a GPU the clock.

    Args:
        device: where to measure seconds; with a CPU nothing is measured, since true size takes minutes there.
    """
    found: dict[str, Any] = {"counted": {}, "seconds": {}, "published": PUBLISHED}

    def all_routes(kind: str, measure: Callable[[Route], Any], place: torch.device | str, names: Sequence[str]) -> None:
        for done, name in enumerate(names):
            tell(Progress(kind, done, len(names), name))
            found[kind][name] = measure(MAKERS[name](place))
        tell(Progress(kind, len(names), len(names)))

    all_routes("counted", count_route, "meta", list(MAKERS))
    if device.type == "cuda":
        memory, _ = torch.cuda.mem_get_info(device)
        found["card"] = {"name": torch.cuda.get_device_name(device), "memory": memory}
        fit = [name for name, counted in found["counted"].items() if need(counted) <= memory]
        all_routes("seconds", time_route, device, fit)
    return found


def tables(found: Mapping[str, Any]) -> dict[str, Table]:
    """What `bench_inference` found, as tables by title: the parts, and pictures beside FLUX-dev's and what is published."""
    counted = found["counted"]
    parts: Table = [["picture", "part", "calls", "TFLOP a call", "GiB at the peak"]]
    whole: Table = [["picture", "TFLOP", "of FLUX-dev's", "GiB of weights", "GiB at the peak", "of FLUX-dev's"]]
    for name, one in counted.items():
        for part, cost in one["parts"].items():
            flops, live = f"{cost['flops'] / TERA:.2f}", f"{cost['peak'] / GIB:.2f}"
            parts.append([name, part, str(cost["calls"]), flops, live])
        work, most = total_flops(one), peak(one)
        whole.append(
            [
                name,
                f"{work / TERA:.1f}",
                f"{work / total_flops(counted[FLUX]):.2%}",
                f"{one['weights'] / GIB:.2f}",
                f"{most / GIB:.2f}",
                f"{most / peak(counted[FLUX]):.1%}",
            ]
        )
    shown = {"Parts, counted": parts, "Pictures, counted": whole}
    if "card" in found:
        shown[f"Pictures, on the clock, {found['card']['name']}"] = _clock_table(found)
    return shown


def _clock_table(found: Mapping[str, Any]) -> Table:
    """Seconds and allocated bytes of each picture and their shares of FLUX-dev's, where that fits on the card."""
    rows: Table = [["picture", "seconds", "of FLUX-dev's", "GiB allocated", "of FLUX-dev's", "seconds of a call"]]
    for name, counted in found["counted"].items():
        if name not in found["seconds"]:
            rows.append([name, f"does not fit, it needs {need(counted) / GIB:.1f} GiB", "", "", "", ""])
            continue
        one = found["seconds"][name]
        there = found["seconds"].get(FLUX)
        allocated = one["peaks"]["allocated"]
        calls = ", ".join(f"{part} {value:.3g}" for part, value in one["parts"].items())
        time = "" if there is None else f"{one['picture'] / there['picture']:.2%}"
        memory = "" if there is None else f"{allocated / there['peaks']['allocated']:.1%}"
        rows.append([name, f"{one['picture']:.3g}", time, f"{allocated / GIB:.2f}", memory, calls])
    return rows
