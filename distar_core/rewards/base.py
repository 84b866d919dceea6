"""Rewards on pictures: what one is, sums of them, and units that can be added."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..errors import NonFiniteError
from ..losses import one_per_sample


@runtime_checkable
class PictureReward(Protocol):
    """Preference for pictures given their prompts: images [B, 3, H, W] in [0, 1], B prompts -> [B], larger is better.

    Attributes:
        differentiable: whether its gradient at the pictures means anything; the loop refuses one without.
    """

    differentiable: bool

    def __call__(self, *, images: Tensor, prompts: Sequence[str]) -> Tensor: ...


@runtime_checkable
class TwoPartReward(PictureReward, Protocol):
    """A reward in two parts, judge(images, read(prompts)): what it makes of the words, tensors, and what pictures are worth
    given that. The second has no words in it, so that it can be recorded once and replayed for others, see sdxl.replays.
    """

    def read(self, prompts: Sequence[str]) -> Any: ...

    def judge(self, images: Tensor, read: Any) -> Tensor: ...


class FrozenReward(nn.Module):
    """A reward that is a frozen network, in evaluation mode whatever mode a module around it is put into."""

    differentiable = True

    def train(self, mode: bool = True) -> FrozenReward:
        """Stay in evaluation mode: dropout would make a reward of a picture and chance."""
        return super().train(False)


def refuse_string(prompts: Sequence[str]) -> None:
    """Raise TypeError for a single string, whose letters would be taken for prompts."""
    if isinstance(prompts, str):
        raise TypeError(f"prompts is a list, one prompt per image, got the string {prompts!r}; put it in brackets")


def check_pictures(images: Tensor, prompts: Sequence[str] | None = None) -> None:
    """Raise ValueError unless images are [B, 3, H, W] in [0, 1] and, if prompts are given, there is one for each; TypeError
    for a single string, whose letters would be taken for prompts; and NonFiniteError if the images hold a NaN, which whoever
    drew them has made.

    Off the CPU the values are not looked at: that would wait for the device.
    """
    if prompts is not None:
        refuse_string(prompts)
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [B, 3, H, W], got {list(images.shape)}; stack RGB pictures")
    if prompts is not None and len(images) != len(prompts):
        raise ValueError(f"there are {len(images)} images but {len(prompts)} prompts; give one prompt per image")
    if images.device.type == "cpu" and images.numel():
        low, high = (float(end) for end in images.detach().aminmax())
        if math.isnan(low + high):
            raise NonFiniteError(
                "the pictures hold values that are not numbers, so what drew them has diverged; go back to weights from "
                "before, with a lower learning rate or reward_scale"
            )
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"images must lie in [0, 1], got values from {low:.3g} to {high:.3g}; clamp them, or undo the model's scaling"
            )


def warn_if_cut(cut: Sequence[str], count: int, limit: int | None, reader: str) -> None:
    """Warn of prompts that are cut at the token limit of whatever reads them, with their number out of `count` new ones."""
    if cut:
        warnings.warn(
            f"{len(cut)} of {count} new prompts have more than the {limit} tokens that {reader} reads and are cut, the first: "
            f"{cut[0]!r}",
            stacklevel=5,
        )


def is_differentiable(reward: PictureReward) -> bool:
    """What the reward says of itself. Raises TypeError if it says nothing, so that it is no PictureReward."""
    if not isinstance(reward, PictureReward):
        raise TypeError(
            f"{getattr(reward, '__name__', type(reward).__name__)} is not a reward on pictures: it has no attribute "
            "differentiable; set it to True if its gradient at the pictures means anything, else to False"
        )
    return reward.differentiable


def values_of(reward: PictureReward, *, images: Tensor, prompts: Sequence[str]) -> Tensor:
    """reward(images=, prompts=), [B]. Raises TypeError if it is no tensor, ValueError if it has another shape."""
    return one_per_sample(reward(images=images, prompts=prompts), images, f"reward {type(reward).__name__}")


def in_two_parts(reward: PictureReward) -> TwoPartReward:
    """The reward, if it is a TwoPartReward, and so are those that it is made of. Raises TypeError if one is not."""
    inner = (
        [one for _, one in reward.terms.values()]
        if isinstance(reward, WeightedSum)
        else [reward.reward]
        if isinstance(reward, Normalised)
        else []
    )
    for one in inner:
        in_two_parts(one)
    if not isinstance(reward, TwoPartReward):
        raise TypeError(
            f"reward {type(reward).__name__} is not in two parts, read(prompts) and judge(images, read), so steps with it cannot "
            "be recorded and replayed; give it these, or set cuda_graphs to false"
        )
    return reward


class WeightedSum:
    """A sum of rewards with weights, by name.

    Args:
        terms: name -> (weight, reward).

    Raises:
        TypeError: for a term that is no PictureReward.
        ValueError: for no terms.
    """

    def __init__(self, terms: Mapping[str, tuple[float, PictureReward]]) -> None:
        if not terms:
            raise ValueError("a sum of rewards needs at least one term; pass {name: (weight, reward)}")
        self.terms = dict(terms)
        answers = [is_differentiable(reward) for _, reward in self.terms.values()]
        self.differentiable = all(answers)

    def each(self, *, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Every reward without its weight, [B] by name."""
        return {name: values_of(reward, images=images, prompts=prompts) for name, (_, reward) in self.terms.items()}

    def __call__(self, *, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._sum(self.each(images=images, prompts=prompts))

    def _sum(self, values: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.terms[name][0] * value for name, value in values.items()]).sum(0)

    def read(self, prompts: Sequence[str]) -> dict[str, Any]:
        """What every term makes of the prompts, by name; for terms in two parts."""
        return {name: in_two_parts(reward).read(prompts) for name, (_, reward) in self.terms.items()}

    def judge(self, images: Tensor, read: Mapping[str, Any]) -> Tensor:
        """The sum [B] for pictures [B, 3, H, W] and what `read` gave."""
        return self._sum({name: in_two_parts(self.terms[name][1]).judge(images, one) for name, one in read.items()})


class Normalised:
    """(r − mean)/std, so that rewards of different units can be added.

    Args:
        mean, std: of the reward on pictures that one calls usual; see `fit`.
    """

    def __init__(self, reward: PictureReward, mean: float, std: float) -> None:
        if not std > 0:
            raise ValueError(
                f"std must be positive, got {std}; the reward does not vary on the pictures it was fitted to"
            )
        self.reward, self.mean, self.std = reward, mean, std
        self.differentiable = is_differentiable(reward)

    @classmethod
    def fit(cls, reward: PictureReward, *, images: Tensor, prompts: Sequence[str]) -> Normalised:
        """Mean and deviation from these pictures, such as samples of the generator before post-training."""
        with torch.no_grad():
            values = values_of(reward, images=images, prompts=prompts)
        return cls(reward, float(values.mean()), float(values.std()))

    def __call__(self, *, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return (values_of(self.reward, images=images, prompts=prompts) - self.mean) / self.std

    def read(self, prompts: Sequence[str]) -> Any:
        """What the reward makes of the prompts, if it is in two parts."""
        return in_two_parts(self.reward).read(prompts)

    def judge(self, images: Tensor, read: Any) -> Tensor:
        """(r − mean)/std, [B], for pictures [B, 3, H, W] and what `read` gave."""
        return (in_two_parts(self.reward).judge(images, read) - self.mean) / self.std
