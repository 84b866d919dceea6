"""LoRA roles on one backbone: clones that share their base's tensors, each with adapters of its own and nothing to switch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def tied_clone(network: Network) -> Network:
    """Another module tree over the same tensors: adapters added to it draw no part in what the original computes.

    What is done to the tensors, freezing or moving them, is done to both.

    Adapters that are switched on one network would give silently wrong gradients under checkpointing; clones switch
    nothing.
    """
    return copy.deepcopy(network, memo={id(p): p for p in [*network.parameters(), *network.buffers()]})


def add_lora(
    network: Any, *, rank: int, alpha: int | None = None, seed: int = 0, targets: Sequence[str] = LORA_TARGETS
) -> Any:
    """Freeze a diffusers network and give it a LoRA, W + (alpha/rank) B A with B = 0 at first; returns it.

    A and B are at least float32, whatever the network's type: a step of 1e-6 of a weight is lost in bfloat16.

    Args:
        alpha: rank by default, a factor of 1.
        seed: of the adapters' first values; torch's global source is left as it was.
        targets: ends of the names of the layers that get one; the attention projections by default.

    Raises:
        ValueError: for a target that no linear or convolutional layer of the network has.
    """
    from peft import LoraConfig

    layers = [name for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            ends = ", ".join(sorted({name.split(".")[-1] for name in layers if not name.split(".")[-1].isdecimal()}))
            raise ValueError(
                f"no layer of the network ends in {target!r}, the target of a LoRA; its layers end in {ends}"
            )
    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the devices' sources too
        network.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=list(targets))
        )
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    return network


class LayerLora(NamedTuple):
    """What an adapter adds to the weights of one layer: scale · B A.

    Attributes:
        a: [rank, in], or [rank, in, height, width] for a convolution.
        b: [out, rank], or [out, rank, 1, 1].
    """

    a: Tensor
    b: Tensor
    scale: float


def tuned_layers(network: nn.Module) -> dict[str, Any]:
    """The layers of a network that peft has given an adapter of any kind, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: layer for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)}


def active_lora(network: nn.Module) -> dict[str, list[LayerLora]]:
    """What a network's active adapters add to each layer when it is called: W + Σ scale · B A.

    The scale is the one that peft multiplies with, so alpha/rank, alpha/√rank (rsLoRA), patterns of ranks and alphas, and
    weights given to set_adapters are all in it. Adapters that are not active are left out, as the network leaves them out.

    Returns:
        One LayerLora per active adapter, by the layer's name; empty for a network without adapters.

    Raises:
        ValueError: if the network does not compute W + Σ scale · B A with W as it stands: the adapters are switched off or
            fused, one is of another kind (DoRA, LoHa, ...), or other weights are trained with it.
    """
    from peft.tuners.lora import Conv2d, Linear
    from peft.utils.other import ModulesToSaveWrapper

    def refuse(why: str) -> ValueError:
        return ValueError(f"{why}, which W + scale · B A does not hold; export the network as a pipeline instead")

    layers: dict[str, list[LayerLora]] = {}
    for name, layer in tuned_layers(network).items():
        if type(layer) not in (Linear, Conv2d):
            raise refuse(f"layer {name} has an adapter of kind {type(layer).__module__}.{type(layer).__name__}")
        if layer.merged:
            raise ValueError(f"the LoRA of layer {name} is fused into its weights; call unfuse_lora first")
        if layer.disable_adapters:
            raise ValueError(f"the LoRA of layer {name} is switched off; call enable_adapters first")
        for adapter in [adapter for adapter in layer.active_adapters if adapter in layer.lora_A]:
            variant = layer.lora_variant.get(adapter)
            if variant is not None:
                raise refuse(f"adapter {adapter!r} of layer {name} is of the variant {type(variant).__name__}")
            if layer.lora_bias[adapter]:
                raise refuse(f"adapter {adapter!r} of layer {name} has a bias")
            a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            layers.setdefault(name, []).append(LayerLora(a.detach(), b.detach(), float(layer.scaling[adapter])))
    whole = [name for name, module in network.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    if whole:
        raise refuse(f"layer {', '.join(whole)} is trained whole beside the LoRA")
    for adapter, config in getattr(network, "peft_config", {}).items():
        if getattr(config, "bias", "none") != "none":
            raise refuse(f"adapter {adapter!r} trains biases (bias={config.bias!r})")
    return layers
