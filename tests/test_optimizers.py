"""Adam with beta_1 = 0 from RMSprop: equal to torch's own Adam, in half of its memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distar_core import METHODS, post_train
from distar_core.optimizers import AdamWithoutMomentum
from distar_core.rates import cosine_decay
from distar_core.runs.run import load_checkpoint, save_checkpoint

UPDATES = 40


def start() -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=rng, dtype=torch.float64)) for shape in ((3, 4), (5,))]


def climbed(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> Tensor:
    """Where 40 updates with the same gradients, of sizes from 1e-9 to 1, end, at a rate that falls."""
    parameters, rng, rate = start(), torch.Generator().manual_seed(1), cosine_decay(1e-2, UPDATES)
    optimizer = make(parameters)
    for step in range(UPDATES):
        optimizer.param_groups[0]["lr"] = rate(step)
        for p in parameters:
            sizes = 10 ** (-9 * torch.rand(p.shape, generator=rng, dtype=p.dtype))
            p.grad = sizes * torch.randn(p.shape, generator=rng, dtype=p.dtype)
        optimizer.step()
    return torch.cat([p.detach().flatten() for p in parameters])


def distance(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], eps: float) -> float:
    """How far it ends from torch's Adam, of the way that Adam went."""
    wanted = climbed(lambda ps: torch.optim.Adam(ps, lr=1.0, betas=(0.0, 0.99), eps=eps))
    begin = torch.cat([p.detach().flatten() for p in start()])
    return float((climbed(make) - wanted).norm() / (wanted - begin).norm())


@pytest.mark.parametrize("eps", [1e-30, 1e-8, 1e-3, 1.0])
def test_its_steps_are_adams_whatever_eps_is(eps: float) -> None:
    assert distance(lambda ps: AdamWithoutMomentum(ps, lr=1.0, beta2=0.99, eps=eps), eps) < 1e-13


def test_control_plain_rmsprop_and_a_correction_of_the_rate_alone_end_elsewhere() -> None:
    assert distance(lambda ps: torch.optim.RMSprop(ps, lr=1.0, alpha=0.99, eps=1e-8), 1e-8) > 0.1

    class RateAlone(AdamWithoutMomentum):
        def step(self, closure: Any = None) -> Any:
            group = self.param_groups[0]
            group["eps"] = 1e-3 / (1 - 0.99 ** (self._updates(group) + 1)) ** 0.5
            return super().step(closure)

    assert distance(lambda ps: RateAlone(ps, lr=1.0, eps=1e-3), 1e-3) > 1e-2


def test_it_keeps_one_number_per_weight_and_states_what_it_was_given() -> None:
    parameters = start()
    for make, numbers in (
        (lambda: AdamWithoutMomentum(parameters, lr=0.1, eps=1e-6), 1),
        (lambda: torch.optim.Adam(parameters, lr=0.1, betas=(0.0, 0.99)), 2),
    ):
        optimizer = make()
        for p in parameters:
            p.grad = torch.ones_like(p)
        optimizer.step()
        held = sum(slot.numel() for slots in optimizer.state.values() for slot in slots.values() if slot.dim())
        assert held == numbers * sum(p.numel() for p in parameters)
    group = AdamWithoutMomentum(parameters, lr=0.1, eps=1e-6).param_groups[0]
    assert (group["lr"], group["eps"], group["alpha"]) == (0.1, 1e-6, 0.99)
    optimizer = AdamWithoutMomentum(parameters, lr=0.1, eps=1e-6)
    assert optimizer.step(lambda: parameters[0].sum()) is not None
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["eps"]) == (0.1, 1e-6)


def test_parameters_that_were_updated_unequally_often_are_refused() -> None:
    first, second = start()
    optimizer = AdamWithoutMomentum([first, second], lr=0.1)
    first.grad = torch.ones_like(first)
    optimizer.step()
    second.grad = torch.ones_like(second)
    with pytest.raises(ValueError, match="0 and 1"):
        optimizer.step()
    groups = AdamWithoutMomentum([{"params": [first]}, {"params": [second]}], lr=0.1)
    second.grad = None
    groups.step()
    second.grad = torch.ones_like(second)
    groups.step()


def test_a_resumed_run_goes_on_to_the_last_bit(toy: SimpleNamespace, tmp_path: Path) -> None:
    def fresh() -> Any:
        return toy.state(optimizer=lambda module: AdamWithoutMomentum(module.parameters(), lr=1e-2))

    def run(state: Any, steps: int) -> None:
        list(post_train(state, METHODS["sim"], toy.conditions, steps=steps, seed=0, batch=8))

    def weights(state: Any) -> Tensor:
        return torch.cat([p.detach().flatten() for p in state.roles.generator.module.parameters()])

    whole, first, second = fresh(), fresh(), fresh()
    run(whole, 4)
    run(first, 2)
    save_checkpoint(first, tmp_path, {})
    load_checkpoint(second, tmp_path, {})
    run(second, 4)
    assert torch.equal(weights(whole), weights(second))
    assert not torch.equal(weights(first), weights(second))
