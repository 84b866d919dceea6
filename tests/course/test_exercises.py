"""Every exercise recognises right answers, however they are written, and gives each typical mistake its own hint."""

import runpy
from pathlib import Path

import pytest
import torch

from distar_core.course import EXERCISES, check

RIGHT, WRONG = {}, {}
for path in sorted(Path(__file__).parent.glob("answers_*.py")):
    answers = runpy.run_path(str(path))
    RIGHT |= answers["RIGHT"]
    WRONG |= answers["WRONG"]


def test_every_exercise_has_answers_and_a_notebook_has_at_most_three():
    assert set(RIGHT) == set(WRONG) == set(EXERCISES)
    notebooks = [number.split(".")[0] for number in EXERCISES]
    assert all(1 <= notebooks.count(name) <= 3 for name in notebooks)
    assert all(number == exercise.number for number, exercise in EXERCISES.items())


@pytest.mark.parametrize("number", EXERCISES)
def test_the_reference_and_differently_written_right_answers_pass(number, capsys):
    assert len(RIGHT[number]) >= 2
    for answer in (EXERCISES[number].reference, *RIGHT[number]):
        assert check(number, answer, strict=True) is answer
        assert f"{number}: passed" in capsys.readouterr().out


@pytest.mark.parametrize("number", EXERCISES)
def test_every_typical_mistake_gets_its_own_hint(number, capsys):
    exercise = EXERCISES[number]
    hints = [mistake.hint for mistake in exercise.mistakes]
    assert len(set(hints)) == len(hints) >= 3
    for mistake in exercise.mistakes:
        assert check(number, mistake.answer) is exercise.reference
        assert f"{number}: not yet: {mistake.hint}" in capsys.readouterr().out


@pytest.mark.parametrize("number", EXERCISES)
def test_wrong_answers_written_by_others_get_the_hint_that_fits(number, capsys):
    assert len(WRONG[number]) >= 3
    for answer, words in WRONG[number]:
        assert check(number, answer) is EXERCISES[number].reference
        printed = capsys.readouterr().out
        assert "not yet" in printed
        assert words in printed
        with pytest.raises(AssertionError, match="not yet"):
            check(number, answer, strict=True)
        capsys.readouterr()


def raising(*_, **__):
    raise NotImplementedError


@pytest.mark.parametrize("blank", [lambda *_, **__: None, lambda *_, **__: ..., raising])
@pytest.mark.parametrize("number", EXERCISES)
def test_a_blank_stub_says_not_tried_and_the_notebook_goes_on(number, blank, capsys):
    assert check(number, blank) is EXERCISES[number].reference
    assert "not tried" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda *_: "text", "numbers or tensors are wanted"),
        (lambda *_: True, "numbers or tensors are wanted"),
        (lambda: 1, "TypeError"),
    ],
)
@pytest.mark.parametrize("number", EXERCISES)
def test_other_answers_never_raise_for_a_learner(number, answer, words, capsys):
    assert check(number, answer) is EXERCISES[number].reference
    printed = capsys.readouterr().out
    assert "not yet" in printed
    assert words in printed or "tensor is wanted" in printed


@pytest.mark.parametrize("number", EXERCISES)
def test_checking_does_not_change_the_inputs(number, capsys):
    def vandal(*inputs):
        for given in inputs:
            if isinstance(given, torch.Tensor):
                given.detach().zero_()
        return 0.0

    before = [[g.clone() if isinstance(g, torch.Tensor) else g for g in row] for row in EXERCISES[number].inputs]
    check(number, vandal)
    for row, kept in zip(EXERCISES[number].inputs, before, strict=True):
        for now, then in zip(row, kept, strict=True):
            assert torch.equal(now, then) if isinstance(now, torch.Tensor) else now is then


def test_an_unknown_exercise_lists_the_known():
    with pytest.raises(KeyError, match=r"00\.1"):
        check("99.9", lambda: None)
