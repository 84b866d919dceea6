"""Full copies of a UNet that are spread over the processes of a run (FSDP2); adapters are whole in each, see Replicated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..roles import Trainable


def shard(network: Any, computes_in: torch.dtype) -> Any:
    """Spread the weights of a diffusers UNet over all processes; each block is gathered while it is at work. Returns the
    network, whose parameters are new ones: make its optimizer afterwards.

    Args:
        computes_in: the type of its products. Weights of a wider one are cast when they are gathered, as `compute_in` does
            in one process, up to rounding, and their gradients are added up in their own type.
    """
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D
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
    for module in network.modules():
        if isinstance(module, (BasicTransformerBlock, ResnetBlock2D)):
            fully_shard(module, **options)
    return fully_shard(network, **options)


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
