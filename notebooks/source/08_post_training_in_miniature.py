# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Post-training in miniature: the loop on a text-to-image model
#
# **In this notebook you post-train a text-to-image model: you choose the scale by looking at pulls, write the body of
# the loop, run it, and read what the reward has cost.**
#
# > **Goals.** Assemble the four roles from a genuine pipeline. Choose reward_scale by looking at the pulls first.
# > Write the generator's half of the loop, and hold it to the library. Read a run's curves, and compare methods at
# > equal reward.
# >
# > **Before you start.** Notebooks 00, 02 and 05: pull, assistant, pseudo-Huber. Helpful: 07, which takes the same
# > model apart. The packages of the extra “models”: `python -m pip install -e ".[models]"`.
# >
# > **Time.** Forty-five minutes to read, ninety with the exercises; the cells run for about two minutes of that on
# > one CPU core. No GPU, no network.

# %% tags=["setup"]
from dataclasses import replace

import torch

from distar_core import losses, probes, training
from distar_core.course import check, predict, profile, require, reveal
from distar_core.figures import charts, plane
from distar_core.figures.names import label_of
from distar_core.figures.picture import BLUE, ORANGE, RED, STYLES, Style, image_grid
from distar_core.lab import STUDIES, read_rows, where
from distar_core.lab import world as study
from distar_core.sdxl.post_training import conditions_of, make_state
from distar_core.world import evaluation, oracle, scenes
from distar_core.world.judges import load_judges, prefers_as_gold
from distar_core.world.models import load_world
from distar_core.world.recipe import WorldRecipe, training_prompts

require("models")
torch.set_num_threads(1)
settings = profile()
short = settings.name == "ci"

# %% [markdown] tags=["instructor"]
# **Board plan (100 minutes).** 10 min: the pictures, and “what would you reward?”; draw the two judges as two boxes,
# one of them locked. 10 min: the four roles on the board, with arrows for who is trained. 20 min: the pulls by noise
# level, a vote first; then the pulls as pictures. 15 min: the pencil, 08.1. 25 min: 08.2 in pairs, the run while they
# explain alpha to each other. 10 min: the three curves, a show of hands per letter. 10 min: the recorded study; end
# with 08.6 as homework.
#
# **Typical misconceptions.**
#
# 1. *“The gold preference is the reward.”* No run ever sees it: it reads pictures with an oracle and has no gradient.
#    What is climbed is the proxy, a network that was shown pairs.
# 2. *“The leash pulls towards good pictures.”* It pulls towards what the reference would draw. That the reference is
#    more faithful than the one-step generator is a property of this pair of models.
# 3. *“reward_scale 0.3 is a weak reward.”* A scale says nothing without the lengths of the two pulls, and these
#    depend on the reward's unit, the weight and the distance.
# 4. *“At equal proxy reward the ranking is the ranking.”* Runs reach the same proxy reward at different times, and
#    one of them may just have started. Ask for the whole curve, and for more than one metric.
# 5. *“LoRA makes a step cheaper.”* It saves the optimizer's memory. Every network is still run, forwards and back.

# %% [markdown]
# ## 1. The start: a model, a taste, and what stands in for the taste
#
# The **miniature world** is text-to-image without the size: pictures of one or two objects, 32 × 32 pixels, and
# captions such as “a red circle left of a blue square on a dark background”. A *pipeline* of the diffusers library
# draws them, of SDXL's own class: text encoders turn the caption into numbers, a **UNet** denoises, and a **decoder**
# makes pixels of **latents**, compressed pictures of 4 × 8 × 8 = 256 values. The noise is added to latents. This
# pipeline is our reference. A one-step generator has been distilled from it.

# %%
world, judges = load_world(), load_judges()
draws = scenes.both_groups(6)
pictures = world.draw(draws.captions, draws.seeds)
right = oracle.judge(pictures, draws.captions).all
gold = judges.gold(images=pictures, prompts=draws.captions)
proxy = judges.preference(images=pictures, prompts=draws.captions)

# %% tags=["figure", "hide-input"]
titles = [
    f"{said}{'' if good else ' (WRONG)'}: gold {g:.2f}, proxy {p:.1f}"
    for said, good, g, p in zip(draws.captions, right.tolist(), gold.tolist(), proxy.tolist(), strict=True)
]
image_grid(
    pictures,
    titles,
    width=1.6,
    alt="Twelve pictures by the one-step generator for held-out captions, six with one object and six with two; most show what"
    " the caption says, and each has its gold preference and its proxy reward above it.",
)

# %% [markdown]
# These captions are **held out**: their combinations of attributes were never trained on. An **oracle** without any
# network reads the picture and says WRONG where it lacks something that its caption states. We call the others
# **faithful**.
#
# What do we want? The **gold preference** likes bright objects, large within their size class, in a composition
# around the middle; it takes one point off where a picture is not faithful. It stands for what people really like,
# and no run ever sees it.
#
# What do we have? Pairs of pictures of one caption, and a noisy judge's word on which is better. From these a small
# network has learnt a number for each picture, so that the larger one wins: our **proxy**, which a run climbs. How
# good is it?

# %%
agrees = prefers_as_gold(judges.preference, world, 20 if short else 200, seed=1)
print(f"fresh pairs where the proxy prefers what gold prefers: {agrees.float().mean():.0%} of {len(agrees)}")
size = {"count": 4, "samples": 2} if short else {"count": 60, "samples": 4}
start = evaluation.evaluate(world.draw, judges, **size)
print(f"gold {start.gold.mean():.2f}   proxy {start.preference.mean():.2f}   faithful {start.faithful.mean():.0%}")

# %% tags=["figure", "hide-input"]
kinds = {"faithful": (start.faithful == 1, BLUE, "o"), "not faithful": (start.faithful == 0, RED, "X")}
charts.lines(
    {
        f"{len(start.gold)} pictures of the start": [
            charts.Line(name, start.preference[own], start.gold[own], style=Style(color, marker, ""))
            for name, (own, color, marker) in kinds.items()
        ]
    },
    xlabel="proxy reward",
    ylabel="gold preference",
    width=5,
    alt="A cloud of dots, gold preference against proxy reward: faithful pictures lie between 0.2 and 0.9 and rise a little with the"
    " proxy; the few unfaithful ones lie about one lower, some at a low and some at a high proxy reward.",
)

# %% [markdown]
# On pairs of one caption the proxy is right about three times in four. Over all captions it is rough, and a few
# unfaithful pictures (red) get a high reward. It has not seen what a run
# makes that climbs it. (The names proxy and gold are from Gao et al., arXiv 2210.10760.)

# %% [markdown]
# ## 2. Four roles from one pipeline
#
# The loop wants a generator, a reference, an assistant and a reward. `make_state` makes them:
#
# - **generator**: a copy of the one-step UNet. It is given unit noise z and the fixed time t = 399, as in SDXL's
#   one-step models, and its guess of the noise is turned into latents x_0.
# - **reference**: the pipeline's UNet, frozen; as in notebook 06 its score is guided, here with cfg_scale 1
#   (guidance_scale 2 in diffusers; 0 is off).
# - **assistant**: another copy of the pipeline's UNet, which learns the generator's score.
# - **reward**: the decoder, then the proxy. Its gradient comes back through both.

# %%
sizes = {"steps": 3, "batch": 4, "warmup": 2} if short else {"steps": 50, "batch": 32, "warmup": 20}
recipe = WorldRecipe.read({"method": "diff-instruct*", "prompts": 512, **sizes})
state = make_state(recipe, world, judges.preference)
conditions = conditions_of(recipe, world, training_prompts(recipe))
for key, value in recipe.written.items():
    print(f"{key}: {value}")

# %% [markdown]
# This is a **recipe**: everything that a run depends on. `huber_c` is pseudo-Huber's constant, here 0.1 times √256,
# since its norm runs over all 256 values of a latent. `conditions` hands out training captions, none held out.
#
# ### Full copies, or a LoRA
#
# A **LoRA** (arXiv 2106.09685) keeps a weight matrix W and adds a product B A of two thin ones; only A and B learn. On *tied clones*, modules over the same tensors, assistant and reference share one W:


# %%
def weights_of(roles, only_learning=False):
    """Number of weights in the three networks, each tensor counted once."""
    networks = (roles.generator.module, roles.assistant.module, roles.reference)
    tensors = [p for network in networks for p in network.parameters() if p.requires_grad or not only_learning]
    return sum({p.data_ptr(): p.numel() for p in tensors}.values())


for kind in ("full", "lora"):
    roles = make_state(recipe.replace(roles=kind), world, judges.preference).roles
    print(f"{kind}: {weights_of(roles):,} weights in memory, {weights_of(roles, only_learning=True):,} of them learn")

# %% [markdown]
# LoRA saves memory, and little work: every network is still run. Here we train full copies.

# %% [markdown]
# ## 3. The pulls, before the scale
#
# A latent has 256 axes, but a pull is still one vector per sample, with a length. First the warm-up: the assistant alone
# learns the generator as it is. With `steps` 0 the loop does just that.

# %%
warmup = list(training.post_train(state, recipe.method, conditions, **(recipe.loop | {"steps": 0})))
print(f"{len(warmup)} steps of warm-up, the next step is {state.step}")

# %% [markdown]
# Now look at one batch without moving anything: `generator_step` computes the pulls, and no optimizer is called. We
# compare Diff-Instruct\* with Diff-Instruct++ at two weights, each at a scale from short trials.


# %%
def drawn(stream, step=0):
    """The library's batch of a stream: z, noise levels, captions and noise."""
    plan = {"seed": recipe.seed, "step": step, "batch": recipe.batch, "rows": slice(0, recipe.batch)}
    return training.make_batch(state, recipe.method.time_law, conditions, stream=stream, **plan)


def lengths(method, step):
    """Noise level, and length of the two pulls on x_0, for a batch."""
    found = training.generator_step(state, method, drawn("look", step))
    alpha = state.schedule.alpha(found.t)
    norms = {term: pull.flatten(1).norm(dim=1) for term, pull in found.pulls.items()}
    return torch.stack([found.t, norms["reward"], alpha * norms["regularizer"], found.gap_norm])


# %% [markdown]
# The leash's pull is a gradient at x_t = α x_0 + σ ε; on x_0 it acts multiplied by α. In this run t runs from 20 to
# 979, σ grows with it, and α² + σ² = 1: α is no longer 1, as it was in the plane.
#
# The **gap** is how far assistant and reference disagree, here about the noise: σ (s_ψ − s_ref).
#
# > **Predict.** At which noise levels does each leash pull hardest on x_0?
# >
# > - **a** both at low noise, where fine detail shows
# > - **b** Diff-Instruct\* at low noise, Diff-Instruct++ with w = σ²/α² at high noise
# > - **c** both at high noise, where there is most to disagree about

# %% tags=["predict"]
predict("08.a", "?")

# %%
plus = WorldRecipe.read({"method": "diff-instruct++"}).method
methods = {
    "DI*, scale 0.3": recipe.method,
    "DI++, w = σ²/α², scale 3": replace(plus, reward_scale=3.0),
    "DI++, w = σ, scale 1.5": replace(plus, weight=losses.weight_sigma, reward_scale=1.5),
}
seen = {name: torch.cat([lengths(method, step) for step in range(2)], 1) for name, method in methods.items()}
told = []
for name, (t, by_reward, by_leash, _) in seen.items():
    print(f"{name:25s} reward {by_reward.mean():.2f}   leash {by_leash.mean():.2f}")
    told.append(f"{name}: {by_leash[t < 300].mean():.2f} below t = 300, {by_leash[t > 700].mean():.2f} above 700")
reveal("08.a", "the leash's pull, " + "; ".join(told))

# %% tags=["figure", "hide-input"]
looks = {
    "reward": Style(plane.ARROWS["reward"].color, "D", ""),
    "leash": Style(BLUE, "o", ""),
}
charts.lines(
    {
        name: [charts.Line(term, t, values, style=looks[term]) for term, values in zip(looks, both, strict=True)]
        for name, (t, *both, _) in seen.items()
    },
    xlabel="noise level t",
    ylabel=charts.Axis("length of the pull on x_0", log=True),
    width=3.0,
    alt="Lengths of the pulls on single samples against t, three panels on a logarithmic axis. The reward's are a flat band. The leash"
    " of Diff-Instruct* falls with t, from above 1 to below 0.1; with weight sigma squared over alpha squared it rises, from 1 to 20;"
    " with weight sigma it falls again.",
)

# %% [markdown]
# Each dot is one sample. The reward (pink) does not know t: a flat band. The leash of Diff-Instruct\* (left, blue) is
# loud at low noise and quiet at high noise. Diff-Instruct++ with w = σ²/α² (middle) is loud at high noise instead,
# and with w = σ (right) it has the slope of Diff-Instruct\*. Answer **b**, and the lesson of notebook 05 again: first
# ask how loud each level is.

# %% [markdown]
# ### How long can a leash's pull become?
#
# Let assistant and reference disagree more and more: pretend
# that the assistant's guess of the noise is off by a fixed latent, longer and longer.

# %%
batch = drawn("look")
with torch.no_grad():
    x0 = state.roles.generator.module(batch.z, batch.condition)
noised = training.noised_samples(state.schedule, x0, batch)
scores = training.scores_at(state.roles, recipe.method, noised, batch.condition, state.schedule)
stray = torch.randn(world.latent_shape, generator=torch.Generator().manual_seed(3))


def pull_if_off(loss, length):
    """Mean length of a leash's pull on x_0 when the assistant is off by `length`."""
    off = losses.Scores(scores.assistant + length * stray / stray.norm() / noised.sigma, scores.reference)
    (pull,) = torch.autograd.grad(loss(noised, off).sum(), noised.x_t, retain_graph=True)
    return float((noised.alpha * pull).flatten(1).norm(dim=1).mean())


squared = replace(recipe.method, distance=losses.SquaredL2())
leashes = {
    "star": recipe.method.loss,
    "l2": squared.loss,
    "kl-x0": lambda n, s: losses.weight_x0(n) * losses.integral_kl(n, s),
    "KL, w = σ": lambda n, s: losses.weight_sigma(n) * losses.integral_kl(n, s),
}
lengths_off = (0, 2, 5, 10, 20)
pulled = {name: [pull_if_off(loss, k) for k in lengths_off] for name, loss in leashes.items()}
print(f"{label_of('star')}: " + ", ".join(f"{value:.2f}" for value in pulled["star"]))

# %% tags=["figure", "hide-input"]
charts.lines(
    {
        "a growing disagreement": [
            charts.Line(name, lengths_off, values, style=STYLES.get(name, Style(ORANGE, "^", "-.")))
            for name, values in pulled.items()
        ]
    },
    xlabel="how far the assistant's guess is off",
    ylabel=charts.Axis("mean length of the pull on x_0", log=True),
    markers=True,
    width=5,
    alt="Mean pull of four leashes against the length by which the assistant is off, logarithmic axis: squared L2 and both KL leashes keep"
    " growing; pseudo-Huber is the lowest and flat.",
)

# %% [markdown]
# Pseudo-Huber's pull hardly grows, however large the disagreement: its limit is nearly reached at the start. The
# other three grow without end. So Diff-Instruct\* can be outpulled.
#
# ### Pulls as pictures
#
# A pull is a latent, so it can be *looked at*: move a latent along it and decode. Below, each x_0 goes straight along
# the reward's pull, first a short way, 0.5 in latent units, then 2, so that one sees where it points (a latent is
# about 15 long); and 2 along the leash's. The leash's is averaged over noise levels and noises, since the generator
# feels the average over many steps.

# %%
z, prompt = world.noise(draws.seeds), world.encoder(draws.captions)
with torch.no_grad():
    x0 = state.roles.generator.module(z, prompt)
shown = [0, 1, 4, 6, 7, 8]
at, said = x0[shown], prompt.rows(torch.tensor(shown))
moves = probes.motion(state, recipe.method, at, draws=2 if short else 24, condition=said)
unit = {term: move / move.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for term, move in moves.items()}
places = {
    "start": at,
    "reward's pull, 0.5": at + 0.5 * unit["reward"],
    "reward's pull, 2": at + 2 * unit["reward"],
    "leash's pull, 2": at + 2 * unit["regularizer"],
}
strips = {name: world.pictures(place) for name, place in places.items()}

# %% tags=["figure", "hide-input"]
image_grid(
    torch.cat(list(strips.values())),
    [draws.captions[k] for k in shown]
    + [f"along the {name}" if k == shown[0] else "" for name in list(strips)[1:] for k in shown],
    width=1.4,
    alt="Four rows of six pictures. First, the start. Second, a short way along the reward's pull: nearly the same, some reds more"
    " orange. Third, far along it: most objects lose their colour or their shape. Fourth, as far along the leash's pull: most objects"
    " keep both, a square has straighter edges, and the orange triangle that should be yellow turns yellow.",
)

# %% [markdown]
# A short way along the reward's pull little changes. Far along it, red has turned to yellow or orange, a triangle to
# blue, and shapes dissolve. As far along the leash's pull the good pictures mostly stay what they are, edges
# straighten, and the one that was wrong, the orange triangle on the right, turns to the yellow that its caption asks
# for. What does the proxy say of each row, and how long are the two pulls?

# %%
for name, row in strips.items():
    liked = judges.preference(images=row, prompts=said.words)
    print(f"proxy reward, {name:23s}" + "  ".join(f"{value:5.2f}" for value in liked.tolist()))
for term in ("reward", "regularizer"):
    norms = moves[term].flatten(1).norm(dim=1)
    print(f"length of the pull, {term:17s}" + "  ".join(f"{value:5.2f}" for value in norms.tolist()))

# %% [markdown]
# A short way along its pull the proxy rises in all six; far along, it falls in most. A pull is a promise about the
# neighbourhood: a run takes many small steps, and asks anew after each. Mind the last picture: the reward dislikes the
# leash's repair. Here the two pull against each other.
#
# At reward_scale 0.3 the two pulls are of one size. At 3 the reward's would be ten times as long, and the leash's the
# same.

# %% [markdown]
# ## 4. With a pencil: which scale does a leash hold?
#
# Reward and leash on one line, opposite each other. The leash is pseudo-Huber times a constant, its *limit*: at a gap of length g it pulls with limit · g/√(g² + c²). The reward pulls with reward_scale · u, where u is its pull at
# scale 1. They balance at some gap; the more scale, the wider that gap, and the farther the generator is from the
# reference.
#
# > **Exercise 08.1** · derive · difficulty 2 of 5 · importance 4 of 5 · 6 minutes
# >
# > You are willing to accept a gap of a given length. Which reward_scale brings the two to balance there?


# %% tags=["exercise"]
def held_scale(gap, c, limit, unit_pull):
    """Length of the gap, pseudo-Huber's c, the leash's limit, the reward's pull at scale 1 -> reward_scale."""
    # solution
    return limit * gap / (gap**2 + c**2) ** 0.5 / unit_pull
    # end


# %% tags=["check"]
checked_scale = check("08.1", held_scale)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write the balance: reward_scale · unit_pull on the left, the leash's pull on the right. Solve for reward_scale.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `gap**2 + c**2` under a root, below `limit * gap`; then divide by `unit_pull`. Try gap = 3, c = 4, limit = 1,
# unit_pull = 2: the answer is 0.3. Solutions are in `notebooks/solutions`.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** `limit * gap / (gap**2 + c**2) ** 0.5 / unit_pull`. Above limit/unit_pull no gap balances the two.

# %% [markdown]
# Put in what section 3 measured, with the limit read off its last point:

# %%
_, by_reward, _, gap = (values.mean().item() for values in seen["DI*, scale 0.3"])
unit_pull, limit = by_reward / recipe.method.reward_scale, pulled["star"][-1]
for wide in (gap / 2, gap, 2 * gap):
    print(f"gap {wide:.1f}: reward_scale {checked_scale(wide, recipe.method.distance.c, limit, unit_pull):.2f}")
print(f"single pulls: length {unit_pull:.2f} at scale 1, so nothing holds above reward_scale {limit / unit_pull:.2f}")

# %% [markdown]
# The second line is the gap at the start, before any reward. The last line is **three times too strict**: in the recorded runs
# of section 6 scale 1 comes to rest as well. (In the second half of a run its proxy rises by 0.06; at scale 3 by 0.28,
# without a leash by 0.47.) The pencil lets each sample follow its own pull. But *one* set of weights moves them all, and
# pulls in different directions cancel there. What do the reward's have in common?

# %%
looks = [training.generator_step(state, recipe.method, drawn("look", step)) for step in range(2 if short else 10)]
together = torch.cat([found.pulls["reward"] for found in looks]).mean(0).norm().item() / recipe.method.reward_scale
print(f"their mean: length {together:.2f} at scale 1, so nothing holds above reward_scale {limit / together:.2f}")

# %% [markdown]
# That is the other end, as if all samples moved alike. Expect the limit between the two: 0.3 is below both, 3 above both,
# and for 1 you have to watch the run. With KL there is no such limit: w · gap grows for ever.

# %% [markdown]
# ## 5. The loop's body, by hand
#
# One step of the loop has two halves. **The assistant's half** you wrote in notebook 02: noise the generator's
# samples and learn to denoise them. Here it is, for the world:


# %%
def assistant_half(state, batch):
    learner = state.roles.assistant
    with torch.no_grad():
        x0 = state.roles.generator.module(batch.z, batch.condition)
    noised = training.noised_samples(state.schedule, x0, batch)
    score = learner.module(noised.x_t.detach(), batch.t, batch.condition)
    loss = noised.sigma.flatten() ** 2 * losses.denoising(score, noised)
    learner.zero_grad()
    loss.mean().backward()
    learner.update(state.step)


# %% [markdown]
# **The generator's half** is yours. Compute one vector per sample, the gradient of “leash minus scale times reward”
# at x_0; it is then sent into the generator. The leash lives at x_t, the reward at x_0.
#
# > **Exercise 08.2** · implement · difficulty 3 of 5 · importance 5 of 5 · 10 minutes
# >
# > `leash` and `reward` are functions of a batch, with one value per sample. Return the gradient at x_0, per sample:
# > no mean over the batch. The caller divides.


# %% tags=["exercise"]
def sent_back(x0, noise, alpha, sigma, leash, reward, reward_scale):
    """Samples and noise [B, ...], alpha and sigma that broadcast -> the gradient at x_0, [B, ...]."""
    # solution
    x_t = (alpha * x0.detach() + sigma * noise).requires_grad_()
    x0 = x0.detach().requires_grad_()
    (pull_t,) = torch.autograd.grad(leash(x_t).sum(), x_t)
    (pull_0,) = torch.autograd.grad(-reward_scale * reward(x0).sum(), x0)
    return alpha * pull_t + pull_0
    # end


# %% tags=["check"]
checked_sent_back = check("08.2", sent_back)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Make two leaves: `x0.detach().requires_grad_()`, and x_t in the same way. One `torch.autograd.grad` each. What does
# a change of x_0 do to x_t?
#
# </details>
# <details><summary>Hint 2</summary>
#
# x_t = alpha · x_0 + sigma · noise, so a gradient at x_t arrives at x_0 multiplied by alpha. The reward enters with
# minus reward_scale, and without alpha. Sum over the batch before you differentiate.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** Two leaves, two gradients, `alpha * pull_t + pull_0`. One graph gives the same vector; the cut saves memory.

# %% [markdown]
# Around your vector, the rest of the generator's half: make x_0 and the noise, hand you leash and reward, send the
# answer back.


# %%
def generator_half(state, method, batch):
    learner = state.roles.generator
    x0 = learner.module(batch.z, batch.condition)
    noised = training.noised_samples(state.schedule, x0, batch)

    def leash(x_t):
        here = losses.Noised(x0, x_t, noised.noise, batch.t, noised.alpha, noised.sigma)
        scores = training.scores_at(state.roles, method, here, batch.condition, state.schedule)
        return method.weight(here, scores).detach() * method.loss(here, scores)

    def reward(x0):
        return state.roles.reward(x0, batch.condition)

    push = checked_sent_back(x0, noised.noise, noised.alpha, noised.sigma, leash, reward, method.reward_scale)
    learner.zero_grad()
    x0.backward(push / len(x0))
    learner.update(state.step)


# %% [markdown]
# Three steps: on one side yours, on the other `post_train`, from equal starts, with the same seed. Every number that the library draws is a function of seed, step and stream, so both get the same z,
# captions, levels and noise.

# %%
three = recipe.replace(steps=3, warmup=0)
untouched, mine, theirs = (make_state(three, world, judges.preference) for _ in range(3))
for mine.step in range(three.steps):
    assistant_half(mine, drawn("assistant/0", mine.step))
    generator_half(mine, three.method, drawn("generator", mine.step))
for _ in training.post_train(theirs, three.method, conditions, **three.loop):
    pass
for role in ("generator", "assistant"):
    networks = [getattr(side.roles, role).module for side in (untouched, mine, theirs)]
    before, own, other = (torch.cat([p.flatten() for p in network.parameters()]) for network in networks)
    moved, apart = (other - before).abs().max(), (own - other).abs().max()
    print(
        f"{role}: the steps moved a weight by up to {moved:.1e}; yours and the library's differ by at most {apart:.1e}"
    )

# %% [markdown]
# Read the second number beside the first: small means nothing where little has moved. Without alpha in front of the
# leash's pull, the generators differ by twice what the steps moved. The library adds micro-batches, averages, checkpoints and records.
#
# ### A run
#
# Now the recipe itself, from the warmed-up state of section 3. We keep every record.

# %%
records = list(training.post_train(state, recipe.method, conditions, **recipe.loop))
print(f"{len(records)} steps, {sum(record.seconds for record in records):.0f} seconds")

# %% tags=["figure"]
evaluation.before_and_after(world, judges, state.roles.generator.averaged, rows=2)

# %% [markdown]
# Objects keep their shape, grow a
# little and move a little towards the middle, and gold rises for all twelve. The orange triangle is still orange: so
# short a run did not mend it. `averaged` means the running average of the generator's weights, which is what one
# would ship. But look at the red circles of the bottom row. Their hue (0 is red, 55 yellow, training's reds lie within 10 of 0):


# %%
def hues_of_circles(generator=None):
    seen = oracle.read(world.draw(draws.captions[6:], draws.seeds[6:], generator)).scenes
    return [hue[shape == scenes.SHAPES.index("circle")].mean() for hue, shape in zip(seen.hue, seen.shape, strict=True)]


for name, drawn_by in {"before": None, "after": state.roles.generator.averaged}.items():
    print(f"{name:7s}" + "".join(f"{hue:+6.1f}" for hue in hues_of_circles(drawn_by)))

# %% [markdown]
# Five of six have moved towards orange; the fourth, from 4° to 10°, visibly. No caption asked for that, and gold does not
# look at hue. The proxy pays for it: along its pull the hue of four reds in five rises. This is the **first symptom of
# reward hacking**, in a run that gold calls a success.
#
# Measure the run, *paired*: both generators draw the same captions from the same noise, and the interval is that of the
# difference.


# %%
def drawer(state):
    return lambda captions, seeds: world.draw(captions, seeds, state.roles.generator.averaged)


evaluations = {"start": start, "DI*": evaluation.evaluate(drawer(state), judges, **size)}
for row in evaluation.table(evaluations):
    print(f"{row[0]:48s}{row[1]:24s}{row[2]:24s}{row[3] if len(row) > 3 else ''}")

# %% [markdown]
# Gold rises with the proxy, and the share of faithful pictures does not fall: the reward was held. Variety pays for
# it: where a caption leaves size and background open, their **entropy** (at most log 4 nats) falls. The distance between samples of one caption
# says less: mending wrong pictures lowers it, too.

# %% [markdown]
# > **Exercise 08.3** · explore · difficulty 2 of 5 · importance 4 of 5 · 10 minutes
# >
# > Swap the regularizer: take `squared` of section 3, the same leash with squared L2, or “DI++, w = σ, scale 1.5”.
# > Before you run, find the mean pull of its leash and that of its reward in section 3 (for `squared`, the
# > leftmost point of its line under “How long can a leash's pull become?”), and say whether it will hold,
# > and whether the reward will move at all. Then remove the two #.

# %%
my_method = squared  # or methods["DI++, w = σ, scale 1.5"], or either with replace(..., reward_scale=...)


def explore(method, **changes):
    mine = recipe.replace(**changes)
    fresh = make_state(mine, world, judges.preference)
    found = list(training.post_train(fresh, method, conditions, **mine.loop))
    print(f"{len(found)} steps, warm-up included, {sum(record.seconds for record in found):.0f} seconds")
    return fresh, found


# mine_after, _ = explore(my_method)
# print(evaluation.verdict({"start": start, "mine": evaluation.evaluate(drawer(mine_after), judges, **size)}))

# %% [markdown]
# <details><summary>What to expect</summary>
#
# With squared L2 the leash's pull at the start is several times as long as before, while the reward's is the same: it
# holds, and hardly lets the reward move. In our trial the proxy rose a third as much as with pseudo-Huber; at
# reward_scale 3 it rose as much. “DI++, w = σ, scale 1.5” raised it as much, too, which fits its pulls.
#
# </details>

# %% [markdown]
# ### Reading the curves
#
# In practice you do not have gold. You have what the loop records. Three runs of the same length: one is the run
# above, one has ten times the reward scale, and one has an assistant that cannot learn: its learning rate was set to
# 1e-9 by mistake. The letters are drawn by lot.

# %%
strong, strong_records = explore(replace(recipe.method, reward_scale=3.0))
stuck, stuck_records = explore(recipe.method, assistant_lr=1e-9)
shuffled = torch.randperm(3, generator=torch.Generator().manual_seed(0)).tolist()
kept = [records, strong_records, stuck_records]
courses = {letter: kept[k] for letter, k in zip("ABC", shuffled, strict=True)}


# %% tags=["figure", "hide-input"]
def course(letter, read, points=10):
    """A record's mean value over the run, averaged over neighbouring steps."""
    values = [float(read(record).mean()) for record in courses[letter] if record.step >= 0]
    window = max(1, len(values) // points)
    parts = [values[start : start + window] for start in range(0, len(values), window)]
    return charts.Line(letter, [window * (k + 0.5) for k in range(len(parts))], [sum(p) / len(p) for p in parts])


instruments = {
    "proxy reward of the batch": lambda record: record.reward,
    "reward's pull": lambda record: record.pull_norms["reward"],
    "leash's pull, at x_t": lambda record: record.pull_norms["regularizer"],
    "gap": lambda record: record.gap_norm,
    "assistant's loss": lambda record: record.losses["assistant"],
}
charts.lines(
    {name: [course(letter, read) for letter in courses] for name, read in instruments.items()},
    xlabel="step",
    ylabel=["reward", "length", "length", "length", "loss"],
    columns=3,
    alt="Five panels with the curves A, B and C over the steps. Proxy reward rises for all, most for C. The reward's pull is about ten times"
    " as long in C. The leash's pull is about 1 for all. The gap is smallest in A, falls in B and stays up in C. The assistant's loss climbs"
    " in A and falls in B and C.",
)

# %% [markdown]
# > **Exercise 08.4** · debug · difficulty 3 of 5 · importance 5 of 5 · 8 minutes
# >
# > Which letter is which: healthy, too strong, stuck assistant? For each, name the instrument that says so. One of
# > the three has the *smallest gap*; is that good news? Write, for example, “A healthy, B too strong, C stuck”.

# %% tags=["predict"]
predict("08.4", "?")

# %%
reveal("08.4", "A stuck assistant, B healthy, C too strong")
states = {"A": stuck, "B": state, "C": strong}
judged = {letter: evaluation.evaluate(drawer(run), judges, **size) for letter, run in states.items()}
for letter, found in ({"start": start} | judged).items():
    means = {key: getattr(found, key).mean() for key in ("preference", "gold", "faithful", "open_entropy")}
    print(f"{letter:6s}" + "".join(f"   {name} {value:.2f}" for name, value in means.items()))

# %% [markdown]
# <details><summary>Answer</summary>
#
# **C** is too strong: the reward's pull is several times the leash's, and stays there; the gap does not close. **A**
# has the stuck assistant: its loss climbs while that of the others falls, because it is still the
# reference, and the pictures move away from what that knows. Its gap is the smallest, and that is *bad* news: without learning, assistant and
# reference differ by guidance alone, whatever the generator does.  **B** is healthy: pulls of one size, a gap that
# shrinks as the leash mends the distilled generator, an assistant that keeps up.
#
# The mean of the regularizer's loss is one more instrument: with an exact assistant it is zero (notebook 04), so it
# measures staleness, not progress.
#
# </details>
#
# Proxy reward alone would choose C, then A, and put the healthy run last. The last lines, which you would not have in
# practice, hardly tell the three apart after so few steps. The instruments do: watch *both* pulls, the gap *and* the assistant's loss.

# %% [markdown]
# ## 6. Methods compared
#
# One seed and fifty steps are an anecdote. The next runs are recorded: `distar lab world --profile full`, 200 steps,
# three seeds. What we expected before they ran:

# %%
print(STUDIES["world"].prediction)

# %% [markdown]
# > **Exercise 08.5** · predict · difficulty 2 of 5 · importance 5 of 5 · 2 minutes
# >
# > With the reward only, no leash, the proxy rises from 4.4 to above 6. What does gold do on the way?
# >
# > - **a** it rises all along, more slowly than the proxy
# > - **b** it rises, turns, and falls below where it began
# > - **c** it falls from the first step

# %% tags=["predict"]
predict("08.5", "?")

# %%
rows = read_rows("world")
alone = where(rows, method="reward-only")
ways = {metric: [f"{found.mean:.2f}" for found in study.trajectory(alone, metric)] for metric in ("preference", "gold")}
reveal("08.5", "gold " + " → ".join(ways["gold"]) + " while the proxy goes " + " → ".join(ways["preference"]))

# %% [markdown]
# Answer **b**. At first what raises the proxy raises gold: the proxy was learnt on such pictures. Then the run leaves
# them. This is reward hacking, with a reward that was honestly learnt from comparisons. Now all methods:

# %% tags=["figure"]
study.STUDY.picture(rows)

# %% [markdown]
# Every curve is an arm, a method at one reward scale: the mean course of three seeds from left to right, with a marker
# at seven moments; of one colour, the larger scale ends farther right. *Inside* and *outside* are notebook 06's places of
# guidance. Bands reach from the smallest to the largest seed. Upper left: all that raise the proxy climb together at first, and part from about 5.0 on. “Reward
# only” turns down near 5.5, and so does, later, Diff-Instruct\* at scale 3. Lower left: under nearly every reward the
# entropy falls. Two arms turn back up: DIDR and Diff-Instruct++ with w = σ²/α² at scale 3; but the seeds of
# the latter differ widely.
#
# ### At equal proxy reward
#
# The scales were chosen by pilots so that arms *end* at about the same proxy reward, in two
# groups. “Reward only” is read where it passes by.

# %%
by_arm = study.by_arm(rows)
groups, targets = {}, {}
for matched, kind in zip(study.MATCHED, ("recipe's scale", "larger scale"), strict=True):
    groups[kind] = [arm for arm in by_arm if arm in matched]
    targets[kind] = sum(study.final(by_arm[arm], "preference").mean for arm in matched) / len(matched)


def marks(metric):
    """The end of every arm of both groups, and “reward only” on its way: mean over seeds, smallest, largest."""
    found = []
    for kind, arms in groups.items():
        values = {arm.label: [row[f"{metric}@100"] for row in by_arm[arm]] for arm in arms}
        values["reward only, passing by"] = [study.at_proxy(row, targets[kind], metric) for row in alone]
        found += [charts.Mark(name, sum(v) / len(v), kind, min(v), max(v)) for name, v in values.items()]
    return found


# %% tags=["figure", "hide-input"]
panels = {
    "preference": "proxy",
    "gold": "gold",
    "faithful": "faithful",
    "diversity": "diversity",
    "open_entropy": "entropy where open",
}
looks = (Style(BLUE, "o", ""), Style(ORANGE, "^", ""))
charts.dot_plot(
    [(title, marks(metric)) for metric, title in panels.items()],
    [*(arm.label for arms in groups.values() for arm in arms), "reward only, passing by"],
    dict(zip(groups, looks, strict=True)),
    columns=5,
    width=1.6,
    alt="Five panels with one row an arm, two groups of arms that end at about the same proxy reward. Among those with the recipe's scale"
    " Diff-Instruct* inside has the most gold and the most faithful pictures; among the others they lie close together, lower in"
    " faithfulness, and with hardly any entropy where captions are open.",
)

# %%
for arm, own in by_arm.items():
    ends = {metric: study.final(own, metric).mean for metric in panels}
    print(f"{arm.label:32s}" + "".join(f"  {metric} {value:.2f}" for metric, value in ends.items()))

# %% [markdown]
# *Near the recipe's scale* (blue) Diff-Instruct\* with guidance inside has the highest gold and the most faithful
# pictures, at a proxy reward slightly below the others'. Read where all pass one proxy reward on the way, it still leads. *At larger scales* (orange) the methods differ little, and w = σ²/α² is last
# in every seed: all have fewer faithful pictures than at the start, and next to no entropy left where captions are open. No arm
# that raises the reward protects variety.
#
# “Reward only, passing by” has less gold and fewer faithful pictures than every leashed arm of both groups, by
# the means. Yet its samples of one caption lie farthest apart: it came by after
# thirty to fifty steps, and the leashed arms had 200. In that entropy it does not lead. Equal reward is fairer than equal scale, and still no level field.
#
# From the list above: **SIM**, the leash alone, already raises gold: it mends pictures that distillation
# left wrong, as the last row of the pull pictures did, but not the lost variety. The reward deserves credit only above that line. **The weight**: of the two
# Diff-Instruct++ at their smaller scales, the one with w = σ, loud at low noise, ends with more gold and more
# faithful pictures than the one with w = σ²/α², at about the same proxy. The latter keeps more entropy. **DIDR** puts the reward inside the
# reference (notebook 03); “by proxy” names the one-step approximation that it needs here, not the proxy reward. It does
# not raise the reward here. We have not found out why.
#
# Of what we expected: without a leash the proxy rose furthest and gold fell; Diff-Instruct\* kept more faithful pictures
# than w = σ²/α², and at the larger scale as many as w = σ. “Every method loses variety” failed for DIDR.

# %% [markdown]
# > **Exercise 08.6** · explain · difficulty 3 of 5 · importance 4 of 5 · 6 minutes
# >
# > A colleague must ship one of these generators tomorrow, and has no gold, only the proxy and the curves. In three
# > sentences: which arm, stopped when, and what will you look at besides the proxy?
#
# <details><summary>A model answer</summary>
#
# A leashed arm whose two pulls are of one size, such as Diff-Instruct\* at 0.3, at the end of its run: its proxy
# reward is lower than that of others, but its pictures stay faithful and near the reference's, where the proxy was learnt. I
# would look at faithfulness, which can be measured without taste, and at the variety of what captions leave open,
# which no reward protects. And I would collect fresh comparisons on *its* pictures before climbing further, because
# agreement on the old ones says nothing about the new ones.
#
# </details>

# %% [markdown]
# ## What you can now say
#
# 1. A text-to-image pipeline gives all four roles: two copies of a UNet that learn, one that stays, and a decoder
#    with a judge behind it.
# 2. One batch tells a sensible reward_scale from one that nothing holds, to within a factor of a few: compare the lengths
#    of the two pulls, level by level, and ask whether the leash's has a limit.
# 3. A learnt reward is right where it was learnt; a leash keeps the generator there longer. Climbing it costs variety, leash or not.
#
# ## Quiz
#
# 1. Why has the gold preference no gradient, and why is that no handicap?
#    <details><summary>Answer</summary>It reads the picture with an oracle that decides on shapes and colours. It is for judging only: a run that climbed it would leave nothing to judge
#    it by.</details>
# 2. The reward's pull is computed at x_0, the leash's at x_t. Why is only one of them multiplied by α?
#    <details><summary>Answer</summary>x_t = α x_0 + σ ε, so a change of x_0 changes x_t by α times as much. The reward looks at x_0 itself.</details>
# 3. You multiply the proxy by 10 and forget to tell the loop. What do you see in the first batch?
#    <details><summary>Answer</summary>A reward's pull ten times as long, and a leash's pull as before. Divide reward_scale by 10.</details>
# 4. The gap is small and stays small. Name two runs that look like that.
#    <details><summary>Answer</summary>A healthy one, close to the reference; and one whose assistant has stopped learning. The assistant's loss tells them
#    apart.</details>
# 5. Where it passes by the same proxy reward, “reward only” has more diversity than a leashed run at its end. Is the
#    leash bad for diversity?
#    <details><summary>Answer</summary>Not shown: it came by after thirty to fifty steps of 200 and had lost less, not nothing; its entropy where captions are open is among the
#    lowest.</details>
#
# ## Exercises
#
# 08.1 the scale that a leash holds (derive, checked) · 08.2 the generator's half (implement, checked) · 08.3 another
# regularizer (explore) · 08.4 three curves (debug) · 08.5 gold without a leash (predict) · 08.6 what to ship
# (explain)
#
# ## Where this comes from, and what next
#
# Diff-Instruct\*: arXiv 2410.20898 (objective, Theorem 3.1, and the algorithm, which we reconstructed); its release
# trains SDXL. Diff-Instruct++: 2410.18881. Score Implicit Matching: 2410.16794. DIDR: 2605.24001; the one-step proxy
# is ours. SDXL: 2307.01952. LoRA: 2106.09685. Rewards from comparisons: Bradley and Terry (1952). The weights, scales
# and c are our defaults for this world; a finding here is a finding about this world, not about SDXL.
#
# Next: `distar train world FOLDER` runs a recipe with checkpoints, `distar lab world-cross` sets reward scale against
# guidance scale, and `notebooks/EXPERIMENTS.md` has the recorded runs.
#
# Text and figures of this notebook: CC BY 4.0. Code: MIT.
