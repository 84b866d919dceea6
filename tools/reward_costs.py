"""`python -m tools.reward_costs`: what each published reward takes, in its true architecture with random weights.

Prints a Markdown table: parameters; FLOPs of one picture, counted as it runs (a multiply-add is two); and on the CPU the
peak memory of the process, once loaded and after the value and gradient of one picture of 1024 pixels in float32, and how far
bfloat16 is off.
"""

from __future__ import annotations

import json
import logging
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distar_core.rewards.base import FrozenReward
from distar_core.rewards.clip import ClipScore
from distar_core.rewards.heads import five_layers
from distar_core.rewards.imagereward import ImageReward, make_network
from distar_core.rewards.laion import LaionAesthetic
from distar_core.rewards.preprocess import Preprocess, PreprocessWhole
from distar_core.rewards.shapes import AnyTokens
from tools.golden_rewards import fill, picture

PIXELS = 1024
PROMPTS = ["a red cat"]


def filled(module: nn.Module) -> Any:
    """The module, with weights by the hash of their names."""
    fill(module.state_dict())
    return module


def open_clip_model(name: str) -> Any:
    import open_clip

    return filled(open_clip.create_model(name, load_weights=False, pretrained_text=False))


def clip(name: str, preprocess: Preprocess | None = None) -> Callable[[], FrozenReward]:
    def make() -> FrozenReward:
        import open_clip

        return ClipScore.of(open_clip_model(name), open_clip.get_tokenizer(name), preprocess=preprocess)

    return make


MAKERS: dict[str, Callable[[], FrozenReward]] = {
    "imagereward": lambda: ImageReward(filled(make_network()), AnyTokens()),
    "hpsv2.1": clip("ViT-H-14", PreprocessWhole(224)),
    "pickscore": clip("ViT-H-14"),  # transformers' network for it has the same sizes
    "laion-aesthetic": lambda: LaionAesthetic(
        open_clip_model("ViT-L-14-quickgelu").visual, Preprocess(224), filled(five_layers(768))
    ),
    "clip:ViT-g-14": clip("ViT-g-14"),
}


def peak() -> float:
    """The largest memory of this process so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(name: str) -> dict[str, Any]:
    """Of one reward; in a process of its own, since a peak does not fall again."""
    for initialise in ("kaiming_uniform_", "uniform_", "normal_", "trunc_normal_", "xavier_uniform_"):
        setattr(nn.init, initialise, lambda tensor, *_, **__: tensor)
    reward = MAKERS[name]()
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in reward.parameters()), "loaded": peak()}

    def value_and_gradient() -> tuple[Tensor, Tensor, list[int]]:
        pictures = (picture(PIXELS, PIXELS)[None] / 255).requires_grad_()
        with FlopCounterMode(display=False) as counter:
            value = reward(images=pictures, prompts=PROMPTS)
            flops = [counter.get_total_flops()]
            value.sum().backward()
            flops.append(counter.get_total_flops())
        assert pictures.grad is not None
        return value.detach(), pictures.grad, flops

    value, gradient, (found["forward"], found["gradient"]) = value_and_gradient()
    found["peak"] = peak()
    reward.to(torch.bfloat16)
    other, other_gradient, _ = value_and_gradient()
    cosine = torch.cosine_similarity(other_gradient.double().flatten(), gradient.double().flatten(), 0)
    return found | {"bfloat16": float((other - value).abs()), "cosine": float(cosine)}


if __name__ == "__main__":
    logging.disable()
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        raise SystemExit
    print(
        "| reward | parameters | TFLOP, value | TFLOP, with gradient | GiB, loaded | GiB, peak | bfloat16: value off by | cosine |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in MAKERS:
        command = [sys.executable, "-m", "tools.reward_costs", name]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        flops = f"{row['forward'] / 1e12:.2f} | {row['gradient'] / 1e12:.2f}"
        memory = f"{row['loaded']:.1f} | {row['peak']:.1f}"
        print(
            f"| {name} | {row['parameters'] / 1e6:.0f} M | {flops} | {memory} | {row['bfloat16']:.1g} | {row['cosine']:.4f} |"
        )
