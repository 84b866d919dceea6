"""Full copies of a UNet that are spread over the processes of a run (FSDP2); adapters are whole in each, see Replicated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..roles import Trainable
from ..runs.processes import Alone, Processes
from .compute import compute_in


def shard(network: Any, computes_in: torch.dtype) -> Any:
    """Spread the weights of a diffusers UNet over all processes; each block is gathered while it is at work. Returns the
    network, whose parameters are new ones: make its optimizer afterwards.

    Args:
        computes_in: the type of its products. Weights of a wider one are cast when they are gathered, as `compute_in` does
            in one process, up to rounding, and their gradients are added up in their own type.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    wide = network.dtype
    policy = MixedPrecisionPolicy() if computes_in == wide else MixedPrecisionPolicy(computes_in, reduce_dtype=wide)
    options: dict[str, Any] = {
        "mesh": init_device_mesh(network.device.type, (torch.distributed.get_world_size(),)),
        "mp_policy": policy,
        # the outermost layers too, or a forward pass after an update that no backward pass precedes would use old ones
        "reshard_after_forward": True,
    }
    for block in blocks_of(network):
        fully_shard(block, **options)
    return fully_shard(network, **options)


def blocks_of(network: nn.Module) -> Iterator[nn.Module]:
    """What is gathered together; the layers that are in none of these are gathered for the whole of a pass."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    for module in network.modules():
        if isinstance(module, (BasicTransformerBlock, ResnetBlock2D)):
            yield module


class Share(Alone):
    """Stands for one of so many processes that share a run, to count what it needs, on the meta device alone: there is nobody to
    meet. It is the first, whose parts are the largest.
    """

    rows = Processes.rows

    def __init__(self, count: int) -> None:
        self.count = count


class _Gather(torch.autograd.Function):
    """A weight in the type that it is computed in from a process's part of it, in shapes alone; backward from its gradient to
    the part's.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(part)
        return part.new_empty(shape, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (part,) = ctx.saved_tensors
        return torch.empty_like(part), None, None


def part_of(shape: torch.Size, count: int) -> tuple[int, ...]:
    """The largest process's part of a tensor: FSDP2 spreads the first dimension, and pads it to a multiple of the processes."""
    return (-(-shape[0] // count), *shape[1:])


def spread_on_meta(network: Any, computes_in: torch.dtype, count: int) -> Any:
    """`shard` in shapes alone, for one of so many processes: its weights are parts, and a layer gathers them when it is called.
    Returns the network.
    """
    compute_in(network, computes_in)
    for layer in network.modules():
        own = dict(layer.named_parameters(recurse=False))
        if not own:
            continue
        wholes = {}
        for name, weight in own.items():
            part = nn.Parameter(weight.new_empty(part_of(weight.shape, count)))
            setattr(layer, name, part)
            wholes[part] = weight.shape

        def cast(value: Tensor | None, wholes: Any = wholes) -> Any:
            if value is None:
                return None
            if isinstance(value, nn.Parameter):
                return _Gather.apply(value, wholes[value], computes_in)
            return value.to(computes_in)

        layer.cast = cast
    return network


def in_transit(network: nn.Module, computes_in: torch.dtype, count: int) -> int:
    """Bytes of one of `spread_on_meta` that FSDP2 has beside what a layer computes with, an upper bound: the layers that are in no
    block, gathered for the whole of a pass; the buffer that the largest block's weights arrive in, and the next block's, fetched
    meanwhile; and that block's gradients, in the type that they are added up in, before each process keeps its part.
    """
    blocks = [sum(p.numel() * count for p in block.parameters()) for block in blocks_of(network)]
    rest = sum(p.numel() * count for p in network.parameters()) - sum(blocks)
    wide = max((p.element_size() for p in network.parameters()), default=0)
    return rest * computes_in.itemsize + max(blocks, default=0) * (2 * computes_in.itemsize + wide)


class Sharded(Trainable):
    """A role that learns, spread over the processes by `shard`; its averages are spread alike."""

    @torch.no_grad()
    def averaged(self, *inputs: Any) -> Tensor:
        """Call the module with the averaged parameters, without a graph; all processes have to.

        functional_call cannot put anything into a module that gathers its parameters itself, so they change places.
        """
        self._exchange()
        try:
            return self.module(*inputs)
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for parameter, average in zip(self._tracked, self.ema.values(), strict=True):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)
