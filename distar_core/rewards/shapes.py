"""Published rewards by their shapes: on the meta device, to count what they take, or with random weights, to time it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .base import FrozenReward
from .clip import ClipScore
from .heads import five_layers
from .imagereward import TOKENS, ImageReward, make_network
from .laion import WIDTH, LaionAesthetic
from .preprocess import Preprocess, PreprocessWhole
from .published import CLIP_PREFIX, LAION_CLIP, PICKSCORE_NETWORK, find_reward


class AnyTokens:
    """A tokenizer for ImageReward that gives the same tokens for every prompt; what is counted does not depend on them."""

    cls_token_id = 101

    def __len__(self) -> int:
        return 30522

    def __call__(self, prompts: Any, **settings: Any) -> Any:
        from transformers import BatchEncoding

        if isinstance(prompts, str):
            return BatchEncoding({"input_ids": [101, 102]})
        ids = [[101, *range(1000, 998 + TOKENS), 102] for _ in prompts]
        # no mask, which means all: whether one holds is asked by its numbers, and on the meta device there are none
        return BatchEncoding({"input_ids": torch.tensor(ids, device="cpu"), "attention_mask": None})


def _any_words(limit: int, embed: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Sequence[str]], Tensor]:
    """What embeds prompts of so many tokens, whatever these are."""

    def embed_words(model: Any, prompts: Sequence[str]) -> Tensor:
        device = next(model.parameters()).device
        return embed(model, torch.zeros(len(prompts), limit, dtype=torch.long, device=device))

    return embed_words


def _pickscore() -> FrozenReward:
    import transformers

    config = transformers.CLIPConfig(**_whole(PICKSCORE_NETWORK))
    return ClipScore(
        transformers.CLIPModel(config),
        Preprocess(config.vision_config.image_size),
        lambda model, pictures: model.visual_projection(model.vision_model(pixel_values=pictures).pooler_output),
        _any_words(
            config.text_config.max_position_embeddings,
            lambda model, ids: model.text_projection(model.text_model(input_ids=ids).pooler_output),
        ),
    )


def _whole(network: Mapping[str, Any]) -> dict[str, Any]:
    """PickScore's configuration with the widths of ViT-H/14 that it leaves to the file."""
    inner = {"text_config": {"intermediate_size": 4096}, "vision_config": {"intermediate_size": 5120}}
    return {key: {**value, **inner[key]} if key in inner else value for key, value in network.items()}


def _open_clip(name: str) -> Any:
    import open_clip

    config = open_clip.get_model_config(name)
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    return kind(**config)


def _clip(name: str, preprocess: type[Preprocess] = Preprocess) -> FrozenReward:
    model = _open_clip(name)
    size = model.visual.image_size
    return ClipScore(
        model,
        preprocess(size[0] if isinstance(size, tuple | list) else size),
        lambda model, pictures: model.encode_image(pictures),
        _any_words(model.context_length, lambda model, ids: model.encode_text(ids)),
    )


def _laion() -> FrozenReward:
    return LaionAesthetic(_open_clip(LAION_CLIP[0]).visual, Preprocess(224), five_layers(WIDTH))


MAKERS: dict[str, Callable[[], FrozenReward]] = {
    "imagereward": lambda: ImageReward(make_network(), AnyTokens()),
    "hpsv2.1": partial(_clip, "ViT-H-14", PreprocessWhole),
    "pickscore": _pickscore,
    "laion-aesthetic": _laion,
}


def untrained_reward(name: str, device: torch.device | str) -> FrozenReward:
    """A published reward in float32, with the weights that its classes begin with, and any tokens for a prompt.

    Raises:
        ValueError: as find_reward.
    """
    find_reward(name)
    with torch.device(device):
        return MAKERS[name]() if name in MAKERS else _clip(name.removeprefix(CLIP_PREFIX).split("/")[0])


def reward_on_meta(name: str) -> FrozenReward:
    """As `untrained_reward`, on the meta device: called as the reward is, it gives shapes alone."""
    return untrained_reward(name, "meta")
