"""Exercises of notebook 10, a dry run of SDXL in true size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..checks import Exercise, Mistake, entries, normal

Sizes = Callable[[float, float], float]


def _held(
    lora: Sizes = lambda unet, rest: 2 * (2 * unet + rest),
    full: Sizes = lambda unet, rest: 2 * (2 * unet + rest),
    learns: Callable[[float], float] = lambda slots: 4 * (2 + 2 * slots + 1),
) -> Callable[..., tuple[float, float]]:
    """Bytes of what is frozen, by recipe, and of everything that one learning number of a network brings with it."""

    def answer(unet: float, rest: float, adapter: float, slots: float) -> tuple[float, float]:
        return lora(unet, rest) + adapter * learns(slots), full(unet, rest) + unet * learns(slots)

    return answer


def _swapped(unet: float, rest: float, adapter: float, slots: float) -> tuple[float, float]:
    lora, full = _held()(unet, rest, adapter, slots)
    return full, lora


def _in_gib(unet: float, rest: float, adapter: float, slots: float) -> list[float]:
    return [size / 2**30 for size in _held()(unet, rest, adapter, slots)]


_HELD = Exercise(
    "10.1",
    reference=_held(),
    inputs=[(1000, 370, 90, 1), (3000, 810, 130, 2)],
    observe=entries,
    mistakes=(
        Mistake(
            _held(lora=lambda u, r: 2 * (3 * u + r)),
            "LoRA: three frozen UNets are one too many. Assistant and reference are tied clones: they share theirs.",
        ),
        Mistake(
            _held(lora=lambda u, r: 2 * (3 * u + r), full=lambda u, r: 2 * (3 * u + r)),
            "both recipes have two frozen UNets, not three: the reference, and what the generator starts from.",
        ),
        Mistake(
            _held(lora=lambda u, r: 2 * (u + r)),
            "LoRA: one frozen UNet is missing. The generator's adapter sits on a network of its own, the distilled one.",
        ),
        Mistake(
            _held(full=lambda u, r: 2 * (u + r)),
            "full copies: one frozen UNet is missing. What the generator was copied from stays, beside the reference.",
        ),
        Mistake(
            _held(lora=lambda u, r: 2 * (u + r), full=lambda u, r: 2 * (u + r)),
            "you keep one frozen UNet. There are two: the reference, and the network that the generator starts from.",
        ),
        Mistake(
            _held(full=lambda u, r: 2 * r),
            "full copies: the frozen UNets are missing. Reference and start are there as well, in bf16.",
        ),
        Mistake(
            _held(full=lambda u, r: 2 * (4 * u + r)),
            "full copies: you keep the learning weights in bf16 too. They are cast layer by layer, and kept in float32 alone.",
        ),
        Mistake(
            _held(lora=lambda u, r: 4 * u, full=lambda u, r: 4 * u),
            "`rest` is missing: text encoders, autoencoder and judge do not learn, but they have to be there.",
        ),
        Mistake(
            _held(lora=lambda u, r: 4 * (2 * u + r), full=lambda u, r: 4 * (2 * u + r)),
            "what is frozen is bf16: two bytes a number, not four.",
        ),
        Mistake(
            _held(lora=lambda u, r: 4 * u + 4 * r, full=lambda u, r: 4 * u + 4 * r),
            "`rest` is frozen, so it is bf16: two bytes a number.",
        ),
        Mistake(
            _held(learns=lambda s: 2 * (2 + 2 * s + 1)),
            "everything that learning brings with it is float32, four bytes: weights, the optimizer's numbers, the average.",
        ),
        Mistake(
            _held(learns=lambda s: 4 * (2 + 2 * s)),
            "4 bytes too few for each weight. Are both networks' weights float32, and is the generator's average there?",
        ),
        Mistake(
            _held(learns=lambda s: 4 * (2 + s + 1)),
            "the optimizer is there once. Generator and assistant have one each, with `slots` numbers for each weight.",
        ),
        Mistake(
            _held(learns=lambda s: 4 * (2 + 2 + 1)),
            "the optimizer keeps `slots` numbers of each weight that learns; you took one.",
        ),
        Mistake(_held(learns=lambda s: 4 * (2 + 1)), "the optimizers' numbers are missing: `slots` for each weight."),
        Mistake(
            _held(learns=lambda s: 4 * (1 + s + 1)),
            "only one network learns in your sum. Generator and assistant both do; the generator alone has an average.",
        ),
        Mistake(
            _held(learns=lambda s: 4 * (2 + 2 * s + 2)),
            "4 bytes too many for each weight. The generator alone is averaged, and between two steps there are no gradients.",
        ),
        Mistake(
            _held(learns=lambda s: 4 * (2 + 2 * s + 3)),
            "8 bytes too many for each weight: between two steps there are no gradients, they were freed by the updates.",
        ),
        Mistake(_swapped, "the two are in the wrong order: LoRA first, then full copies."),
        Mistake(_in_gib, "these are GiB. Return bytes; the notebook divides."),
    ),
)


def _forwards(
    assistant: Callable[[int, int, int], float] = lambda s, w, c: 1 + 1 + 1 + w + c,
    scores: Callable[[int, int, int], float] = lambda s, w, c: s,
    pulls: Callable[[int, int, int], float] = lambda s, w, c: s * (1 + c),
    generator: Callable[[int, int, int], float] = lambda s, w, c: 1 + 1 + w + c,
) -> Callable[[int, int, int], float]:
    """Passes of the assistant's half, of the scores and of their gradients, and of the generator with its backward pass."""
    return lambda s, w, c: assistant(s, w, c) + scores(s, w, c) + pulls(s, w, c) + generator(s, w, c)


_FORWARDS = Exercise(
    "10.3",
    reference=_forwards(),
    inputs=[(3, 1, 1), (3, 0, 1), (2, 1, 0), (2, 0, 1), (5, 1, 1)],
    mistakes=(
        Mistake(
            _forwards(assistant=lambda s, w, c: 1 + 1 + w + c),
            "one forward pass of the generator is missing. It draws samples twice: for the assistant, and for its own step.",
        ),
        Mistake(
            _forwards(assistant=lambda s, w, c: 1 + 1 + 1 + w + 2 * c),
            "one recomputation too many: the assistant's samples are drawn without a graph, so nothing is computed again there.",
        ),
        Mistake(
            _forwards(assistant=lambda s, w, c: 1 + 1 + 1 + w),
            "one recomputation is missing: assistant and generator each have a backward pass, and both compute their blocks again.",
        ),
        Mistake(
            _forwards(assistant=lambda s, w, c: 2, generator=lambda s, w, c: 1),
            "the backward passes of assistant and generator are missing: inputs, weights if they learn, and the blocks again.",
        ),
        Mistake(
            _forwards(assistant=lambda s, w, c: 2),
            "one backward pass is missing. Two networks learn, assistant and generator, and each has its own.",
        ),
        Mistake(
            _forwards(pulls=lambda s, w, c: 0),
            "the pulls are missing: the gradient at x_t goes back through every score.",
        ),
        Mistake(
            _forwards(pulls=lambda s, w, c: 1 + c),
            "the gradient at x_t goes back through all scores. A frozen network passes it on as well.",
        ),
        Mistake(
            _forwards(pulls=lambda s, w, c: s),
            "the scores' blocks are computed again, too, when the gradient at x_t goes back through them.",
        ),
        Mistake(
            _forwards(pulls=lambda s, w, c: s * (1 + w + c)),
            "at x_t no weight gets a gradient: what is asked for is the gradient at the input, one forward's worth a score.",
        ),
        Mistake(
            _forwards(pulls=lambda s, w, c: s * (1 + c) + w),
            "at x_t no weight gets a gradient, the assistant's neither: its weights learn in its own half.",
        ),
        Mistake(
            _forwards(scores=lambda s, w, c: 0),
            "the scores' own forward passes are missing: one for each score.",
        ),
        Mistake(
            _forwards(scores=lambda s, w, c: 2, pulls=lambda s, w, c: 2 * (1 + c)),
            "guidance asks the reference a second time, with the null condition: there are `scores` calls at x_t.",
        ),
        Mistake(
            _forwards(assistant=lambda s, w, c: 3 + c, generator=lambda s, w, c: 2 + c),
            "gradients of the weights are missing: one forward's worth more in each of two backward passes, where all learn.",
        ),
        Mistake(
            _forwards(assistant=lambda s, w, c: 4 + c, generator=lambda s, w, c: 3 + c),
            "with adapters the gradients of the weights cost next to nothing: count them only where `learns` is 1.",
        ),
        Mistake(
            _forwards(assistant=lambda s, w, c: 2 + w + c, generator=lambda s, w, c: 1 + w + c),
            "a backward pass also carries the gradient on to the inputs of each layer, whether weights learn or not.",
        ),
        Mistake(
            lambda s, w, c: 5 + 2 * s + 2 * w,
            "nothing is computed again in your sum: one forward more for each network that is differentiated.",
        ),
    ),
)


def _changed(share: Callable[[Tensor, float, torch.dtype], Tensor]) -> Callable[[Tensor, float, torch.dtype], Tensor]:
    """The share of weights for which something holds."""
    return lambda weights, rate, dtype: share(weights, rate, dtype).double().mean()


_MOVED = Exercise(
    "10.4",
    reference=_changed(lambda weights, rate, dtype: weights.to(dtype) - rate != weights.to(dtype)),
    inputs=[
        (0.02 * normal(4000, seed=100), 4e-5, torch.bfloat16),
        (0.02 * normal(4000, seed=101), 6e-6, torch.float16),
        (0.02 * normal(4000, seed=102), 6e-10, torch.float32),
    ],
    mistakes=(
        Mistake(
            _changed(lambda weights, rate, dtype: weights - rate != weights),
            "all of your weights move. Put them into dtype on both sides of the comparison, and let the difference be rounded to it.",
        ),
        Mistake(
            _changed(lambda weights, rate, dtype: weights.to(dtype) - rate == weights.to(dtype)),
            "this is the share that stays. Ask which weights change.",
        ),
        Mistake(
            lambda weights, rate, dtype: (weights.to(dtype) - rate != weights.to(dtype)).double().sum(),
            "this is how many change. Divide by their number: a share, the mean of trues and falses.",
        ),
        Mistake(
            _changed(lambda weights, rate, dtype: weights.abs() * torch.finfo(dtype).eps < rate),
            "near, but a step arrives from half a spacing on, and the spacing is constant between powers of two. Let torch round.",
        ),
        Mistake(
            _changed(lambda weights, rate, dtype: torch.full_like(weights, float(rate > torch.finfo(dtype).eps))),
            "next to none, you say. finfo's eps is the spacing at 1, and a mean of differences is a length: ask of each if it changes.",
        ),
        Mistake(
            _changed(
                lambda weights, rate, dtype: (
                    ~torch.isclose(weights.to(dtype) - rate, weights.to(dtype), rtol=1e-5, atol=1e-8)
                )
            ),
            "isclose has a tolerance of its own. Compare with !=, to the last bit.",
        ),
    ),
    tolerance=5e-3,
)

EXERCISES = (_HELD, _FORWARDS, _MOVED)
