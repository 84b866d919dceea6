"""A post-trained generator as diffusers knows it: a pipeline folder, or a LoRA for the pipeline that it started from.

Either draws in one step: pipeline(prompt, num_inference_steps=1, timesteps=[399], guidance_scale=0.0).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..runs.weights import read_json, reading, refuse_pointer
from .adapters import LayerLora, active_lora, tuned_layers
from .files import stored
from .loading import SCHEDULE_KEYS, check_flag, quiet

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

LORA = "pytorch_lora_weights.safetensors"
BASE = "distar_core.base"

PREFIX, POSITIONS = (
    "text_model.",
    "position_ids",
)  # what names in a text encoder's file may have or be, by transformers' version

PARTS = {  # how a key ends, and which part of a LayerLora its tensor is
    ".lora_A.weight": "a",
    ".lora_B.weight": "b",
    ".lora_down.weight": "a",
    ".lora_up.weight": "b",
    ".lora.down.weight": "a",
    ".lora.up.weight": "b",
    ".alpha": "alpha",
}
ADAPTER_CONFIG = "lora_adapter_metadata"  # where diffusers keeps peft's LoraConfig in a file
SCALING = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"}
UNREAD = (
    "lora_alpha",
    "alpha",
    "network_alpha",
    "rank",
    "r",
)  # scales where no convention has them, so nobody reads them
# Settings of peft's that tell how an adapter was placed and begun; they say nothing about what its tensors mean.
HISTORY = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "layers_pattern",
    "layers_to_transform", "lora_dropout", "peft_version", "revision", "target_modules", "task_type",
}  # fmt: skip
STARTS_BESIDE_W = (True, False, "gaussian", "eva", "orthogonal")  # the others take a part of B A out of the base first

# The names of SDXL's layers in its first code, which kohya's files use, beside diffusers' names.
ORIGINAL_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ORIGINAL_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_out": "out.2",
}


def one_step_pipeline(pipeline: Any, unet: Any) -> StableDiffusionXLPipeline:
    """The pipeline's other parts around a one-step generator's UNet, with LCMScheduler, which turns its prediction at
    timesteps=[399] into x_0 and adds nothing.
    """
    from diffusers import LCMScheduler, StableDiffusionXLPipeline

    config = pipeline.scheduler.config
    scheduler = LCMScheduler(**{name: config[name] for name in SCHEDULE_KEYS if name in config})
    parts = {**pipeline.components, "unet": unet, "scheduler": scheduler}
    zeros = pipeline.config.force_zeros_for_empty_prompt
    return StableDiffusionXLPipeline(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)


def weights_of(network: Any) -> dict[str, Tensor]:
    """The weights of a network by name, adapters aside, with all the digits that there are: as its files have them, where it
    was loaded from files and still holds what they do, be it rounded; else its own.
    """
    own = {
        name.replace(".base_layer.", "."): value.detach()
        for name, value in network.state_dict().items()
        if ".lora_" not in name
    }
    files = getattr(network, "stored_in", ())
    if not files or not all(file.is_file() for file in files):
        return own
    places = {name.removeprefix(PREFIX): name for name in own}
    found = {name.removeprefix(PREFIX): value for name, value in stored(files).items() if not name.endswith(POSITIONS)}
    if found.keys() != places.keys():
        return own
    kept = {places[name]: value for name, value in found.items()}
    return kept if all(torch.equal(kept[name].to(v.dtype), v.cpu()) for name, v in own.items()) else own


def fingerprint(network: Any, precision: torch.dtype = torch.float16) -> str:
    """Which base weights a network has, adapters aside, rounded to a precision; sixteen hexadecimal digits.

    Half precision by default, so that a model's files in half and in single precision are the same one. In whatever type a
    network was loaded, it is the one in its files, see weights_of.
    """
    return fingerprint_of(weights_of(network), precision)


def fingerprint_of(weights: Mapping[str, Tensor], precision: torch.dtype = torch.float16) -> str:
    """The fingerprint of weights by name."""
    found = hashlib.blake2b(digest_size=8)
    for name in sorted(weights):
        found.update(name.encode())
        found.update(weights[name].to("cpu", precision).reshape(-1).numpy().data)
    return found.hexdigest()


def merged(unet: Any) -> Any:
    """A copy of a network that computes the same without adapters: what is active is added into the weights."""
    unet = copy.deepcopy(unet)
    layers = tuned_layers(unet)
    if layers:
        if not all(layer.disable_adapters for layer in layers.values()):
            unet.fuse_lora()
        unet.unload_lora()
    return unet


def export_pipeline(pipeline: Any, unet: Any, folder: Path) -> None:
    """Write a folder that StableDiffusionXLPipeline.from_pretrained loads as it is, scheduler included."""
    with quiet():
        one_step_pipeline(pipeline, unet).save_pretrained(folder)


def export_lora(unet: Any, folder: Path) -> None:
    """Write what a UNet's active adapters add to it, for pipeline.load_lora_weights(folder) and everything else that reads
    LoRAs.

    The file holds one A and one B per layer, to be added as W + B A with no factor, so that a reader which knows nothing of
    alpha, rsLoRA or patterns is right, too: scales are multiplied into B, several active adapters are stacked by rank.

    Raises:
        ValueError: if the network has no LoRA, or computes something else than W + Σ scale · B A (see active_lora).
    """
    layers = active_lora(unet)
    if not layers:
        raise ValueError("the network has no LoRA; it was trained as a full copy, so export it as a pipeline")
    tensors: dict[str, Tensor] = {}
    for name, adapters in layers.items():
        tensors[f"unet.{name}.lora_A.weight"] = torch.cat([lora.a for lora in adapters]).contiguous()
        tensors[f"unet.{name}.lora_B.weight"] = torch.cat([scaled(lora) for lora in adapters], dim=1).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / LORA, metadata={"format": "pt", BASE: fingerprint(unet)})


def reloaded(pipeline: Any, unet: Any) -> Any:
    """A copy of a network with its LoRA as whoever loads the exported one has it. Raises as export_lora."""
    with TemporaryDirectory() as folder:
        export_lora(unet, Path(folder))
        plain = copy.deepcopy(unet)
        plain.unload_lora()
        load_lora(one_step_pipeline(pipeline, plain), folder)
    return plain


def scaled(lora: LayerLora) -> Tensor:
    """scale · B, in at least single precision where the scale would round it."""
    if lora.scale == 1:
        return lora.b
    return (lora.scale * lora.b.double()).to(torch.promote_types(lora.b.dtype, torch.float32))


def original_name(name: str, unet: Any) -> str:
    """A layer's name in SDXL's first code: down_blocks.1.attentions.0.proj_in is input_blocks.4.1.proj_in there.

    Blocks are counted through, a down- or upsampler closes its block, and the parts at one place stand side by side.
    A layer that SDXL does not have keeps its name.
    """
    if name in ORIGINAL_ENDS:
        return ORIGINAL_ENDS[name]
    block, *rest = name.split(".")
    if block not in ("down_blocks", "mid_block", "up_blocks"):
        return name
    in_block = unet.config.layers_per_block + 1
    number = 0 if block == "mid_block" else int(rest.pop(0))
    kind, place = rest[0], int(rest[1])
    inner = ".".join(rest[2:])
    column = 1 if kind == "attentions" else 0
    if kind == "resnets":
        inner = ORIGINAL_RESNET.get(inner, inner)
    if block == "mid_block":
        return f"middle_block.{1 if column else 2 * place}.{inner}"
    if kind == "downsamplers":
        return f"input_blocks.{(number + 1) * in_block}.0.op"
    if block == "down_blocks":
        return f"input_blocks.{1 + number * in_block + place}.{column}.{inner}"
    if kind == "upsamplers":
        attends = getattr(unet.up_blocks[number], "attentions", None) is not None
        return f"output_blocks.{number * in_block + in_block - 1}.{2 if attends else 1}.{inner}"
    return f"output_blocks.{number * in_block + place}.{column}.{inner}"


def spellings(unet: Any) -> dict[str, str]:
    """Every way in which a file may name a layer of a UNet, and the layer: diffusers' names with and without unet. before
    them, kohya's with lora_unet_ before diffusers' names or those of SDXL's first code, dots written as underscores.
    """
    layers = [name for name, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    found = {}
    for name in layers:
        names = [name, f"unet.{name}"]
        names += [f"lora_unet_{each.replace('.', '_')}" for each in (name, original_name(name, unet))]
        found.update(dict.fromkeys(names, name))
    return found


def some(names: Collection[str]) -> str:
    """The first three of some names, and how many more there are."""
    first = ", ".join(sorted(names)[:3])
    return first if len(names) <= 3 else f"{first} and {len(names) - 3} more"


def read_lora(path: Path, unet: Any) -> tuple[dict[str, LayerLora], dict[str, str]]:
    """The LoRA in a safetensors file, by the names of a UNet's layers, and the file's metadata.

    Tensors may be named as diffusers, peft or kohya name them. The scale is taken from wherever the file says it: alpha/rank
    from a tensor .alpha for each layer, or what peft makes of the LoraConfig in the metadata, with its patterns and rsLoRA;
    1 in a file that says nothing.

    Raises:
        ValueError: if the file is damaged, a tensor in it has no place in the UNet or another shape, a layer lacks one, it
            says two things about the scale, or one where it is not read from (see refuse_unread_scale), or its metadata ask
            for something else than W + scale · B A.
    """
    refuse_pointer(path)
    with reading(path):
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})

    layers = spellings(unet)
    found: dict[str, dict[str, Tensor]] = {}
    unused = []
    for key, tensor in tensors.items():
        end = next((end for end in PARTS if key.endswith(end)), "")
        name = layers.get(key.removesuffix(end))
        if not end or name is None:
            unused.append(key)
        elif PARTS[end] in found.setdefault(name, {}):
            raise ValueError(
                f"{path} names layer {name} twice, the second time as {key}; use a file that names it once"
            )
        else:
            found[name][PARTS[end]] = tensor
    if unused:
        raise ValueError(
            f"{path} holds {len(unused)} of {len(tensors)} tensors that have no place in this UNet: {some(unused)}; "
            "only a plain LoRA of this UNet alone can be loaded"
        )
    if not found:
        raise ValueError(f"{path} holds no tensors; use another file")
    halves = [name for name, parts in found.items() if not {"a", "b"} <= parts.keys()]
    if halves:
        raise ValueError(f"{path} has only a part of the LoRA of {some(halves)}; copy it again, whole")
    for name, parts in found.items():
        weight, a, b = unet.get_submodule(name).weight, parts["a"], parts["b"]
        wanted = ((len(a), *weight.shape[1:]), (len(weight), len(a), *[1] * (weight.ndim - 2)))
        if (tuple(a.shape), tuple(b.shape)) != wanted:
            raise ValueError(
                f"{path} has A {list(a.shape)} and B {list(b.shape)} for layer {name}, whose weights are "
                f"{list(weight.shape)}; it is the LoRA of another network"
            )
    scales = scales_in(path, found, metadata)
    return {name: LayerLora(parts["a"], parts["b"], scales[name]) for name, parts in found.items()}, metadata


def scales_in(path: Path, layers: Mapping[str, Mapping[str, Tensor]], metadata: Mapping[str, str]) -> dict[str, float]:
    """The scale of each layer of a file, from its tensors and metadata; see read_lora."""
    ranks = {name: len(parts["a"]) for name, parts in layers.items()}
    alphas = {name: parts["alpha"] for name, parts in layers.items() if "alpha" in parts}
    if ADAPTER_CONFIG in metadata:
        if alphas:
            raise ValueError(
                f"{path} says its scale twice, in {ADAPTER_CONFIG} and in a tensor .alpha of {some(alphas)}; remove one"
            )
        return scales_of_config(path, ranks, metadata[ADAPTER_CONFIG])
    if not alphas and "ss_network_alpha" not in metadata:
        refuse_unread_scale(path, metadata)
        return dict.fromkeys(ranks, 1.0)
    missing = ranks.keys() - alphas.keys()
    if missing:
        raise ValueError(f"{path} gives other layers an alpha but none to {some(missing)}; use a file that says each")
    odd = [name for name, alpha in alphas.items() if alpha.numel() != 1 or alpha == 0 or not alpha.isfinite().all()]
    if odd:
        raise ValueError(f"{path} has an alpha that is not one finite number other than 0 for {some(odd)}")
    return {name: float(alpha) / ranks[name] for name, alpha in alphas.items()}


def refuse_unread_scale(path: Path, metadata: Mapping[str, str]) -> None:
    """Raise ValueError, with place and key, if a file that says no scale where scales are read from says one elsewhere: in its
    metadata's own keys, or in peft's adapter_config.json beside it.
    """
    beside = path.with_name("adapter_config.json")
    for where, said in ((path, metadata), (beside, read_json(beside) if beside.is_file() else {})):
        if key := next((key for key in UNREAD if key in said), None):
            raise ValueError(
                f"{where} has {key} {said[key]!r}, but the scale is read from {path.name} alone, from tensors .alpha or a "
                f"LoraConfig under {ADAPTER_CONFIG} in its metadata; save it with diffusers' save_lora_adapter"
            )


def scales_of_config(path: Path, ranks: Mapping[str, int], text: str) -> dict[str, float]:
    """The scale of each layer by the LoraConfig that a file carries."""
    from peft import LoraConfig
    from peft.utils.other import get_pattern_key

    try:
        settings = {key.removeprefix("unet."): value for key, value in json.loads(text).items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} has a {ADAPTER_CONFIG} that is no JSON object ({error}); copy it again") from error
    default = LoraConfig().to_dict()
    settings = {key: value for key, value in settings.items() if "." not in key}
    strange = {
        key: value
        for key, value in settings.items()
        if key not in SCALING | HISTORY | {"init_lora_weights"} and value and value != default.get(key)
    }
    if settings.get("init_lora_weights", True) not in STARTS_BESIDE_W:
        strange["init_lora_weights"] = settings["init_lora_weights"]
    if strange:
        asked = ", ".join(f"{key}={value!r}" for key, value in strange.items())
        raise ValueError(f"{path} asks for {asked}, which is more than W + scale · B A; merge it where it was trained")
    check_flag(path, settings, "use_rslora")
    config = LoraConfig(**{key: value for key, value in settings.items() if key in SCALING})

    def of(name: str, pattern: Any, otherwise: Any) -> Any:
        return (pattern or {}).get(get_pattern_key(list(pattern or {}), name), otherwise)

    scales = {}
    for name, rank in ranks.items():
        said = of(name, config.rank_pattern, config.r)
        if said != rank:
            raise ValueError(f"{path} says that layer {name} has rank {said}, but its tensors have rank {rank}")
        alpha = of(name, config.alpha_pattern, config.lora_alpha)
        scales[name] = alpha / (math.sqrt(rank) if config.use_rslora else rank)
    return scales


def load_lora(pipeline: Any, source: Path | str) -> Any:
    """Give a pipeline's UNet the LoRA in a safetensors file, whole, after a look whether it belongs to that UNet.

    Reads what export_lora, diffusers, peft and kohya's scripts write, and honours what the file says about the scale; see
    read_lora. The UNet computes W + scale · B A afterwards. A pipeline whose LoRA is refused is left as it was.

    Args:
        source: the file, or the folder that has it under diffusers' name, pytorch_lora_weights.safetensors.

    Returns:
        The pipeline.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it was trained on another base, cannot be applied whole, or the UNet has an adapter already.

    Warns:
        UserWarning: if the UNet has its weights in bfloat16 and from no file, or from one in that type, which has too few
            digits to tell whether the base is another.
    """
    path = Path(source)
    if path.suffix != ".safetensors" and not path.is_file():
        path = path / LORA
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; write one with: distar export RUN {path.parent} --lora")
    unet = pipeline.unet
    if tuned_layers(unet):
        names = ", ".join(getattr(unet, "peft_config", {})) or "of unknown name"
        raise ValueError(f"the pipeline has an adapter already ({names}); call pipeline.unload_lora_weights() first")
    layers, metadata = read_lora(path, unet)
    base = weights_of(unet)
    wanted, here = metadata.get(BASE), fingerprint_of(base)
    if wanted not in (None, here) and any(value.dtype == torch.bfloat16 for value in base.values()):
        warnings.warn(
            "weights in bfloat16 do not show whether they are the LoRA's own base; see that they are", stacklevel=2
        )
    elif wanted not in (None, here):
        raise ValueError(f"the LoRA in {path} was trained on base {wanted}, but this UNet is {here}; load its own base")
    add_to(unet, layers, pipeline)
    return pipeline


def add_to(unet: Any, layers: Mapping[str, LayerLora], pipeline: Any) -> None:
    """Add adapters to a UNet and look that it got them, all of them and with their scales.

    Raises:
        RuntimeError: if the installed diffusers and peft made something else of them; the UNet is as it was.
    """
    ranks = {name: len(lora.a) for name, lora in layers.items()}
    alphas = {name: lora.scale * len(lora.a) for name, lora in layers.items()}
    config: dict[str, Any] = {"target_modules": list(layers)}
    for setting, pattern, values in (("r", "rank_pattern", ranks), ("lora_alpha", "alpha_pattern", alphas)):
        config[setting] = Counter(values.values()).most_common(1)[0][0]
        config[pattern] = {f"^{name}": value for name, value in values.items() if value != config[setting]}
    tensors = {f"{name}.lora_A.weight": lora.a for name, lora in layers.items()}
    tensors |= {f"{name}.lora_B.weight": lora.b for name, lora in layers.items()}
    unet.load_lora_adapter(tensors, prefix=None, metadata=config, _pipeline=pipeline)
    there = active_lora(unet)
    wrong = [name for name in layers.keys() | there.keys() if not same(layers.get(name), there.get(name, []))]
    if wrong:
        unet.unload_lora()
        raise RuntimeError(f"the installed diffusers and peft did not apply the LoRA of {some(wrong)} as it is")


def same(wanted: LayerLora | None, there: list[LayerLora]) -> bool:
    """Whether one layer has just the adapter that it should have, in its own precision."""
    return (
        wanted is not None
        and len(there) == 1
        and math.isclose(wanted.scale, there[0].scale, rel_tol=1e-9)
        and torch.equal(wanted.a.to(there[0].a), there[0].a)
        and torch.equal(wanted.b.to(there[0].b), there[0].b)
    )
