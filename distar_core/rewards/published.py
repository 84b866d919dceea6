"""The published rewards by name: what each measures, where its weights are from, and how they are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..runs.settings import differences
from ..runs.weights import read_json
from .base import FrozenReward
from .clip import CONFIG, LICENCE, LOCAL, SIZES, ClipScore, stated_by_open_clip
from .files import File, fetching, verify
from .imagereward import ImageReward
from .laion import LaionAesthetic
from .preprocess import PREPROCESSING

IMAGEREWARD = File(
    "ImageReward.pt", "THUDM/ImageReward", "5736be03b2652728fb87788c9797b0570450ab72", size=1_786_880_927
)
BERT, BERT_REVISION = "bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594"
HPSV2 = File("HPS_v2.1_compressed.pt", "xswu/HPSv2", "697403c78157020a1ae59d23f111aa58ced35b0a", size=1_972_490_005)
LAION = File(
    "sac+logos+ava1-l14-linearMSE.pth",
    "https://github.com/christophschuhmann/improved-aesthetic-predictor",
    "6934dd81792f086e613a121dbce43082cb8be85e",
    size=3_714_759,
    sha256="21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
)
LAION_CLIP = ("ViT-L-14-quickgelu", "openai")
PICKSCORE = File("model.safetensors", "yuvalkirstain/PickScore_v1", "a4e4367c6dfa7288a00c550414478f865b875800")
PICKSCORE_TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
PICKSCORE_TOKENIZER_REVISION = "1c2b8495b28150b8a4922ee1c8edee224c284c0c"
PICKSCORE_NETWORK: dict[str, Any] = {
    "projection_dim": 1024,
    "text_config": {"hidden_act": "gelu", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "vision_config": {
        "hidden_act": "gelu",
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 224,
    },
}
CLIP_PREFIX = "clip:"
CLIP_EXAMPLE = "clip:ViT-g-14/laion2b_s12b_b42k"


@dataclass(frozen=True)
class Published:
    """A published reward.

    Attributes:
        name: what recipes and commands call it.
        measures: what a larger value means.
        scale: what it returns, and what tables print of it.
        gigabytes: of all its files; None where that is not known.
        licence: of code and weights.
        source: who published it, and where its weights are.
        gradient: whether its gradient at the picture means anything.
        loader: what `load` calls.
        weights: which weights, at which revision.
        family: which network looks at the picture: rewards of one family share its blind spots.
        factor: what tables multiply its values by.
        has_logit: whether it is a CLIP's cosine, which its model itself multiplies by a learnt temperature.
        file: its weights, where they are one file.
    """

    name: str
    measures: str
    scale: str
    gigabytes: float | None
    licence: str
    source: str
    gradient: str
    loader: Callable[[Path | None], FrozenReward]
    weights: str
    family: str
    factor: float = 1.0
    has_logit: bool = False
    file: File | None = None

    @property
    def identity(self) -> str:
        """What exactly turns a picture into its value: weights, the version of our preprocessing, and the type of `load`."""
        return f"{self.weights}, preprocessing {PREPROCESSING}, float32"

    def load(self, folder: Path | str | None = None) -> FrozenReward:
        """The reward in float32 on the CPU; `.to()` moves it and changes its type.

        Args:
            folder: with the published files by their names, and the tokenizer's; by default they are fetched once.

        Raises:
            FileNotFoundError: if the folder or a file of it is not there, or one cannot be fetched; then the text has the size
                and the licence.
            ValueError: if a file is another one than was published, or was loaded here before; or is damaged, holds more
                than tensors, or other ones than the network's.
        """
        if folder is not None and not Path(folder).is_dir():
            raise FileNotFoundError(
                f"{folder} is no folder; name the one with {self.name}'s files, by their published names"
            )
        return self.loader(None if folder is None else Path(folder))


def _imagereward(folder: Path | None) -> FrozenReward:
    import transformers

    if folder is not None and not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise FileNotFoundError(f"{folder} has no tokenizer.json and no vocab.txt; copy {BERT}'s there")
    with fetching("ImageReward", "Apache-2.0", 1.8, folder):
        weights = IMAGEREWARD.find(folder)
        revision = None if folder is not None else BERT_REVISION
        tokenizer = transformers.BertTokenizer.from_pretrained(folder or BERT, revision=revision)
    return ImageReward.load(weights, tokenizer)


def _hpsv2(folder: Path | None) -> FrozenReward:
    with fetching("HPSv2.1", "Apache-2.0", 2.0, folder):
        weights = HPSV2.find(folder)
    return ClipScore.hpsv2(weights)


def _laion(folder: Path | None) -> FrozenReward:
    with fetching("LAION's aesthetic predictor", "Apache-2.0", 0.004, folder):
        head = LAION.find(folder)
    return LaionAesthetic.load(head, _clip(*LAION_CLIP, folder))


def _pickscore(folder: Path | None) -> FrozenReward:
    with fetching("PickScore", "MIT for its code; see the model card for the weights", 3.9, folder):
        configuration = PICKSCORE._replace(name="config.json").find(folder)
        _check_network(configuration, PICKSCORE_NETWORK, "PickScore")
        weights = PICKSCORE.find(folder)
    if folder is not None:
        return ClipScore.pickscore(folder)
    return ClipScore.pickscore(weights.parent, PICKSCORE_TOKENIZER, PICKSCORE_TOKENIZER_REVISION)


def _clip(model: str, tag: str, folder: Path | None) -> ClipScore:
    def check(weights: Path) -> None:
        verify(weights, f"{model}/{tag}/{weights.name}")

    if folder is None:
        return ClipScore.load(model, tag, check=check)
    import open_clip

    if (folder / CONFIG).is_file():
        known = {"quick_gelu": False} | open_clip.get_model_config(model)
        _check_network(folder / CONFIG, {"model_cfg": known}, model, quick_gelu=False)
    return ClipScore.load(f"{LOCAL}{folder}", check=check)


def _check_network(path: Path, expected: Mapping[str, object], name: str, **defaults: object) -> None:
    """Raise ValueError unless a configuration says all that a network is known by; weights of another activation would load."""
    found = read_json(path)
    if defaults and isinstance(found.get("model_cfg"), dict):
        found["model_cfg"] = {**defaults, **found["model_cfg"]}
    for key, here, there in differences(dict(expected), found):
        if here is not None:
            raise ValueError(
                f"{path} has {key} {there!r}, but {name} has {here!r}; copy {name}'s own folder again, whole"
            )


def _family(model: str) -> str:
    """Of one of open_clip's models: its architecture, whatever it was trained on and whichever activation it has."""
    return f"CLIP {model.removesuffix('-quickgelu')}"


CLIP_H = _family("ViT-H-14")  # PickScore and HPSv2.1 are both fine-tuned from it


def _clip_score(model: str, tag: str) -> Published:
    return Published(
        f"{CLIP_PREFIX}{model}/{tag}",
        "how well the picture fits the prompt",
        "cosine; tables print 100 ×",
        SIZES.get(model),
        LICENCE,
        f"open_clip's {model}, tag {tag}",
        "yes",
        partial(_clip, model, tag),
        f"open_clip {model}/{tag}",
        _family(model),
        100.0,
        has_logit=True,
    )


PUBLISHED = {
    reward.name: reward
    for reward in (
        Published(
            "imagereward",
            "how much people like the picture for its prompt",
            "mean 0, deviation 1 over its own comparisons",
            1.8,
            "Apache-2.0",
            f"{IMAGEREWARD.source} (Xu et al. 2023)",
            "yes",
            _imagereward,
            IMAGEREWARD.identity,
            "BLIP's ViT-L",
            file=IMAGEREWARD,
        ),
        Published(
            "hpsv2.1",
            "how much people prefer the picture for its prompt",
            "cosine, about 0.28; tables print 100 ×",
            2.0,
            "Apache-2.0 for the repository",
            f"{HPSV2.source} (Wu et al. 2023)",
            "yes",
            _hpsv2,
            HPSV2.identity,
            CLIP_H,
            100.0,
            has_logit=True,
            file=HPSV2,
        ),
        Published(
            "pickscore",
            "how much people prefer the picture for its prompt",
            "cosine, about 0.22; some tables print it × the logit scale, about 100",
            3.9,
            "MIT for the code; for the weights see the model card",
            f"{PICKSCORE.source} (Kirstain et al. 2023)",
            "yes",
            _pickscore,
            PICKSCORE.identity,
            CLIP_H,
            has_logit=True,
            file=PICKSCORE,
        ),
        Published(
            "laion-aesthetic",
            "how people rate the picture, whatever the prompt",
            "a rating from 1 to 10; tables have 5.3 to 5.9",
            1.7,
            "Apache-2.0; CLIP's weights MIT",
            f"{LAION.source} (Schuhmann 2022), and OpenAI's ViT-L/14",
            "yes, but linear in CLIP's embedding, and easily hacked",
            _laion,
            f"{LAION.identity}, open_clip {'/'.join(LAION_CLIP)}",
            _family(LAION_CLIP[0]),
        ),
        _clip_score("ViT-g-14", "laion2b_s12b_b42k"),
    )
}
"""By name. Any other CLIP of open_clip has the name clip:MODEL/TAG."""


def find_reward(name: str) -> Published:
    """The published reward of that name. Raises ValueError with the names that are known; for a CLIP, as stated_by_open_clip."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    model, slash, tag = name.removeprefix(CLIP_PREFIX).partition("/")
    if not name.startswith(CLIP_PREFIX):
        raise ValueError(
            f"reward {name!r} is unknown; known are {', '.join(PUBLISHED)}, and clip:MODEL/TAG of open_clip"
        )
    if not slash:
        raise ValueError(f"reward {name!r} does not say which weights; write clip:MODEL/TAG, such as {CLIP_EXAMPLE}")
    stated_by_open_clip(model, tag)
    return _clip_score(model, tag)


def load_reward(name: str, folder: Path | str | None = None) -> FrozenReward:
    """The published reward of that name, in float32 on the CPU. Raises as `find_reward` and `Published.load`."""
    return find_reward(name).load(folder)
