"""Schedules and time laws: values, conversions back and forth, quantiles, and what is refused with which words."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distar_core import DiscreteSchedule, NoiseSchedule, TimeLaw, VarianceExploding, VariancePreserving
from distar_core.schedule import precision_on, scaled_linear_schedule

VE, VP, SDXL = VarianceExploding(), VariancePreserving(), scaled_linear_schedule()
CONTINUOUS = torch.tensor([0.05, 0.4, 0.95], dtype=torch.float64)
TIMES = {"ve": (VE, CONTINUOUS), "vp": (VP, CONTINUOUS), "sdxl": (SDXL, torch.tensor([20, 399, 979]))}
X0 = torch.tensor([[0.3, -1.2], [2.0, 0.1], [-0.7, 0.9]], dtype=torch.float64)
NOISE = torch.tensor([[1.1, 0.2], [-0.4, 0.8], [0.5, -1.5]], dtype=torch.float64)


@pytest.mark.parametrize("name", TIMES)
def test_conversions_agree_with_the_definitions(name: str) -> None:
    schedule, t = TIMES[name]
    alpha, sigma = schedule.coefficients(t, X0)
    x_t = schedule.add_noise(X0, NOISE, t)
    torch.testing.assert_close(x_t, alpha * X0 + sigma * NOISE, rtol=0, atol=0)
    forms = {"eps": NOISE, "x0": X0, "score": -NOISE / sigma}
    if schedule.variance_preserving:
        forms["v"] = alpha * NOISE - sigma * X0
    for source, target in product(forms, forms):
        converted = schedule.convert(forms[source], x_t, t, source=source, target=target)  # type: ignore[arg-type]
        torch.testing.assert_close(converted, forms[target], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", TIMES)
def test_coefficients_belong_to_one_family(name: str) -> None:
    schedule, t = TIMES[name]
    power = schedule.alpha(t).double() ** 2 + schedule.sigma(t).double() ** 2
    assert schedule.alpha(t).shape == schedule.sigma(t).shape == schedule.diffusion_squared(t).shape == t.shape
    assert bool(((power - 1).abs() < 1e-12).all()) == schedule.variance_preserving


def test_values_of_the_sdxl_table() -> None:
    t = torch.tensor([399, 999])
    torch.testing.assert_close(SDXL.alpha(t), torch.tensor([0.6528, 0.0683], dtype=torch.float64), rtol=0, atol=5e-5)
    torch.testing.assert_close(SDXL.sigma(t[:1]), torch.tensor([0.7576], dtype=torch.float64), rtol=0, atol=5e-5)


@pytest.mark.parametrize("schedule", [VE, VP])
def test_diffusion_squared_is_the_derivative_of_the_noise_to_signal_ratio(schedule: NoiseSchedule) -> None:
    h = 1e-6

    def ratio(t: Tensor) -> Tensor:
        return schedule.sigma(t) ** 2 / schedule.alpha(t) ** 2

    slope = (ratio(CONTINUOUS + h) - ratio(CONTINUOUS - h)) / (2 * h)
    expected = schedule.alpha(CONTINUOUS) ** 2 * slope
    torch.testing.assert_close(schedule.diffusion_squared(CONTINUOUS), expected, rtol=1e-6, atol=0)


def test_diffusion_squared_of_a_table_is_its_central_difference() -> None:
    t = torch.tensor([300])
    ratio = {k: float(SDXL.sigma(t + k) ** 2 / SDXL.alpha(t + k) ** 2) for k in (-1, 1)}
    expected = float(SDXL.alpha(t)) ** 2 * (ratio[1] - ratio[-1]) / 2
    assert abs(float(SDXL.diffusion_squared(t)) - expected) < 1e-12


def test_coefficients_are_at_least_float32() -> None:
    for dtype in (torch.float16, torch.float32, torch.float64):
        alpha, sigma = VP.coefficients(torch.tensor([0.5]), torch.zeros(1, 2, dtype=dtype))
        assert alpha.dtype == sigma.dtype == torch.promote_types(dtype, torch.float32)
        assert alpha.shape == (1, 1)
    alpha, _ = SDXL.coefficients(torch.tensor([5, 6]), torch.zeros(2, 4, 8, 8, dtype=torch.float64))
    assert alpha.shape == (2, 1, 1, 1)
    # The table keeps float64; a float32 table would differ here.
    assert torch.equal(alpha.flatten(), SDXL.alpha(torch.tensor([5, 6])))


@pytest.mark.parametrize("order", [("meta", "cpu"), ("cpu", "meta"), ("cpu", "meta", "cpu", "meta")])
def test_a_table_serves_two_devices_without_moving(order: tuple[str, ...]) -> None:
    schedule = scaled_linear_schedule()
    for device in order:
        t = torch.tensor([399], device=device)
        assert schedule.alpha(t).device.type == device
        assert schedule.add_noise(torch.zeros(1, 2, device=device), torch.ones(1, 2, device=device), t).shape == (1, 2)
    assert torch.equal(schedule.alpha(torch.tensor([399])), SDXL.alpha(torch.tensor([399])))
    assert schedule.alpha(torch.tensor([399])).dtype == torch.float64


@pytest.mark.parametrize("device", ["cpu", "cuda:1", "meta", "mps"])
def test_a_table_is_kept_in_float64_where_the_device_has_it(device: str) -> None:
    assert (precision_on(torch.device(device)) == torch.float32) == (device == "mps")


@pytest.mark.parametrize("name", TIMES)
def test_a_plain_number_is_one_time_for_the_whole_batch(name: str) -> None:
    schedule, t = TIMES[name]
    number = t[1].item()
    noised = schedule.add_noise(X0, NOISE, number)
    assert torch.equal(noised, schedule.add_noise(X0, NOISE, t[1]))
    assert torch.equal(schedule.alpha(number), schedule.alpha(t[1]))
    assert torch.equal(schedule.sigma(number), schedule.sigma(t[1]))
    assert torch.equal(schedule.diffusion_squared(number), schedule.diffusion_squared(t[1]))
    torch.testing.assert_close(schedule.convert(NOISE, noised, number, source="eps", target="x0"), X0)
    with pytest.raises(ValueError, match="got values from 5000 to 5000"):
        schedule.alpha(5000)


def test_an_integer_is_a_time_of_a_continuous_schedule_too() -> None:
    assert torch.equal(VE.sigma(2), torch.tensor(2.0))
    assert torch.equal(VE.alpha(torch.tensor([2, 3])), torch.ones(2))
    assert torch.equal(VE.sigma(np.float32(0.5)), torch.tensor(0.5))  # type: ignore[arg-type]


def test_one_time_for_the_whole_batch() -> None:
    t = torch.tensor(0.4, dtype=torch.float64)
    together = VP.add_noise(X0, NOISE, t)
    assert torch.equal(together, VP.add_noise(X0, NOISE, t.expand(3)))


@pytest.mark.parametrize("method", ["alpha", "sigma", "diffusion_squared"])
@pytest.mark.parametrize(
    ("schedule", "t"),
    [
        (VE, torch.tensor([0.5, 81.0])),
        (VE, torch.tensor([0.001])),
        (VP, torch.tensor([1.0])),
        (VP, torch.tensor([-0.1])),
        (VP, torch.tensor([float("nan")])),
        (SDXL, torch.tensor([1000])),
        (SDXL, torch.tensor([-1])),
    ],
)
def test_times_outside_the_range_are_refused(schedule: NoiseSchedule, t: Tensor, method: str) -> None:
    name = type(schedule).__name__
    with pytest.raises(ValueError, match=rf"t must lie in \[.*\] for {name}, got values from .* draw t from a TimeLaw"):
        getattr(schedule, method)(t)


def test_the_ends_of_the_range_are_inside() -> None:
    for schedule in (VE, VP):
        t = torch.tensor([schedule.low, schedule.high], dtype=torch.float64)
        assert bool(schedule.sigma(t).isfinite().all())
    assert bool(SDXL.alpha(torch.tensor([0, 999])).isfinite().all())


def test_a_table_takes_integer_times_only() -> None:
    with pytest.raises(ValueError, match=r"integer.* got dtype torch.float32; draw t with TimeLaw.levels"):
        SDXL.alpha(torch.tensor([399.0]))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: VarianceExploding(0.0, 1.0), "0 < low < high, got low=0.0 and high=1.0"),
        (lambda: VarianceExploding(2.0, 1.0), "0 < low < high, got low=2.0 and high=1.0"),
        (lambda: VariancePreserving(0.1, 1.0), "0 < low < high < 1, got 0.1 and 1.0"),
        (lambda: DiscreteSchedule(torch.tensor([0.9, 0.95])), "decreasing table of alpha² .* got shape \\(2,\\)"),
        (lambda: DiscreteSchedule(torch.tensor([1.0, 0.5])), "within \\(0, 1\\)"),
        (lambda: DiscreteSchedule(torch.tensor([[0.9, 0.5]])), "got shape \\(1, 2\\)"),
        (lambda: TimeLaw.uniform(2.0, 2.0), r"low < high, got \(2.0, 2.0\); choose other"),
        (lambda: TimeLaw.log_uniform(0.0, 2.0), r"0 < low < high, got \(0.0, 2.0\); choose other"),
        (lambda: TimeLaw.log_uniform(3.0, 2.0), r"0 < low < high, got \(3.0, 2.0\)"),
        (lambda: TimeLaw.levels([]), r"TimeLaw.levels needs at least one time, got \(\)"),
        (lambda: VE.add_noise(X0, NOISE[:2], CONTINUOUS), "same shape, got \\(3, 2\\) and \\(2, 2\\); draw the noise"),
        (lambda: VE.add_noise(X0, NOISE, CONTINUOUS[:2]), "\\[\\] or \\[3\\], one time per sample, got \\(2,\\)"),
        (lambda: VE.add_noise(X0, NOISE, CONTINUOUS[:, None]), "one time per sample, got \\(3, 1\\); flatten"),
        (
            lambda: VE.convert(X0, X0, CONTINUOUS, source="epsilon", target="x0"),  # type: ignore[arg-type]
            "prediction 'epsilon' is not one of eps, x0, v, score",
        ),
        (
            lambda: VE.convert(X0, X0, CONTINUOUS, source="eps", target="flow"),  # type: ignore[arg-type]
            "prediction 'flow' is not one of",
        ),
        (
            lambda: VE.convert(X0, X0, CONTINUOUS, source="v", target="x0"),
            "'v' exists only where alpha² \\+ sigma² = 1, which VarianceExploding is not; use 'eps', 'x0' or 'score'",
        ),
        (lambda: VE.convert(X0, X0, CONTINUOUS, source="eps", target="v"), "'v' exists only where"),
        (lambda: VE.convert(X0, X0, CONTINUOUS, source="v", target="v"), "'v' exists only where"),
    ],
)
def test_bad_input_is_refused_with_value_and_remedy(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()


U = torch.tensor([0.0, 0.25, 0.5, 0.999], dtype=torch.float64)


def test_quantiles_of_the_laws() -> None:
    torch.testing.assert_close(TimeLaw.uniform(2.0, 6.0).quantile(U), 2 + 4 * U, rtol=0, atol=1e-14)
    log_t = TimeLaw.log_uniform(0.1, 4.0).quantile(U).log()
    torch.testing.assert_close(log_t, math.log(0.1) + U * math.log(40), rtol=0, atol=1e-13)
    assert TimeLaw.levels([3.0, 1.0]).quantile(U).tolist() == [3.0, 3.0, 1.0, 1.0]


def test_quantile_keeps_shape_and_dtype() -> None:
    for dtype in (torch.float32, torch.float64):
        u = torch.rand(2, 3).to(dtype)
        for law in (TimeLaw.uniform(1, 2), TimeLaw.log_uniform(1, 2), TimeLaw.levels([1.0, 2.0])):
            assert law.quantile(u).shape == (2, 3)
            assert law.quantile(u).dtype == dtype


def test_integer_levels_stay_integers() -> None:
    law = TimeLaw.levels(range(20, 980))
    u = (torch.arange(960) + 0.5) / 960
    t = law.quantile(u)
    assert t.dtype == torch.int64
    assert torch.equal(t, torch.arange(20, 980))
    assert bool(SDXL.alpha(t).isfinite().all())
    # Control: one float among them makes all of them floats, which a table refuses.
    assert TimeLaw.levels([20, 21.5]).quantile(u).dtype == u.dtype


def test_u_of_exactly_one_gives_the_last_level() -> None:
    assert TimeLaw.levels([1, 2, 3]).quantile(torch.tensor([1.0])).tolist() == [3]


@pytest.mark.parametrize("values", [torch.arange(20, 980), torch.arange(20, 980).numpy()], ids=["tensor", "numpy"])
def test_levels_accept_integers_of_arrays(values: Any) -> None:
    assert TimeLaw.levels(values).quantile(U).dtype == torch.int64


@pytest.mark.parametrize(
    ("law", "schedule"),
    [
        (TimeLaw.log_uniform(1e-3, 4.0), VE),
        (TimeLaw.uniform(0.1, 100.0), VE),
        (TimeLaw.uniform(0.1, 1.0), VP),
        (TimeLaw.levels([5, 1000]), SDXL),
    ],
)
def test_a_law_outside_the_schedule_is_refused(law: TimeLaw, schedule: NoiseSchedule) -> None:
    name = type(schedule).__name__
    with pytest.raises(ValueError, match=rf"the time law draws t from .* but {name} is defined on .* narrow the law"):
        law.check(schedule)


def test_a_law_inside_the_schedule_passes() -> None:
    TimeLaw.uniform(VE.low, VE.high).check(VE)
    TimeLaw.levels(range(20, 980)).check(SDXL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("u", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("bounds", [(0.3, 0.7), (0.1, 0.9), (0.25, 0.5), (0.7, 0.95)])
@pytest.mark.parametrize("make", [TimeLaw.uniform, TimeLaw.log_uniform])
def test_a_law_that_fills_the_schedule_stays_inside_after_rounding(
    make: Any, bounds: tuple[float, float], u: float, dtype: torch.dtype
) -> None:
    """u is drawn in float32 and t is placed in the roles' precision: neither rounding may leave the schedule."""
    schedule = VariancePreserving(*bounds)
    t = make(*bounds).quantile(torch.tensor([u])).to(dtype)
    schedule.check(t)
