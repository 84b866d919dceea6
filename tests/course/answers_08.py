"""Differently written answers to the exercises of notebook 08, right and wrong."""

import math

import torch


def _bisected(gap, c, limit, unit_pull):
    """The scale at which the two lengths agree, by halving an interval."""
    low, high = 0.0, 1e3
    for _ in range(200):
        middle = (low + high) / 2
        if middle * unit_pull < limit * math.sin(math.atan2(gap, c)):
            low = middle
        else:
            high = middle
    return middle


def _one_graph(x0, noise, alpha, sigma, leash, reward, reward_scale):
    x0 = x0.clone().requires_grad_()
    loss = leash(alpha * x0 + sigma * noise) - reward_scale * reward(x0)
    return torch.autograd.grad(loss, x0, grad_outputs=torch.ones_like(loss))[0]


def _one_sample_at_a_time(x0, noise, alpha, sigma, leash, reward, reward_scale):
    rows = []
    for k in range(len(x0)):
        at_0 = x0[k : k + 1].clone().requires_grad_()
        at_t = (alpha[k] * x0[k : k + 1] + sigma[k] * noise[k : k + 1]).requires_grad_()
        leash(at_t).backward(torch.ones(1, dtype=x0.dtype))
        reward(at_0).backward(torch.full((1,), -reward_scale, dtype=x0.dtype))
        rows.append(alpha[k] * at_t.grad + at_0.grad)
    return torch.cat(rows)


def _backward(of_leash=lambda alpha: alpha, of_reward=-1.0, scaled=True, reduced=torch.sum, likes=True, place=None):
    """.backward() on leaves, with one thing changed."""

    def answer(x0, noise, alpha, sigma, leash, reward, reward_scale):
        x0 = x0.clone().requires_grad_()
        x_t = (place(x0, noise, sigma) if place else alpha * x0 + sigma * noise).detach().requires_grad_()
        reduced(leash(x_t)).backward()
        if not likes:
            return of_leash(alpha) * x_t.grad
        reduced(reward(x0)).backward()
        return of_leash(alpha) * x_t.grad + of_reward * (reward_scale if scaled else 1) * x0.grad

    return answer


def _joint(sign=-1.0, x_t_of=lambda x, e, a, s: a * x + s * e, reward_of=lambda x_t, x0: x0):
    def answer(x0, noise, alpha, sigma, leash, reward, reward_scale):
        x0 = x0.clone().requires_grad_()
        x_t = x_t_of(x0, noise, alpha, sigma)
        total = leash(x_t).sum() + sign * reward_scale * reward(reward_of(x_t, x0)).sum()
        return torch.autograd.grad(total, x0)[0]

    return answer


RIGHT = {
    "08.1": (
        _bisected,
        lambda gap, c, limit, unit_pull: limit / (unit_pull * (1 + (c / gap) ** 2) ** 0.5),
        lambda gap, c, limit, unit_pull: torch.tensor(limit * gap / unit_pull) / torch.tensor([gap, c]).norm(),
    ),
    "08.2": (_one_graph, _one_sample_at_a_time, _joint(), _backward()),
}

# number -> (a wrong answer, words that its hint must contain)
WRONG = {
    "08.1": (
        (lambda gap, c, limit, unit_pull: limit / unit_pull, "no gap can hold"),
        (lambda gap, c, limit, unit_pull: limit * math.cos(math.atan2(c, gap)), "the leash's pull"),
        (lambda gap, c, limit, unit_pull: unit_pull * limit * math.sin(math.atan2(gap, c)), "multiply"),
        (lambda gap, c, limit, unit_pull: unit_pull * math.hypot(gap, c) / (gap * limit), "upside down"),
        (lambda gap, c, limit, unit_pull: 1 / (unit_pull * math.hypot(1, c / gap)), "limit is missing"),
        (lambda gap, c, limit, unit_pull: limit / unit_pull / (1 + c / gap), "sum of squares"),
        (lambda gap, c, limit, unit_pull: limit * gap / unit_pull / math.hypot(gap, c) ** 2, "square root"),
        (lambda gap, c, limit, unit_pull: limit * gap / math.sqrt(gap * gap + c) / unit_pull, "square it"),
        (lambda gap, c, limit, unit_pull: limit * (math.hypot(gap, c) - c) / unit_pull, "slope"),
        (lambda gap, c, limit, unit_pull: gap * limit / (c * unit_pull), "squared L2"),
    ),
    "08.2": (
        (_backward(of_leash=lambda alpha: 1.0), "chain rule"),
        (_backward(of_reward=1.0), "sign of the reward"),
        (_joint(sign=1.0), "sign of the reward"),
        (_backward(scaled=False), "reward_scale is missing"),
        (_backward(reduced=torch.mean), "mean over the batch"),
        (_backward(likes=False), "reward's pull is missing"),
        (_backward(place=lambda x, e, s: x + s * e), "alpha is missing"),
        (_joint(x_t_of=lambda x, e, a, s: x + s * e), "the plane"),
        (_joint(x_t_of=lambda x, e, a, s: a * x + e), "sigma is missing"),
        (_joint(reward_of=lambda x_t, x0: x_t), "clean sample"),
        (_backward(place=lambda x, e, s: x), "not at the clean sample"),
        (_joint(x_t_of=lambda x, e, a, s: a * x.detach() + s * e), "leash's pull is missing"),
        (lambda *given: -_one_graph(*given), "direction to walk in"),
        (lambda *given: _one_graph(*given).flatten(1).norm(dim=1), "shape"),
    ),
}
