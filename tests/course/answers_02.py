"""Differently written answers to the exercises of notebook 02, right and wrong."""

import torch


def denoising_by_targets(assistant, x_t, noise, sigma):
    target = -noise / sigma
    return sigma.squeeze(-1) ** 2 * torch.linalg.vector_norm(assistant(x_t.detach()) - target, dim=1) ** 2


def denoising_in_one_product(assistant, x_t, noise, sigma):
    with torch.no_grad():
        samples = x_t * 1.0
    error = noise + assistant(samples) * sigma
    return torch.einsum("bi,bi->b", error, error)


def denoising_without_gradients(assistant, x_t, noise, sigma):
    with torch.no_grad():
        return (assistant(x_t) * sigma + noise).pow(2).sum(dim=1)


def kl_by_moved_samples(assistant, reference, x_t):
    """A square whose gradient is the gap: DMD's code writes it so."""
    goal = (x_t - (assistant(x_t) - reference(x_t))).detach()
    return 0.5 * (x_t - goal).pow(2).sum(1)


def kl_without_graph(assistant, reference, x_t):
    with torch.no_grad():
        direction = assistant(x_t) - reference(x_t)
    return torch.einsum("bi,bi->b", x_t, direction)


def pencil_by_kl(m, s, sigma):
    """Differentiate the closed form of KL between two Gaussians."""
    m, s = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (m, s))
    own, wide = s**2 + sigma**2, 1 + sigma**2
    kl = 0.5 * (own / wide + m**2 / wide - 1 - (own / wide).log())
    return torch.stack(torch.autograd.grad(kl, (m, s)))


RIGHT = {
    "02.1": (
        denoising_by_targets,
        denoising_in_one_product,
        lambda assistant, x_t, noise, sigma: ((assistant(x_t.detach()) + noise / sigma) ** 2 * sigma**2).sum(1),
    ),
    "02.2": (
        kl_by_moved_samples,
        kl_without_graph,
        lambda assistant, reference, x_t: (
            (x_t * assistant(x_t).detach()).sum(1) - (x_t * reference(x_t.detach()).detach()).sum(1)
        ),
    ),
    "02.3": (
        pencil_by_kl,
        lambda m, s, sigma: [m / (sigma**2 + 1), s * (s**2 - 1) / ((1 + sigma**2) * (s**2 + sigma**2))],
    ),
}

# number -> (a wrong answer, words that its hint must contain)
WRONG = {
    "02.1": (
        (lambda assistant, x_t, noise, sigma: torch.sum((noise + assistant(x_t) * sigma) ** 2, -1), "detach x_t"),
        (lambda assistant, x_t, noise, sigma: ((noise - sigma * assistant(x_t.detach())) ** 2).sum(1), "sign"),
        (lambda assistant, x_t, noise, sigma: ((noise + assistant(x_t.data)) ** 2).sum(1), "Multiply the score by σ"),
        (lambda assistant, x_t, noise, sigma: ((assistant(x_t.detach()) + noise / sigma) ** 2).sum(1), "weight"),
        (
            lambda assistant, x_t, noise, sigma: torch.nn.functional.mse_loss(
                sigma * assistant(x_t.detach()), -noise, reduction="none"
            ).mean(1),
            "coordinates",
        ),
        (lambda assistant, x_t, noise, sigma: ((assistant(x_t.detach()) * sigma + noise) ** 2).sum(dim=0), "batch"),
        (denoising_without_gradients, "weights"),
        (
            lambda assistant, x_t, noise, sigma: (
                sigma**2 * torch.linalg.vector_norm(assistant(x_t.detach()) + noise / sigma, dim=-1) ** 2
            ),
            "before you sum",
        ),
        (lambda assistant, x_t, noise, sigma: (sigma * assistant(x_t.detach()) + noise) ** 2, "shape"),
        (lambda assistant, x_t, noise, sigma: (assistant(x_t.detach()) / 0).sum(1), "not finite"),
    ),
    "02.2": (
        (lambda assistant, reference, x_t: torch.einsum("bi,bi->b", assistant(x_t) - reference(x_t), x_t), "Detach"),
        (lambda assistant, reference, x_t: -((assistant(x_t) - reference(x_t)).detach() * x_t).sum(1), "sign"),
        (
            lambda assistant, reference, x_t: torch.einsum(
                "bi,bi->b", assistant(x_t) - reference(x_t), x_t.clone().detach()
            ),
            "wrong factor",
        ),
        (lambda assistant, reference, x_t: torch.ones(len(x_t)), "no gradient"),
        (
            lambda assistant, reference, x_t: ((assistant(x_t) - reference(x_t)).detach() * x_t / len(x_t)).sum(1),
            "batch size",
        ),
        (lambda assistant, reference, x_t: torch.sum((assistant(x_t) - reference(x_t)).detach() * x_t), "their sum"),
        (lambda assistant, reference, x_t: -torch.einsum("bi,bi->b", reference(x_t).detach(), x_t), "own score"),
        (lambda assistant, reference, x_t: (x_t * reference(x_t.detach()).detach()).sum(1), "sign"),
        (lambda assistant, reference, x_t: (assistant(x_t) - reference(x_t)).detach() * x_t, "shape"),
    ),
    "02.3": (
        (lambda m, s, sigma: (-m / (1 + sigma**2), s / (s**2 + sigma**2) - s / (1 + sigma**2)), "sign"),
        (lambda m, s, sigma: torch.tensor([m, (s * s - 1) / s]), "without noise"),
        (
            lambda m, s, sigma: (m / (1 + sigma**2), (s**2 - 1) / ((1 + sigma**2) * (s**2 + sigma**2))),
            "you lost that s",
        ),
        (lambda m, s, sigma: (m / (1 + sigma**2), 0 * s), "multiply the gap"),
        (lambda m, s, sigma: (m / (1 + sigma**2), s * (s - 1) / ((1 + sigma**2) * (s + sigma**2))), "not s"),
        (lambda m, s, sigma: [m / (sigma**2 + 1), s / (sigma**2 + 1) - s ** (-1)], "s² + σ²"),
        (
            lambda m, s, sigma: (m / (1 + sigma**2), s / (1 + sigma**2) + m / (1 + sigma**2) - s / (s**2 + sigma**2)),
            "drops out",
        ),
        (lambda m, s, sigma: m / (1 + sigma**2), "2 values"),
    ),
}
