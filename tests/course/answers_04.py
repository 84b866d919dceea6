"""Differently written answers to the exercises of notebook 04, right and wrong."""

import math

import torch
from torch import einsum

from distar_core.losses import Noised, PseudoHuber, Scores, score_divergence


def _dot(a, b):
    return einsum("bi,bi->b", a, b)


def _pull(gap, c):
    return gap / torch.sqrt(c * c + gap.pow(2).sum(dim=1, keepdim=True))


def _by_loop(u, score, x_t, noise, sigma):
    kicks, values = u(x_t), score(x_t)
    products = [float(k @ (s + e / sigma)) for k, s, e in zip(kicks, values, noise, strict=True)]
    mean = sum(products) / len(products)
    variance = sum((p - mean) ** 2 for p in products) / (len(products) - 1)
    return mean, math.sqrt(variance / len(products))


def _population(u, score, x_t, noise, sigma):
    conditional = -noise / sigma
    products = _dot(u(x_t), score(x_t) - conditional).float()
    return [products.mean(), products.std(unbiased=False) / len(products) ** 0.5]


def _by_coordinates(u, score, x_t, noise, sigma):
    products = u(x_t) * (score(x_t) + noise / sigma)
    return products.mean(), products.std() / len(products) ** 0.5


def _slope_outside_the_root(x_t, noise, sigma, assistant, reference, c):
    own = assistant(x_t)
    gap = sigma * (own - reference(x_t))
    return -_dot(gap / (gap.norm(dim=1, keepdim=True) + c), sigma * own + noise)


def _score_units(x_t, noise, sigma, assistant, reference, c):
    """−u_t d'(u_t y) · braces, with the unit pulled out in front."""
    own, ref = assistant(x_t), reference(x_t)
    y = own - ref
    rho = ((sigma * y).norm(dim=1, keepdim=True) ** 2 + c**2).sqrt()
    return (sigma**2 * y / rho * (-noise / sigma - own)).sum(dim=1)


def _by_predictions(x_t, noise, sigma, assistant, reference, c):
    """In terms of the two predictions of the noise, eps̃ = −σ s; the noise itself detached, which is harmless."""
    eps_own, eps_ref = -sigma * assistant(x_t), -sigma * reference(x_t)
    gap = eps_own - eps_ref
    return _dot(gap, noise.detach() - eps_own) / torch.sqrt(_dot(gap, gap) + c**2)


def _by_the_library(x_t, noise, sigma, assistant, reference, c):
    noised = Noised(x_t, x_t, noise, sigma[:, 0], torch.ones_like(sigma), sigma)
    return score_divergence(noised, Scores(assistant(x_t), reference(x_t)), distance=PseudoHuber(c), unit="eps")


def _no_path(x_t, noise, sigma, assistant, reference, c):
    with torch.no_grad():
        own, ref = assistant(x_t), reference(x_t)
    return -_dot(_pull(sigma * (own - ref), c), sigma * own + noise)


def _reference_without_graph(x_t, noise, sigma, assistant, reference, c):
    with torch.no_grad():
        ref = reference(x_t)
    own = assistant(x_t)
    return -_dot(_pull(sigma * own - sigma * ref, c), sigma * own + noise)


def _slope_without_graph(x_t, noise, sigma, assistant, reference, c):
    own = assistant(x_t)
    with torch.no_grad():
        direction = _pull(sigma * (own - reference(x_t)), c)
    return _dot(-direction, sigma * own + noise)


def _braces_without_graph(x_t, noise, sigma, assistant, reference, c):
    direction = _pull(sigma * (assistant(x_t) - reference(x_t)), c)
    with torch.no_grad():
        braces = sigma * (assistant(x_t) + noise / sigma)
    return -_dot(direction, braces)


def _assistant_without_graph(x_t, noise, sigma, assistant, reference, c):
    own = assistant(x_t.detach())
    return -_dot(_pull(sigma * (own - reference(x_t)), c), sigma * own + noise)


def _with(direction_of=lambda own, ref, s: s * (own - ref), braces_of=lambda own, ref, s, e: s * own + e, sign=-1):
    def loss(x_t, noise, sigma, assistant, reference, c):
        own, ref = assistant(x_t), reference(x_t)
        return sign * _dot(_pull(direction_of(own, ref, sigma), c), braces_of(own, ref, sigma, noise))

    return loss


def _by_moments(m, s, sigma):
    """E[2 y ∂s_θ], with ξ = x − m, E ξ² = v."""
    own, ref = s * s + sigma * sigma, 1 + sigma * sigma
    slope = 1 / ref - 1 / own
    return torch.tensor([2 * (m / ref) / own, 2 * slope * own * (2 * s / own**2)])


def _expanded(m, s, sigma):
    s2, n2 = s**2, sigma**2
    return [2 * m / (s2 + n2 + s2 * n2 + n2**2), 4 * s * (s2 - 1) / ((1 + n2) * (s2 + n2) ** 2)]


def _kl(m, s, sigma):
    m, s = torch.tensor(m, requires_grad=True), torch.tensor(s, requires_grad=True)
    v, u = s**2 + sigma**2, 1 + sigma**2
    kl = 0.5 * ((v + m**2) / u - 1 - torch.log(v / u))
    return torch.autograd.grad(kl, (m, s))


def _law_moves(m, s, sigma):
    m, s = torch.tensor(m, requires_grad=True), torch.tensor(s, requires_grad=True)
    v, u = s**2 + sigma**2, 1 + sigma**2
    return torch.autograd.grad(m**2 / u**2 + (v - u) ** 2 / (u**2 * v), (m, s))


RIGHT = {
    "04.1": (_by_loop, _population),
    "04.2": (_score_units, _by_predictions, _by_the_library, _with()),
    "04.3": (_by_moments, _expanded),
}

WRONG = {
    "04.1": (
        (lambda u, f, x, e, sigma: _by_loop(u, f, x, -e, sigma), "sign"),
        (lambda u, f, x, e, sigma: _by_loop(u, f, x, e, 1.0), "divided by σ"),
        (lambda u, f, x, e, sigma: _by_loop(u, f, x, 0 * e, sigma), "lack the conditional score"),
        (lambda u, f, x, e, sigma: _by_loop(lambda x: torch.ones_like(x), f, x, e, sigma), "u is missing"),
        (lambda u, f, x, e, sigma: _dot(u(x), f(x) + e / sigma).mean(), "mean alone"),
        (
            lambda u, f, x, e, sigma: (_by_loop(u, f, x, e, sigma)[0], _by_loop(u, f, x, e, sigma)[1] * 30),
            "√N times smaller",
        ),
        (
            lambda u, f, x, e, sigma: (_by_loop(u, f, x, e, sigma)[0], _by_loop(u, f, x, e, sigma)[1] / 30),
            "divided by N",
        ),
        (_by_coordinates, "summed, not averaged"),
        (lambda u, f, x, e, sigma: _dot(u(x), f(x) + e / sigma), "one per sample"),
    ),
    "04.2": (
        (_slope_without_graph, "detached d′"),
        (_braces_without_graph, "detached the braces"),
        (_no_path, "detached x_t"),
        (_reference_without_graph, "reference's score"),
        (_assistant_without_graph, "detached the assistant's score"),
        (_with(sign=1), "minus d′"),
        (_with(braces_of=lambda own, ref, s, e: own * s), "conditional score"),
        (_with(braces_of=lambda own, ref, s, e: s * (own - e / s)), "sign inside the braces"),
        (_with(braces_of=lambda own, ref, s, e: own - (-e / s)), "multiply the braces by σ"),
        (_with(direction_of=lambda own, ref, s: own - ref), "before d′ sees it"),
        (
            _with(direction_of=lambda own, ref, s: own - ref, braces_of=lambda own, ref, s, e: own + e / s),
            "another objective",
        ),
        (_with(braces_of=lambda own, ref, s, e: s * ref + e), "not the reference's"),
        (lambda *given: _with()(*given).sum() / len(given[0]), "mean over the batch"),
        (lambda x, e, s, a, r, c: torch.sqrt((s * (a(x) - r(x))).norm(dim=1) ** 2 + c**2) - c, "d itself"),
        (_slope_outside_the_root, "under the root"),
        (_with(braces_of=lambda own, ref, s, e: s * (s * own + e)), "one σ too many"),
        (lambda *given: torch.zeros(3), "shape"),
    ),
    "04.3": (
        (_law_moves, "law moving"),
        (_kl, "KL"),
        (lambda m, s, sigma: [0.5 * float(g) for g in _expanded(m, s, sigma)], "factor of two"),
        (lambda m, s, sigma: _expanded(m, s, math.sqrt(sigma)), "σ squared"),
        (lambda m, s, sigma: -_by_moments(m, s, sigma), "direction of descent"),
        (lambda m, s, sigma: _by_moments(m, s, sigma) * torch.tensor([1.0, 0.5]), "detaching d′"),
        (lambda m, s, sigma: sigma * sigma * _by_moments(m, s, sigma), "eps-units"),
        (lambda m, s, sigma: _expanded(m, s, 0.0), "clean Gaussians"),
        (lambda m, s, sigma: _by_moments(m, s, sigma) * torch.tensor([1.0, s**2 + sigma**2]), "v times too large"),
        (lambda m, s, sigma: _by_moments(m, s, sigma) * torch.tensor([1, s**2 / (s**2 + sigma**2)]), "holds the noise"),
        (lambda m, s, sigma: [_law_moves(m, s, sigma)[0], _expanded(m, s, sigma)[1]], "∂_m s_θ is 1/v"),
    ),
}
