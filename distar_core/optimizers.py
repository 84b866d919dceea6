"""Adam with beta_1 = 0, as this family uses it, in half of Adam's memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class AdamWithoutMomentum(torch.optim.RMSprop):
    """torch's RMSprop that takes the steps of Adam with beta_1 = 0 and keeps one number per weight instead of two.

    Both keep v ← beta2 v + (1 − beta2) g². With beta_1 = 0 Adam's update k = 1, 2, … is lr g / (√(v/c²) + eps), where
    c² = 1 − beta2ᵏ; times c above and below, that is RMSprop's lr' g / (√v + eps') with lr' = c lr and eps' = c eps (derived).

    torch computes it one tensor at a time, since all at once it would need copies as large as all weights together.

    Args:
        params: parameters or groups of them. All of a group that get a gradient have to get one in the same updates.
        lr, beta2, eps: as in Adam.

    Raises:
        ValueError: in `step`, if parameters of one group have been updated unequally often.
    """

    def __init__(self, params: Iterable[Any], lr: float, beta2: float = 0.99, eps: float = 1e-8) -> None:
        super().__init__(params, lr=lr, alpha=beta2, eps=eps, foreach=False)

    def _updates(self, group: dict[str, Any]) -> int:
        """How often the parameters of a group that have a gradient were updated."""
        learning = [p for p in group["params"] if p.grad is not None]
        counts = {int(self.state[p]["step"]) if p in self.state else 0 for p in learning}
        if len(counts) > 1:
            raise ValueError(
                f"parameters of one group have been updated {' and '.join(map(str, sorted(counts)))} times; give those that "
                "miss a gradient a group of their own"
            )
        return counts.pop() if counts else 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        stated = [(group["lr"], group["eps"]) for group in self.param_groups]
        try:
            for group in self.param_groups:
                correction = (1 - group["alpha"] ** (self._updates(group) + 1)) ** 0.5
                group["lr"], group["eps"] = correction * group["lr"], correction * group["eps"]
            super().step()
        finally:
            for group, (lr, eps) in zip(self.param_groups, stated, strict=True):
                group["lr"], group["eps"] = lr, eps
        return loss
