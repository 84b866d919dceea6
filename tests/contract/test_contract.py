"""One contract for every Score, Generator and reward: what the loop relies on, whoever plays the role.

Each rule is a function of a case, so that the last section can hand it a role that breaks the rule.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distar_core import (
    LinearReward,
    MixtureScore,
    NetworkScore,
    OneStep,
    PushForward,
    QuadraticReward,
    ResidualScore,
    VarianceExploding,
    VariancePreserving,
    ring,
)
from distar_core.roles import Generator, ProxyTilt, Recomputed, Score
from distar_core.toy.maps import EqualShares, maps_of
from distar_core.toy.networks import MLP, TimeMLP
from distar_core.truth.kernel import KernelScore
from distar_core.truth.quadrature import GeneratorScore

COUNT = 3
VE, VP = VarianceExploding(), VariancePreserving()
LABELS = torch.tensor([0, 1, 1])
LINEAR = LinearReward(torch.tensor([0.7, -0.4], dtype=torch.float64))
QUADRATIC = QuadraticReward(
    torch.tensor([[-1.0, 0.3], [0.3, -0.5]], dtype=torch.float64), torch.tensor([0.2, 0.6], dtype=torch.float64)
)


@dataclass
class Case:
    """A role, what it is called with after its first input, and who else is on stage.

    Attributes:
        role: the callable under test.
        x: its differentiable first input, [B, ...].
        rest: its further inputs.
        others: callables that take the same inputs and are called in between.
        bystanders: modules on stage, none of whose parameters may get a gradient.
        result_shape: shape of the result; x's when None.
        latent: the names and shapes that a generator asks for; one "z" of x's shape when None.
        given: what the role is called with, from x.
    """

    role: Any
    x: Tensor
    rest: tuple[Any, ...]
    others: list[Callable[..., Tensor]] = field(default_factory=list)
    bystanders: list[nn.Module] = field(default_factory=list)
    result_shape: tuple[int, ...] | None = None
    latent: list[tuple[str, tuple[int, ...]]] | None = None
    given: Callable[[Tensor], Any] = lambda x: x

    def __call__(self, x: Tensor | None = None) -> Tensor:
        return self.role(self.given(self.x if x is None else x), *self.rest)


def _random(*shape: int, dtype: torch.dtype, seed: int = 3) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _mixture(dtype: torch.dtype, schedule: Any = VE, labelled: bool = True) -> MixtureScore:
    labels = torch.tensor([0, 0, 1, 1]) if labelled else None
    return MixtureScore(ring(4, labels=labels).to(dtype), schedule)


def _time_mlp(dtype: torch.dtype, seed: int = 0) -> TimeMLP:
    torch.manual_seed(seed)
    return TimeMLP(2, width=8, depth=2, labels=2).to(dtype)


def _points(role: Any, dtype: torch.dtype, *, condition: Any = LABELS) -> Case:
    x_t = 2 * _random(COUNT, 2, dtype=dtype)
    t = torch.tensor([0.3, 0.5, 0.9], dtype=dtype)
    network = NetworkScore(_time_mlp(dtype, seed=9), VE, "eps")
    others = [_mixture(dtype), lambda x_t, t, condition: network(x_t, t, None)]
    return Case(role, x_t, (t, condition), others=others, bystanders=[network])


class _FixedPoints(nn.Module):
    """A generator that gives the same points whatever its latent, so that a score made of its samples has no chance in it."""

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.points = nn.Parameter(points)

    def latent(self, draw: Any) -> Tensor:
        return draw("z", tuple(self.points.shape[1:]))

    def forward(self, z: Tensor, condition: Any) -> Tensor:
        return self.points + 0 * z.to(self.points)


def _point_score(kind: str, dtype: torch.dtype) -> Case:
    """The scores on points in the plane, by name."""
    if kind == "mixture":
        return _points(_mixture(dtype, labelled=False), dtype, condition=None)
    if kind == "mixture-labels":
        return _points(_mixture(dtype), dtype)
    if kind == "mixture-one-label":
        return _points(_mixture(dtype), dtype, condition=1)
    if kind == "mixture-tilted":
        return _points(_mixture(dtype, VP).tilted(QUADRATIC, 0.5), dtype)
    if kind.startswith("mlp"):
        _, schedule, prediction = kind.split("-")
        network = NetworkScore(_time_mlp(dtype), {"ve": VE, "vp": VP}[schedule], prediction)  # type: ignore[arg-type]
        return _points(network, dtype)
    if kind == "residual":
        return _points(ResidualScore(_mixture(dtype), _time_mlp(dtype), VE), dtype)
    if kind == "recomputed":
        return _points(Recomputed(NetworkScore(_time_mlp(dtype), VE, "eps")), dtype)
    if kind == "maps":
        generator = maps_of(ring(4), 8).to(dtype)
        case = _points(GeneratorScore(generator, VE), dtype, condition=None)
        case.bystanders.append(generator)
        return case
    if kind == "kernel":
        fixed = _FixedPoints(_random(16, 2, dtype=dtype, seed=5))
        case = _points(KernelScore(fixed, VE, 16), dtype, condition=None)
        case.bystanders.append(fixed)
        return case
    if kind == "proxy-mixture":
        return _points(ProxyTilt(_mixture(dtype), QUADRATIC, 0.5, VE), dtype)
    assert kind == "proxy-mlp"
    frozen = NetworkScore(_time_mlp(dtype), VP, "v").requires_grad_(False)
    case = _points(ProxyTilt(frozen, QUADRATIC, 0.5, VP), dtype)
    case.bystanders.append(frozen)
    return case


def _unet_case(kind: str, dtype: torch.dtype, unets: SimpleNamespace) -> Case:
    """Roles around the tiny UNet: "score-lora", "score-full", "score-lora-recomputed", "generator-lora", ..."""
    side, how, *options = kind.split("-")
    cast = unets.cast(how, dtype, random=True)
    condition = unets.prompts(COUNT, dtype)
    x = _random(COUNT, *unets.latent_shape, dtype=dtype)
    t = torch.tensor([25, 399, 970])
    if side == "score":
        role: nn.Module = cast.assistant
        others = [cast.reference, lambda x_t, t, condition: cast.generator(x_t, condition)]
        rest: tuple[Any, ...] = (t, condition)
    else:
        role = cast.generator
        others = [
            lambda z, condition, score=score: score(z, t, condition) for score in (cast.reference, cast.assistant)
        ]
        rest = (condition,)
    bystanders = [module for module in (cast.generator, cast.assistant, cast.reference) if module is not role]
    if options:
        role.network.unet.enable_gradient_checkpointing()  # type: ignore[operator, union-attr]
        role = Recomputed(role)
    return Case(role, x, rest, others=others, bystanders=bystanders)


POINT_SCORES = [
    "mixture",
    "mixture-labels",
    "mixture-one-label",
    "mixture-tilted",
    *[f"mlp-ve-{prediction}" for prediction in ("eps", "x0", "score")],
    *[f"mlp-vp-{prediction}" for prediction in ("eps", "x0", "v", "score")],
    "residual",
    "recomputed",
    "maps",
    "kernel",
    "proxy-mixture",
    "proxy-mlp",
]
UNET_SCORES = ["score-lora", "score-full", "score-lora-recomputed"]
POINT_GENERATORS = [
    "push-forward",
    "affine",
    "affine-equal-shares",
    "one-step-ve-eps",
    "one-step-vp-v",
    "one-step-recomputed",
]
UNET_GENERATORS = ["generator-lora", "generator-full", "generator-full-recomputed"]
REWARDS = ["linear", "quadratic", "quadratic-without-direction"]


def _point_generator(kind: str, dtype: torch.dtype) -> Case:
    z = _random(COUNT, 2, dtype=dtype)
    if kind.startswith("affine"):
        maps = maps_of(ring(4), 4).to(dtype)
        # every map has a sample, so that a gradient reaches each
        picker = torch.special.ndtri((torch.arange(COUNT, dtype=dtype) + 0.5) / COUNT)
        return Case(
            EqualShares(maps) if kind.endswith("shares") else maps,
            z,
            (None,),
            latent=[("component", ()), ("z", (2,))],
            given=lambda x: (picker, x),
        )
    if kind == "push-forward":
        torch.manual_seed(0)
        role: nn.Module = PushForward(MLP(2, 2, width=8, depth=2).to(dtype), (2,))
    elif kind == "one-step-vp-v":
        role = OneStep(_time_mlp(dtype), VP, "v", 0.75, (2,))
    else:
        role = OneStep(_time_mlp(dtype), VE, "eps", 2.5, (2,))
    t = torch.tensor([0.3, 0.5, 0.9], dtype=dtype)
    score = NetworkScore(_time_mlp(dtype, seed=9), VE, "eps")
    case = Case(Recomputed(role) if kind == "one-step-recomputed" else role, z, (LABELS,))
    case.others = [lambda z, condition: score(z, t, condition), lambda z, condition: role(-z, None)]
    case.bystanders = [score]
    return case


def _reward(kind: str, dtype: torch.dtype) -> Case:
    role = {"linear": LINEAR, "quadratic": QUADRATIC}.get(kind, QuadraticReward(QUADRATIC.curvature))
    return Case(role, _random(COUNT, 2, dtype=dtype), (None,), result_shape=(COUNT,))


def build(kind: str, dtype: torch.dtype, unets: SimpleNamespace) -> Case:
    if kind in POINT_SCORES:
        return _point_score(kind, dtype)
    if kind in POINT_GENERATORS:
        return _point_generator(kind, dtype)
    return _reward(kind, dtype) if kind in REWARDS else _unet_case(kind, dtype, unets)


SCORES = [*POINT_SCORES, *UNET_SCORES]
GENERATORS = [*POINT_GENERATORS, *UNET_GENERATORS]
ALL = [*SCORES, *GENERATORS, *REWARDS]


def check_shape_and_dtype(case: Case, dtype: torch.dtype) -> None:
    result = case()
    assert tuple(result.shape) == (case.result_shape or tuple(case.x.shape))
    assert result.dtype == dtype
    assert bool(result.isfinite().all())


def check_input_gradient(case: Case) -> None:
    """Directional derivatives, sample by sample, against central differences."""
    step = 1e-5
    probe = _random(*case().shape, dtype=torch.float64, seed=11)

    def value(x: Tensor) -> Tensor:
        return (probe * case(x)).reshape(len(x), -1).sum(1)

    for seed in range(3):
        direction = _random(*case.x.shape, dtype=torch.float64, seed=20 + seed)
        x = case.x.clone().requires_grad_()
        total = value(x)
        assert total.requires_grad, "the result does not depend on the input"
        (gradient,) = torch.autograd.grad(total.sum(), x)
        analytic = (gradient * direction).flatten(1).sum(1)
        with torch.no_grad():
            numeric = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
        assert float(numeric.abs().min()) > 1e-4, "a derivative near zero would compare nothing"
        torch.testing.assert_close(analytic, numeric, rtol=1e-6, atol=1e-8)


def check_samples_are_independent(case: Case) -> None:
    """The result for a sample depends on that sample's input alone."""
    x = case.x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(case(x)[0].sum(), x)
    assert float(gradient[1:].abs().max()) == 0


def _value_and_gradients(case: Case, interrupt: Callable[[], None]) -> list[Tensor]:
    x = case.x.clone().requires_grad_()
    parameters = [p for p in case.role.parameters() if p.requires_grad] if isinstance(case.role, nn.Module) else []
    result = case(x)
    interrupt()
    return [result.detach(), *torch.autograd.grad(result.square().sum(), [x, *parameters])]


def check_interleaving(case: Case) -> None:
    """Other roles that run between the forward and the backward pass, gradients included, change nothing."""

    def interrupt() -> None:
        for other in case.others:
            x = case.x.clone().requires_grad_()
            torch.autograd.grad(other(x, *case.rest).square().sum(), x)
        with torch.no_grad():
            case(case.x + 1)

    alone = _value_and_gradients(case, lambda: None)
    among_others = _value_and_gradients(case, interrupt)
    again = _value_and_gradients(case, lambda: None)
    with torch.no_grad():
        assert torch.equal(case(), alone[0]), "the value differs without a graph"
    for first, second, third in zip(alone, among_others, again, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, third)


def check_parameter_gradients(case: Case) -> None:
    """Each trainable parameter of the role gets a gradient that is not zero; no other parameter on stage gets any."""
    role = case.role if isinstance(case.role, nn.Module) else nn.Module()
    own = dict(role.named_parameters())
    result = case(case.x.clone().requires_grad_())
    result.square().sum().backward()
    for name, p in own.items():
        if p.requires_grad:
            assert p.grad is not None, f"{name} gets no gradient"
            assert float(p.grad.abs().max()) > 0, f"{name} gets a gradient of zeros"
    trainable = {id(p) for p in own.values() if p.requires_grad}
    for module in [role, *case.bystanders]:
        for name, p in module.named_parameters():
            assert id(p) in trainable or p.grad is None, f"{name} is not the role's to train but gets a gradient"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ALL)
def test_shape_and_dtype(kind: str, dtype: torch.dtype, unets: SimpleNamespace) -> None:
    check_shape_and_dtype(build(kind, dtype, unets), dtype)


@pytest.mark.parametrize("kind", ALL)
def test_gradient_at_the_input_against_finite_differences(kind: str, unets: SimpleNamespace) -> None:
    check_input_gradient(build(kind, torch.float64, unets))


@pytest.mark.parametrize("kind", ALL)
def test_samples_do_not_see_each_other(kind: str, unets: SimpleNamespace) -> None:
    check_samples_are_independent(build(kind, torch.float64, unets))


@pytest.mark.parametrize("kind", [*SCORES, *GENERATORS])
def test_interleaved_calls_change_nothing(kind: str, unets: SimpleNamespace) -> None:
    check_interleaving(build(kind, torch.float64, unets))


@pytest.mark.parametrize("kind", [*SCORES, *GENERATORS])
def test_gradients_reach_the_trainable_parameters_and_no_other(kind: str, unets: SimpleNamespace) -> None:
    case = build(kind, torch.float64, unets)
    if kind.startswith(("mlp", "residual", "recomputed", "push", "one-step", "score", "generator")):
        assert any(p.requires_grad for p in case.role.parameters())
    check_parameter_gradients(case)


@pytest.mark.parametrize("kind", ALL)
def test_condition_none_is_allowed(kind: str, unets: SimpleNamespace) -> None:
    case = build(kind, torch.float64, unets)
    *rest, condition = case.rest
    result = case.role(case.given(case.x), *rest, None)
    assert result.shape == case().shape
    assert bool(result.isfinite().all())
    depends = condition is not None and kind != "push-forward"
    assert torch.equal(result, case()) != depends, "the condition must matter exactly where there is one"


@pytest.mark.parametrize("kind", SCORES)
def test_scores_satisfy_the_protocol(kind: str, unets: SimpleNamespace) -> None:
    assert isinstance(build(kind, torch.float32, unets).role, Score)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", GENERATORS)
def test_generators_name_their_latent(kind: str, dtype: torch.dtype, unets: SimpleNamespace) -> None:
    case = build(kind, dtype, unets)
    assert isinstance(case.role, Generator)
    asked = []

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        asked.append((name, shape))
        return torch.zeros(COUNT, *shape, dtype=dtype)

    z = case.role.latent(draw)
    assert asked == (case.latent or [("z", tuple(case.x.shape[1:]))])
    assert case.role(z, *case.rest).shape == case.x.shape


class _Halved(nn.Module):
    """A network that answers in half precision, as one under autocast does."""

    def forward(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        return (0.5 * x_t).half()


@pytest.mark.parametrize("prediction", ["eps", "x0", "v", "score"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_half_precision_network_gives_at_least_float32(prediction: Any, dtype: torch.dtype) -> None:
    x = _random(COUNT, 2, dtype=dtype)
    expected = torch.promote_types(dtype, torch.float32)
    t = torch.tensor([0.3, 0.5, 0.9])
    assert NetworkScore(_Halved(), VP, prediction)(x, t, None).dtype == expected
    assert OneStep(_Halved(), VP, prediction, 0.75, (2,))(x, None).dtype == expected


def test_v_is_refused_where_it_does_not_exist() -> None:
    x = _random(COUNT, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"'v' exists only where alpha² \+ sigma² = 1.*use 'eps', 'x0' or 'score'"):
        NetworkScore(_time_mlp(torch.float64), VE, "v")(x, torch.tensor([0.3, 0.5, 0.9]), LABELS)


def test_a_mixture_is_differentiable_in_its_means() -> None:
    means = ring(4).means.double().requires_grad_()
    mixture = ring(4).to(torch.float64)
    mixture.means = means
    case = _points(MixtureScore(mixture, VE), torch.float64, condition=None)
    case().square().sum().backward()
    assert means.grad is not None
    assert float(means.grad.abs().min()) > 0


# Controls: a role that breaks a rule is caught by that rule.


class _Frozen(nn.Module):
    """Detaches its input: no gradient reaches the samples."""

    def __init__(self, role: nn.Module) -> None:
        super().__init__()
        self.role = role

    def forward(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        return self.role(x_t.detach(), t, condition) + 0.3 * x_t


class _Whitened(_Frozen):
    """Subtracts the mean of the batch: samples see each other."""

    def forward(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        return self.role(x_t - x_t.mean(0), t, condition)


class _Counting(_Frozen):
    """Remembers how often it was called."""

    calls = 0

    def forward(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        self.calls += 1
        return self.calls * self.role(x_t, t, condition)


class _Leaking(_Frozen):
    """Trains somebody else's network as well."""

    def __init__(self, role: nn.Module, foreign: nn.Module) -> None:
        super().__init__(role)
        self.foreign = [foreign]

    def forward(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
        return self.role(x_t, t, condition) + self.foreign[0](x_t, t, condition)


def _network(seed: int = 0) -> NetworkScore:
    return NetworkScore(_time_mlp(torch.float64, seed), VE, "eps")


def test_control_a_detached_input_is_caught() -> None:
    with pytest.raises(AssertionError, match="close"):
        check_input_gradient(_points(_Frozen(_network()), torch.float64))


def test_control_a_batch_statistic_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_samples_are_independent(_points(_Whitened(_network()), torch.float64))


def test_control_a_role_with_a_memory_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_interleaving(_points(_Counting(_network()), torch.float64))


def test_control_a_dead_layer_and_a_foreign_parameter_are_caught() -> None:
    torch.manual_seed(0)
    dead = NetworkScore(TimeMLP(2, width=8, depth=2, labels=2, zero_output=True).double(), VE, "eps")
    with pytest.raises(AssertionError, match="gradient of zeros"):
        check_parameter_gradients(_points(dead, torch.float64))
    foreign = _network(seed=4)
    case = _points(_Leaking(_network(), foreign), torch.float64)
    case.bystanders = [foreign]
    with pytest.raises(AssertionError, match="not the role's to train"):
        check_parameter_gradients(case)


def test_control_a_wrong_precision_is_caught() -> None:
    with pytest.raises(AssertionError):
        check_shape_and_dtype(_point_score("mlp-ve-eps", torch.float32), torch.float64)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_control_switching_adapters_on_one_network_is_caught(unets: SimpleNamespace) -> None:
    """The other way to share a base: roles that activate their own adapter in each call. It fails here."""
    from peft import LoraConfig

    unet = unets.tiny().requires_grad_(False)
    for name in ("assistant", "generator"):
        unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), adapter_name=name)
    network = unets.PromptedNetwork(unet)

    class Switching(nn.Module):
        def __init__(self, adapter: str) -> None:
            super().__init__()
            self.network, self.adapter = network, adapter

        def forward(self, x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
            self.network.unet.set_adapter(self.adapter)
            return self.network(x_t, t, condition)

    case = Case(Switching("assistant"), _random(COUNT, *unets.latent_shape, dtype=torch.float64), ())
    case.rest = (torch.tensor([25, 399, 970]), unets.prompts(COUNT))
    case.others = [Switching("generator")]
    with pytest.raises((AssertionError, RuntimeError)):
        check_interleaving(case)
    unet.set_adapter("assistant")
    result = case()
    case.others[0](case.x, *case.rest)
    # Only the adapter that is active when backward runs gets a gradient, without an error.
    result.square().sum().backward()
    of_assistant = [p.grad for name, p in unet.named_parameters() if ".assistant." in name]
    assert len(of_assistant) > 0
    assert all(gradient is None for gradient in of_assistant)
