"""Exercises that check themselves: passed, not tried, or not yet with a hint that fits the kind of error.

A wrong answer is recognised by what it computes: every exercise lists typical mistakes as functions of their own, each
with its hint, and the learner's function is compared with them on the same inputs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Answer = Callable[..., Any]


@dataclass(frozen=True)
class Mistake:
    """A typical wrong answer and the hint for whoever gives it."""

    answer: Answer
    hint: str


@dataclass(frozen=True)
class Exercise:
    """What an exercise asks for.

    Attributes:
        number: "00.1" is the first exercise of notebook 00.
        reference: a right answer; the notebook goes on with it while the learner's is missing or wrong.
        inputs: argument tuples to compare on.
        mistakes: typical wrong answers; the first that computes what the learner computed gives the hint.
        tolerance: largest relative error of a right answer.
    """

    number: str
    reference: Answer
    inputs: Sequence[tuple[Any, ...]]
    mistakes: Sequence[Mistake]
    tolerance: float = 1e-5


def _values(answer: Answer, exercise: Exercise) -> list[Tensor] | None:
    """What an answer computes on every input; None for a blank stub."""
    values = []
    for inputs in exercise.inputs:
        value = answer(*(given.clone() if isinstance(given, Tensor) else given for given in inputs))
        if value is None or value is Ellipsis:
            return None
        if not isinstance(value, Tensor):
            raise TypeError(f"it returned a {type(value).__name__}, and one tensor is wanted")
        values.append(value.double())
    return values


def _agree(found: list[Tensor], wanted: list[Tensor] | None, tolerance: float) -> bool:
    if wanted is None or any(f.shape != w.shape for f, w in zip(found, wanted, strict=True)):
        return False
    return all(bool((f - w).norm() <= tolerance * w.norm()) for f, w in zip(found, wanted, strict=True))


def _hint(found: list[Tensor], wanted: list[Tensor], exercise: Exercise) -> str:
    for mistake in exercise.mistakes:
        if _agree(found, _values(mistake.answer, exercise), exercise.tolerance):
            return mistake.hint
    for f, w in zip(found, wanted, strict=True):
        if f.shape != w.shape:
            return f"the result should have shape {tuple(w.shape)}, yours has {tuple(f.shape)}."
    return "the shape is right, the numbers are not. Compute one row by hand and compare."


def check(number: str, answer: Answer, *, strict: bool | None = None) -> Answer:
    """Say how an answer does, and return the function to go on with: the answer if it passed, else the reference.

    Args:
        strict: raise AssertionError unless passed; None takes the environment variable DISTAR_STRICT ("1" is on).

    Raises:
        KeyError: for an unknown exercise.
        AssertionError: in strict mode only.
    """
    if number not in EXERCISES:
        raise KeyError(f"exercise {number!r} is unknown; known are {', '.join(EXERCISES)}")
    exercise = EXERCISES[number]
    wanted = _values(exercise.reference, exercise)
    assert wanted is not None
    try:
        found = _values(answer, exercise)
        if found is None:
            verdict = "not tried, or the `return` is missing. The notebook goes on with the reference answer."
        elif _agree(found, wanted, exercise.tolerance):
            print(f"{number}: passed.")
            return answer
        else:
            verdict = f"not yet: {_hint(found, wanted, exercise)} The notebook goes on with the reference answer."
    except NotImplementedError:
        verdict = "not tried. The notebook goes on with the reference answer."
    except Exception as error:
        verdict = f"not yet: it stopped with {type(error).__name__}: {error}. The notebook goes on with the reference."
    print(f"{number}: {verdict}")
    if strict if strict is not None else os.environ.get("DISTAR_STRICT") == "1":
        raise AssertionError(f"{number}: {verdict}")
    return exercise.reference


def _gap_inputs() -> list[tuple[Any, ...]]:
    rng = torch.Generator().manual_seed(0)
    return [
        (torch.randn(5, 2, generator=rng), torch.randn(5, 2, generator=rng), sigma * torch.ones(5, 1))
        for sigma in (0.3, 1.7)
    ]


EXERCISES = {
    exercise.number: exercise
    for exercise in (
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
}
