"""How a network computes: blocks computed again and weights cast layer by layer, for less memory with the same numbers, and
products of float32 in fewer digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def recompute_blocks(network: Any) -> Any:
    """Let a diffusers network keep no activations within its blocks: the backward pass computes each block again, with the
    same gradients to the last bit. Returns the network. A tied clone of it is not changed.
    """
    # nothing is drawn inside, and to save the state of a device's random source is to wait for the device
    network.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, preserve_rng_state=False))
    return network


@contextmanager
def products_in_tf32(wanted: bool = True) -> Iterator[None]:
    """Meanwhile a GPU multiplies float32 matrices in TF32, with 10 binary digits after the point in place of 23, or in full.

    Adapters in float32 on a network in bfloat16, which has 7, lose nothing that the network had. A CPU does not heed it.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class _Casts:
    """A layer whose inputs and weights are cast when it is called; gradients reach the weights in their own type."""

    computes_in: torch.dtype

    def cast(self, value: Tensor | None) -> Any:
        return None if value is None else value.to(self.computes_in)


class _Linear(_Casts, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(self.cast(input), self.cast(self.weight), self.cast(self.bias))


class _Conv2d(_Casts, nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(self.cast(input), self.cast(self.weight), self.cast(self.bias))


class _GroupNorm(_Casts, nn.GroupNorm):
    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(self.cast(input), self.num_groups, self.cast(self.weight), self.cast(self.bias), self.eps)


class _LayerNorm(_Casts, nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.cast(self.weight), self.cast(self.bias)
        return F.layer_norm(self.cast(input), self.normalized_shape, weight, bias, self.eps)


CASTING: dict[type, type] = {
    nn.Linear: _Linear, nn.Conv2d: _Conv2d, nn.GroupNorm: _GroupNorm, nn.LayerNorm: _LayerNorm
}  # fmt: skip


def compute_in(network: Any, dtype: torch.dtype) -> Any:
    """Let a network compute in another type than that of its weights, layer by layer, so that a cast weight is there only
    while its layer, or with recompute_blocks its block, is at work. A network that does so already computes in the new type
    from then on. Returns the network.

    With weights in float32 and products in bfloat16 this is what FSDP2's MixedPrecisionPolicy(param_dtype=...) does.

    Raises:
        ValueError: for a layer with weights that is neither Linear, Conv2d, GroupNorm nor LayerNorm.
    """
    layers = {
        name: one for name, one in network.named_modules() if next(one.parameters(recurse=False), None) is not None
    }
    for name, layer in layers.items():
        if type(layer) not in CASTING and not isinstance(layer, _Casts):
            known = ", ".join(kind.__name__ for kind in CASTING)
            raise ValueError(
                f"layer {name} is a {type(layer).__name__}, whose weights cannot be cast when it is called (known are "
                f"{known}); let the network compute in the type of its weights"
            )
    for layer in layers.values():
        layer.__class__ = CASTING.get(type(layer), type(layer))
        layer.computes_in = dtype
    return network
