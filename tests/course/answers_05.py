"""Differently written answers to the exercises of notebook 05, right and wrong."""

import math

import torch


def in_double(y, c):
    y = y.double()
    rho = torch.linalg.vector_norm(torch.cat([y, torch.full_like(y[:, :1], c)], dim=1), dim=1)
    return rho - c, torch.einsum("bi,b->bi", y, 1 / rho)


def by_hypot(y, c):
    norm = y.norm(dim=1, keepdim=True)
    rho = torch.hypot(norm, torch.tensor(c).to(y))
    return (norm * (norm / (rho + c))).squeeze(1), y / rho


def rectangles(sigma, squared_gap):
    step = (sigma[-1] / sigma[0]).log() / (len(sigma) - 1)
    values = sigma * sigma * squared_gap
    return step * (values.sum() - values[0] / 2 - values[-1] / 2)


def rect_one(sigma, squared_gap):
    """The integral over log sigma without sigma²."""
    step = (sigma[1] / sigma[0]).log()
    return step * (squared_gap.sum() - (squared_gap[0] + squared_gap[-1]) / 2)


RIGHT = {
    "05.1": (in_double, by_hypot, lambda y, c: list(by_hypot(y.clone(), c))),
    "05.2": (
        rectangles,
        lambda sigma, squared_gap: 0.5 * torch.trapezoid(squared_gap, sigma.square()),
        lambda sigma, squared_gap: float(torch.trapezoid(squared_gap * sigma, sigma)),
    ),
}

# number -> (a wrong answer, words that its hint must contain)
WRONG = {
    "05.1": (
        (lambda y, c: (torch.sqrt(c * c + (y * y).sum(1)) - c, y / torch.sqrt(c * c + (y * y).sum(1, True))), "digits"),
        (
            lambda y, c: (
                (torch.hypot(y, torch.tensor(c).to(y)) - c).sum(1),
                y / torch.hypot(y, torch.tensor(c).to(y)),
            ),
            "element by element",
        ),
        (lambda y, c: (in_double(y, c)[0] + c, in_double(y, c)[1]), "forgot −c"),
        (lambda y, c: (in_double(y, math.sqrt(c))[0], in_double(y, math.sqrt(c))[1]), "squared"),
        (lambda y, c: (in_double(y, c)[0], y + 0 * c), "lacks ρ"),
        (lambda y, c: (in_double(y, c)[0], torch.nn.functional.normalize(y, dim=1)), "unit vector"),
        (lambda y, c: (torch.einsum("bi,bi->b", y, y) / c / 2, by_hypot(y, c)[1]), "parabola"),
        (lambda y, c: (torch.sum(y * y, 1), y + y), "squared L2"),
        (lambda y, c: (c**2 * ((1 + (y / c).square().sum(1)).sqrt() - 1), c * by_hypot(y, c)[1]), "Divide both by c"),
        (lambda y, c: (c**2 * ((1 + (y / c).square().sum(1)).sqrt() - 1), in_double(y, c)[1]), "Divide it by c"),
        (lambda y, c: in_double(y, c)[0], "2 values are wanted"),
        (lambda y, c: (in_double(y, c)[0], in_double(y, c)[0]), "shape"),
    ),
    "05.2": (
        (lambda sigma, squared_gap: rect_one(sigma, squared_gap), "score units"),
        (lambda sigma, squared_gap: rectangles(sigma, squared_gap) / 2, "half of it"),
        (lambda sigma, squared_gap: 2 * rectangles(sigma, squared_gap), "forgot the ½"),
        (lambda sigma, squared_gap: torch.trapezoid(squared_gap, sigma), "∫ gap² dσ"),
        (lambda sigma, squared_gap: torch.einsum("t,t->", sigma**2, squared_gap) / len(sigma), "mean over the levels"),
        (lambda sigma, squared_gap: rectangles(sigma, squared_gap.square()), "squared already"),
        (lambda sigma, squared_gap: sigma.square() @ squared_gap, "without the width"),
        (lambda sigma, squared_gap: (squared_gap * sigma**2).mean() * math.log(sigma[-1] / sigma[0]), "in full"),
        (lambda sigma, squared_gap: (squared_gap * sigma**2)[:-1] @ sigma.log().diff(), "left end"),
        (
            lambda sigma, squared_gap: torch.trapezoid(sigma.flip(0) ** 2 * squared_gap.flip(0), sigma.flip(0).log()),
            "sign",
        ),
        (lambda sigma, squared_gap: sigma**2 * squared_gap, "shape"),
    ),
}
