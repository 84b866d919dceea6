"""What a generator of the world's pictures is worth: faithfulness, judges, diversity, distance to real scenes, and how
painted its pictures look; with intervals, and paired where two generators draw from the same captions and seeds.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..evaluation.benchmarks import Entry, PromptSet
from ..evaluation.harness import Scorer
from ..evaluation.pictures import (
    attribute_entropy,
    frechet_distance,
    high_frequency_share,
    pairwise_distance,
    saturation,
)
from ..evaluation.statistics import Interval, bootstrap_interval, paired_interval
from ..figures.picture import Picture, image_grid
from ..rewards.base import PictureReward
from ..rewards.preprocess import PREPROCESSING
from ..runs.weights import digest
from ..sdxl.models import TextToImage
from ..sdxl.prompts import Prompt
from .judges import Judges, load_held_out, load_judges
from .oracle import SIZE_BORDER, check_world_pictures, compare, read
from .scenes import COLOURS, GROUPS, SHAPES, Stated, Thing, both_groups, caption_of, lay_out, read_caption, render

FAITHFUL = "faithful"
FAMILY = "the world's preference network"

Draw = Callable[[Sequence[str], Sequence[int]], Tensor]
WORDS_FOR = {
    "faithful": "all that the caption states",
    "gold": "gold preference",
    "preference": "preference reward (proxy)",
    "clip": "CLIP score",
    "saturation": "saturation",
    "high_frequency": "power at high frequencies",
    "diversity": "distance between samples of a caption",
    "open_entropy": "entropy of size and background where open (nats)",
}


class Faithful:
    """1 where a picture has all that its caption states, else 0: read by the oracle."""

    differentiable = False

    def __call__(self, *, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images [B, 3, 32, 32] in [0, 1] and B captions -> [B]."""
        check_world_pictures(images, prompts)
        return compare(read(images), [read_caption(prompt) for prompt in prompts]).all.float()


def held_out_captions(count: int = 250) -> PromptSet:
    """The captions that no training saw, each once, in their two groups."""
    drawn = both_groups(count).captions
    groups = dict(zip(drawn, [words for words in GROUPS.values() for _ in range(count)], strict=True))
    entries = [Entry(caption, words) for caption, words in groups.items()]
    return PromptSet("world", entries, "Captions of the miniature world that no training saw")


def scorers(device: str = "cpu") -> dict[str, Scorer]:
    """Who judges the world's pictures, by name: preference, what runs are trained on; its two like that are not; CLIP; and beside
    them gold and faithfulness, which the oracle reads. Raises as load_judges.
    """
    judges = load_judges()
    rewards: dict[str, PictureReward] = {
        "gold": judges.gold,
        FAITHFUL: Faithful(),
        "preference": judges.preference,
        **load_held_out(judges.clip),
        "clip": judges.clip,
    }

    def scorer(name: str, reward: Any) -> Scorer:
        beside = name in ("gold", FAITHFUL)
        weights = "" if beside else f" weights {digest([reward])},"
        return Scorer(
            f"world:{name}",
            f"the world's,{weights} preprocessing {PREPROCESSING}, float32",
            lambda: reward if beside else reward.to(device),
            device,
            family="" if beside else "the world's CLIP" if name == "clip" else FAMILY,
            has_features=name == "clip",
            beside=beside,
        )

    return {name: scorer(name, reward) for name, reward in rewards.items()}


class Evaluation(NamedTuple):
    """Values by draw or by caption, each [N], for intervals; and one number.

    Attributes:
        caption: which caption each draw is of.
        faithful: 1 where the picture has all that its held-out caption states, by draw.
        gold, preference, clip: the judges, by draw.
        saturation, high_frequency: of the picture, by draw.
        diversity: mean 1 − cosine of CLIP features between samples of one held-out caption, by caption.
        open_entropy: entropy in nats of (size, background) over samples of captions that leave both open, by caption;
            at most log 4 = 1.39, and of 16 samples 1.29 on average even where all four are equally likely.
        frechet: Fréchet distance of CLIP features to rendered scenes of the same captions, as many.
    """

    caption: Tensor
    faithful: Tensor
    gold: Tensor
    preference: Tensor
    clip: Tensor
    saturation: Tensor
    high_frequency: Tensor
    diversity: Tensor
    open_entropy: Tensor
    frechet: float


@torch.no_grad()
def evaluate(draw: Draw, judges: Judges, *, count: int = 250, samples: int = 8) -> Evaluation:
    """Evaluate whoever draws pictures [N, 3, 32, 32] from captions and seeds.

    Args:
        count: draws with one object, and as many with two.
        samples: of each caption for diversity, twice as many for the entropy.
    """
    stated, captions, seeds = both_groups(count)
    pictures = draw(captions, seeds)
    reading = read(pictures)
    faithful = compare(reading, stated).all

    def judged(judge: PictureReward) -> Tensor:
        return judge(images=pictures, prompts=captions)

    few = list(dict.fromkeys(captions))[:40]
    repeated = draw([caption for caption in few for _ in range(samples)], range(len(few) * samples))
    open_captions = [caption_of(Stated((Thing(*pair),))) for pair in product(range(len(COLOURS)), range(len(SHAPES)))]
    many = 2 * samples
    scenes = read(
        draw([caption for caption in open_captions for _ in range(many)], range(len(open_captions) * many))
    ).scenes
    large, dark = (scenes.radius[:, 0] > SIZE_BORDER).tolist(), scenes.background.tolist()
    pairs = list(zip(large, dark, strict=True))
    real = render(lay_out(stated, torch.Generator().manual_seed(0)))
    places = {caption: k for k, caption in enumerate(dict.fromkeys(captions))}
    return Evaluation(
        caption=torch.tensor([places[caption] for caption in captions]),
        faithful=faithful.float(),
        gold=judges.gold.of(reading, faithful),
        preference=judged(judges.preference),
        clip=judged(judges.clip),
        saturation=saturation(pictures),
        high_frequency=high_frequency_share(pictures),
        diversity=pairwise_distance(judges.clip.features(repeated).view(len(few), samples, -1)),
        open_entropy=attribute_entropy([pairs[k * many : (k + 1) * many] for k in range(len(open_captions))]),
        frechet=frechet_distance(judges.clip.features(pictures), judges.clip.features(real)),
    )


def interval(evaluation: Evaluation, name: str) -> Interval:
    """Mean of one of the values with its 95 % bootstrap interval, captions drawn again with all their draws."""
    return bootstrap_interval(getattr(evaluation, name), groups=_captions(evaluation, name))


def differences(first: Evaluation, second: Evaluation) -> dict[str, Interval]:
    """Mean of second − first, paired by draw or caption, with its 95 % bootstrap interval over captions."""
    return {
        name: paired_interval(getattr(second, name), getattr(first, name), groups=_captions(first, name))
        for name in WORDS_FOR
    }


def _captions(evaluation: Evaluation, name: str) -> Tensor | None:
    return None if name in ("diversity", "open_entropy") else evaluation.caption


def table(evaluations: dict[str, Evaluation]) -> list[list[str]]:
    """Means with 95 % bootstrap intervals over captions of two evaluations by name, and their paired difference, second −
    first."""
    first, second = evaluations.values()
    rows = [["", *evaluations, "difference"]]
    for name, gap in differences(first, second).items():
        cells = [_shown(interval(one, name)) for one in (first, second)]
        rows.append([WORDS_FOR[name], *cells, _shown(gap, sign="+")])
    distances = [f"{one.frechet:.3f}" for one in (first, second)]
    return [*rows, ["Fréchet distance to renders", *distances, f"{second.frechet - first.frechet:+.3f}"]]


def write_table(rows: Sequence[Sequence[str]], path: Path) -> None:
    """A table as CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def verdict(evaluations: dict[str, Evaluation]) -> str:
    """Whether the gold preference rose and faithfulness fell from the first to the second evaluation, in a sentence."""
    gaps = differences(*evaluations.values())
    gold, faithful = gaps["gold"], gaps["faithful"]
    moved = "rose" if gold.low > 0 else "fell" if gold.high < 0 else "did not change beyond chance"
    return (
        f"the gold preference, which no run has seen, {moved} ({_shown(gold, '+')}); "
        f"{100 * faithful.mean:+.1f} points of pictures have all that their caption states "
        f"[{100 * faithful.low:+.1f}, {100 * faithful.high:+.1f}]"
    )


def _shown(interval: Interval, sign: str = "") -> str:
    return "{:{sign}.3f} [{:{sign}.3f}, {:{sign}.3f}]".format(*interval, sign=sign)


def before_and_after(
    world: TextToImage, judges: Judges, generator: Callable[[Tensor, Prompt], Tensor], rows: int = 3
) -> Picture:
    """Held-out captions drawn by the world's generator and by another from the same noise, six pairs a row, one above the
    other, with their gold preference.
    """
    columns = 6
    draws = both_groups(rows * columns // 2)
    sides = [world.draw(draws.captions, draws.seeds, drawn) for drawn in (None, generator)]
    gold = [judges.gold(images=side, prompts=draws.captions).tolist() for side in sides]
    images, titles = [], []
    for start in range(0, rows * columns, columns):
        for name, side, liked in zip(("before", "after"), sides, gold, strict=True):
            for place in range(start, start + columns):
                images.append(side[place])
                said = draws.captions[place] if name == "before" else "the same"
                titles.append(f"{said} ({name}, gold {liked[place]:.2f})")
    alt = f"{rows * columns} held-out captions drawn from the same noise before and after post-training, one above the other."
    return image_grid(torch.stack(images), titles, columns=columns, alt=alt)
