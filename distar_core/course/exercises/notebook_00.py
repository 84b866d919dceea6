"""Exercises of notebook 00, score against KL."""

from __future__ import annotations

from typing import Any

import torch

from ..checks import Exercise, Mistake


def _gap_inputs() -> list[tuple[Any, ...]]:
    rng = torch.Generator().manual_seed(0)
    return [
        (torch.randn(5, 2, generator=rng), torch.randn(5, 2, generator=rng), sigma * torch.ones(5, 1))
        for sigma in (0.3, 1.7)
    ]


EXERCISES = (
    Exercise(
        "00.1",
        reference=lambda assistant, reference, sigma: sigma * (assistant - reference),
        inputs=_gap_inputs(),
        mistakes=(
            Mistake(
                lambda assistant, reference, sigma: sigma * (reference - assistant),
                "check the sign: the gap is the assistant's score minus the reference's.",
            ),
            Mistake(
                lambda assistant, reference, sigma: assistant - reference,
                "this is the gap in score units. For eps-units multiply by the noise level.",
            ),
            Mistake(
                lambda assistant, reference, sigma: reference - assistant,
                "check the sign, and then multiply by the noise level for eps-units.",
            ),
            Mistake(
                lambda assistant, reference, sigma: (assistant - reference) / sigma,
                "you divided by σ. A score is −ε/σ, so σ times a score is in units of the noise ε.",
            ),
            Mistake(
                lambda assistant, reference, sigma: sigma**2 * (assistant - reference),
                "this has σ², the unit of x₀. In eps-units one σ is enough.",
            ),
            Mistake(
                lambda assistant, reference, sigma: sigma * assistant - reference,
                "σ must multiply the whole difference; put brackets around it.",
            ),
            Mistake(
                lambda assistant, reference, sigma: assistant - sigma * reference,
                "σ must multiply both scores; put brackets around their difference.",
            ),
            Mistake(
                lambda assistant, reference, sigma: (sigma * (assistant - reference)).norm(dim=-1),
                "this is the length of the gap. Keep the vector: one arrow per dot.",
            ),
        ),
    ),
)
