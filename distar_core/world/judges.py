"""Who judges the world's pictures: a CLIP trained on it, a gold preference that is known, and a preference reward learnt
from noisy comparisons by the gold one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid

from ..rates import decay
from ..rewards.base import PictureReward
from ..rewards.clip import ClipScore
from ..roles import Trainable
from ..runs.weights import check_weights, read_weights
from ..sdxl.miniature import TOKENS
from ..sdxl.models import TextToImage
from .models import SHIPPED
from .oracle import Reading, check_world_pictures, compare, read
from .scenes import BRIGHTNESS, PIXELS, SHAPES, SIZES, WORDS, read_caption, render, training_scenes
from .stages import Tell, fit

CLIP_CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"layers": 3, "width": 64, "head_width": 16, "patch_size": 4, "image_size": PIXELS},
        "text_cfg": {"context_length": TOKENS, "width": 64, "heads": 4, "layers": 3, "hf_tokenizer_name": "own"},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
}
PREFERENCE = "preference.safetensors"
HELD_OUT = ("preference-2", "preference-3")
"""Preferences of the same networks, each learnt from comparisons of its own: judges of what was trained on the first."""
NOISE = 1 / 6  # of the judge whose comparisons are learnt from, in units of the gold preference


def make_clip(folder: Path, tokenizer: Any) -> ClipScore:
    """An untrained CLIP for the world's language, as an open_clip folder."""
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(json.dumps(CLIP_CONFIG))
    config["model_cfg"]["text_cfg"]["vocab_size"] = len(tokenizer)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=1) + "\n", "utf-8")
    tokenizer.save_pretrained(folder)
    parts = config["model_cfg"]
    model = open_clip.CLIP(
        parts["embed_dim"], open_clip.CLIPVisionCfg(**parts["vision_cfg"]), open_clip.CLIPTextCfg(**parts["text_cfg"])
    )
    open_clip.set_model_preprocess_cfg(model, {"size": PIXELS, **config["preprocess_cfg"]})
    return ClipScore.of(model, open_clip.get_tokenizer(f"local-dir:{folder}"), vocabulary=WORDS)


def load_clip(folder: Path) -> ClipScore:
    """The CLIP score of a folder that `train_clip` left; it warns about words that it was not trained on.

    Raises:
        FileNotFoundError: if it is not there, or a file of it.
        ValueError: if weights or tokenizer are damaged or do not fit the model.
    """
    if not (folder / "open_clip_model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} has no open_clip_model.safetensors; build it with: distar world build")
    return ClipScore.load(f"local-dir:{folder}", vocabulary=WORDS)


def swapped(caption: str) -> str:
    """The caption with its two objects in each other's place, or with another shape where there is one object."""
    words = caption.split()
    nouns = [k for k, word in enumerate(words) if word in SHAPES]
    if len(nouns) == 2:
        first, second = nouns
        words[first - 1 : first + 1], words[second - 1 : second + 1] = (
            words[second - 1 : second + 1],
            words[first - 1 : first + 1],
        )
    else:
        words[nouns[0]] = SHAPES[(SHAPES.index(words[nouns[0]]) + 1) % len(SHAPES)]
    return " ".join(words)


def train_clip(folder: Path, world: TextToImage, *, steps: int, batch: int, seed: int, tell: Tell) -> ClipScore:
    """Contrastive training on scenes, half of them through the autoencoder, with swapped captions as hard negatives."""
    torch.manual_seed(seed)
    score = make_clip(folder / "model", world.pipeline.tokenizer)
    model: Any = score.model.requires_grad_(True)
    tokenize = world.pipeline.tokenizer
    learner = Trainable(
        model,
        torch.optim.Adam(model.parameters(), betas=(0.9, 0.98)),
        lr=decay(1e-3, steps, rise=100),
        ema_decay=0.99,
    )

    def embedded(captions: Sequence[str]) -> Tensor:
        ids = tokenize(list(captions), padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids
        return model.encode_text(ids, normalize=True)

    def loss_at(step: int) -> Tensor:
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        scenes, captions = training_scenes(batch, rng)
        pictures = render(scenes)
        half = batch // 2
        pictures = torch.cat([pictures[:half], world.reconstructed(pictures[half:])])
        seen = model.encode_image(score.preprocess(pictures), normalize=True)
        said = embedded([*captions, *map(swapped, captions)])
        logits = model.logit_scale.exp() * seen @ said.T
        target = torch.arange(batch)
        return (cross_entropy(logits, target) + cross_entropy(logits[:, :batch].T, target)) / 2

    fit(folder, learner, loss_at, steps, "CLIP", {"batch": batch, "seed": seed}, tell)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "model" / "open_clip_model.safetensors")
    return load_clip(folder / "model")


def taste_terms(reading: Reading) -> Tensor:
    """The three things that `taste` is the mean of, each in [0, 1], [B, 3]: bright objects; objects that are large within
    their size class; a composition around the middle.
    """
    scenes = reading.scenes
    low, high = BRIGHTNESS
    bright = ((scenes.brightness - low) / (high - low)).clamp(0, 1).mean(1)
    bounds = torch.tensor(list(SIZES.values()))
    small = (scenes.radius - bounds[0, 0]) / (bounds[0, 1] - bounds[0, 0])
    large = (scenes.radius - bounds[1, 0]) / (bounds[1, 1] - bounds[1, 0])
    size = torch.where(scenes.radius > bounds.mean(), large, small).clamp(0, 1).mean(1)
    off = (scenes.centre.mean(1) - PIXELS / 2).norm(dim=1)
    return torch.stack([bright, size, (-off.square() / (2 * 4.0**2)).exp()], 1)


def taste(reading: Reading) -> Tensor:
    """What the gold preference likes about a picture apart from its caption, in [0, 1]; [B]."""
    bright, size, middle = taste_terms(reading).unbind(1)
    return (bright + size + middle) / 3


class GoldPreference:
    """The known preference of the world: `taste` where a picture has all that its caption states, and one less where not.

    For evaluation only: it reads pictures with the oracle, so it has no gradient.
    """

    differentiable = False

    def __call__(self, *, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, 32, 32] in [0, 1] and B captions -> [B], in [−1, 1]."""
        check_world_pictures(images, prompts)
        reading = read(images)
        return self.of(reading, compare(reading, [read_caption(prompt) for prompt in prompts]).all)

    @staticmethod
    def of(reading: Reading, faithful: Tensor) -> Tensor:
        """The same from what the oracle has read, and whether it is what the captions state; [B] each -> [B]."""
        return taste(reading) - 1 + faithful.to(reading.residual.dtype)


class PreferenceReward(nn.Module):
    """A reward learnt from comparisons (Bradley and Terry 1952): P(a over b) = 1/(1 + exp(r(b) − r(a))).

    Sees the picture through a small convolutional network of its own, and how it agrees with the prompt through CLIP's features.
    """

    differentiable = True

    def __init__(self, clip: ClipScore, width: int = 64) -> None:
        super().__init__()
        self.clip = clip
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.SiLU()]
        self.eyes = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (PIXELS // 8) ** 2, width))
        joint = clip.words([WORDS[0]]).shape[1]
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(width + joint, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, *, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, 32, 32] in [0, 1] and B prompts -> [B]. Raises ValueError as check_world_pictures."""
        check_world_pictures(images, prompts)
        return self.judge(images, self.read(prompts))

    def read(self, prompts: Sequence[str]) -> Tensor:
        """CLIP's unit embeddings of prompts, [B, width]."""
        return self.clip.words(prompts)

    def judge(self, images: Tensor, read: Tensor) -> Tensor:
        """Images [B, 3, 32, 32] in [0, 1] and what `read` gives of B prompts -> [B]."""
        agreement = 8 * self.clip.features(images) * read
        return self.head(torch.cat([self.eyes(2 * images - 1), agreement], 1))[:, 0]


def _pairs(world: TextToImage, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, list[str]]:
    """Two one-step pictures [N, 3, 32, 32] of each of `count` training captions, and the captions."""
    _, captions = training_scenes(count, rng)
    first, second = (world.draw(captions, row) for row in torch.randint(2**31, (2, count), generator=rng).tolist())
    return first, second, captions


def compared(world: TextToImage, count: int, seed: int, *, noise: float = NOISE) -> tuple[Tensor, Tensor, list[str]]:
    """Pairs of one-step pictures of the same training caption, the preferred one first, as a noisy judge says:
    P(a over b) = 1/(1 + exp((gold(b) − gold(a))/noise)).

    Returns:
        preferred [N, 3, 32, 32], other [N, 3, 32, 32], captions.
    """
    rng = torch.Generator().manual_seed(seed)
    first, second, captions = _pairs(world, count, rng)
    gold = GoldPreference()
    gap = gold(images=first, prompts=captions) - gold(images=second, prompts=captions)
    swap = (torch.rand(count, generator=rng) > torch.sigmoid(gap / noise))[:, None, None, None]
    return torch.where(swap, second, first), torch.where(swap, first, second), captions


def train_preference(
    folder: Path,
    world: TextToImage,
    clip: ClipScore,
    *,
    pairs: int,
    steps: int,
    batch: int,
    seed: int,
    tell: Tell,
    stage: str = "preference",
) -> PreferenceReward:
    """Fit a PreferenceReward to comparisons by its likelihood."""
    torch.manual_seed(seed)
    reward = PreferenceReward(clip)
    learner = Trainable(
        reward,
        torch.optim.AdamW(reward.parameters(), weight_decay=0.05),
        lr=decay(1e-3, steps, rise=20),
        ema_decay=0.99,
    )
    preferred, other, captions = compared(world, pairs, seed)

    def loss_at(step: int) -> Tensor:
        rows = torch.randint(pairs, (batch,), generator=torch.Generator().manual_seed(seed * 1_000_003 + step))
        said = [captions[row] for row in rows.tolist()]
        return -logsigmoid(
            reward(images=preferred[rows], prompts=said) - reward(images=other[rows], prompts=said)
        ).mean()

    fit(folder, learner, loss_at, steps, stage, {"pairs": pairs, "batch": batch, "seed": seed}, tell)
    path = folder / PREFERENCE
    own = {name: value for name, value in reward.state_dict().items() if not name.startswith("clip.")}
    save_file({name: value.contiguous() for name, value in own.items()}, path)
    return load_preference(path, clip)


def load_preference(path: Path, clip: ClipScore) -> PreferenceReward:
    """The reward in a file that `train_preference` left, frozen.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it cannot be read, or is of other networks; the message names what is missing, unexpected and
            misshapen.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; build it with: distar world build")
    reward = PreferenceReward(clip)
    found = read_weights(path)
    kept = {f"clip.{name}": value for name, value in clip.state_dict().items()}
    check_weights(path, found, {name: value for name, value in reward.state_dict().items() if name not in kept})
    reward.load_state_dict(found | kept)
    return reward.requires_grad_(False).eval()


class Judges(NamedTuple):
    """Who judges the world's pictures."""

    clip: ClipScore
    preference: PreferenceReward
    gold: GoldPreference


def load_judges(folder: Path | str = SHIPPED) -> Judges:
    """The judges in a folder of weights, the shipped one by default. Raises as load_clip and load_preference."""
    folder = Path(folder)
    clip = load_clip(folder / "clip")
    return Judges(clip, load_preference(folder / PREFERENCE, clip), GoldPreference())


def load_held_out(clip: ClipScore, folder: Path | str = SHIPPED) -> dict[str, PreferenceReward]:
    """The preferences of HELD_OUT in a folder of weights, by name. Raises as load_preference."""
    return {name: load_preference(Path(folder) / f"{name}.safetensors", clip) for name in HELD_OUT}


def prefers_as_gold(reward: PictureReward, world: TextToImage, count: int, seed: int) -> Tensor:
    """Whether a reward prefers what the gold preference does, on fresh pairs of one-step pictures of training captions,
    [N] true or false; pairs that the gold preference ties are left out.
    """
    *pictures, captions = _pairs(world, count, torch.Generator().manual_seed(seed))
    gaps = []
    with torch.no_grad():
        for judge in (reward, GoldPreference()):
            first, second = (judge(images=images, prompts=captions) for images in pictures)
            gaps.append(first - second)
    return (gaps[0] * gaps[1] > 0)[gaps[1] != 0]


@torch.no_grad()
def tells_swaps(clip: ClipScore, pictures: Tensor, captions: Sequence[str]) -> Tensor:
    """Whether CLIP scores each picture's own caption above the swapped one, [B] true or false."""
    own, other = (clip(images=pictures, prompts=said) for said in (captions, [swapped(c) for c in captions]))
    return own > other
