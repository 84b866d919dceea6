"""Differently written answers to the exercises of notebook 01, right and wrong."""

import math

import torch


def by_autograd(x, weights, means, deviation):
    points = x.clone().requires_grad_()
    squares = torch.cdist(points[:, None], means[None].expand(len(x), -1, -1)).squeeze(1).square()
    log_density = torch.logsumexp(weights.log() - squares / (2 * deviation**2), dim=-1)
    return torch.autograd.grad(log_density.sum(), points)[0]


def by_loops(x, weights, means, deviation):
    rows = []
    for point in x.float():
        logs = [
            float(w.log() - (point - mu).square().sum() / (2 * deviation**2))
            for w, mu in zip(weights, means, strict=True)
        ]
        shares = [math.exp(value - max(logs)) for value in logs]
        rows.append(sum(r * (mu - point) for r, mu in zip(shares, means, strict=True)) / sum(shares) / deviation**2)
    return torch.stack(rows)


def by_mean_of_means(x, weights, means, deviation):
    """All components are equally wide, so the score is (average mean − x)/s²."""
    joint = -((x.unsqueeze(1) - means.unsqueeze(0)) ** 2).sum(dim=2) / 2 / deviation**2 + torch.log(weights)
    r = torch.exp(joint - torch.logsumexp(joint, 1, keepdim=True))
    return (r @ means - x) / deviation**2


def shares(x, weights, means, deviation):
    return (torch.log(weights) - 0.5 * ((x[:, None, :] - means) / deviation).pow(2).sum(2)).softmax(dim=1)


def naive(x, weights, means, deviation):
    density = weights * torch.exp(-(torch.cdist(x, means) ** 2) / (2 * deviation**2))
    return (density / density.sum(1, keepdim=True) @ means - x) / deviation**2


def gradient_of_density(x, weights, means, deviation):
    normal = torch.exp(-(torch.cdist(x, means) ** 2) / (2 * deviation**2)) / (2 * math.pi * deviation**2)
    joint = weights * normal
    return (joint @ means - joint.sum(1, keepdim=True) * x) / deviation**2


RIGHT = {
    "01.1": (by_autograd, by_loops, by_mean_of_means),
    "01.2": (
        lambda means, deviation, alpha, sigma: [means.float() * alpha, (alpha * deviation) ** 2 + sigma * sigma],
        lambda means, deviation, alpha, sigma: (
            torch.einsum("kn,->kn", means, torch.tensor(alpha, dtype=means.dtype)),
            torch.tensor([alpha * deviation, sigma]).square().sum(),
        ),
    ),
    "01.4": (
        lambda m, s, sigma: [-1 / (s * s + sigma * sigma), m / (s * s + sigma * sigma)],
        lambda m, s, sigma: tuple(torch.tensor([-1.0, m]) / math.hypot(s, sigma) ** 2),
    ),
}

# number -> (a wrong answer, words that its hint must contain)
WRONG = {
    "01.1": (
        (lambda x, w, mu, s: (x - shares(x, w, mu, s) @ mu) / s**2, "sign"),
        (lambda x, w, mu, s: shares(x, w, mu, s) @ mu - x, "variance is missing"),
        (lambda x, w, mu, s: (shares(x, w, mu, s) @ mu - x) / s, "divided by the deviation"),
        (
            lambda x, w, mu, s: torch.einsum(
                "bk,bkn->bn",
                torch.softmax(w.log() - torch.cdist(x, mu) ** 2 / (2 * s * s), dim=-2),
                (mu - x[:, None]) / s**2,
            ),
            "over the points",
        ),
        (lambda x, w, mu, s: (shares(x, torch.ones_like(w), mu, s) @ mu - x) / s**2, "weights are missing"),
        (lambda x, w, mu, s: ((w[:, None] * mu).sum(0) - x) / s**2, "averaged with the weights"),
        (gradient_of_density, "gradient of the density"),
        (
            lambda x, w, mu, s: sum(
                w[k] * torch.exp(-((x - mu[k]) ** 2).sum(1, keepdim=True) / (2 * s**2)) * (mu[k] - x) / s**2
                for k in range(len(w))
            ),
            "sum to 1",
        ),
        (lambda x, w, mu, s: (mu[shares(x, w, mu, s).argmax(1)] - x) / s**2, "alone"),
        (lambda x, w, mu, s: (shares(x, w, mu, s / math.sqrt(2)) @ mu - x) / s**2, "lack the 2"),
        (lambda x, w, mu, s: (shares(x, w, mu, math.sqrt(s)) @ mu - x) / s**2, "s² belongs"),
        (lambda x, w, mu, s: (shares(x, w.exp(), mu, s) @ mu - x) / s**2, "added w"),
        (
            lambda x, w, mu, s: torch.einsum(
                "bk,bkn->bn", torch.softmax(w.log() - torch.cdist(x, mu) / (2 * s**2), 1), (mu - x[:, None]) / s**2
            ),
            "not squared",
        ),
        (
            lambda x, w, mu, s: (torch.softmax(w.log() + torch.cdist(x, mu) ** 2 / (2 * s**2), 1) @ mu - x) / s**2,
            "lost its minus",
        ),
        (
            lambda x, w, mu, s: sum(
                (torch.log(w) - ((x[:, None] - mu) / s).pow(2).sum(2) / 2).log_softmax(1)[:, k, None]
                * (mu[k] - x)
                / s**2
                for k in range(len(w))
            ),
            "not log_softmax",
        ),
        (naive, "not finite"),
        (lambda x, w, mu, s: shares(x, w, mu, s), "shape"),
    ),
    "01.2": (
        (lambda mu, s, a, sigma: (mu * a, torch.tensor(a * s) ** 2 + sigma), "its variance is σ²"),
        (lambda mu, s, a, sigma: (mu * a, a * s * s + sigma * sigma), "squared"),
        (lambda mu, s, a, sigma: (mu * a, math.hypot(s, sigma) ** 2), "shrinks the components"),
        (lambda mu, s, a, sigma: (mu, math.hypot(a * s, sigma) ** 2), "means move"),
        (lambda mu, s, a, sigma: (mu * a, math.hypot(a * s, sigma)), "leave out the root"),
        (lambda mu, s, a, sigma: (mu * a, a * a * s * s + 2 * a * s * sigma + sigma * sigma), "added deviations"),
        (lambda mu, s, a, sigma: (mu * a, (a * s) ** 2 + (a * sigma) ** 2), "stands by itself"),
        (lambda mu, s, a, sigma: mu * a, "values are wanted"),
        (lambda mu, s, a, sigma: (mu * a, torch.full((len(mu),), (a * s) ** 2 + sigma**2)), "shape"),
    ),
    "01.4": (
        (lambda m, s, sigma: (1 / (s * s + sigma * sigma), -m / (s * s + sigma * sigma)), "sign"),
        (lambda m, s, sigma: (-1 / math.hypot(s, sigma) ** 2, -m / math.hypot(s, sigma) ** 2), "zero at x = m"),
        (lambda m, s, sigma: (-(s**-2), m * s**-2), "before the noise"),
        (lambda m, s, sigma: (-1 / (s * s + 2 * s * sigma + sigma * sigma), m / (s + sigma) ** 2), "added deviations"),
        (lambda m, s, sigma: (-2 / (s * s + sigma * sigma), 2 * m / (s * s + sigma * sigma)), "too many"),
        (lambda m, s, sigma: (-1 / math.hypot(s, sigma), m / math.hypot(s, sigma)), "leave out the root"),
        (lambda m, s, sigma: (-(sigma**-2), m * sigma**-2), "for sure"),
        (lambda m, s, sigma: -1 / (s**2 + sigma**2), "values are wanted"),
    ),
}
