"""Differently written answers to the exercises of notebook 03, right and wrong."""

import torch


def _mixture_by_logs(weights, means, deviations, a, alpha):
    log_weights = weights.log() + alpha * (means * a).sum(1) + 0.5 * (alpha * deviations * a.norm()) ** 2
    return torch.softmax(log_weights, 0), means + torch.outer(alpha * deviations.square(), a)


def _mixture_in_a_loop(weights, means, deviations, a, alpha):
    grown, moved = [], []
    for w, mu, s in zip(weights.tolist(), means.float(), deviations.tolist(), strict=True):
        shift = alpha * s * s * a.float()
        grown.append(w * torch.exp(alpha * (a.float() @ mu) + alpha * (a.float() @ shift) / 2))
        moved.append(mu + shift)
    total = torch.stack(grown)
    return [total / total.sum(), torch.stack(moved)]


RIGHT = {
    "03.1": (
        lambda m, s, alpha: (alpha * s * s + m, s.square(), 0.5 * ((m + alpha * s**2) ** 2 - m**2) / s**2),
        lambda m, s, alpha: [
            m.float() + s.float() ** 2 * alpha.float(),
            s.float() ** 2,
            alpha * (m + alpha * s**2 / 2),
        ],
    ),
    "03.2": (_mixture_by_logs, _mixture_in_a_loop),
    "03.4": (
        lambda alpha, weights, sigmas: alpha * len(sigmas) / torch.sum(weights / (sigmas * sigmas + 1)),
        lambda alpha, weights, sigmas: 1 / torch.mean(weights.float() * (1 + sigmas.float() ** 2) ** -1 / alpha),
        lambda alpha, weights, sigmas: alpha / float(torch.dot(weights, 1 / (1 + sigmas**2)) / weights.numel()),
    ),
}


def _forgot_to_normalise(weights, means, deviations, a, alpha):
    variances = deviations.square()
    gain = torch.exp(alpha * (means @ a) + 0.5 * alpha**2 * variances * a.dot(a))
    return gain * weights, means + variances[:, None] * alpha * a


def _first_order_weights(weights, means, deviations, a, alpha):
    return (weights.log() + alpha * (means @ a)).softmax(0), means + alpha * deviations[:, None] ** 2 * a


def _only_means(weights, means, deviations, a, alpha):
    return weights.clone(), means + torch.outer(deviations**2, alpha * a)


def _deviations(weights, means, deviations, a, alpha):
    log_weights = weights.log() + alpha * (means @ a) + 0.5 * alpha**2 * deviations * a.square().sum()
    return log_weights.softmax(0), means + alpha * torch.outer(deviations, a)


def _away(weights, means, deviations, a, alpha):
    return _mixture_by_logs(weights, means, deviations, -a, alpha)


# number -> (a wrong answer, words that its hint must contain)
WRONG = {
    "03.1": (
        (lambda m, s, alpha: (alpha + m, s * s, alpha * (m + alpha * s * s / 2)), "α alone"),
        (lambda m, s, alpha: (m + s * alpha, s * s, m * alpha + 0.5 * (alpha * s) ** 2), "s in place of s²"),
        (lambda m, s, alpha: (m - s * s * alpha, s * s, m * alpha + 0.5 * (alpha * s) ** 2), "sign"),
        (lambda m, s, alpha: (m + s * s * alpha, s.clone(), m * alpha + 0.5 * (alpha * s) ** 2), "not the deviation"),
        (lambda m, s, alpha: (m + s * s * alpha, s * s, m * alpha), "complete the square"),
        (lambda m, s, alpha: (m + s * s * alpha, s * s, m * alpha + (alpha * s) ** 2), "½"),
        (lambda m, s, alpha: (m + s * s * alpha, s * s, 0.5 * (m / s + alpha * s) ** 2), "keeps"),
        (lambda m, s, alpha: (m + s * s * alpha, s * s, -m * alpha - 0.5 * (alpha * s) ** 2), "wrong sign"),
        (lambda m, s, alpha: (m + s * s * alpha, s * s), "values are wanted"),
        (lambda m, s, alpha: (m + s * s * alpha, s * s, m * 0 + 3.0), "numbers"),
    ),
    "03.2": (
        (_forgot_to_normalise, "sum to 1"),
        (_first_order_weights, "α² is missing"),
        (_only_means, "stay as they were"),
        (_deviations, "the variance s² is wanted"),
        (_away, "sign"),
        (lambda *given: _mixture_by_logs(given[0] * 0 + 1 / 3, *given[1:]), "old weights are forgotten"),
        (lambda *given: (_mixture_by_logs(*given)[0], given[1] * 1), "have to move"),
        (lambda *given: _mixture_by_logs(*given)[1], "values are wanted"),
    ),
    "03.4": (
        (lambda alpha, weights, sigmas: torch.mean(alpha / (weights / (1 + sigmas**2))), "averaged the points of rest"),
        (lambda alpha, weights, sigmas: alpha / torch.dot(weights, (1 + sigmas**2) ** -1.0), "summed"),
        (lambda alpha, weights, sigmas: alpha * len(weights) / weights.sum(), "forgotten"),
        (lambda alpha, weights, sigmas: alpha * torch.mean(1 + sigmas**2) / torch.mean(weights), "apart"),
        (lambda alpha, weights, sigmas: alpha / torch.mean(weights * sigmas**-2), "not σ²"),
        (lambda alpha, weights, sigmas: torch.mean(weights / (1 + sigmas * sigmas)) * alpha, "upside down"),
        (lambda alpha, weights, sigmas: torch.full((3,), alpha), "shape"),
    ),
}
