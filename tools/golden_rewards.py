"""Golden numbers for the published rewards: what their original code says of random weights, in tests/rewards/golden.json.

Run once for each reward, with its original in a folder of its own, since the originals need packages older than ours:

    pip install --no-deps --target OLD image-reward==1.5 transformers==4.49.0 tokenizers==0.21.4 huggingface-hub==0.29.3 \
        timm==0.6.13 fairscale==0.4.13
    PYTHONPATH=OLD python -m tools.golden_rewards imagereward
    pip install --no-deps --target HPS hpsv2x==1.2.0 && PYTHONPATH=HPS python -m tools.golden_rewards hpsv2.1
    pip install --no-deps --target CLIP clip-anytorch==2.6.0 && PYTHONPATH=CLIP:OLD python -m tools.golden_rewards laion

PickScore's original is transformers' own CLIPModel, beside which the tests run ours.

The weights are filled by `fill`, each tensor from a seed that is the hash of its name, and the pictures by `picture`: the
tests make both anew and hold our rewards to the numbers.
"""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

GOLDEN = Path("tests/rewards/golden.json")
PROMPTS = ["a red cat", "two dogs on a table"]
SHAPES = [(224, 224), (300, 200)]
"""Of the two pictures. The first needs no resizing, so that there nothing but arithmetic lies between ours and the original."""
IDS = [[101, 1037, 2417, 4937, 102], [101, 2048, 6077, 2006, 1037, 2795, 102]]
"""The prompts as BERT's tokens; its [CLS] is 101, its [SEP] 102."""
BLIP = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "vocab_size": 30524,
    "encoder_width": 768,
    "add_cross_attention": True,
}
"""BLIP's med_config.json, which the original reads from a file."""


def source_of(name: str) -> torch.Generator:
    """A random source whose seed is the hash of a name."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1)


def fill(state: Mapping[str, Tensor]) -> None:
    """Fill weights in place: matrices so that they keep the variance of what they are applied to, scales around 1."""
    with torch.no_grad():
        for name, tensor in state.items():
            if tensor.is_floating_point():
                fan_in = tensor[0].numel() if tensor.dim() == 4 else tensor.shape[-1] if tensor.dim() else 1
                bound = (3 / fan_in) ** 0.5 if tensor.dim() > 1 else 0.1
                tensor.uniform_(-bound, bound, generator=source_of(name))
                tensor.add_(tensor.dim() == 1 and name.endswith("weight"))


def direction(shape: Sequence[int]) -> Tensor:
    """What gradients of that shape are projected on."""
    return torch.empty(tuple(shape)).uniform_(-1, 1, generator=source_of("direction"))


def keys_of(state: Mapping[str, Tensor]) -> str:
    """A hash of the names and shapes of weights."""
    lines = [f"{name} {list(state[name].shape)}\n" for name in sorted(state)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def picture(height: int, width: int) -> Tensor:
    """A picture [3, height, width] in eight bits: two ramps, and blocks of 16 pixels."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    blocks = ((x // 16 + y // 16) % 2) * 200 + 20
    return torch.stack([x * 255 // width, y * 255 // height, blocks]).to(torch.uint8)


def measure(score: Callable[[Tensor, int], Tensor], preprocess: Callable[[Any], Tensor]) -> dict[str, Any]:
    """Scores of the pictures, and of the first one the gradient at the preprocessed picture: its norm, and its product with
    `direction`.

    Args:
        score: (preprocessed picture [1, 3, 224, 224], number of the prompt) -> its score.
    """
    from torchvision.transforms.functional import to_pil_image

    found = []
    for number, shape in enumerate(SHAPES):
        seen = preprocess(to_pil_image(picture(*shape)))[None].requires_grad_(number == 0)
        value = score(seen, number).reshape(())
        found.append(value.item())
        if number == 0:
            (gradient,) = torch.autograd.grad(value, seen)
    return {
        "scores": found,
        "gradient_norm": gradient.norm().item(),
        "gradient_along": (gradient * direction(gradient.shape)).sum().item(),
    }


def imagereward() -> dict[str, Any]:
    """THUDM's own class; its tokenizer, which would be fetched, is left out, and packages that it never calls are stubs."""
    import transformers

    for name in ("datasets", "clip", "diffusers"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules["ImageReward.ReFL"] = types.ModuleType("ImageReward.ReFL")
    sys.modules["ImageReward.models.AestheticScore"] = types.ModuleType("AestheticScore")
    sys.modules["ImageReward.models.CLIPScore"] = types.ModuleType("CLIPScore")
    for name in ("AestheticScore", "CLIPScore"):
        setattr(sys.modules[f"ImageReward.models.{name}"], name, None)
    from ImageReward.ImageReward import ImageReward
    from ImageReward.models.BLIP import blip_pretrain

    blip_pretrain.init_tokenizer = lambda: None
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(BLIP, file)
        file.flush()
        model = ImageReward(file.name).eval()
    state = model.state_dict()
    fill(state)

    def score(seen: Tensor, number: int) -> Tensor:
        ids = IDS[number]
        padded = torch.tensor([ids + [0] * (35 - len(ids))])
        mask = torch.tensor([[1] * len(ids) + [0] * (35 - len(ids))])
        return model.score_gard(padded, mask, seen)

    made_with = f"image-reward 1.5, transformers {transformers.__version__}"
    return {"made_with": made_with, "keys": keys_of(state), **measure(score, model.preprocess)}


def hpsv2() -> dict[str, Any]:
    """The fork of open_clip that HPSv2 bundles, with its own preprocessing and tokenizer."""
    for name in ("clint", "clint.textui"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["clint.textui"].progress = None  # type: ignore[attr-defined]
    from hpsv2.src.open_clip import create_model_and_transforms, get_tokenizer

    model, _, preprocess = create_model_and_transforms("ViT-H-14", None, light_augmentation=True, output_dict=True)
    state = model.eval().state_dict()
    fill(state)
    tokens = get_tokenizer("ViT-H-14")(PROMPTS)

    def score(seen: Tensor, number: int) -> Tensor:
        outputs = model(seen, tokens[number : number + 1])
        return outputs["image_features"] @ outputs["text_features"].T

    return {"made_with": "hpsv2x 1.2.0", "keys": keys_of(state), **measure(score, preprocess)}


def laion() -> dict[str, Any]:
    """OpenAI's CLIP class and its preprocessing, and the predictor's layers as ImageReward's authors keep them."""
    import packaging.version
    from torch.nn.functional import normalize

    sys.modules["pkg_resources"] = types.ModuleType("pkg_resources")  # of setuptools before 82
    sys.modules["pkg_resources"].packaging = packaging  # type: ignore[attr-defined]
    import clip
    from clip.model import CLIP

    with torch.no_grad():
        model = CLIP(768, 224, 24, 1024, 14, 8, 49408, 64, 1, 1).eval()  # of the words nothing is used
    state = {name: value for name, value in model.state_dict().items() if name.startswith("visual.")}
    folder = next(Path(folder) for folder in sys.path if (Path(folder) / "ImageReward").is_dir())
    place = folder / "ImageReward" / "models" / "AestheticScore.py"
    head = runpy.run_path(str(place))["MLP"](768).eval()
    state |= head.state_dict()
    fill(state)

    def score(seen: Tensor, number: int) -> Tensor:
        return head(normalize(model.encode_image(seen)))

    made_with = "clip-anytorch 2.6.0, image-reward 1.5"
    return {"made_with": made_with, "keys": keys_of(state), **measure(score, clip.clip._transform(224))}


MAKERS = {"imagereward": imagereward, "hpsv2.1": hpsv2, "laion": laion}

if __name__ == "__main__":
    golden = json.loads(GOLDEN.read_text("utf-8")) if GOLDEN.exists() else {}
    golden[sys.argv[1]] = MAKERS[sys.argv[1]]()
    GOLDEN.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n", "utf-8")
    print(json.dumps(golden[sys.argv[1]], indent=1))
