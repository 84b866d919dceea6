"""Differently written answers to the exercises of notebook 10, right and wrong."""

import torch

FROZEN, WIDE = 2, 4


def _roles(start=True, reference=1, average=(True, False), wide=WIDE, gradients=0, rest=FROZEN, twice=True):
    """Both recipes as lists of roles, with one thing changed."""

    def one(unet, others, learning, slots):
        total = rest * others + FROZEN * unet * (reference + start)
        for averaged in average[: 2 if twice else 1]:
            total += learning * (wide + 4 * slots + 4 * averaged + 4 * gradients)
        return total

    def answer(unet, others, adapter, slots):
        return [one(unet, others, learning, slots) for learning in (adapter, unet)]

    return answer


def _by_matrix(unet, rest, adapter, slots):
    frozen = torch.tensor([[2.0, 1.0], [2.0, 1.0]]) @ torch.tensor([float(unet), float(rest)])
    learning = torch.tensor([float(adapter), float(unet)])
    return 2 * frozen + 12 * learning + 8 * slots * learning


def _step_by_step(scores, learns, recomputes):
    """Every call of a network in the order of a step: (calls, is it differentiated, do its weights learn)."""
    calls = [(1, False, False), (1, True, True), (1, True, True), (scores, True, False)]
    total = 0
    for count, differentiated, own_weights in calls:
        total += count * (1 + differentiated * (1 + recomputes) + (own_weights and learns))
    return total


def _without(place):
    """The walk above without one of its calls, or with a call that is differentiated otherwise."""

    def answer(scores, learns, recomputes):
        calls = [(1, 0, 0), (1, 1, 1), (1, 1, 1), (scores, 1, 0)]
        place(calls)
        return sum(n * (1 + d * (1 + recomputes) + own * learns) for n, d, own in calls)

    return answer


def _with(index, call):
    def change(calls):
        calls[index] = call if len(call) == 3 else (calls[index][0], *call)

    return change


def _one_at_a_time(weights, rate, dtype):
    kept = weights.to(dtype)
    moved = [bool(weight - torch.tensor(rate, dtype=dtype) != weight) for weight in kept]
    return sum(moved) / len(moved)


def _through_storage(weights, rate, dtype):
    before = weights.to(dtype)
    after = before.clone()
    after.sub_(rate)
    return 1 - torch.eq(before, after).float().mean()


def _widened(weights, rate, dtype):
    kept = weights.to(dtype)
    return ((kept.double() - rate).to(dtype) != kept).sum() / kept.numel()


RIGHT = {
    "10.1": (_roles(), _by_matrix, lambda u, r, a, s: (4 * u + 2 * r + (12 + 8 * s) * a, (16 + 8 * s) * u + 2 * r)),
    "10.3": (_step_by_step, _without(lambda calls: None), lambda s, w, c: 5 + 2 * (s + w + c) + s * c),
    "10.4": (_one_at_a_time, _through_storage, _widened),
}

# number -> (a wrong answer, words that its hint must contain)
WRONG = {
    "10.1": (
        (_roles(reference=2), "both recipes have two frozen UNets"),
        (_roles(start=False), "one frozen UNet. There are two"),
        (lambda *given: (_by_matrix(*given)[0] + 2 * given[0], _by_matrix(*given)[1]), "tied clones"),
        (lambda *given: (_by_matrix(*given)[0], _by_matrix(*given)[1] - 2 * given[0]), "full copies: one frozen UNet"),
        (lambda *given: (_by_matrix(*given)[0], _by_matrix(*given)[1] + 4 * given[0]), "layer by layer"),
        (_roles(wide=2), "4 bytes too few"),
        (_roles(average=(False, False)), "4 bytes too few"),
        (_roles(average=(True, True)), "4 bytes too many"),
        (_roles(average=(True, True), gradients=0.5), "8 bytes too many"),
        (_roles(gradients=1), "8 bytes too many"),
        (_roles(rest=0), "`rest` is missing"),
        (_roles(rest=4), "`rest` is frozen"),
        (_roles(twice=False), "only one network learns"),
        (lambda *given: _roles()(*given[:3], 0), "optimizers' numbers are missing"),
        (lambda *given: _roles()(*given[:3], 1), "you took one"),
        (lambda *given: _roles()(*given)[::-1], "wrong order"),
        (lambda *given: _roles()(*given)[1], "2 values are wanted, you return 1"),
    ),
    "10.3": (
        (_without(lambda calls: calls.pop(0)), "draws samples twice"),
        (_without(_with(0, (1, 0))), "shape is right"),
        (_without(_with(1, (1, 0, 0))), "one backward pass is missing"),
        (_without(_with(3, (0, 0))), "pulls are missing"),
        (_without(_with(3, (1, 1))), "no weight gets a gradient"),
        (_without(lambda calls: calls.__setitem__(3, (2, 1, 0))), "a second time"),
        (lambda s, w, c: _step_by_step(s, 1, c), "next to nothing"),
        (lambda s, w, c: _step_by_step(s, 0, c), "gradients of the weights are missing"),
        (lambda s, w, c: _step_by_step(s, w, 0), "nothing is computed again"),
        (lambda s, w, c: _step_by_step(s, w, c) + c, "recomputation too many"),
        (lambda s, w, c: _step_by_step(s, w, c) - s * c, "scores' blocks"),
    ),
    "10.4": (
        (lambda w, rate, dtype: (w - rate).ne(w).float().mean(), "both sides of the comparison"),
        (
            lambda w, rate, dtype: (w.to(dtype).double() - rate).ne(w.to(dtype)).float().mean(),
            "both sides of the comparison",
        ),
        (lambda w, rate, dtype: (w.to(dtype) - rate).double().ne(w).float().mean(), "both sides of the comparison"),
        (lambda w, rate, dtype: 1 - _widened(w, rate, dtype), "share that stays"),
        (lambda w, rate, dtype: len(w) * _widened(w, rate, dtype), "how many"),
        (lambda w, rate, dtype: float(rate > torch.finfo(dtype).eps), "spacing at 1"),
        (lambda w, rate, dtype: (w.to(dtype) - (w.to(dtype) - rate)).abs().mean(), "a length"),
        (lambda w, rate, dtype: (rate / w.abs() > torch.finfo(dtype).eps).double().mean(), "half a spacing"),
    ),
}
