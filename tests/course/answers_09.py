"""Differently written answers to the exercises of notebook 09, right and wrong."""

import torch
import torch.nn.functional as F


def _cross_entropy(preferred, other):
    """A choice between two, the first of which was chosen."""
    return F.cross_entropy(torch.stack([preferred, other], 1), torch.zeros(len(preferred), dtype=torch.long))


def _by_hand(preferred, other):
    gap = preferred - other
    return ((-gap).clamp(min=0) + torch.log1p(torch.exp(-gap.abs()))).sum() / gap.numel()


def _row_by_row(before, after):
    differences = [float(b) - float(a) for a, b in zip(before, after, strict=True)]
    mean = sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / (len(differences) - 1)
    return mean, mean - 1.96 * (variance / len(differences)) ** 0.5, mean + 1.96 * (variance / len(differences)) ** 0.5


def _by_correlation(before, after):
    """The same by the variances and the correlation."""
    covariance = torch.cov(torch.stack([before, after]))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    reach = 1.96 * (variance / before.numel()) ** 0.5
    gain = after.mean() - before.mean()
    return torch.stack([gain, gain - reach, gain + reach])


def _around(gain, error):
    return gain, gain - 1.96 * error, gain + 1.96 * error


RIGHT = {
    "09.1": (
        _cross_entropy,
        _by_hand,
        lambda preferred, other: -F.logsigmoid(preferred - other).mean(),
        lambda preferred, other: F.binary_cross_entropy_with_logits(preferred - other, torch.ones_like(preferred)),
    ),
    "09.4": (
        _row_by_row,
        _by_correlation,
        lambda before, after: _around((after - before).mean(), torch.std(before - after) / len(after) ** 0.5),
    ),
}

# number -> (a wrong answer, words that its hint must contain)
WRONG = {
    "09.1": (
        (lambda p, o: torch.log(1 / torch.sigmoid(p - o)).mean(), "logarithm −∞"),
        (lambda p, o: -(p.exp() / (p.exp() + o.exp())).log().mean(), "right on paper"),
        (lambda p, o: torch.log(1 + torch.exp(o - p)).mean(), "overflows"),
        (lambda p, o: -F.logsigmoid(o - p).mean(), "check the order"),
        (lambda p, o: -F.softplus(o - p).mean(), "check the sign"),
        (lambda p, o: -F.logsigmoid(p - o).sum(), "sum over the pairs"),
        (lambda p, o: -F.logsigmoid(p - o), "one value a pair"),
        (lambda p, o: -torch.sigmoid(p - o).sum() / len(p), "minus the probability"),
        (lambda p, o: torch.sigmoid(o - p).mean(), "wrong vote"),
        (lambda p, o: (o - p).mean(), "gap alone"),
        (lambda p, o: (1 - p + o).clamp(min=0).mean(), "hinge"),
        (lambda p, o: F.logsigmoid(o).mean() - F.logsigmoid(p).mean(), "subtract first"),
        (lambda p, o: -F.logsigmoid(p.mean() - o.mean()), "take the mean last"),
        (lambda p, o: -F.logsigmoid(p - o.detach()).mean(), "detached the other"),
        (lambda p, o: -F.logsigmoid(p.data - o.data).mean(), "no gradient"),
        (lambda p, o: torch.zeros(()), "Compute one row"),
    ),
    "09.4": (
        (
            lambda b, a: _around(a.mean() - b.mean(), (a.var() / len(a) + b.var() / len(b)) ** 0.5),
            "unpaired",
        ),
        (lambda b, a: _around(a.mean() - b.mean(), a.std() / len(a) ** 0.5), "`after` alone"),
        (lambda b, a: _around(b.mean() - a.mean(), (b - a).std() / len(a) ** 0.5), "check the sign"),
        (lambda b, a: _around((a - b).mean(), torch.std(a - b)), "√n times less"),
        (lambda b, a: _around((a - b).mean(), torch.std(a - b) / len(a)), "not with n"),
        (lambda b, a: _around((a - b).mean(), torch.var(a - b) / len(a) ** 0.5), "Take its root"),
        (lambda b, a: _around((a - b).mean(), torch.var(a - b) / len(a)), "variance of the mean"),
        (
            lambda b, a: _around((a - b).mean(), ((a - b - (a - b).mean()) ** 2).mean().sqrt() / len(a) ** 0.5),
            "n − 1",
        ),
        (lambda b, a: (a - b).mean(), "mean alone"),
        (lambda b, a: _around((a - b).mean(), (a - b).std() / len(a) ** 0.5)[1:], "mean is missing"),
        (lambda b, a: torch.stack(_around((a - b).mean(), (a - b).std() / len(a) ** 0.5 / 1.96)), "1.96 is missing"),
        (lambda b, a: a - b, "are wanted"),
    ),
}
