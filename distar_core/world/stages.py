"""What the stages of the world's build share: seconds, averages, and a loop that stops and resumes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..roles import Roles, Trainable
from ..runs.folders import require_writable
from ..runs.progress import Progress, Tell
from ..runs.run import CHECKPOINT, load_checkpoint, save_checkpoint
from ..runs.signals import Interrupted, stop_requests
from ..schedule import VariancePreserving
from ..training import State


def nothing(x_t: Tensor, t: Tensor, condition: Any) -> Tensor:
    """In a reference's place where a stage has none."""
    raise NotImplementedError("this stage has no reference")


class Seconds:
    """Adds up the seconds that a stage has worked, over interruptions, in a file of its folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "seconds.txt"
        self.total = float(self.path.read_text()) if self.path.exists() else 0.0
        self.since = time.perf_counter()

    def __enter__(self) -> Seconds:
        return self

    def tick(self) -> None:
        now = time.perf_counter()
        self.total, self.since = self.total + now - self.since, now

    def __exit__(self, *_: object) -> None:
        self.path.write_text(f"{self.total:.1f}\n")


def fit(
    folder: Path,
    learner: Trainable,
    loss_at: Callable[[int], Tensor],
    steps: int,
    stage: str,
    settings: Mapping[str, Any],
    tell: Tell,
) -> None:
    """Minimise a loss over steps 0 … steps − 1, with checkpoints; the learner ends with its averaged parameters.

    Args:
        folder: holds the checkpoint; a run that is there is resumed.
        loss_at: the loss of a step, a function of the step alone and the learner's parameters.
        settings: what the result depends on besides; compared when a run is resumed.

    Raises:
        Interrupted: at Ctrl-C or SIGTERM, with a checkpoint written.
        ValueError: if the folder holds a run with other settings.
    """
    require_writable(folder)
    # negative steps, as a warm-up has: the learner is in the generator's place, nobody moves against it, no noise is added
    state = State(Roles(learner, nothing, Trainable(nn.Module())), VariancePreserving(), step=-steps)
    config = {"stage": stage, "steps": steps, **settings}
    if (folder / CHECKPOINT).exists():
        load_checkpoint(state, folder, config)
    assert state.step is not None
    with Seconds(folder) as clock, stop_requests() as stops:
        while state.step < 0:
            learner.zero_grad()
            loss = loss_at(state.step + steps)
            loss.backward()
            learner.update(state.step)
            state.step += 1
            clock.tick()
            tell(Progress(stage, steps + state.step, steps, f"loss {loss.item():.4g}"))
            if stops or state.step % 200 == 0:
                save_checkpoint(state, folder, config)
            if stops:
                raise Interrupted(stops[0], f"after step {steps + state.step - 1} of the {stage}")
    learner.load_ema()
