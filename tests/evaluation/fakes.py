"""Models, rewards and prompts of an evaluation that cost nothing, importable by other processes."""

import hashlib

import torch

from distar_core.evaluation.benchmarks import Entry, PromptSet
from distar_core.evaluation.harness import Drawer, Model, Plan, Scorer

SIDE = 8


def picture(name, prompt, seed):
    """Noise [3, 8, 8] in [0, 1] that only model, prompt and seed decide."""
    key = int.from_bytes(hashlib.blake2b(f"{name}{prompt}".encode(), digest_size=4).digest(), "big")
    rng = torch.Generator().manual_seed(key ^ seed)
    return torch.rand(3, SIDE, SIDE, generator=rng)


class Brightness:
    """The mean of a picture, and a little for the length of its prompt."""

    differentiable = True

    def __call__(self, *, images, prompts):
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        return images.mean((1, 2, 3)) + lengths / 100


class Redness:
    """Mean red less the mean of all."""

    differentiable = True

    def __call__(self, *, images, prompts):
        return images[:, 0].mean((1, 2)) - images.mean((1, 2, 3))


def model(name, *, weights="w0", loaded=None, source="nowhere"):
    """A model whose pictures are `picture`; `loaded` gets its name each time it is loaded."""

    def load():
        if loaded is not None:
            loaded.append(name)
        return Drawer(
            lambda prompts, seeds: torch.stack([picture(name, *one) for one in zip(prompts, seeds, strict=True)]),
            weights,
        )

    return Model(name, {"source": source, "draws": "noise"}, load)


def scorer(name, *, identity="v1", loaded=None, reward=None, factor=1.0):
    """Brightness or Redness by name, or another reward under it."""

    def load():
        if loaded is not None:
            loaded.append(name)
        return reward or {"bright": Brightness, "red": Redness}[name]()

    return Scorer(name, identity, load, factor=factor)


def prompt_set(count=7, name="mine"):
    """Prompts in two categories; the first has a comma and quotes."""
    texts = ['a "red" cat, sitting', *(f"{number} dogs" for number in range(1, count))]
    return PromptSet(name, [Entry(text, "odd" if k % 2 else "even") for k, text in enumerate(texts)], "made up")


def plan(*, models=("a", "b"), scorers=("bright", "red"), seeds=2, prompts=7, loaded=None):
    """A plan of these."""
    return Plan(
        [model(name, loaded=loaded) for name in models],
        [prompt_set(prompts)],
        [scorer(name, loaded=loaded) for name in scorers],
        seeds,
    )
