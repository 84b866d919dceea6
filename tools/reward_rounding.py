"""`python -m tools.reward_rounding`: how far bfloat16 is off in each published reward, in its true architecture with the weights
that its classes begin with.

Prints a Markdown table, by the value and gradient of one picture of 1024 pixels on the CPU. What rewards cost is counted by
`distar bench sdxl`.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import torch
from torch import Tensor

from distar_core.evaluation.tables import markdown_table
from distar_core.rewards.base import FrozenReward
from distar_core.rewards.published import PUBLISHED
from distar_core.rewards.shapes import untrained_reward
from tools.golden_rewards import picture

PIXELS = 1024
PROMPTS = ["a red cat"]


def value_and_gradient(reward: FrozenReward) -> tuple[Tensor, Tensor]:
    """Of the test picture, [1] and [1, 3, PIXELS, PIXELS]."""
    pictures = (picture(PIXELS, PIXELS)[None] / 255).requires_grad_()
    value = reward(images=pictures, prompts=PROMPTS)
    (gradient,) = torch.autograd.grad(value.sum(), pictures)
    return value.detach(), gradient


def measure(name: str) -> tuple[float, float]:
    """How far the value in bfloat16 is from that in float32, and the cosine of the two gradients."""
    torch.manual_seed(0)
    reward = untrained_reward(name, "cpu")
    value, gradient = value_and_gradient(reward)
    other, other_gradient = value_and_gradient(reward.to(torch.bfloat16))
    cosine = torch.cosine_similarity(other_gradient.double().flatten(), gradient.double().flatten(), 0)
    return float((other - value).abs()), float(cosine)


if __name__ == "__main__":
    logging.disable()
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        raise SystemExit
    rows = [["reward", "bfloat16: value off by", "cosine of the gradients"]]
    for name in PUBLISHED:
        # a process of its own, whose memory is given back
        command = [sys.executable, "-m", "tools.reward_rounding", name]
        off, cosine = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append([name, f"{off:.1g}", f"{cosine:.4f}"])
    print(markdown_table(rows))
