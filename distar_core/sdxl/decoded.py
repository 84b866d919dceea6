"""From latents to a reward on pictures: the loop's reward(x0, condition)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..rewards.base import PictureReward, in_two_parts, is_differentiable, values_of
from .latents import decode
from .prompts import Prompt


class Decoded:
    """The loop's reward(x0, condition) from a reward on pictures: decodes the latents and clamps them to [0, 1].

    Args:
        vae: an AutoencoderKL; gradients pass through it.
        reward: a differentiable reward on pictures.

    Raises:
        TypeError: if the reward is no PictureReward.
        ValueError: if it is not differentiable.
    """

    def __init__(self, vae: Any, reward: PictureReward) -> None:
        if not is_differentiable(reward):
            raise ValueError(
                f"reward {type(reward).__name__} is not differentiable, so the loop cannot climb it; use it to evaluate, "
                "or learn a differentiable one from its preferences"
            )
        self.vae = vae
        self.reward = reward

    def __call__(self, x0: Tensor, condition: Prompt) -> Tensor:
        """Latents [B, C, h, w] and their embedded prompts, words included -> [B]."""
        return values_of(self.reward, images=self.pictures(x0), prompts=condition.words)

    def read(self, condition: Prompt) -> Any:
        """What the reward makes of the words of a condition, as tensors. Raises TypeError if it is not in two parts."""
        return in_two_parts(self.reward).read(condition.words)

    def judge(self, x0: Tensor, read: Any) -> Tensor:
        """Latents [B, C, h, w] and what `read` gave -> [B]."""
        return in_two_parts(self.reward).judge(self.pictures(x0), read)

    def pictures(self, x0: Tensor) -> Tensor:
        """What the reward sees of latents."""
        return decode(self.vae, x0).clamp(0, 1)
