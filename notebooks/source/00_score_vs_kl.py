# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Score against KL, the first ten minutes
#
# **In this notebook you train a generator on a reward, change one word, and see what a leash does.**
#
# > **Goals.** Say in one picture what Diff-Instruct\* does. Name its five parts: generator, reference, assistant, reward,
# > pull. Read a **frontier**, the picture of what is kept against the reward reached, with one win and one loss on it.
# >
# > **Before you start.** You have trained a small network in PyTorch. You know what a gradient is. Nothing about diffusion
# > is needed.
# >
# > **Time.** Ten minutes to read, fifteen with the exercises; the runs take less than a minute of that on one CPU core.
# > No GPU, no network.

# %% tags=["setup"]
from dataclasses import replace

import torch

from distar_core import post_train, probes
from distar_core.course import check, predict, profile, reveal
from distar_core.figures import plane
from distar_core.figures.names import label_of
from distar_core.lab import exact_assistant, read_rows
from distar_core.lab.assistant import error_by_level
from distar_core.toy import pictures, report
from distar_core.toy import ring as toy
from distar_core.toy.frontier import read_points
from distar_core.toy.records import read_runs
from distar_core.toy.summary import summarise

torch.set_num_threads(1)
settings = profile()

# %% [markdown]
# ## The world: eight clumps in the plane
#
# Think of every point of the plane as a picture. Real pictures lie in eight clumps on a ring; such a clump is called a
# **mode**. This distribution is the **reference**: it stands for a large diffusion model that we trust. Here it is a Gaussian
# mixture, so everything about it is known exactly.
#
# A **generator** turns a random vector z into a sample x₀ = g(z) in *one* step. Ours is a small network that was *distilled*
# from the reference: it learned to send each z where the slow, many-step diffusion sends it. The next cell trains it.

# %%
reference = toy.reference()
generator = toy.distilled(reference, steps=settings.distil_steps)
with torch.no_grad():
    start = generator(torch.randn(2000, 2, generator=torch.Generator().manual_seed(1)), None)

# %% [markdown]
# Then there is the **reward**: a function r(x₀) that says how much people like a sample. Ours is a smooth bump around the
# mode on the right, and never exceeds 1.

# %% tags=["figure", "hide-input"]
reward = toy.REWARDS["mode"]
panels = {"reference": reference.sample(2000, torch.Generator().manual_seed(0)), "distilled": start}
plane.clouds(
    panels,
    reference,
    reward=reward,
    alt="Samples of the reference and of the distilled generator: both cover eight clumps on a ring;"
    " the shading is darkest around the clump on the right, where the reward is high.",
)

# %% [markdown]
# Two grey rings mark each mode of the reference; the dots are samples. The shading is the reward: darker is better. The
# generator copies the reference well, but for a few dots between the modes. The reward likes one of the eight modes best.

# %% [markdown]
# ## Predict: a reward without a leash
#
# Suppose we train the generator to collect as much reward as it can, and nothing else. After a few hundred steps, where are
# the dots?
#
# - **a** on the right-hand mode, as wide as that mode is
# - **b** spread over the two or three modes nearest to the reward
# - **c** in one point
#
# Put your letter in place of the question mark, and run the cell, before you run on. It stays on this machine.

# %% tags=["predict"]
predict("00.a", "?")

# %% [markdown]
# This is all you write to train. `post_train` is the library's only training loop; you hand it a **method**, which says what
# pulls on the samples. The method's name is the word to watch. (`toy.LOOP` holds the batch size and how often the assistant,
# whom you meet below, is trained.)


# %%
def train(name, reward_scale):
    method = replace(toy.TOY_METHODS[name], reward_scale=reward_scale)
    state = toy.toy_state(generator, reference, reward, seed=0, steps=settings.steps)
    for _ in post_train(state, method, toy.no_conditions, steps=settings.steps, seed=0, **toy.LOOP):
        pass
    return state


# %% [markdown]
# `reward_scale` multiplies the reward's pull: the larger, the more the reward is worth against a leash. There is no leash yet,
# so here it hardly matters.

# %%
alone = train("reward-only", reward_scale=0.82)
at_best = (toy.sample(alone, 2000) - reference.means[0]).norm(dim=1)
reveal("00.a", f"half of the samples lie within {at_best.median():.2f} of the reward's best point")

# %% tags=["figure", "hide-input"]
plane.clouds(
    {"distilled": start, "reward-only": toy.sample(alone, 2000)},
    reference,
    reward=reward,
    alt="Left, the distilled generator on all eight modes; right, the generator after training on the reward alone:"
    " nearly every sample sits in one small spot at the top of the reward.",
)

# %% [markdown]
# All samples went to the single best point, or very near it: answer **c**. The reward is nearly perfect, and the generator
# is worthless: it draws one picture, whatever z you give it. This is **collapse**. With a reward that was learned from
# people's votes it can be worse: its best point is often a picture that nobody likes. That is **reward hacking**.

# %% [markdown]
# ## One word changed
#
# We need a leash that pulls the generator back to the reference; its technical name is **regularizer**. Diff-Instruct\* makes
# it out of **scores**. The score of a distribution is the arrow that points uphill in log-density. The reference's score is
# known. The generator's is not, so a fourth part learns it while the generator moves: the **assistant**.
#
# Both are asked at *noised samples*: a sample of the generator plus σ times Gaussian noise. The **noise level** σ decides
# what is visible: at small σ the fine shape of a mode, at large σ only how much lies where. The leash compares the
# assistant's arrow with the reference's, and makes the generator move so that the two agree. *Pseudo-Huber* names the way it
# measures the disagreement. Below, the only change is the word in quotes.

# %%
leashed = train("star", reward_scale=0.82)

# %% tags=["figure", "hide-input"]
clouds = {"reward-only": toy.sample(alone, 2000), "star": toy.sample(leashed, 2000)}
plane.clouds(
    clouds,
    reference,
    reward=reward,
    alt="Left, the collapsed generator in one spot; right, with the score-based leash: the samples crowd the mode"
    " that the reward likes and still visit the other modes, with dots between the modes.",
)

# %% [markdown]
# The dots are back. The generator prefers the right-hand mode, as the reward asks, and still visits the others, as the
# reference asks. There are more dots between the modes than before. How much is left of the reference? Three numbers:
# *reward*, the mean over the samples; *modes*, the effective number of modes in use, 8 when all are equally full, 1 when one
# has everything; *spread*, the width of the fullest mode, 0.244 for the reference. (Its modes have the deviation 0.25; spread
# leaves out what is farther than three of them from the centre.)

# %%
for name, points in ({"distilled": start} | clouds).items():
    found = summarise(points, reward(points), reference)
    print(f"{label_of(name):20s} reward {found.reward:.2f}   modes {found.modes:.1f}   spread {found.spread:.2f}")

# %% [markdown]
# The leash costs reward, about 0.6 in place of 1, and buys back almost five modes and their width.
#
# **In your browser.** [These two runs, live](docs/web/leash.html#axis=modes). Paint a reward of your own.

# %% [markdown]
# ## The picture to remember: pulls
#
# Every method in this course comes down to one arrow per sample, its **pull**. The reward pulls a sample towards more
# reward. The regularizer pulls it back. The generator follows the sum. We compare two regularizers:
#
# - The **KL leash** of Diff-Instruct++. KL, the Kullback–Leibler divergence, is a number for how far one distribution is from
#   another, 0 when they are equal. Its pull is the difference of the two scores, times a weight w. Here w = σ²/α²: loud at high
#   noise, quiet at low noise. (α multiplies the sample before the noise is added; in this notebook it is 1.)
# - The **score leash** of Diff-Instruct\*. It measures the length of that same difference, and pulls so that it shrinks.
#
# The reward scales are chosen so that both end at about the same mean reward.

# %%
kl = train("kl-x0", reward_scale=0.7)
states = {"kl-x0": (kl, 0.7), "star": (leashed, 0.82)}
clouds = {name: toy.sample(state, 2000) for name, (state, _) in states.items()}
for name, points in clouds.items():
    found = summarise(points, reward(points), reference)
    print(f"{label_of(name):20s} reward {found.reward:.2f}   modes {found.modes:.1f}   spread {found.spread:.2f}")

# %% tags=["figure", "hide-input"]
plane.clouds(
    clouds,
    reference,
    reward=reward,
    alt="Two clouds at the same mean reward. KL leash: most samples in one narrow spot beside the centre of the"
    " right-hand mode, the rest around the ring. Score leash: samples as wide as the right-hand mode and its"
    " neighbours, fewer around the rest of the ring.",
)

# %% [markdown]
# Both leashes keep several modes. Look at the right-hand mode: in the left panel (red) its samples are packed into a narrow
# spot beside the centre, in the right panel (blue) they are as wide as the mode. Both leave dots between the modes. Now the
# arrows behind the two clouds, at fourteen samples chosen far apart:

# %%
arrows = {}
for name, (state, scale) in states.items():
    dots = toy.spread_out(clouds[name][:300], 14)
    moves = probes.motion(state, replace(toy.TOY_METHODS[name], reward_scale=scale), dots)
    arrows[name] = (dots, moves["reward"], moves["regularizer"])

# %% tags=["figure", "hide-input"]
plane.pull_picture(
    arrows,
    reference,
    reward=reward,
    backgrounds=clouds,
    alt="Fourteen samples in each of two panels. KL leash: short pink arrows to the reward, turquoise ones of about"
    " equal length against them, hardly any sum. Score leash: turquoise arrows longer than the pink ones, in many"
    " directions, and long black sums.",
)

# %% [markdown]
# Pink is the reward, outlined turquoise the leash, thin black their sum, on one scale in both panels. With KL, pink and
# turquoise nearly cancel, and black is too short to see: this run has nearly come to rest. With the score leash they do not
# cancel dot by dot: black stays long and points in many directions.
#
# That is pseudo-Huber's nature. It measures a disagreement of length ℓ as √(ℓ² + c²) − c, beyond c nearly a straight line: there
# the size of ℓ hardly matters for the pull. With our constant c = 0.05, one of length 0.1 already pulls nine tenths as much as the largest. So small ones, mistakes of the assistant among them, pull almost at full
# strength, and the hold on the cloud as a whole has an upper limit. A reward that is stronger than that everywhere is not
# held at all; `distar demo` shows one.

# %% [markdown]
# ## Your line: the gap
#
# > **Exercise 00.1** · implement · difficulty 1 of 5 · importance 5 of 5 · 2 minutes
# >
# > Both leashes look at the same thing: the **gap**, the assistant's score minus the reference's at a noised sample. Every
# > score amounts to a guess ε̂ of the noise that was added: it is −ε̂/σ, so at low noise it is huge. Write the gap *in
# > eps-units*: scale it so that it is a difference of two guesses ε̂, but for the sign.


# %% tags=["exercise"]
def gap(assistant, reference, sigma):
    """Scores [B, 2] and noise levels [B, 1] -> the gap in eps-units, [B, 2]."""
    # solution
    return sigma * (assistant - reference)
    # end


# %% tags=["check"]
checked_gap = check("00.1", gap)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# What must you multiply −ε̂/σ by, so that σ is gone? Mind the order: assistant first.
#
# </details>
# <details><summary>Hint 2</summary>
#
# One subtraction in brackets, one multiplication. `sigma` has shape [B, 1], so it broadcasts over the two coordinates. The
# solution is in the folder `notebooks/solutions`.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** `return sigma * (assistant - reference)`. A score is −ε̂/σ, so σ times a difference of scores is a difference
# of ε̂'s, with the sign turned. In this unit the gap does not explode at low noise, which matters once a distance with a fixed
# constant, such as pseudo-Huber, looks at it.

# %% [markdown]
# Your line is the heart of the method. With it you can ask the question that the leash asks all the time: how far is the
# generator from the reference, seen at noise level σ? The leash has only its assistant to ask:


# %%
def seen_gap(state, sigma):
    """The gap that the assistant sees at a noise level, root mean square over noised samples."""
    x0 = toy.sample(state, 2000)
    x_t = x0 + sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    t = torch.full((len(x0),), sigma)
    with torch.no_grad():
        own, ref = state.roles.assistant.module(x_t, t, None), state.roles.reference(x_t, t, None)
    return checked_gap(own, ref, t[:, None]).square().sum(dim=1).mean().sqrt()


# %% [markdown]
# Is the assistant right? In the plane you can look behind it. Draw 400,000 samples and blur their histogram: that gives the
# generator's true score, and so the true gap.

# %%
true = [error_by_level(state) for state in (kl, leashed)]  # σ -> squares of the assistant's error and of the true gap
print("           KL: true, seen      score: true, seen")
for sigma in toy.LEVELS[:5] + toy.LEVELS[6:7]:
    row = [(run[sigma][1] ** 0.5, seen_gap(state, sigma)) for run, state in zip(true, (kl, leashed), strict=True)]
    print(f"σ = {sigma:.2f}", *(f"{gap:13.2f} {seen:6.2f}" for gap, seen in row))

# %% [markdown]
# First *true*. Up to σ = 0.72 the score run is nearer to the reference than the KL run, but not near: at low noise, where the
# fine shape is visible, its gap is 70 to 80 % of KL's. At σ = 1.95, where mostly the share of each mode is visible, it is the
# larger one.
#
# Then *seen*. At low noise the score run's assistant sees next to nothing of the gap, a ninth at σ = 0.10. It is blind there,
# and what it does not see the leash cannot mend; notebook 02 asks why. KL's assistant sees most of its gap. But its leash
# hardly listens: the weight σ²/α² is 0.01 at σ = 0.10 and almost 4 at σ = 1.95. That is how the narrow spot can stay.

# %% [markdown]
# ## Predict once more: change the word yourself
#
# > **Exercise 00.2** · predict, then explore · difficulty 2 of 5 · importance 4 of 5 · 2 minutes
# >
# > Keep KL, and give it the weight 1, equally loud at every noise level. What becomes of the narrow spot?
# >
# > - **a** it stays: that is what KL does
# > - **b** the mode gets its width back
# > - **c** it shrinks to a point

# %% tags=["predict"]
predict("00.2", "?")

# %%
points = toy.sample(train("kl-one", reward_scale=2.0), 2000)
found = summarise(points, reward(points), reference)
reveal("00.2", f"reward {found.reward:.2f}   modes {found.modes:.1f}   spread {found.spread:.2f}")

# %% [markdown]
# Answer **b**: still KL, and the width is back. The spot came from the weight: *which* levels a method listens to matters as
# much as KL or score. Try `"l2"`, the score with squared L2, with `reward_scale=0.45`, too.
#
# **In your browser.** [KL with both weights, side by side](docs/web/leash.html#left=kl-x0&left.scale=0.84&right=kl-one&right.scale=1.8&axis=spread).

# %% [markdown]
# ## Is the score leash better? One win, one loss
#
# One run proves nothing, and equal reward scales mean different things to different methods. The fair question is: **at the
# same mean reward**, what is left of the reference? The next figure is recorded: five seeds, three strengths per method, made
# by `distar demo --profile full`. Lines show where each method would come to rest, solved on a grid without any network.

# %%
rows = read_runs()

# %% tags=["figure"]
pictures.frontier(rows, read_points(), "mode")

# %% [markdown]
# Left: more reward, fewer modes, for everyone. Middle and right: KL with w = σ²/α² (red squares) leaves the others. Its KL to
# the reference (in nats, natural logarithms; both densities are blurred a little) is about twice theirs, and its spread falls towards 0 while theirs stays near the reference's (grey line).
# Black dashes are the **tilted optimum**: at each mean reward, the density with the smallest KL to the reference. The grey cross
# at mean reward 1 is the collapsed generator.
#
# Markers do not all lie on their line, and not every run reached the mean reward that it aimed for (`EXPERIMENTS.md` counts
# them, in its section `demo`); why, comes next. Two statements computed from the same runs (“mode” is this reward's name in the
# library; brackets: lowest and highest seed):

# %%
for line in report.one_win_one_loss(rows, "mode"):
    print("•", line)

# %% [markdown]
# So the answer depends on the rival. KL with w = σ²/α² squeezes the samples within a mode; the score leash does not. KL with
# w = 1 (orange triangles) hardly does, and keeps slightly more modes than the score leash. “Score beats KL” is not the lesson.
# The weight over noise levels and the distance matter as well; notebook 05 takes them apart.

# %% [markdown]
# ## The objective, or the network?
#
# Where a marker misses its line, is the theory wrong, or the network? There is a generator whose own score is a formula: 32
# affine maps of noise, each drawn with a weight that learns. It needs no assistant. `make demo` shows it come to rest close to the
# lines. So the lines are right, and what is off them was added by the network, its assistant or too few steps.
#
# Which part? Give the *network* an exact assistant as well (in the plane the score can be had from 4,096 fresh samples at
# each step), and then one that is exact at high noise and sees no gap below σ = 0.6. Pseudo-Huber, at our reward scale, five
# seeds, recorded:

# %% tags=["figure"]
rows = read_rows("exact-assistant")  # recorded: distar lab exact-assistant --profile full
exact_assistant.assistants_picture(rows)

# %% [markdown]
# The exact leash holds mass where it is: after 2,000 steps the mean reward is 0.39, where the objective rests at 0.66. What
# crosses from mode to mode passes through empty space, where, at low noise, an exact score pulls it back. Blind at low noise the
# run goes far beyond the line, to 0.89, with 2.4 modes left, the fullest wider than it should be. The learned assistant ends
# between the two, near the line, at 0.70. What it says at low noise is not the exact gradient (notebook 02), but it is not nothing
# either: with it the run keeps 4.5 modes. That it rests near the line does not show that it follows the objective.
#
# Are the many modes that a score leash shows at a given reward scale there to stay? With an exact assistant and ten times the
# steps pseudo-Huber gets from 0.39 to 0.62, and its modes fall from 7.9 to 5.6. At equal mean reward, 0.66, networks with
# an exact assistant keep about 5.2 modes with pseudo-Huber, with squared L2 and with KL, w = 1. So they are not: what looks like
# variety is a run on its way (`EXPERIMENTS.md`, section `exact-assistant`).

# %% [markdown]
# ## What you can now say
#
# 1. A one-step generator that only follows a reward forgets everything else; here it collapses to the reward's best point.
# 2. Diff-Instruct\* holds it back by comparing two scores at noised samples: the reference's, which is known, and the
#    generator's, which an assistant learns on the way.
# 3. Every method is one pull per sample, and methods are compared at equal mean reward, never at equal reward scale.
#
# ## Quiz
#
# 1. Name the four parts that are networks or functions, and the one that is an arrow.
#    <details><summary>Answer</summary>Generator, reference, assistant, reward; the arrow is the pull.</details>
# 2. Why is there an assistant at all, if the reference's score is known?
#    <details><summary>Answer</summary>The leash compares two scores. The generator's own score is not known, and changes
#    with every step; the assistant estimates it from samples.</details>
# 3. Where do the noised samples come from: the reference's data, or the generator?
#    <details><summary>Answer</summary>From the generator's samples, to which noise is added. The reference is only asked for
#    its score. That is why no training pictures are needed.</details>
# 4. Two methods are run with `reward_scale = 1`. One ends with more modes. What does that show?
#    <details><summary>Answer</summary>Nothing yet: it may simply have collected less reward. Compare at equal mean
#    reward.</details>
# 5. Why did KL with w = σ²/α² make a narrow spot, and KL with w = 1 not?
#    <details><summary>Answer</summary>The width of a mode is visible only at low noise, and there the first weight is almost
#    zero.</details>
#
# ## Exercises
#
# 00.1 the gap in one line (checked) · 00.2 another weight for KL (predict and explore)
#
# ## Where this comes from, and what next
#
# Diff-Instruct\*: arXiv 2410.20898 (the objective and Theorem 3.1). Diff-Instruct++: arXiv 2410.18881. Score Implicit
# Matching: arXiv 2410.16794. We reconstructed the equations; `tests/claims` holds them to closed forms. The weights, noise
# levels and the constant of pseudo-Huber are our defaults; we found no published values for Diff-Instruct\*.
#
# Next: notebook 01 looks at scores and noise from close by. `make demo` shows exact generators on their lines and
# networks beside them, and `distar demo --profile full` other rewards, too.
#
# Text and figures of this notebook: CC BY 4.0. Code: MIT.
