"""Every piece of the museum shows the symptom that its docstring names, and its cure takes it away."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from distar_core.course import museum
from distar_core.toy import ring as toy
from distar_core.toy.ring import TOY_METHODS


@pytest.fixture(scope="module")
def generator():
    torch.set_num_threads(1)
    return toy.distilled(toy.reference(), steps=600)


def run(piece, generator, steps):
    return museum.exhibit(piece, generator, steps=steps, readings=10)


def test_collapse_is_likely_narrow_and_rich(generator):
    found = run(museum.collapse(), generator, 200)
    first, last = found.readings[0], found.readings[-1]
    assert last.reward > 0.95
    assert last.modes < 1.2 < 7 < first.modes
    assert last.spread < first.spread / 2
    # a point of high density is likely: the log-density alone does not see the collapse
    assert last.log_density > first.log_density
    assert found.column("leash_pull") == [0.0] * len(found.readings)


def test_collapse_has_a_leash_for_a_cure(generator):
    piece = replace(museum.collapse(), method=replace(TOY_METHODS["star"], reward_scale=0.7))
    assert run(piece, generator, 200).readings[-1].modes > 4


def test_hacked_proxy_rises_while_the_judge_turns(generator):
    piece = museum.reward_hacking()
    found = run(piece, generator, 300)
    proxy, judged = found.column("reward"), found.column("judged")
    assert all(later > earlier for earlier, later in pairwise(proxy))
    best = judged.index(max(judged))
    assert 0 < best < len(judged) - 1
    assert judged[best] > judged[0] + 0.1
    assert judged[-1] < judged[0]
    last = found.readings[-1]
    assert last.log_density < -30
    # it rests: reward and leash are equally strong
    assert last.leash_pull == pytest.approx(last.reward_pull, rel=0.1)


def test_the_hacked_proxy_is_right_near_the_data():
    piece = museum.reward_hacking()
    points = toy.reference().sample(4000, torch.Generator().manual_seed(7))
    both = torch.stack([piece.reward(points, None), piece.judge(points, None)])
    assert float(torch.corrcoef(both)[0, 1]) > 0.88


def test_hacking_has_a_lower_scale_for_a_cure(generator):
    piece = museum.reward_hacking()
    milder = replace(piece, method=replace(piece.method, reward_scale=2.0))
    judged = run(milder, generator, 300).column("judged")
    assert judged[-1] > max(judged) - 0.05
    assert judged[-1] > judged[0] + 0.15


def test_runaway_has_a_growing_gap_and_a_leash_that_does_not_grow(generator):
    found = run(museum.runaway(), generator, 150)
    middle, last = found.readings[5], found.readings[-1]
    assert last.reward > 2 * middle.reward > 1
    assert last.gap > 1.5 * middle.gap
    assert last.leash_pull < 0.5 < last.reward_pull
    assert last.log_density < -200


def test_runaway_is_held_at_a_lower_scale(generator):
    piece = museum.runaway()
    held = run(replace(piece, method=replace(piece.method, reward_scale=1.0)), generator, 150)
    assert held.readings[-1].reward < 1
    assert held.readings[-1].log_density > -10


def test_exhibits_are_deterministic_and_stop_where_told(generator):
    early, again = (museum.exhibit(museum.piece("C"), generator, steps=60, until=20, readings=4) for _ in range(2))
    assert [reading.step for reading in early.readings] == [0, 5, 10, 15, 20]
    assert torch.equal(early.readings[-1].points, again.readings[-1].points)
    whole = museum.exhibit(museum.piece("C"), generator, steps=60, readings=3)
    assert torch.equal(whole.readings[1].points, early.readings[-1].points)


def test_unknown_pieces_are_named():
    with pytest.raises(ValueError, match="A, B, C"):
        museum.piece("D")


def test_a_linear_fit_recovers_a_linear_judge():
    points = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    fit = museum.fit_linear(lambda x: 0.3 + x @ torch.tensor([1.0, -2.0]), points)
    torch.testing.assert_close(fit.constant, torch.tensor(0.3))
    torch.testing.assert_close(fit.direction, torch.tensor([1.0, -2.0]))
