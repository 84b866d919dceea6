"""LoRA roles on one backbone: clones that share their base's tensors, each with adapters of its own and nothing to switch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import nn

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

    Args:
        alpha: rank by default, a factor of 1.
        seed: of the adapters' first values; torch's global source is left as it was.
        targets: ends of the names of the layers that get one; the attention projections by default.
    """
    from peft import LoraConfig

    network.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach the devices' sources too
        network.add_adapter(
            LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=list(targets))
        )
    return network
