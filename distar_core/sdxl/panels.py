"""What a run shows of itself every so many steps: fixed prompts drawn before and now, what the scores see in them, and numbers.

In the run's folder, panels/step_000100.png, panels/curves.png and a line of panels/panels.jsonl. Drawing takes its noise from
seeds of its own and moves nothing, so a run with panels learns what one without them learns, to the last bit.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..evaluation.pictures import clipped_share, high_frequency_share, pixel_distance, saturation
from ..figures.picture import Picture
from ..figures.runs import picture_sheet, run_curves
from ..losses import Noised, gap
from ..probes import Clock
from ..roles import evaluate_reward
from ..runs.folders import replacing
from ..runs.processes import ALONE, Alone
from ..runs.watch import LOG, PANELS, PANELS_FILE, read_log, read_panels
from ..training import State, scores_at
from .models import TextToImage
from .phases import phases_of
from .prompts import Prompt
from .recipe import PictureRecipe
from .replays import Replays

PROMPTS, SEEDS, LEVELS = 4, 3, 4
"""How many prompts are drawn, how often each, and at how many noise levels the gap is taken."""
STARTS = {
    "assistant: samples": "assistant",
    "generator: samples": "samples",
    "scores": "scores",
    "decoder": "decoder and reward",
    "pulls": "pulls",
    "generator: backward": "backward, update",
    "assistant: replayed": "assistant",
    "generator: replayed": "generator",
}
"""The phases of a step that are told apart, by the finer phase with which each begins; fewer where a step is replayed."""
AFTERWARDS = "afterwards"
NOISE_SEED = 2**20
"""Of the noise at which the scores are shown; the pictures have seeds from 0 on."""
GAIN = 2
"""How much larger the difference of two pictures is shown, about grey."""


def fixed_prompts(prompts: Sequence[str]) -> list[str]:
    """PROMPTS of a run's prompts, evenly spaced in their list; all different."""
    known = list(dict.fromkeys(prompts))
    count = min(PROMPTS, len(known))
    return [known[place * len(known) // count] for place in range(count)]


class Panels:
    """Draws panels of a run, as its onlooker: called with the step that comes next. A context, which ends what it has begun.

    A panel is due at the start, at every `every` steps from 0 on, and at the end. One that is due and missing when a run is
    resumed is drawn then; what was drawn after the checkpoint that it is resumed from is drawn anew.

    Args:
        state: of the run, as make_state has it.
        prompts: of the run.
        processes: those that share the run; all of them draw, since each may hold a part of the roles, and the first writes.
        tensorboard: whether pictures and numbers also go there.
    """

    def __init__(
        self,
        recipe: PictureRecipe,
        model: TextToImage,
        state: State,
        prompts: Sequence[str],
        folder: Path,
        *,
        peak_gib: Callable[[], float] | None = None,
        processes: Alone = ALONE,
        tensorboard: bool = False,
    ) -> None:
        self.model, self.state, self.processes = model, state, processes
        self.method = replace(recipe.method, exact=False)  # its scores without a graph
        self.steps, self.every = recipe.steps, recipe.panels_every
        self.texts = fixed_prompts(prompts)
        self.run, self.folder = folder, folder / PANELS
        self.peak_gib, self.tensorboard = peak_gib, tensorboard
        self._clock = Clock(model.device)
        self._timing = ExitStack()
        self._prompts: Prompt | None = None
        self._first: tuple[int, Tensor] | None = None

    def __enter__(self) -> Panels:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timing.close()

    def __call__(self, step: int) -> None:
        seconds: dict[str, float] = {}
        if self._first is None:
            known = self._begin(step)
            due = step not in known and (self._due(step) or not known)
        else:
            self._timing.close()
            due = self._due(step)
            seconds = self._clock.seconds() if due else {}
        if due:
            self._draw(step, seconds)
        if step >= 0 and self._due(step + 1):
            self._take_time()

    def _due(self, step: int) -> bool:
        return step >= 0 and (step % self.every == 0 or step == self.steps)

    def _take_time(self) -> None:
        """Take the time of the next step by its phases, until the generator is moved."""
        optimizer = self.state.roles.generator.optimizer
        assert optimizer is not None

        def enter(phase: str) -> None:
            if phase in STARTS:
                self._clock.enter(STARTS[phase])

        self._timing.enter_context(phases_of(self.state, enter))
        self._timing.callback(optimizer.register_step_post_hook(lambda *_: self._clock.enter(AFTERWARDS)).remove)

    def _begin(self, step: int) -> set[int]:
        """Look at what there is of a run that goes on from a step; of one that begins, or had no panels yet, draw the start.
        Returns the steps of its panels.
        """
        kept = self.folder / "first.safetensors"
        rows = [row for row in read_panels(self.run) if row["step"] <= step]
        embedded = self.model.encoder.embed(self.texts)
        self._prompts = embedded.rows(torch.arange(len(self.texts)).repeat_interleave(SEEDS))
        found = _read_first(kept) if rows else None
        first = self._first = found or (step, _as_bytes(self._pictures(self._samples())))

        def write() -> None:
            self.folder.mkdir(exist_ok=True)
            _write_rows(self.folder, rows)
            for sheet in self.folder.glob("step_*.png"):
                if int(sheet.stem.removeprefix("step_")) > step:
                    sheet.unlink()
            with replacing(kept) as partial:
                partial.write_bytes(save({"step": torch.tensor(first[0]), "pictures": first[1].contiguous()}))

        self.processes.by_first(write)
        return {row["step"] for row in rows}

    @torch.no_grad()
    def _samples(self) -> Tensor:
        """The averaged generator's latents of all prompts and seeds, one by one."""
        generator, prompts = self.state.roles.generator, self._prompts
        assert prompts is not None
        z = self.model.noise([seed for _ in self.texts for seed in range(SEEDS)])
        rows = torch.arange(len(z)).split(1)
        return torch.cat([generator.averaged(z[row], prompts.rows(row)) for row in rows])

    @torch.no_grad()
    def _pictures(self, latents: Tensor) -> Tensor:
        """Pictures [P, S, 3, H, W] of latents, on the CPU."""
        return self.model.pictures(latents).float().cpu().unflatten(0, (len(self.texts), SEEDS))

    @torch.no_grad()
    def _scores(self, x0: Tensor, prompt: Prompt) -> tuple[dict[str, float], tuple[str, Tensor, Tensor] | None]:
        """For one sample: by noise level the gap's root mean square in units of eps, and the level in the middle with
        the x̂_0 of reference and assistant there. Empty for a method without a regularizer, whose assistant learns nothing.
        """
        if self.method.regularizer is None:
            return {}, None
        state, levels = self.state, (torch.arange(LEVELS) + 0.5) / LEVELS
        noise = self.model.noise([NOISE_SEED]).to(x0)
        gaps: dict[str, float] = {}
        seen: tuple[str, Tensor, Tensor] | None = None
        times = state.place(self.method.time_law.quantile(levels)).unique()
        for number, t in enumerate(times.split(1)):
            x_t = state.schedule.add_noise(x0, noise, t)
            noised = Noised(x0, x_t, noise, t, *state.schedule.coefficients(t, x_t))
            scores = scores_at(state.roles, self.method, noised, prompt, state.schedule)
            size = float(gap(noised, scores, "eps").square().mean().sqrt())
            name = f"{float(t):g}"
            gaps[name] = size
            if number == len(times) // 2:
                reference, assistant = (
                    state.schedule.convert(score, x_t, t, source="score", target="x0")
                    for score in (scores.reference, scores.assistant)
                )
                seen = name, reference, assistant
        return gaps, seen

    @torch.no_grad()
    def _rewards(self, latents: Tensor) -> Tensor | None:
        """The reward of the samples, [P S]; None where none takes part."""
        reward, prompts = self.state.roles.reward, self._prompts
        if reward is None or prompts is None:
            return None
        return torch.cat(
            [
                evaluate_reward(reward, latents[row : row + 1], prompts.rows(torch.tensor([row])))
                for row in range(len(latents))
            ]
        )

    def _draw(self, step: int, seconds: dict[str, float]) -> None:
        """One panel: its numbers and its pictures."""
        assert self._first is not None
        assert self._prompts is not None
        since, first = self._first
        if isinstance(self.state.perform, Replays):
            self.state.perform.release()  # what is drawn needs its room
        latents = self._samples()
        pictures = self._pictures(latents)
        flat = pictures.flatten(0, 1)
        row: dict[str, Any] = {"step": step}
        if (rewards := self._rewards(latents)) is not None:
            row |= {"reward": float(rewards.mean()), "reward_spread": float(rewards.std())}
        row |= {
            "saturation": float(saturation(flat).mean()),
            "high_frequency": float(high_frequency_share(flat).mean()),
        }
        row |= {"clipped": float(clipped_share(flat).mean()), "diversity": float(pixel_distance(pictures).mean())}
        places = [place * SEEDS for place in range(len(self.texts))]
        found = [
            self._scores(latents[place : place + 1], self._prompts.rows(torch.tensor([place]))) for place in places
        ]
        row["gap"] = {t: math.fsum(gaps[t] for gaps, _ in found) / len(found) for t in found[0][0]}
        row["seconds"] = {phase: round(value, 4) for phase, value in seconds.items() if phase != AFTERWARDS}
        if self.peak_gib is not None:
            row["peak_gib"] = round(self.peak_gib(), 3)
        columns = {f"step {since}": _as_pictures(first)[:, 0], f"step {step}": pictures[:, 0]}
        columns["another seed"] = pictures[:, 1]
        if levels := [seen for _, seen in found if seen is not None]:
            (t, *_), *clean = zip(*levels, strict=True)
            reference, assistant = (self.model.pictures(torch.cat(seen)).float().cpu() for seen in clean)
            columns |= {f"reference's x̂_0, t = {t}": reference, "assistant's x̂_0": assistant}
            columns[f"difference × {GAIN}"] = 0.5 + GAIN * (assistant - reference)
        alt = (
            f"Pictures of {len(self.texts)} prompts at step {step}, a row each: drawn at step {since} and now with the same seed, "
            "now with another, and where the assistant learns, what reference and assistant see in a noised picture, and the "
            "difference."
        )
        sheet = picture_sheet(columns, self.texts, alt=alt)

        def write() -> None:
            rows = [*read_panels(self.run), row]
            _write_rows(self.folder, rows)
            curves = run_curves(read_log(self.run) if (self.run / LOG).is_file() else [], rows)
            for name, picture in ((f"step_{step:06d}.png", sheet), ("curves.png", curves)):
                if picture is not None:
                    with replacing(self.folder / name) as partial:
                        picture.save(partial)
            if self.tensorboard:
                _to_tensorboard(self.run, row, sheet)

        self.processes.by_first(write)


def _as_bytes(pictures: Tensor) -> Tensor:
    return (pictures * 255).round().to(torch.uint8)


def _as_pictures(kept: Tensor) -> Tensor:
    return kept.float() / 255


def _read_first(path: Path) -> tuple[int, Tensor] | None:
    """The step and the pictures of a run's first panel; None if they are not there whole."""
    if not path.is_file():
        return None
    try:
        kept = load_file(path)
        return int(kept["step"]), kept["pictures"]
    except (SafetensorError, KeyError) as error:
        warnings.warn(f"{path} is damaged ({error}); the run goes on, and its panels compare with now", stacklevel=5)
        return None


def _write_rows(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    with replacing(folder / PANELS_FILE) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _to_tensorboard(run: Path, row: dict[str, Any], sheet: Picture) -> None:
    """Numbers and sheet of a panel for TensorBoard, beside the log's."""
    from torch.utils.tensorboard import SummaryWriter
    from torchvision.io import ImageReadMode, decode_image

    step = int(row["step"])
    writer = SummaryWriter(str(run / "tensorboard"), filename_suffix=".panels")
    for name, value in row.items():
        if name == "step":
            continue
        for key, number in value.items() if isinstance(value, dict) else [("", value)]:
            writer.add_scalar(f"panels/{name}{f'/{key}' if key else ''}", number, step)
    image = decode_image(torch.frombuffer(bytearray(sheet.png()), dtype=torch.uint8), ImageReadMode.RGB)
    writer.add_image("panels/sheet", image, step)
    writer.close()
