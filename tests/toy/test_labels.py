"""The labelled world: its reference, its conditional generator, its metrics."""

import torch

from distar_core import probes
from distar_core.toy import ring as toy
from distar_core.toy.labels import (
    REWARD,
    draw,
    guided_method,
    labelled_reference,
    labels_for,
    over_labels,
    summarise_label,
    summarise_labels,
)
from distar_core.training import post_train


def test_the_labels_point_right_up_left_and_down():
    mixture = labelled_reference()
    directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    for label, direction in enumerate(directions):
        centre = mixture.means[mixture.labels == label].mean(0)
        torch.testing.assert_close(centre / centre.norm(), direction, atol=1e-6, rtol=0)


def test_the_reference_measured_against_itself():
    mixture = labelled_reference()
    condition = labels_for(20_000, mixture)
    points = draw(mixture, condition, torch.Generator().manual_seed(0))
    found = over_labels(summarise_labels(points, condition, mixture, REWARD))
    assert abs(found.label - 0.907) < 0.01
    assert abs(found.spread - 0.733) < 0.01
    assert abs(found.modes - 2) < 0.01
    assert abs(found.reward) < 0.02
    assert found.kl < 0.02
    assert found.off_support < 0.01


def test_samples_of_another_label_are_noticed():
    mixture = labelled_reference()
    left = mixture.given(2).sample(2000, torch.Generator().manual_seed(0))
    found = summarise_label(left, 0, mixture, REWARD)
    assert found.label < 0.01
    assert found.modes == 0
    assert found.kl > 5


def test_distilling_a_labelled_mixture_gives_a_conditional_generator():
    mixture = labelled_reference()
    generator = toy.distilled(mixture, steps=300)
    condition = labels_for(2000, mixture)
    with torch.no_grad():
        points = generator(torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)), condition)
    assert over_labels(summarise_labels(points, condition, mixture, REWARD)).label > 0.75


def test_labels_come_in_turn_and_a_mixture_without_labels_has_no_conditions():
    mixture = labelled_reference()
    assert toy.labels_in_turn(mixture)(3, slice(2, 7)).tolist() == [2, 3, 0, 1, 2]
    assert toy.labels_in_turn(toy.reference())(3, slice(2, 7)) is None
    assert (toy.label_count(mixture), toy.label_count(toy.reference())) == (4, 0)


def test_a_labelled_run_moves_and_its_motion_has_a_term_for_guidance_outside():
    mixture = labelled_reference()
    generator = toy.new_generator(mixture)
    state = toy.toy_state(generator, mixture, REWARD, seed=0, steps=2)
    method = guided_method("outside", 1.0, 2.0)
    before = toy.sample(state, 8, condition=labels_for(8, mixture))
    for record in post_train(state, method, toy.labels_in_turn(mixture), steps=2, seed=0, batch=16):
        assert set(record.pull_norms) == {"regularizer", "cfg", "reward"}
    assert not torch.equal(before, toy.sample(state, 8, condition=labels_for(8, mixture)))
    moves = probes.motion(state, method, before, draws=16, condition=labels_for(8, mixture))
    assert {name: move.shape for name, move in moves.items()} == dict.fromkeys(("regularizer", "cfg", "reward"), (8, 2))
