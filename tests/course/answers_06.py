"""Differently written answers to the exercises of notebook 06, right and wrong."""

import torch


def _by_autograd(x, sigma, cfg_scale, mean_c, dev_c, dev_0):
    """The gradient of (1 + w) log p_c − w log p_null, by torch.distributions."""
    x = x.clone().requires_grad_()
    conditional = torch.distributions.Normal(mean_c, (dev_c**2 + sigma**2) ** 0.5)
    null = torch.distributions.Normal(0.0, (dev_0**2 + sigma**2) ** 0.5)
    value = (1 + cfg_scale) * conditional.log_prob(x) - cfg_scale * null.log_prob(x)
    return torch.autograd.grad(value.sum(), x)[0]


def _slope_and_intercept(x, sigma, cfg_scale, mean_c, dev_c, dev_0):
    a, b = 1 / (dev_c * dev_c + sigma * sigma), 1 / (dev_0 * dev_0 + sigma * sigma)
    return (cfg_scale * b - (1 + cfg_scale) * a) * x + (1 + cfg_scale) * a * mean_c


def _with_scores(mix, noised=True):
    def answer(x, sigma, cfg_scale, mean_c, dev_c, dev_0):
        extra = sigma**2 if noised else 0
        return mix((mean_c - x) / (dev_c**2 + extra), -x / (dev_0**2 + extra), cfg_scale)

    return answer


def _one_row_at_a_time(x_t, s_c, s_null):
    with torch.no_grad():
        direction = s_null - s_c
    return torch.stack([row @ move for row, move in zip(x_t, direction, strict=True)])


RIGHT = {
    "06.1": (
        _by_autograd,
        _slope_and_intercept,
        _with_scores(lambda c, n, w: torch.lerp(n, c, 1.0 + w)),
        lambda x, *rest: _slope_and_intercept(x.float(), *rest),
    ),
    "06.2": (
        _one_row_at_a_time,
        lambda x_t, s_c, s_null: torch.einsum("bi,bi->b", s_null.detach() - s_c.detach(), x_t),
        lambda x_t, s_c, s_null: (x_t * s_null.detach() - x_t * s_c.detach()).flatten(1).sum(1),
    ),
}

# number -> (a wrong answer, words that its hint must contain)
WRONG = {
    "06.1": (
        (_with_scores(lambda c, n, w: torch.lerp(n, c, 0.0 + w)), "other spelling"),
        (_with_scores(lambda c, n, w: (1 - w) * n + w * c), "other spelling"),
        (_with_scores(lambda c, n, w: c + w * (n - c)), "sign"),
        (_with_scores(lambda c, n, w: (1 + w) * n - w * c), "wrong one"),
        (_with_scores(lambda c, n, w: (1 + w) * c - w * n, noised=False), "noise is missing"),
        (_with_scores(lambda c, n, w: (1 + w) * c), "null score is missing"),
        (_with_scores(lambda c, n, w: w * n - (1 + w) * c), "points back"),
        (_with_scores(lambda c, n, w: w * c - w * n), "bracket alone"),
        (_with_scores(lambda c, n, w: (1 + w) * c + w * n), "null's score"),
        (
            lambda x, sigma, w, mean, dev_c, dev_0: (
                (mean - x) * ((1 + w) / (dev_c**2 + sigma**2) - w / (dev_0**2 + sigma**2))
            ),
            "null's mean",
        ),
        (
            lambda x, sigma, w, mean, dev_c, dev_0: (
                (1 + w) * (mean - x) / torch.hypot(torch.tensor(dev_c), torch.tensor(sigma))
                + w * x / torch.hypot(torch.tensor(dev_0), torch.tensor(sigma))
            ),
            "square root",
        ),
        (
            lambda x, sigma, w, mean, dev_c, dev_0: (
                (1 + w) * (mean - x) / (dev_c**2 + sigma) + w * x / (dev_0**2 + sigma)
            ),
            "σ is a deviation",
        ),
        (
            lambda x, sigma, w, mean, dev_c, dev_0: (1 + w) * (mean - x) / dev_c**2 + w * x / (dev_0**2 + sigma**2),
            "condition's variance",
        ),
        (lambda x, *rest: _slope_and_intercept(x, *rest).sum(), "shape"),
    ),
    "06.2": (
        (lambda x_t, s_c, s_null: ((s_null - s_c) * x_t).sum(dim=1), "gradient flows into the scores"),
        (lambda x_t, s_c, s_null: torch.einsum("bi,bi->b", (s_null - s_c), x_t.detach()), "detached x_t"),
        (lambda x_t, s_c, s_null: torch.einsum("bi,bi->b", (s_c - s_null).detach(), x_t), "sign"),
        (lambda x_t, s_c, s_null: -(s_c.detach() * x_t).flatten(1).sum(1), "null score"),
        (lambda x_t, s_c, s_null: ((s_null - s_c).detach() * x_t).sum() / len(x_t), "mean over the batch"),
        (lambda x_t, s_c, s_null: (s_null.detach() - s_c.detach()) * x_t, "one value per sample"),
        (lambda x_t, s_c, s_null: ((s_null - s_c.detach()) * x_t).sum(-1), "Detach both"),
        (lambda x_t, s_c, s_null: 0.5 * (x_t - (x_t - s_null + s_c).detach()).norm(dim=-1) ** 2, "by another loss"),
        (lambda x_t, s_c, s_null: (s_null - s_c).pow(2).sum(-1), "squared length"),
        (lambda x_t, s_c, s_null: ((s_null - s_c).detach() * x_t).sum(), "sum over the batch"),
        (lambda x_t, s_c, s_null: x_t, "shape"),
    ),
}
