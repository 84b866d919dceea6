"""Exercises that check themselves: passed, not tried, or not yet with a hint that fits the kind of error.

A wrong answer is recognised by what it computes: every exercise lists typical mistakes as functions of their own, each
with its hint, and the learner's function is compared with them on the same inputs. The exercises themselves are in
`exercises/`, one module a notebook.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Answer = Callable[..., Any]
GO_ON = "The notebook continues with the reference answer."


@dataclass(frozen=True)
class Mistake:
    """A typical wrong answer and the hint for whoever gives it."""

    answer: Answer
    hint: str


def outputs(answer: Answer, *inputs: Any) -> Any:
    """What an answer returns: the usual thing to compare."""
    return answer(*inputs)


def entries(answer: Answer, *inputs: Any) -> Any:
    """What an answer returns, a vector of a few numbers taken apart: (a, b), [a, b] and tensor([a, b]) are the same."""
    value = answer(*inputs)
    return list(value) if isinstance(value, Tensor) and value.ndim == 1 and len(value) <= 3 else value


def one_tensor(value: Any) -> Tensor:
    """The value itself. Raises TypeError with a learner's sentence if it is no tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"it returned a {type(value).__name__}, and one tensor is wanted")
    return value


def gradients(value: Tensor, *leaves: Tensor) -> list[Tensor]:
    """The gradient of a value's sum in each leaf; zeros where none flows."""
    if not value.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    return [torch.zeros_like(x) if gradient is None else gradient for x, gradient in zip(leaves, found, strict=True)]


def outputs_and_gradients(answer: Answer, *inputs: Any) -> list[Tensor]:
    """An answer's value and the gradient of its sum in every floating tensor among the inputs; zeros where none flows.

    This is what tells a forgotten detach from a right answer: the values agree, the gradients do not.
    """
    inputs = tuple(
        given.requires_grad_() if isinstance(given, Tensor) and given.is_floating_point() else given for given in inputs
    )
    live = [given for given in inputs if isinstance(given, Tensor) and given.requires_grad]
    value = one_tensor(answer(*inputs))
    return [value.detach(), *gradients(value, *live)]


@dataclass(frozen=True)
class Exercise:
    """What an exercise asks for.

    Attributes:
        number: "00.1" is the first exercise of notebook 00.
        reference: a right answer; the notebook continues with it while the learner's is missing or wrong.
        inputs: argument tuples to compare on.
        mistakes: typical wrong answers; the first that computes what the learner computed gives the hint.
        observe: (answer, *inputs) -> a number, a tensor or a sequence of them: what is compared.
        tolerance: largest relative error of a right answer, in each number or tensor compared; one whose norm is below
            0.01 is measured against 0.01.
    """

    number: str
    reference: Answer
    inputs: Sequence[tuple[Any, ...]]
    mistakes: Sequence[Mistake]
    observe: Callable[..., Any] = outputs
    tolerance: float = 1e-5


class NotTriedError(Exception):
    """A stub that returned nothing."""


def normal(*shape: int, seed: int) -> Tensor:
    """Standard normals in double precision, the same at every call: inputs of an exercise."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _numbers(value: Any) -> Iterable[Tensor]:
    """A number, a tensor, or a sequence of them, as float64 tensors."""
    if isinstance(value, Tensor):
        yield value.detach().double()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield torch.tensor(float(value), dtype=torch.float64)
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _numbers(part)
    else:
        raise TypeError(f"it returned a {type(value).__name__}, and numbers or tensors are wanted")


def _observations(answer: Answer, exercise: Exercise) -> list[Tensor]:
    """What is seen of an answer on every input. Raises NotTriedError for a blank stub."""

    def tried(*inputs: Any) -> Any:
        value = answer(*inputs)
        if value is None or value is Ellipsis:
            raise NotTriedError
        return value

    seen: list[Tensor] = []
    for inputs in exercise.inputs:
        fresh = [given.clone() if isinstance(given, Tensor) else given for given in inputs]
        seen += _numbers(exercise.observe(tried, *fresh))
    return seen


def _agree(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> bool:
    if [f.shape for f in found] != [w.shape for w in wanted]:
        return False
    return all(
        bool((f - w).norm() <= tolerance * max(float(w.norm()), 0.01)) for f, w in zip(found, wanted, strict=True)
    )


def _hint(found: list[Tensor], wanted: list[Tensor], exercise: Exercise) -> str:
    for mistake in exercise.mistakes:
        if _agree(found, _observations(mistake.answer, exercise), exercise.tolerance):
            return mistake.hint
    if len(found) != len(wanted):
        return (
            f"{len(wanted) // len(exercise.inputs)} values are wanted, you return {len(found) // len(exercise.inputs)}."
        )
    for f, w in zip(found, wanted, strict=True):
        if f.shape != w.shape:
            return f"the result should have shape {tuple(w.shape)}, yours has {tuple(f.shape)}."
    if not all(bool(torch.isfinite(f).all()) for f in found):
        return (
            "some of your numbers are not finite. Look for a division by zero, or a log or root of a negative number."
        )
    return "the shape is right, the numbers are not. Compute one row by hand and compare."


def check(number: str, answer: Answer, *, strict: bool | None = None) -> Answer:
    """Say how an answer does, and return the function to go on with: the answer if it passed, else the reference.

    Args:
        strict: raise AssertionError unless passed; None takes the environment variable DISTAR_STRICT ("1" is on).

    Raises:
        KeyError: for an unknown exercise.
        AssertionError: in strict mode only.
    """
    from .exercises import EXERCISES

    if number not in EXERCISES:
        raise KeyError(f"exercise {number!r} is unknown; known are {', '.join(EXERCISES)}")
    exercise = EXERCISES[number]
    wanted = _observations(exercise.reference, exercise)
    try:
        found = _observations(answer, exercise)
        if _agree(found, wanted, exercise.tolerance):
            print(f"{number}: passed.")
            return answer
        verdict = f"not yet: {_hint(found, wanted, exercise)}"
    except NotTriedError:
        verdict = "not tried, or the `return` is missing."
    except NotImplementedError:
        verdict = "not tried."
    except Exception as error:
        verdict = f"not yet: it stopped with {type(error).__name__}: {error}."
    print(f"{number}: {verdict} {GO_ON}")
    if strict is None:
        strict = os.environ.get("DISTAR_STRICT") == "1"
    if strict:
        raise AssertionError(f"{number}: {verdict}")
    return exercise.reference
