"""Half steps at fixed places: the same results and gradients as the loop's own, and nothing from the host inside them."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_leaves, tree_map_only

from distar_core.rewards.base import Normalised, WeightedSum
from distar_core.rewards.published import PUBLISHED
from distar_core.rewards.shapes import reward_on_meta
from distar_core.runs.processes import Alone
from distar_core.sdxl.loading import describe_pipeline
from distar_core.sdxl.phases import REPLAYED, phases_of
from distar_core.sdxl.post_training import conditions_of, make_state
from distar_core.sdxl.replays import Replays
from distar_core.sdxl.shapes import described_on_meta
from distar_core.training import post_train
from distar_core.world.judges import PreferenceReward, load_clip, load_judges
from distar_core.world.models import SHIPPED, load_world
from distar_core.world.recipe import WorldRecipe, training_prompts

KEYS = {"roles": "lora", "batch": 2, "prompts": 64, "steps": 2, "warmup": 1, "ema_decay": 0.9, "lr": 1e-3}
METHODS = ("diff-instruct*", "diff-instruct*-out", "didr-proxy", "reward-only")


class Again:
    """In place of a graph: calls again, and gives its results in the same tensors each time, as a graph does."""

    def __init__(self):
        self.rehearsed = self.recorded = 0

    def rehearse(self, run):
        self.rehearsed += 1
        return run()

    def record(self, run):
        self.recorded += 1
        kept = None

        def replay():
            nonlocal kept
            result = run()
            if kept is None:
                kept = tree_map_only(torch.Tensor, torch.clone, result)
            for place, value in zip(tree_leaves(kept), tree_leaves(result), strict=True):
                if isinstance(place, torch.Tensor):
                    place.copy_(value)
            return kept

        return replay


@pytest.fixture(scope="module")
def world():
    return load_world()


def run(world, *, perform=None, micro_batch=1, reward=None, **keys):
    """Records of a run and what it has learnt."""
    recipe = WorldRecipe.read(KEYS | keys)
    state = make_state(recipe, world, reward or load_judges().preference)
    if perform is not None:
        state.perform = perform
    conditions = conditions_of(recipe, world, training_prompts(recipe))
    records = list(post_train(state, recipe.method, conditions, micro_batch=micro_batch, **recipe.loop))
    learnt = [*state.roles.generator.parameters().values(), *state.roles.assistant.parameters().values()]
    return records, [*learnt, *state.roles.generator.ema.values()]


def same(found, wanted):
    records, learnt = found
    others, other_learnt = wanted
    alike = [
        torch.equal(one, other)
        for record, another in zip(records, others, strict=True)
        for one, other in zip(
            tree_leaves(record._replace(seconds=0)), tree_leaves(another._replace(seconds=0)), strict=True
        )
        if isinstance(one, torch.Tensor)
    ]
    return all(alike) and all(torch.equal(*pair) for pair in zip(learnt, other_learnt, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_is_replayed_is_the_run_to_the_last_bit(world, method):
    recorders = []

    def make():
        recorders.append(Again())
        return recorders[-1]

    replays = Replays(make)
    found, wanted = run(world, perform=replays, method=method), run(world, method=method)
    assert same(found, wanted)
    often = 1 if method == "reward-only" else 3
    assert sum(one.recorded for one in recorders) == often, "the assistant's half anew after the generator's first"


def test_full_copies_too(world):
    wanted = run(world, roles="full")
    assert same(run(world, perform=Replays(Again), roles="full"), wanted)
    assert not same(run(world, roles="full", seed=1), wanted), "control"


def test_words_are_read_anew_for_every_part_of_a_batch(world):
    preference = load_judges().preference
    first = preference.read(["a red circle"])

    class Once(type(preference)):
        def read(self, prompts):
            return first

    deaf = load_judges().preference
    deaf.__class__ = Once
    wanted = run(world)
    assert same(run(world, perform=Replays(Again)), wanted)
    assert not same(run(world, perform=Replays(Again), reward=deaf), wanted), "control: another reading is another run"


def test_a_recording_is_made_anew_for_other_shapes_and_after_a_release(world):
    made = []

    def make():
        made.append(Again())
        return made[-1]

    recipe = WorldRecipe.read(KEYS)
    state = make_state(recipe, world, load_judges().preference)
    state.perform = replays = Replays(make)
    conditions = conditions_of(recipe, world, training_prompts(recipe))

    def steps(micro_batch, until):
        list(post_train(state, recipe.method, conditions, micro_batch=micro_batch, **recipe.loop | {"steps": until}))

    def counts():
        return sum(one.rehearsed for one in made), sum(one.recorded for one in made)

    steps(1, 2)
    assert counts() == (2, 3)
    steps(1, 3)
    assert counts() == (2, 3), "what is known is replayed"
    replays.release()
    steps(1, 4)
    assert counts() == (2, 5), "and recorded anew at once"
    steps(2, 6)
    assert counts() == (4, 7)
    assert all(p.grad is None for p in state.roles.generator.parameters().values()), "gradients end with the update"


def test_both_roles_add_up_their_gradients_in_the_same_tensors(world):
    recipe = WorldRecipe.read(KEYS)
    state = make_state(recipe, world, load_judges().preference)
    state.perform = Replays(Again)
    seen = {}

    def look(name, role):
        seen[name] = [p.grad.data_ptr() for p in role.parameters().values()]

    for name, role in (("generator", state.roles.generator), ("assistant", state.roles.assistant)):
        role.optimizer.register_step_pre_hook(lambda *_, name=name, role=role: look(name, role))
    conditions = conditions_of(recipe, world, training_prompts(recipe))
    list(post_train(state, recipe.method, conditions, micro_batch=1, **recipe.loop))
    assert seen["generator"] == seen["assistant"]


def test_a_reward_that_is_not_in_two_parts_is_refused_by_name(world):
    class Redness:
        differentiable = True

        def __call__(self, *, images, prompts):
            return images[:, 0].mean((1, 2))

    with pytest.raises(TypeError, match=r"Redness.*cuda_graphs"):
        run(world, perform=Replays(Again), reward=Redness())


def test_it_is_refused_before_anything_runs_where_a_recipe_asks_for_graphs(world):
    class Redness:
        differentiable = True

        def __call__(self, *, images, prompts):
            return images[:, 0].mean((1, 2))

    recipe = WorldRecipe.read(KEYS | {"cuda_graphs": True})
    with pytest.raises(TypeError, match="Redness"):
        make_state(recipe, world, WeightedSum({"red": (1.0, Normalised(Redness(), 0.0, 1.0))}))
    make_state(recipe.replace(cuda_graphs=False), world, Redness())


class Lengths(PreferenceReward):
    """The preference, which reads besides how long prompts are: as a number, or as so many numbers."""

    as_numbers = False

    def read(self, prompts):
        length = len(prompts[0])
        return super().read(prompts), torch.zeros(length) if self.as_numbers else length

    def judge(self, images, read):
        return super().judge(images, read[0])


@pytest.mark.parametrize(("as_numbers", "error"), [(False, TypeError), (True, ValueError)])
def test_what_would_differ_from_part_to_part_is_refused(world, as_numbers, error):
    reward = load_judges().preference
    reward.__class__, reward.as_numbers = Lengths, as_numbers
    with pytest.raises(error, match="cuda_graphs"):
        run(world, perform=Replays(Again), reward=reward, batch=4)


def test_full_copies_that_processes_share_are_not_recorded(world):
    class Two(Alone):
        count = 2

    recipe = WorldRecipe.read(KEYS | {"roles": "full", "cuda_graphs": True})
    with pytest.raises(ValueError, match="cuda_graphs"):
        make_state(recipe, world, load_judges().preference, Two())


def test_on_a_cpu_steps_are_computed_as_ever(world):
    recipe = WorldRecipe.read(KEYS | {"cuda_graphs": True})
    assert not isinstance(make_state(recipe, world, load_judges().preference).perform, Replays)


def test_the_halves_of_a_replayed_step_are_its_phases(world):
    recipe = WorldRecipe.read(KEYS | {"warmup": 0})
    state = make_state(recipe, world, load_judges().preference)
    state.perform = replays = Replays(Again)
    conditions = conditions_of(recipe, world, training_prompts(recipe))
    steps = post_train(state, recipe.method, conditions, **recipe.loop)
    seen = []
    with phases_of(state, seen.append):
        next(steps)
    assert tuple(seen) == REPLAYED
    assert state.perform is replays


# Nothing from the host: what a CUDA graph can hold.


class FromTheHost(TorchDispatchMode):
    """Names the operations that take a tensor of the CPU, while halves are computed elsewhere."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [one for one in tree_iter((args, kwargs or {})) if isinstance(one, torch.Tensor)]
        if any(one.device.type == "cpu" for one in tensors):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


class OnMeta(Again):
    """Watches every half step."""

    def __init__(self, watch):
        super().__init__()
        self.watch = watch

    def rehearse(self, run):
        with self.watch:
            return run()


@pytest.fixture(scope="module")
def model():
    return described_on_meta(describe_pipeline(SHIPPED / "reference", dtype=torch.bfloat16))


@pytest.fixture(scope="module")
def small_clip():
    return load_clip(SHIPPED / "clip").to("meta")


def from_the_host(model, method, reward, **keys):
    recipe = WorldRecipe.read(
        KEYS | {"method": method, "batch": 1, "warmup": 0, "checkpoint_unets": True, "checkpoint_decoder": True} | keys
    )
    state = make_state(recipe, model, reward)
    state.schedule.coefficients(
        torch.zeros(1, dtype=torch.long, device="meta"), torch.zeros(1, device="meta")
    )  # its table
    watch = FromTheHost()
    state.perform = Replays(lambda: OnMeta(watch))
    conditions = conditions_of(recipe, model, ["a red circle"])
    list(post_train(state, recipe.method, conditions, **recipe.loop | {"steps": 1}))
    return watch.found


@pytest.mark.parametrize(
    ("method", "roles"),
    [("diff-instruct*", "lora"), ("diff-instruct*", "full"), ("diff-instruct*-out", "lora"), ("didr-proxy", "lora")],
)
def test_a_half_step_asks_the_host_for_nothing(model, small_clip, method, roles):
    """The device's tensors have no numbers, so whatever asks for some fails, too."""
    assert from_the_host(model, method, small_clip, roles=roles) == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_nor_does_a_published_reward(name):
    reward = WeightedSum({name: (0.5, Normalised(reward_on_meta(name), 0.1, 2.0))})
    read = reward.read(["a red circle"])
    images = torch.zeros(1, 3, 64, 64, device="meta", requires_grad=True)
    with FromTheHost() as watch:
        torch.autograd.grad(reward.judge(images, read).sum(), images)
    assert watch.found == []


def test_control_a_constant_that_is_brought_in_every_step_is_seen(model, small_clip):
    class Carried:
        differentiable = True
        read = staticmethod(small_clip.read)

        def judge(self, images, read):
            return small_clip.judge(images, read) * torch.tensor([2.0], device="cpu").to(images.device)

        def __call__(self, *, images, prompts):
            return self.judge(images, self.read(prompts))

    assert from_the_host(model, "reward-only", Carried()) != []


@pytest.mark.gpu
@pytest.mark.parametrize("roles", ["lora", "full"])
def test_on_a_gpu_a_recorded_run_is_the_run(roles):
    model = load_world(device="cuda")
    judge = load_judges().preference.to("cuda")
    found, wanted, other = (
        run(model, perform=perform, roles=roles, reward=judge, **keys)
        for perform, keys in ((Replays(), {}), (None, {}), (None, {"seed": 1}))
    )

    def off(one, another):
        return float(sum((a - b).norm() for a, b in zip(one[1], another[1], strict=True)))

    assert off(found, wanted) < 0.05 * off(other, wanted)
