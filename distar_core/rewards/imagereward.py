"""ImageReward (Xu et al. 2023): how much people like a picture for its prompt, from BLIP with a head of one number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..runs.weights import check_weights, read_weights, refuse_not_finite
from .base import FrozenReward, check_pictures, warn_if_cut
from .heads import AffineHead, five_layers
from .preprocess import Preprocess

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""What the head's output is normalised by: over ImageReward's own comparisons, as THUDM/ImageReward states."""
TOKENS = 35
HEADS = 12
"""Of BLIP's text encoder. No weight's shape shows it, and transformers' default is 8, with which every score is wrong."""
SPARE = frozenset(
    ["blip.text_encoder.embeddings.position_ids"]
    + [f"blip.{part}_proj.{kind}" for part in ("vision", "text") for kind in ("weight", "bias")]
)
"""What the checkpoint holds besides: BLIP's contrastive projections, which ImageReward never calls, and a range of integers."""


class ImageReward(FrozenReward):
    """A preference for pictures given their prompts, normalised to mean 0 and deviation 1 over ImageReward's comparisons.

    ViT-L/16 sees the picture at 224 pixels, BERT reads the first 35 tokens of the prompt and looks at all patches; the score
    is an affine map of what it makes of the token [CLS]. The networks compute in the type of their weights, preprocessing and
    head in float32 at least. Source: THUDM/ImageReward, ImageReward/ImageReward.py.

    Args:
        network: as `make_network`, with its weights.
        tokenizer: of bert-base-uncased.
        size: height and width in pixels that the network takes.

    Raises:
        ValueError: unless the tokenizer has as many entries as the network has for it, and begins a prompt with [CLS].
    """

    def __init__(self, network: nn.Module, tokenizer: Any, size: int = 224) -> None:
        super().__init__()
        self.blip: Any = network.get_submodule("blip")
        text: Any = self.blip.text_encoder
        self.head = AffineHead(network.get_submodule("mlp.layers"), text.config.hidden_size)
        self.preprocess = Preprocess(size)
        self.requires_grad_(False).eval()
        entries, begin = text.config.vocab_size, tokenizer("").input_ids[0]
        # two that BLIP added, and ImageReward never writes
        if not entries - 2 <= len(tokenizer) <= entries or begin != tokenizer.cls_token_id:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} entries and begins a prompt with token {begin}, but the network has "
                f"{entries}, two of them its own, and reads the score at [CLS], token {tokenizer.cls_token_id}; take "
                "bert-base-uncased's"
            )
        self._tokenizer = tokenizer
        self._read: set[str] = set()

    @classmethod
    def load(cls, weights: Path, tokenizer: Any) -> ImageReward:
        """The published checkpoint ImageReward.pt, with bert-base-uncased's tokenizer.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, holds more than tensors, or other ones than this network's 620 and the five SPARE.
        """
        found = {name: value for name, value in read_weights(weights).items() if name not in SPARE}
        network = make_network()
        check_weights(weights, found, network.state_dict())
        network.load_state_dict(found)
        refuse_not_finite(weights, network.state_dict())
        return cls(network, tokenizer)

    def forward(self, *, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] and B prompts -> [B].

        Raises:
            TypeError, ValueError, NonFiniteError: as check_pictures.

        Warns:
            UserWarning: once for each prompt over the token limit, which is cut.
        """
        check_pictures(images, prompts)
        return self.judge(images, self.read(prompts))

    def judge(self, images: Tensor, read: Mapping[str, Tensor]) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] and what `read` gives of B prompts -> [B]."""
        seen = self.blip.visual_encoder.forward_features(self.preprocess(images).to(self.blip.text_encoder.dtype))
        found = self.blip.text_encoder(**read, encoder_hidden_states=seen, is_decoder=False)
        return (self.head(found.last_hidden_state[:, 0]) - MEAN) / STD

    def read(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The tokens of prompts and which of them count, [B, tokens] each. Warns as `forward`."""
        words = self._tokens(prompts).to(next(self.parameters()).device)
        return {"input_ids": words.input_ids, "attention_mask": words.attention_mask}

    def _tokens(self, prompts: Sequence[str]) -> Any:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._read]
        self._read.update(new)
        warn_if_cut([p for p in new if len(self._tokenizer(p).input_ids) > TOKENS], len(new), TOKENS, "ImageReward")
        prompts = list(prompts)
        return self._tokenizer(prompts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")


def make_network(*, width: int = 1024, depth: int = 24, heads: int = 16, size: int = 224, **text: Any) -> nn.Module:
    """ImageReward's network with random weights, by the names of its checkpoint.

    Args:
        width, depth, heads, size: of the vision transformer on patches of 16 pixels.
        text: other settings than BLIP's for its text encoder, as in transformers' BlipTextConfig.
    """
    from timm.models.vision_transformer import VisionTransformer
    from transformers import BlipTextConfig, BlipTextModel

    settings = {"vocab_size": 30524, "num_attention_heads": HEADS, "encoder_hidden_size": width, **text}
    config = BlipTextConfig(
        **settings, use_cache=False
    )  # is_decoder, so that there are layers that look at the picture
    blip = nn.ModuleDict(
        {
            # with timm's LayerNorm eps 1e-6, as BLIP's
            "visual_encoder": VisionTransformer(
                size, 16, embed_dim=width, depth=depth, num_heads=heads, num_classes=0, weight_init="skip"
            ),
            "text_encoder": BlipTextModel(config, add_pooling_layer=False),
        }
    )
    return nn.ModuleDict({"blip": blip, "mlp": nn.ModuleDict({"layers": five_layers(config.hidden_size)})})
