"""Differently written answers to the exercises of notebook 11, right and wrong."""

import statistics


def _by_sample(tflop, peak, share, launch, steps, batch, price, *, pace=max, each=3600.0):
    seconds = 0.0
    for _ in range(steps):
        seconds += batch * pace(launch, tflop / peak / share)
    return [seconds / each, price * seconds / each]


def _by_branch(f, p, s, launch, n, b, c):
    computing = f / p / s
    hours = n * b * (computing if computing > launch else launch) / 3600
    return hours, c * hours


def _changed(**changes):
    """The bill with some of its numbers changed beforehand."""
    names = ("tflop", "peak", "share", "launch", "steps", "batch", "price")
    return lambda *given: _by_sample(**(dict(zip(names, given, strict=True)) | changes))


def _interval(lags, errors):
    mean, error = statistics.fmean(lags.tolist()), statistics.stdev(lags.tolist()) / len(lags) ** 0.5
    low, high = mean - errors * error, mean + errors * error
    return 0.0 if low < 0 < high else min(abs(low), abs(high))


RIGHT = {
    "11.1": (_by_sample, _by_branch),
    "11.4": (_interval, lambda lags, errors: (abs(lags.mean()) - errors * lags.std() / len(lags) ** 0.5).clamp(min=0)),
}

# number -> (a wrong answer, words that its hint must contain)
WRONG = {
    "11.1": (
        (lambda *given: _by_sample(*given, pace=lambda *both: sum(both)), "at the same time"),
        (lambda *given: _by_sample(*given, pace=min), "the slower one"),
        (_changed(launch=0.0), "the host is missing"),
        (_changed(share=1.0), "reach its peak"),
        (lambda f, p, s, *rest: _by_sample(f, p, 1 / s, *rest), "divide by `share`"),
        (_changed(batch=1), "one sample a step"),
        (_changed(steps=1), "that is one step"),
        (lambda *given: _by_sample(*given, each=1.0), "these are seconds"),
        (lambda *given: _by_sample(*given, each=60.0), "these are minutes"),
        (lambda *given: _by_sample(*given)[::-1], "wrong order"),
    ),
    "11.4": (
        (lambda lags, e: max(0.0, float(lags.mean() - e * lags.std() / len(lags) ** 0.5)), "below zero"),
        (lambda lags, e: _interval(lags.abs(), e), "numbers are not"),
        (lambda lags, e: max(0.0, float(abs(lags.mean()) - e * lags.std())), "spread of single steps"),
        (lambda lags, e: max(0.0, float(abs(lags.mean()) - e * lags.std() / len(lags))), "root of n, not with n"),
        (lambda lags, e: float(abs(lags.mean()) + e * lags.std() / len(lags) ** 0.5), "at most"),
        (lambda lags, e: abs(float(lags.mean())), "errors are missing"),
        (lambda lags, e: float(abs(lags.mean()) - e * lags.std() / len(lags) ** 0.5), "at least is 0"),
    ),
}
