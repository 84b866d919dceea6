"""Differently written answers to the exercises of notebook 07, right and wrong."""

import torch


def _row_by_row(x_t, eps, alpha, sigma):
    rows = [(x - s * e) / a for x, e, a, s in zip(x_t, eps, alpha.tolist(), sigma.tolist(), strict=True)]
    return torch.stack(rows)


def _by_score(x_t, eps, alpha, sigma):
    """Tweedie's formula: (x_t + sigma² score)/alpha with score = −eps/sigma."""
    score = torch.einsum("bchw,b->bchw", eps, -1 / sigma)
    return (x_t + sigma.square()[:, None, None, None] * score) * alpha.pow(-1)[:, None, None, None]


def _rest(x_t, eps, alpha, sigma):
    return x_t - torch.einsum("b,bchw->bchw", sigma, eps)


def _item_by_item(base, adapter, weight, optimizer):
    """Roles as lists of (numbers, learns)."""
    full = [(base, True), (base, True), (base, False)]
    lora = [(base, False), (base, False), (adapter, True), (adapter, True)]
    price = {True: weight + weight + optimizer, False: weight}
    return [sum(numbers * price[learns] for numbers, learns in own) for own in (full, lora)]


def _by_kind(base, adapter, weight, optimizer):
    weights = torch.tensor([3.0 * base, 2.0 * base + 2.0 * adapter])
    learning = torch.tensor([2.0 * base, 2.0 * adapter])
    return weights * weight + learning * (weight + optimizer)


def _with(weights=(3, 0, 2, 2), gradients=(2, 0, 0, 2), moments=(2, 0, 0, 2)):
    """Coefficients of (base, adapter) in the full sum and of (base, adapter) in the LoRA sum, by kind of storage."""

    def answer(base, adapter, weight, optimizer):
        sizes = (base, adapter, base, adapter)
        bytes_of = [
            size * ((w + g) * weight + m * optimizer)
            for size, w, g, m in zip(sizes, weights, gradients, moments, strict=True)
        ]
        return sum(bytes_of[:2]), sum(bytes_of[2:])

    return answer


RIGHT = {
    "07.1": (
        _row_by_row,
        _by_score,
        lambda x, e, a, s: x / a[:, None, None, None] - (s / a)[:, None, None, None] * e,
        lambda x, e, a, s: ((x.movedim(0, -1) - s * e.movedim(0, -1)) / a).movedim(-1, 0),
    ),
    "07.4": (_item_by_item, _by_kind, _with()),
}

# number -> (a wrong answer, words that its hint must contain)
WRONG = {
    "07.1": (
        (lambda x, e, a, s: x / a - (s / a) * e, "along the width"),
        (lambda x, e, a, s: (x - s[:, None] * e) / a[:, None], "along the height"),
        (_rest, "Divide by α"),
        (lambda x, e, a, s: _rest(x, e, a, s).permute(1, 2, 3, 0).div(s).permute(3, 0, 1, 2), "divided by σ"),
        (lambda x, e, a, s: _rest(x, e, s, a).permute(1, 2, 3, 0).div(s).permute(3, 0, 1, 2), "swapped"),
        (lambda x, e, a, s: _row_by_row(x, -e, a, s), "sign"),
        (lambda x, e, a, s: _row_by_row(x, e / s.view(-1, 1, 1, 1), a, s), "σ is missing"),
        (lambda x, e, a, s: _row_by_row(x, e * s.view(-1, 1, 1, 1), a, s), "σ is squared"),
        (lambda x, e, a, s: x - (s / a)[:, None, None, None] * e, "α = 1"),
        (lambda x, e, a, s: torch.stack([a[k] * x[k] - s[k] * e[k] for k in range(len(x))]), "v-prediction"),
        (lambda x, e, a, s: _rest(x, e, a, s) * a.reshape(len(a), 1, 1, 1), "multiplied by α"),
        (lambda x, e, a, s: _row_by_row(x, e, a.sqrt(), (1 - a).sqrt()), "no roots"),
        (lambda x, e, a, s: _row_by_row(x, e, a.sqrt(), s), "divided by √α"),
        (lambda x, e, a, s: _row_by_row(x, e, a, s).mean(), "shape"),
    ),
    "07.4": (
        (_with(weights=(3, 0, 3, 2)), "three frozen networks"),
        (_with(weights=(3, 0, 1, 2)), "one frozen network"),
        (_with(gradients=(0, 0, 0, 0)), "short of `weight` bytes"),
        (_with(moments=(0, 0, 0, 0)), "optimizer's bytes are missing"),
        (_with(weights=(2, 0, 2, 2)), "reference is missing"),
        (_with(gradients=(3, 0, 0, 2)), "weights only"),
        (_with(gradients=(3, 0, 0, 2), moments=(3, 0, 0, 2)), "does not learn"),
        (_with(gradients=(2, 0, 2, 2)), "no gradient"),
        (_with(weights=(3, 0, 2, 1), gradients=(2, 0, 0, 1), moments=(2, 0, 0, 1)), "one adapter"),
        (_with(weights=(3, 0, 0, 2)), "frozen networks are missing"),
        (lambda *given: _item_by_item(*given)[::-1], "wrong order"),
        (lambda *given: _item_by_item(*given)[0], "2 values are wanted, you return 1"),
    ),
}
