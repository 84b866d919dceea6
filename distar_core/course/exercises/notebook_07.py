"""Exercises of notebook 07, SDXL in miniature."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..checks import Exercise, Mistake, entries, normal


def _x0(formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """formula(x_t, eps, alpha, sigma) with alpha and sigma shaped to go with the rows."""
    return lambda x_t, eps, alpha, sigma: formula(x_t, eps, alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1))


# as many rows as columns, so that levels that run along the width raise no error
_FOUR_ROWS = (
    normal(4, 3, 4, 4, seed=70),
    normal(4, 3, 4, 4, seed=71),
    normal(4, seed=72).sigmoid(),
    (1 - normal(4, seed=72).sigmoid().square()).sqrt(),
)
_X0 = Exercise(
    "07.1",
    reference=_x0(lambda x, e, a, s: (x - s * e) / a),
    inputs=[_FOUR_ROWS],
    mistakes=(
        Mistake(
            lambda x, e, a, s: (x - s * e) / a,
            "α and σ run along the width: a tensor [B] lines up with the last axis. Give them the shape [B, 1, 1, 1].",
        ),
        Mistake(
            lambda x, e, a, s: (x - s.view(1, 1, -1, 1) * e) / a.view(1, 1, -1, 1),
            "α and σ run along the height. Give them the shape [B, 1, 1, 1], so that each row has its own.",
        ),
        Mistake(
            lambda x, e, a, s: (x - s[0] * e) / a[0],
            "every row got the level of the first one. Each has its own α and σ: shape [B, 1, 1, 1].",
        ),
        Mistake(
            _x0(lambda x, e, a, s: (x - a * e) / s),
            "α and σ are swapped: α goes with the picture, σ with the noise.",
        ),
        Mistake(_x0(lambda x, e, a, s: (x + s * e) / a), "check the sign: the noise was added, so take it away."),
        Mistake(
            _x0(lambda x, e, a, s: x - s * e),
            "this is α x₀: the noise is gone, the signal is still shrunk. Divide by α.",
        ),
        Mistake(
            _x0(lambda x, e, a, s: x - s / a * e),
            "this is right where α = 1, as in the toy. Here x_t has to be divided by α as well.",
        ),
        Mistake(
            _x0(lambda x, e, a, s: x / a - s * e),
            "only x_t was divided. Put brackets around the difference: all of it is divided by α.",
        ),
        Mistake(_x0(lambda x, e, a, s: a * (x - s * e)), "you multiplied by α. Solve x_t = α x₀ + σ ε: divide by it."),
        Mistake(
            _x0(lambda x, e, a, s: (x - s * e) / s),
            "you divided by σ. The factor in front of x₀ is α.",
        ),
        Mistake(_x0(lambda x, e, a, s: (x - e) / a), "σ is missing: x_t holds σ ε, not ε."),
        Mistake(
            _x0(lambda x, e, a, s: (x - s**2 * e) / a),
            "σ is squared: that belongs to a score, ε = −σ · score. The noise in x_t is σ ε.",
        ),
        Mistake(
            _x0(lambda x, e, a, s: (x + s**2 * e) / a),
            "this takes a score for the network's output. It is a guess of the noise itself: subtract σ ε.",
        ),
        Mistake(
            _x0(lambda x, e, a, s: a * x - s * e),
            "this is x₀ from a v-prediction. SDXL's UNet guesses ε: solve x_t = α x₀ + σ ε.",
        ),
        Mistake(_x0(lambda x, e, a, s: (x - s * e) / a**2), "α is squared. Divide by α once."),
        Mistake(
            _x0(lambda x, e, a, s: (x - (1 - a) ** 0.5 * e) / a**0.5),
            "you took α for diffusers' `alphas_cumprod`, which is α². Here α and σ are the factors themselves: no roots.",
        ),
        Mistake(
            _x0(lambda x, e, a, s: (x - s * e) / a**0.5),
            "you divided by √α, as if α were diffusers' `alphas_cumprod`, which is α². Here α is the factor of x₀ itself.",
        ),
        Mistake(
            _x0(lambda x, e, a, s: (x - (1 - a) * e) / a),
            "the noise's factor is σ, not 1 − α: it is α² + σ² that is 1.",
        ),
    ),
)


def _ledger(
    full: Callable[[float, float, float], float], lora: Callable[[float, float, float, float], float]
) -> Callable[..., tuple[float, float]]:
    """full(base, weight, learns) and lora(base, adapter, weight, learns), where learns is the bytes of a number that does."""

    def answer(base: float, adapter: float, weight: float, optimizer: float) -> tuple[float, float]:
        learns = 2 * weight + optimizer
        return full(base, weight, learns), lora(base, adapter, weight, learns)

    return answer


def _full(base: float, weight: float, learns: float) -> float:
    return 2 * base * learns + base * weight


def _lora(base: float, adapter: float, weight: float, learns: float) -> float:
    return 2 * base * weight + 2 * adapter * learns


def _learns(of: Callable[[float, float], float]) -> Callable[..., tuple[float, float]]:
    """The right sums with another price of(weight, optimizer) of a number that learns."""

    def answer(base: float, adapter: float, weight: float, optimizer: float) -> tuple[float, float]:
        price = of(weight, optimizer)
        return _full(base, weight, price), _lora(base, adapter, weight, price)

    return answer


def _swapped(base: float, adapter: float, weight: float, optimizer: float) -> tuple[float, float]:
    full, lora = _ledger(_full, _lora)(base, adapter, weight, optimizer)
    return lora, full


_LEDGER = Exercise(
    "07.4",
    reference=_ledger(_full, _lora),
    inputs=[(1000, 70, 4, 8), (3000, 130, 2, 12)],
    observe=entries,
    mistakes=(
        Mistake(
            _ledger(_full, lambda b, a, w, n: 3 * b * w + 2 * a * n),
            "LoRA: you store three frozen networks. Assistant and reference have the same one underneath: it counts once.",
        ),
        Mistake(
            _ledger(_full, lambda b, a, w, n: b * w + 2 * a * n),
            "LoRA: you store one frozen network. The generator has its own, the distilled one, beside the diffusion's.",
        ),
        Mistake(
            _learns(lambda w, o: w + o),
            "a number that learns is short of `weight` bytes: it has a weight, a gradient and the optimizer's share.",
        ),
        Mistake(_learns(lambda w, o: 2 * w), "the optimizer's bytes are missing for the numbers that learn."),
        Mistake(_learns(lambda w, o: o), "numbers that learn also have a weight and a gradient, `weight` bytes each."),
        Mistake(
            _learns(lambda w, o: 2 * w + 2 * o),
            "the optimizer is counted twice: `optimizer` is all that it keeps of one number, both moments included.",
        ),
        Mistake(
            _ledger(lambda b, w, n: 2 * b * n, _lora),
            "full copies: the reference is missing. It does not learn, but it has to be there.",
        ),
        Mistake(
            _ledger(lambda b, w, n: 3 * b * n, _lora),
            "full copies: the reference does not learn, so it has no gradient and no share of the optimizer.",
        ),
        Mistake(
            _ledger(lambda b, w, n: 2 * b * n + 2 * b * w, _lora),
            "full copies: the frozen reference has its weights only, no gradient.",
        ),
        Mistake(
            _ledger(lambda b, w, n: b * n + 2 * b * w, _lora),
            "full copies: two networks learn, the generator and the assistant.",
        ),
        Mistake(
            _ledger(lambda b, w, n: b * n + b * w, _lora),
            "full copies: that is two networks. Generator and assistant learn, the reference is frozen: three.",
        ),
        Mistake(
            _ledger(_full, lambda b, a, w, n: 2 * b * w + a * n),
            "LoRA: that is one adapter. Generator and assistant have one each.",
        ),
        Mistake(
            _ledger(_full, lambda b, a, w, n: 2 * b * w + 3 * a * n),
            "LoRA: three adapters are one too many. The reference has none: it does not learn.",
        ),
        Mistake(
            _ledger(_full, lambda b, a, w, n: 3 * b * w + 3 * a * n),
            "LoRA: the reference has no adapter, and it shares its frozen network with the assistant.",
        ),
        Mistake(
            _ledger(_full, lambda b, a, w, n: 2 * a * n),
            "LoRA: the frozen networks are missing. They do not learn, but they have to be there.",
        ),
        Mistake(
            _ledger(_full, lambda b, a, w, n: 4 * b * w + 2 * a * n),
            "LoRA: frozen weights have no gradient. Two networks, `weight` bytes a number.",
        ),
        Mistake(
            _ledger(_full, lambda b, a, w, n: 2 * b * w + 2 * a * w),
            "LoRA: the adapters learn, so each of their numbers has a gradient and the optimizer's share, too.",
        ),
        Mistake(
            _ledger(_full, lambda b, a, w, n: 2 * (b + a) * n),
            "LoRA: the big weights are frozen; only the adapters have gradients and the optimizer's share.",
        ),
        Mistake(_swapped, "the two are in the wrong order: full copies first, then LoRA."),
    ),
)

EXERCISES = (_X0, _LEDGER)
