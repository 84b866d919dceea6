# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Goodhart's law and evaluation: is the gain real?
#
# **In this notebook you learn a reward from votes, watch an optimiser turn it against the pictures, and decide which
# gains you would sign for.**
#
# > **Goals.** Fit a Bradley–Terry reward to comparisons. Measure a proxy against the gold preference while it is climbed. Say
# > with an interval whether a gain is real. Write a model card.
# >
# > **Before you start.** Notebook 00. Helpful: 03 (the tilted optimum, reward hacking). Mean, standard deviation, correlation.
# > The world's models need `pip install -e ".[models]"`, once.
# >
# > **Time.** Forty-five minutes to read, ninety with the exercises; the cells run for about a minute of that on one CPU
# > core. No GPU, no network. Numbers in the words are those of the profile “fast”.

# %% tags=["setup"]
import math

import torch

from distar_core import post_train
from distar_core.course import check, predict, profile, require, reveal
from distar_core.evaluation.statistics import Interval, best_of, paired_interval
from distar_core.figures import charts
from distar_core.figures.picture import BLUE, ORANGE, Style, image_grid
from distar_core.lab import STUDIES, read_rows
from distar_core.lab import world as study
from distar_core.sdxl.post_training import conditions_of, make_state
from distar_core.world.evaluation import evaluate, table, verdict
from distar_core.world.judges import NOISE, load_judges, taste_terms
from distar_core.world.models import SHIPPED, load_world
from distar_core.world.oracle import compare, judge, read
from distar_core.world.recipe import WorldRecipe, training_prompts
from distar_core.world.scenes import both_groups, read_caption, training_scenes

require("models")
torch.set_num_threads(1)
quick = profile().name == "ci"

# %% [markdown] tags=["instructor"]
# **Board plan (90 minutes).** 10 min: the sheet of one caption, best to worst; let the class guess what gold likes. 15
# min: Bradley–Terry on the board, exercise 09.1. 15 min: the pencil: a proxy that is right at first. 25 min: best of n
# and the run, each after a vote of the class; the hacked pictures. 15 min: paired or unpaired, exercise 09.4, the
# colleague's lucky seeds. 10 min: model cards in pairs: each reads the other's and names one thing that it hides.
#
# **Typical misconceptions.**
#
# 1. *“The reward is trained on human votes, so maximising it maximises what people like.”* It is right where votes were
#    cast. An optimiser leaves that place; section 4 shows both halves.
# 2. *“More comparisons cure hacking.”* They cure noise. What the reward cannot see, it cannot see with a million votes
#    either; compare the two curves of section 2.
# 3. *“Overlapping error bars, so no difference.”* Not even for unpaired values; and the bars of before and after may overlap
#    widely while every single picture got better.
# 4. *“The interval excludes zero, so the gain is real.”* Not if it is the best of ten. Ask how many were tried.
# 5. *“Diversity rose, good.”* Wrong pictures differ, too. Read diversity next to faithfulness.

# %% [markdown]
# ## 1. What people want, for once known
#
# Our generator, that of the miniature text-to-image world, draws small pictures from captions in one step. An
# **oracle**, a program without any network, reads each picture back: which objects, which colours, where. A picture is
# **faithful** if it has all that its caption states.
#
# In this world we also know what people want. The **gold preference**, `GoldPreference`, is a formula: the mean of
# three terms of *taste*, and one point less if the picture is not faithful. In life gold is never known. Here it is, so
# that we see what an optimiser does to a **proxy**, anything that stands in for it.

# %%
world, judges = load_world(), load_judges()


def judged(captions, seeds):
    """Draw a picture for each caption and seed: what the oracle reads, whether it is faithful, gold, and the picture."""
    pictures = world.draw(captions, seeds)
    reading = read(pictures)
    faithful = compare(reading, [read_caption(caption) for caption in captions]).all
    return reading, faithful, judges.gold.of(reading, faithful), pictures


# %% [markdown]
# One large pool serves the whole notebook: 64 pictures for each of 40 captions that the generator was not trained on.
# (The eight with one object come several times.)

# %%
apart, each = (20, 16) if quick else (5, 64)
asked = both_groups(100).captions[::apart]
said = [caption for caption in asked for _ in range(each)]
reading, faithful, gold, pictures = judged(said, range(len(said)))
print(
    f"{len(asked)} captions, {len(said)} pictures; faithful {faithful.float().mean():.3f}, mean gold {gold.mean():.3f}"
)

# %% tags=["figure", "hide-input"]
shown = gold[:each].argsort(descending=True)[torch.linspace(0, each - 1, 12).long()]
image_grid(
    pictures[shown],
    [f"gold {gold[k]:+.2f}" for k in shown],
    alt=f"Twelve pictures of one caption, {asked[0]}, from the highest gold to the lowest: first bright disks near the middle,"
    " then darker or smaller ones, at the end pictures that are not what the caption states.",
)

# %% [markdown]
# All were drawn for “a small red circle on a light background”. The last ones lost the point: they are not red. What
# does gold like among faithful pictures? Each dot below is one, against three **factors** that the oracle reads: the
# objects' brightness, their radius, and how far their common centre is from the picture's.


# %%
def factors(reading):
    """Brightness, radius in pixels, and distance from the middle in pixels, [B, 3]."""
    scenes = reading.scenes
    off = (scenes.centre.mean(1) - 16).norm(dim=1)
    return torch.stack([scenes.brightness.mean(1), scenes.radius.mean(1), off], 1)


# %% tags=["figure", "hide-input"]
dots, names = Style(BLUE, ".", ""), ("brightness", "radius", "distance from the middle")
values, rows = factors(reading)[faithful], gold[faithful]
charts.lines(
    {name: [charts.Line("", values[::3, k], rows[::3], style=dots)] for k, name in enumerate(names)},
    width=2.7,
    alt="Three clouds of dots, gold against a factor. Gold rises with brightness. Against radius there are two separate"
    " clouds, small and large objects, and gold rises within each. Gold falls with the distance from the middle.",
    xlabel=["from 0 to 1", "pixels", "pixels"],
    ylabel="gold preference",
)

# %% [markdown]
# Brighter is better, and nearer to the middle. In the middle panel there are two clouds, small objects and large ones,
# and gold rises *within* each: it likes what is large for its class. These are the three terms of taste.
#
# ## 2. From votes to a reward
#
# Nobody can write such a formula for real pictures. One can get votes: two pictures a and b of one caption, which is
# better? Our judge knows gold, and is noisy. It prefers a with probability 1/(1 + exp(−(gold a − gold b)/noise)), with
# noise 1/6.

# %% tags=["figure", "hide-input"]
gap = torch.linspace(-1, 1, 201)
charts.lines(
    {
        "the judge": [
            charts.Line(f"noise {n}", gap, torch.sigmoid(gap * n_inverse))
            for n, n_inverse in (("1/6", 6), ("1/24", 24))
        ]
    },
    width=5.2,
    alt="Two rising S-shaped curves through one half at gap zero: the probability of preferring a. With noise one sixth it"
    " rises slowly, with noise one twenty-fourth it is nearly a step.",
    xlabel="gold a − gold b",
    ylabel=charts.Axis("P(a is preferred)", guides=(0.5,)),
)

# %% [markdown]
# A gap of 0.1 is voted right only about two times in three. Now the votes; the last pairs are kept aside, to test on.

# %%
count, held = (60, 20) if quick else (700, 200)
captions = training_scenes(count, torch.Generator().manual_seed(1))[1]
a, b = judged(captions, range(count)), judged(captions, range(count, 2 * count))
gaps = a[2] - b[2]
votes_a = torch.rand(count, generator=torch.Generator().manual_seed(0)) < torch.sigmoid(gaps / NOISE)
print(f"{count} votes; the judge votes as gold in {(votes_a == (gaps > 0)).float().mean():.0%} of them")

# %% [markdown]
# > **Predict.** A reward is fitted to these votes. On fresh pairs, can it agree with gold more often than the votes do?
# >
# > - **a** no, the votes are its ceiling
# > - **b** yes
# > - **c** it agrees exactly as often

# %% tags=["predict"]
predict("09.a", "?")

# %% [markdown]
# ### The likelihood of a vote
#
# Bradley and Terry (1952) turn the judge round. Suppose each picture has a reward r, and P(a over b) = 1/(1 + exp(r(b)
# − r(a))). The r that makes the votes most probable is the reward we want: multiply their probabilities, take the
# logarithm, change the sign, take the mean.
#
# > **Exercise 09.1** · implement · difficulty 2 of 5 · importance 5 of 5 · 5 minutes
# >
# > Write this loss. It must survive rewards that lie thousands apart.


# %% tags=["exercise"]
def preference_loss(preferred, other):
    """Rewards of the preferred pictures and of the others, [N] each -> the mean of −log P(vote)."""
    # solution
    return -torch.nn.functional.logsigmoid(preferred - other).mean()
    # end


# %% tags=["check"]
checked_loss = check("09.1", preference_loss)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# 1/(1 + exp(−x)) is the sigmoid of x. Which difference is x here?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `torch.nn.functional.logsigmoid` takes sigmoid and logarithm in one safe step. Then minus, then the mean. Equal
# rewards must give log 2 = 0.693. Solutions are in `notebooks/solutions`.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** `return -logsigmoid(preferred - other).mean()`. It is the cross-entropy of a choice between two, and
# convex in the gap. `log(sigmoid(x))` in two steps is −∞ as soon as the sigmoid rounds to 0.

# %% [markdown]
# ### A reward with a handful of weights
#
# The smallest reward is linear: r = θ · (what is read from the picture). Your loss is then convex in θ, and a standard
# minimiser finds its one minimum. A small penalty keeps θ finite while votes are few.


# %%
def fit(better, worse):
    """The weights θ that make the votes most probable, [K]; better and worse are [N, K]."""
    theta = torch.zeros(better.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = checked_loss(better @ theta, worse @ theta) + 0.01 * theta.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return theta.detach()


# %% [markdown]
# Two such rewards. The *crude* one reads the three factors of section 1. The *informed* one reads what gold is made of:
# its three terms, and whether the picture is faithful. How often does each agree with gold on the pairs kept aside?


# %%
def crude(one):
    return factors(one[0])


def informed(one):
    return torch.cat([taste_terms(one[0]), one[1][:, None].float()], 1)


def learnt(read_off, votes, seed=0):
    """The weights from a random choice of votes, and how often they agree with gold on the held pairs."""
    first, second = read_off(a), read_off(b)
    unit = torch.cat([first, second]).std(0)  # all factors on one footing for the penalty
    chosen = torch.randperm(count - held, generator=torch.Generator().manual_seed(seed))[:votes]
    wins = votes_a[chosen, None]
    better, worse = torch.where(wins, first[chosen], second[chosen]), torch.where(wins, second[chosen], first[chosen])
    weights = fit(better / unit, worse / unit) / unit
    return weights, float(((first - second)[-held:] @ weights * gaps[-held:] > 0).float().mean())


# %% tags=["figure", "hide-input"]
sizes = [5, 10, 20, 40] if quick else [10, 20, 40, 80, 160, 320, 500]
curves = {
    name: [sum(learnt(read_off, votes, seed)[1] for seed in range(10)) / 10 for votes in sizes]
    for name, read_off in {"crude: three factors": crude, "informed: gold's own terms": informed}.items()
}
own_votes = float((votes_a == (gaps > 0)).float().mean())
for name, curve in curves.items():
    print(f"{name}: " + ", ".join(f"{votes}: {share:.2f}" for votes, share in zip(sizes, curve, strict=True)))
reveal(
    "09.a",
    f"the votes agree with gold in {own_votes:.0%}, the fitted rewards in "
    + ", ".join(f"{c[-1]:.0%}" for c in curves.values()),
)
charts.lines(
    {"agreement with gold": [charts.Line(name, sizes, curve) for name, curve in curves.items()]},
    markers=True,
    width=5.0,
    alt="Agreement with gold on held pairs against the number of votes, on a logarithmic axis. Both curves begin a little above"
    " the thin line of the judge's own votes and climb away from it, the informed one higher than the crude one.",
    xlabel=charts.Axis("votes to learn from", log=True),
    ylabel=charts.Axis("share of held pairs", guides=(own_votes,)),
)

# %% [markdown]
# Answer **b**. The thin line is the judge. Its errors are chance, and chance averages out over many votes. But the
# crude reward stays below the informed one: it sees neither size classes nor captions. More votes remove *noise*; they
# do not show a reward what it cannot see. That error stays, for an optimiser to find.
#
# ### What votes cannot tell
#
# Both pictures of a vote have the same caption. Add to the reward any number that depends on the caption alone:

# %%
weights, _ = learnt(informed, count - held)
first, second = (informed(one) @ weights for one in (a, b))
preferred, other = torch.where(votes_a, first, second), torch.where(votes_a, second, first)
by_caption = 10 * torch.randn(count, generator=torch.Generator().manual_seed(2))
print(
    f"loss {checked_loss(preferred, other):.4f}, with another constant for each caption {checked_loss(preferred + by_caption, other + by_caption):.4f}"
)

# %% [markdown]
# The loss does not notice. A higher reward for *another caption* means nothing. Compare rewards on the same captions
# only.
#
# ### The shipped reward
#
# From here on **the proxy** is the reward that ships with the world, of a more usual kind: a small convolutional
# network on the pixels, with the caption through CLIP (a network that scores how well picture and caption fit), fitted
# to 6000 votes of this judge by your loss. Unlike ours, which ask the oracle, it has a gradient.

# %%
with torch.no_grad():
    differences = [
        one(images=a[3], prompts=captions) - one(images=b[3], prompts=captions)
        for one in (judges.preference, judges.clip)
    ]
for name, difference in zip(("proxy", "CLIP score"), differences, strict=True):
    print(f"{name}: agrees with gold on {(difference * gaps > 0).float().mean():.0%} of {count} fresh pairs")
print(*[line for line in (SHIPPED / "README.md").read_text("utf-8").splitlines() if "fresh pairs" in line])

# %% [markdown]
# The last line is from its card. 6000 votes on pixels do not reach what 500 gave the crude reward with the oracle's
# help. Still, the proxy beats its judge: *on these pictures*. An optimiser does not stay there.
#
# ## 3. With a pencil: right at first
#
# **Goodhart's law**, in Strathern's words: when a measure becomes a target, it ceases to be a good measure. One
# Gaussian shows how. The reference is N(0, 1), the proxy r(x) = x. Gold agrees at first, and then has had enough:
#
# > g(x) = x − x²/4
#
# From notebook 03: at reward scale α_rew the tilted optimum of N(0, 1) under r(x) = x is N(α_rew, 1), and its KL to the
# reference is α_rew²/2. (A bare α is the signal in x_t.)
#
# > **Exercise 09.2** · derive · difficulty 2 of 5 · importance 4 of 5 · 8 minutes
# >
# > Mean proxy and mean gold of N(α_rew, 1), as functions of α_rew. Where is gold highest, and at which KL? Where is it back where it started?
# > Write the *gain* of gold in d = √KL.
#
# <details><summary>Hint 1</summary>
#
# For x from N(α_rew, 1) the mean of x² is α_rew² + 1.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A parabola in α_rew. Put α_rew = √2 d at the end.
#
# </details>
# <details><summary>Answer</summary>
#
# Mean proxy α_rew. Mean gold α_rew − (α_rew² + 1)/4, which starts at −¼, is highest at α_rew = 2, where KL = 2 nats, and is
# back at its start at α_rew = 4. Its gain is α_rew − α_rew²/4 = √2 d − d²/2: a straight line at first, which the square
# overtakes.
#
# </details>

# %% tags=["figure", "hide-input"]
scale = torch.linspace(0, 5, 101)
d = scale / 2**0.5
gold_gain = scale - scale.square() / 4
sampled = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
x = sampled[:, None] + torch.randn(6, 20_000, generator=torch.Generator().manual_seed(0))
charts.lines(
    {
        "gain on the way": [
            charts.Line("proxy", d, scale),
            charts.Line("gold", d, gold_gain),
            charts.Line(
                "gold, 20 000 samples",
                sampled / 2**0.5,
                (x - x.square() / 4).mean(1) + 0.25,
                style=Style("black", "o", ""),
            ),
        ]
    },
    width=5.0,
    alt="Gain against the root of KL. The proxy is a rising straight line. Gold follows it at first, bends, is highest near"
    " 1.4, crosses zero near 2.8 and goes on falling; sampled values lie on its curve.",
    xlabel="d = √KL",
    ylabel=charts.Axis("gain since the start", guides=(0.0,)),
)

# %% [markdown]
# At first the proxy is right. Then gold turns, while the proxy says that all goes well. Gao, Schulman and Hilton (arXiv
# 2210.10760) scored language models with a large “gold” reward model, and found a gain of this very form, d (a − b d), for
# best-of-n. **Over-optimisation** is the stretch beyond the top. Nothing on the proxy's curve tells where the top is.
# Hence leashes, and an evaluation that the optimiser never sees.
#
# ## 4. A proxy under an optimiser
#
# ### Best of n
#
# The simplest optimiser trains nothing: draw n pictures of the caption, keep the one that the proxy likes best. The law
# of what it keeps has a KL of log n − (n − 1)/n to the law of single draws, or less. So n is a dial for KL.
#
# > **Exercise 09.3** · predict, then explore · difficulty 2 of 5 · importance 5 of 5 · 6 minutes
# >
# > n goes from 1 to 64, and the proxy chooses. What does mean *gold* do? **a** it rises as steadily as the proxy · **b** it rises and
# > levels off · **c** it rises, turns, and ends below its start. Afterwards
# > add `"minus proxy": -proxy` to the choosers, and expect gold below its start.
#
# <details><summary>Hint 1</summary>
#
# What is the worst picture that the proxy can choose?
#
# </details>
# <details><summary>Hint 2</summary>
#
# One that the generator draws anyway, about once in 64 times. Nineteen of twenty are faithful.
#
# </details>

# %% tags=["predict"]
predict("09.3", "?")

# %% [markdown]
# `best_of` averages over all ways to choose n of our 64 pictures of a caption. Four choosers: gold itself, a ceiling
# that nobody has in life; the proxy; the crude linear reward; and the CLIP score.


# %%
def table_of(values):
    return values.view(len(asked), each)


with torch.no_grad():
    proxy, clip = (one(images=pictures, prompts=said) for one in (judges.preference, judges.clip))
crude_weights, _ = learnt(crude, count - held)
choosers = {
    "gold itself": gold,
    "the proxy": proxy,
    "crude linear reward": factors(reading) @ crude_weights,
    "CLIP score": clip,
}
ns = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= each]
kept = {
    name: {
        what: [float(best_of(table_of(by), table_of(values.float()), n).mean()) for n in ns]
        for what, values in (("gold", gold), ("faithful", faithful), ("proxy", proxy))
    }
    for name, by in choosers.items()
}

# %% tags=["figure", "hide-input"]
kl = [math.log(n) - (n - 1) / n for n in ns]
for name, found in kept.items():
    print(f"{name:20s} gold  " + "  ".join(f"n = {n}: {value:.3f}" for n, value in zip(ns, found["gold"], strict=True)))
reveal(
    "09.3",
    f"gold goes from {kept['the proxy']['gold'][0]:.3f} to {kept['the proxy']['gold'][-1]:.3f} at n = {ns[-1]}, proxy from {kept['the proxy']['proxy'][0]:.2f} to {kept['the proxy']['proxy'][-1]:.2f}",
)
charts.lines(
    {
        title: [charts.Line(name, kl, found[what]) for name, found in kept.items()]
        for what, title in (("gold", "gold of what is kept"), ("faithful", "faithful share of what is kept"))
    },
    markers=True,
    width=3.9,
    alt="Two panels against KL, n from 1 to 64. Gold: chosen by itself or by the crude reward it rises all the way; by the proxy it rises"
    " and levels off; by CLIP it rises once and then slowly falls. Faithful: gold goes to one; the proxy and CLIP"
    " rise at first and then come down a little; the crude reward rises least.",
    xlabel="KL = log n − (n − 1)/n (nats)",
    ylabel=["gold preference", "share"],
)

# %% [markdown]
# Answer **b**. From n = 32 to 64 the proxy still gains, gold nothing, and the faithful share is past its top. Under
# CLIP gold is past its top already at n = 8. The crude reward, which asks the oracle, does better. And nothing breaks:
# nearly all that the generator draws is fine, so nearly all that can be kept is. The price is n draws a picture.
#
# ### Training on the proxy
#
# Now climb the proxy with gradients, without a leash. The weights move, so the generator can draw what it never drew
# before, and what the judge never voted on.
#
# > **Predict.** We stop when the mean proxy is well beyond that of best-of-64. Where does mean gold end?
# >
# > - **a** where best-of-64 was: level
# > - **b** higher, as the proxy is
# > - **c** below the start

# %% tags=["predict"]
predict("09.b", "?")

# %%
steps = 20 if quick else 100
marks = [max(1, round(share * steps)) for share in (0.05, 0.1, 0.2, 0.35, 0.6, 1)]
draws = {"count": 20 if quick else 100, "samples": 2 if quick else 4}
recipe = WorldRecipe.read({"method": "reward-only", "steps": steps, "batch": 4 if quick else 16, "lr": 3e-4})
state = make_state(recipe, world, judges.preference)


def drawn(prompts, seeds):
    return world.draw(prompts, seeds, state.roles.generator.averaged)


found = {0: evaluate(world.draw, judges, **draws)}
for record in post_train(state, recipe.method, conditions_of(recipe, world, training_prompts(recipe)), **recipe.loop):
    if record.step + 1 in marks:
        found[record.step + 1] = evaluate(drawn, judges, **draws)

# %% [markdown]
# `evaluate` draws for the same 200 pairs of caption and seed at every look; none of the captions was trained on. It
# measures all that we can, gold included. The run sees the proxy only.

# %% tags=["figure", "hide-input"]
course = {
    name: [float(getattr(one, name).double().mean()) for one in found.values()]
    for name in ("preference", "gold", "faithful")
}
titles = {"preference": "proxy", "gold": "gold preference", "faithful": "faithful share"}
for step, (p, g, f) in zip(found, zip(*course.values(), strict=True), strict=True):
    print(f"step {step:3d}   proxy {p:.2f}   gold {g:.3f}   faithful {f:.3f}")
reveal("09.b", f"gold ends at {course['gold'][-1]:.3f}, from {course['gold'][0]:.3f}")
charts.lines(
    {title: [charts.Line("reward-only", list(found), course[name])] for name, title in titles.items()},
    markers=True,
    width=2.8,
    alt="Three panels against the step. The proxy rises all the way. Gold rises in the first steps, turns, and ends far below its start."
    " The faithful share holds for a moment and then falls to about six tenths.",
    xlabel="step",
    ylabel=["reward", "gold", "share"],
)

# %% [markdown]
# Answer **c**: the pencil's picture, up together, then apart. At the end the proxy is at its best, and gold little more
# than half of its start. Best-of-n and training on one pair of axes (best-of-n was measured on 40 of the captions,
# hence its slightly other start):

# %% tags=["figure", "hide-input"]
charts.lines(
    {
        "one proxy, two optimisers": [
            charts.Line("best of n", kept["the proxy"]["proxy"], kept["the proxy"]["gold"]),
            charts.Line("reward-only", course["preference"], course["gold"]),
        ]
    },
    markers=True,
    width=5.0,
    alt="Gold against proxy. Best of n rises and levels off at a proxy of about 5.6. The trained run rises beside it, turns earlier,"
    " and falls steeply as the proxy goes on to about 6.3.",
    xlabel="mean proxy",
    ylabel="mean gold",
)

# %% [markdown]
# A proxy of 5.5, chosen among natural pictures, comes with more gold than the same 5.5 made by gradients. **How** a proxy
# was reached matters, not only how high.
#
# ### Look at them
#
# Below are the six pictures whose gold fell by more than 0.5 while their proxy rose most, before and after.

# %%
fixed = both_groups(draws["count"])
before, after = world.draw(fixed.captions, fixed.seeds), drawn(fixed.captions, fixed.seeds)
proxies, golds = ([getattr(found[step], name) for step in (0, steps)] for name in ("preference", "gold"))
rise = (proxies[1] - proxies[0]) - 100 * (golds[1] - golds[0] > -0.5)
worst = rise.argsort(descending=True)[:6]

# %% tags=["figure", "hide-input"]
image_grid(
    torch.cat([before[worst], after[worst]]),
    [f"{fixed.captions[k]}: proxy {proxies[0][k]:.1f}, gold {golds[0][k]:+.2f}" for k in worst]
    + [f"after: proxy {proxies[1][k]:.1f}, gold {golds[1][k]:+.2f}" for k in worst],
    alt="Six captions, before and after. Before: clean small shapes. After: the objects are much larger and brighter, small ones have become"
    " large, corners are rounded or bulge, and the backgrounds are extreme.",
)

# %%
said_before, said_after = (judge(side, fixed.captions) for side in (before, after))
for name in ("number", "colour", "shape", "size", "background", "relation"):
    print(
        f"{name:10s} right before {getattr(said_before, name).float().mean():.2f}, after {getattr(said_after, name).float().mean():.2f}"
    )

# %% [markdown]
# The proxy has learnt that bright and large is good. That is true *within a size class*; no vote was ever cast on a
# circle blown up to a blob. So “small” becomes large and shapes melt: size suffers most, shape next. This is reward
# hacking.
#
# The **pull** of this run is the gradient of the proxy at x_0: here a *latent*, the compressed form that a decoder
# turns into pixels. Let the start's samples follow it in short steps, without a generator in between:

# %%
few = [0, 4, draws["count"]]
prompt = world.encoder([fixed.captions[k] for k in few])
with torch.no_grad():
    x0 = world.generator()(world.noise([fixed.seeds[k] for k in few]), prompt)
stages = [x0]
for _ in range(40):
    x0 = x0.detach().requires_grad_()
    pull = torch.autograd.grad(state.roles.reward(x0, prompt).sum(), x0)[0]
    x0 = x0 + 0.2 * pull / pull.flatten(1).norm(dim=1)[:, None, None, None]
    stages.append(x0.detach())

# %% tags=["figure", "hide-input"]
sheet, titles = [], []
for row, k in enumerate(few):
    for number in (0, 5, 10, 20, 40):
        image, prompts = world.pictures(stages[number][row : row + 1]), [fixed.captions[k]]
        with torch.no_grad():
            p, g = (float(one(images=image, prompts=prompts)) for one in (judges.preference, judges.gold))
        sheet.append(image)
        titles.append((prompts[0] if number == 0 else f"{number} steps") + f": proxy {p:.1f}, gold {g:+.2f}")
image_grid(
    torch.cat(sheet),
    titles,
    columns=5,
    alt="Three captions in rows, at the start and after 5, 10, 20 and 40 short steps along the proxy's pull, with proxy and gold.",
)

# %% [markdown]
# For five or ten steps both rise: brighter, a little larger. Then the outlines go,
# and in the second and third row gold drops by a point or more. In the first it does not notice: the oracle still takes
# that lens for a circle. Our gold is a formula, too; it can be trusted while nobody climbs it.
#
# ### With a leash: the recorded runs
#
# Which leash holds longest? These runs are *recorded* (`distar lab world --profile full`): 200 steps, several methods
# and reward scales, the same proxy. DI\* is Diff-Instruct\*, the score leash; DI++ is the KL leash with two weights;
# SIM has a leash and no reward; “DIDR by proxy” puts the reward inside the reference, by a
# one-step approximation (another use of the word proxy).

# %%
rows = read_rows("world")
print("expected:", STUDIES["world"].prediction)

# %% tags=["figure"]
STUDIES["world"].picture(rows)

# %% [markdown]
# Each curve is the mean of three runs, read from the left. The dotted grey one has no leash. At a proxy of 5.0 the gold curves differ by 0.04, at
# 5.2 by 0.07. Beyond 5.4 reward only falls off a cliff, and DI\* at its strongest reward scale follows, less
# steeply. At 5.7 three leashed runs have 0.1 more gold: *a leash moves the cliff*. Now look at
# **equal proxy**, the highest that every run with a reward reaches (without DIDR, which does not raise it):

# %% tags=["figure", "hide-input"]
arms = study.gaining_arms({arm: own for arm, own in study.by_arm(rows).items() if arm.reward_scale})
target = study.reached([row for own in arms.values() for row in own])
panels = {"gold": "gold", "faithful": "faithful", "diversity": "distance between samples"}


def mark(arm, metric):
    values = [study.at_proxy(row, target, metric) for row in arms[arm]]
    return charts.Mark(arm.label, sum(values) / len(values), "mean and range over seeds", min(values), max(values))


for arm in arms:
    ends = [f"{study.final(arms[arm], metric).mean:.2f}" for metric in ("preference", "gold", "faithful")]
    print(
        f"{arm.label:34s} at proxy {target:.2f}: gold {mark(arm, 'gold').value:.3f}   at the end: proxy {ends[0]}, gold {ends[1]}, faithful {ends[2]}"
    )
charts.dot_plot(
    [(title, [mark(arm, metric) for arm in arms]) for metric, title in panels.items()],
    [arm.label for arm in arms],
    {"mean and range over seeds": Style(BLUE, "o", "-")},
    columns=3,
    alt=f"Three panels at equal proxy {target:.2f}, one row a method and reward scale: gold, faithful share, and distance between samples. "
    "Within each method the smaller reward scale has more gold; reward only is among the lowest. Diff-Instruct* at its smallest scale has the "
    "highest gold and the smallest distance between samples.",
)

# %% [markdown]
# At this equal proxy, the mild runs keep more gold than reward only; the strong ones hardly, or not at all: here the cliff is still ahead. Within each
# method the smaller reward scale keeps more. DI\* at its smallest is first, but at its larger scales it lies among the
# KL rows: strength matters at least as much as kind. And the third panel warns: the row with the most gold has its samples of one caption closest together. That can also mean fewer wrong pictures,
# and it took the most steps to get there.

# %% [markdown]
# ## 5. Is the gain real?
#
# Back to our own run, after its first five steps. Gold rose a little. More than chance? Chance comes from the
# **draws**: with other seeds for these captions, another mean. Two ways to an interval:
#
# - **Unpaired**: the mean before and the mean after, each with its own scatter. The variances add.
# - **Paired**: the same captions and seeds before and after. Subtract picture by picture, and take the scatter of the *differences*. With
#   correlation ρ its variance is s₁² + s₂² − 2ρ s₁ s₂.
#
# > **Predict.** After these few steps, the paired interval of the gain in gold is, against the unpaired one,
# >
# > - **a** about as wide
# > - **b** about 1.4 times narrower, since there is one sample in place of two
# > - **c** narrower by more than a factor of two

# %% tags=["predict"]
predict("09.c", "?")

# %% [markdown]
# > **Exercise 09.4** · implement · difficulty 2 of 5 · importance 5 of 5 · 6 minutes
# >
# > Write the paired interval of a gain: the mean of the differences, and 1.96 standard errors to each side. The standard error of a
# > mean of n values is their standard deviation over √n. Return mean, low, high.


# %% tags=["exercise"]
def paired(before, after):
    """Values that belong together by position, [n] each -> mean, low and high of the gain, 95 %."""
    # solution
    difference = after - before
    mean, reach = difference.mean(), 1.96 * difference.std() / len(difference) ** 0.5
    return mean, mean - reach, mean + reach
    # end


# %% tags=["check"]
checked_paired = check("09.4", paired)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Subtract first. Everything else is about one list of n numbers.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `d = after - before`, then `d.mean()` and `d.std() / n**0.5`. For before = (0, 0) and after = (1, 3) the mean is 2 and
# low is 0.04.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** `difference = after - before`, its mean, and 1.96 · std/√n to both sides. The library's
# `paired_interval` resamples the differences instead (a *bootstrap*), which needs no normal distribution; with 200
# differences the two hardly differ.


# %%
def unpaired(before, after):
    mean, reach = after.mean() - before.mean(), 1.96 * ((before.var() + after.var()) / len(before)) ** 0.5
    return mean, mean - reach, mean + reach


start = found[0].gold
forms = {"unpaired": unpaired, "paired": checked_paired}
gains = {
    name: {step: Interval(*map(float, form(start, found[step].gold))) for step in marks} for name, form in forms.items()
}
for step in marks:
    rho = torch.corrcoef(torch.stack([start, found[step].gold]))[0, 1]
    shown = "   ".join("{} {:+.3f} [{:+.3f}, {:+.3f}]".format(name, *gains[name][step]) for name in forms)
    print(f"step {step:3d}   correlation {rho:.2f}   {shown}")
for name, groups in (("draws", None), ("captions", found[0].caption)):
    interval = paired_interval(found[marks[0]].gold, start, groups=groups)
    print("step {}, bootstrap over {}:  {:+.3f} [{:+.3f}, {:+.3f}]".format(marks[0], name, *interval))
width = {name: gains[name][marks[0]].high - gains[name][marks[0]].low for name in forms}
reveal(
    "09.c", f"after {marks[0]} steps the unpaired interval is {width['unpaired'] / width['paired']:.1f} times as wide"
)

# %% tags=["figure", "hide-input"]
looks = {"unpaired": Style(ORANGE, "s", ""), "paired": Style(BLUE, "o", "")}
shift = {"unpaired": 0.94, "paired": 1.06}
charts.lines(
    {
        "gain in gold since the start": [
            charts.Line(
                name, [step * shift[name] for step in marks], *zip(*gains[name].values(), strict=True), looks[name]
            )
            for name in forms
        ]
    },
    width=5.2,
    alt="Gain in gold at six steps, each with two vertical bars. At first the paired bar is much shorter than the unpaired one and lies"
    " above zero, while the unpaired one crosses it; later both are about equally long, and both lie below zero at the end.",
    xlabel=charts.Axis("step", log=True),
    ylabel=charts.Axis("gain in gold", guides=(0.0,)),
)

# %% [markdown]
# Answer **c**. After five steps each picture is still nearly itself, and what makes pictures differ cancels in the
# difference. Paired, the gain lies above zero; unpaired, nobody could say. Later the pictures have little in
# common, and both are about equally wide.
#
# All of them take the 200 draws for independent, so they answer for *other seeds of these captions*. For *other captions*
# they are too sure: half of the draws share eight captions, and pictures of one caption are alike. The
# library's tables resample whole captions, with all their draws.
#
# How many draws would an interval of ±0.02 need? Solve 1.96 s/√n = 0.02 for n:

# %%
for step in marks[:3]:
    later = found[step].gold
    squares = {"paired": (later - start).var(), "unpaired": later.var() + start.var()}
    print(
        f"step {step:3d}   "
        + "   ".join(f"{name} {math.ceil(s * (1.96 / 0.02) ** 2):5d} draws" for name, s in squares.items())
    )

# %% [markdown]
# ### Draws are not seeds
#
# More draws tell more about *this* generator. Another training seed gives another generator. Recorded, with the same
# draws for all seeds:

# %%
for arm in arms:
    if arm.method in ("reward-only", "diff-instruct*"):
        print(f"{arm.label:34s} gold at the end, by seed: " + ", ".join(f"{row['gold@100']:.3f}" for row in arms[arm]))

# %% [markdown]
# Most agree to within two hundredths. Those of DI\* at scale 3, caught on the slope of the cliff, lie farther apart; with
# one seed you would not know. State both: so many draws, so many seeds.
#
# > **Exercise 09.5** · debug · difficulty 3 of 5 · importance 5 of 5 · 8 minutes
# >
# > A colleague sells *lucky seeds*: “I tried ten lists of noise seeds, and compared gold with the usual list, paired by caption. The best list
# > gains, and its interval says so.” Each interval below is computed correctly. What is wrong, and which cell would you run next?
#
# <details><summary>Hint 1</summary>
#
# All lists are unit noise for the same generator. What is the true gain of each?
#
# </details>
# <details><summary>Hint 2</summary>
#
# A 95 % interval is wrong one time in twenty. How many did the colleague look at, and which one is reported?
#
# </details>

# %%
lists = table_of(gold)[:, torch.randperm(each, generator=torch.Generator().manual_seed(5))].view(len(asked), 16, -1)
usual = lists[:, 0].flatten()
claims = [tuple(map(float, checked_paired(usual, lists[:, k].flatten()))) for k in range(1, 11)]
best = max(claims)
print(
    "gains:", ", ".join(f"{gain:+.3f}" for gain, *_ in claims), "\nthe best: {:+.3f} [{:+.3f}, {:+.3f}]".format(*best)
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# The reported list was *chosen* by the very draws that judge it. The largest of ten chance gains lies well above zero:
# best-of-n, with the test as the proxy. Run the winner and the usual list on captions that had no part in the choice. The same holds for the best of several training
# seeds, checkpoints or reward scales: choose on some draws, report on others, and say how many were tried.
#
# </details>
#
# Here every picture has its own noise, so a list has nothing to carry over to other captions: any two unused lists stand for winner and
# usual list. And the whole story, repeated 300 times with the pool shuffled anew:

# %%
fresh = checked_paired(lists[:, 11].flatten(), lists[:, 12].flatten())
print("two unused lists, in their place: {:+.3f} [{:+.3f}, {:+.3f}]".format(*map(float, fresh)))
sold = []
for k in range(300):
    order = torch.randperm(each, generator=torch.Generator().manual_seed(k))
    shuffled = table_of(gold)[:, order].view(len(asked), 16, -1)
    sold.append(
        max(tuple(map(float, checked_paired(shuffled[:, 0].flatten(), shuffled[:, j].flatten()))) for j in range(1, 11))
    )
print(
    f"the best of ten gains {sum(gain for gain, *_ in sold) / 300:+.3f} on average; its interval excludes 0 in {sum(low > 0 for _, low, _ in sold) / 300:.0%} of the stories"
)

# %% [markdown]
# No list has a true gain, yet the best of ten “gains”, and far more often than once in forty its honest-looking
# interval lies above zero.
#
# ### Beside the reward
#
# One number never suffices. Everything that `evaluate` measures, before and after ten steps, with intervals. *Fréchet
# distance* compares CLIP's features with those of scenes drawn by program. *Entropy where open* asks captions that
# leave size and background open: 0 if all came alike, at most log 4 = 1.39; of eight samples, as here,
# even equally likely kinds give only 1.17.

# %%
for step in (marks[1], steps):
    sides = {"before": found[0], f"step {step}": found[step]}
    for row in table(sides):
        print("{:50s} {:24s} {:24s} {}".format(*row))
    print(verdict(sides), "\n")

# %% [markdown]
# After ten steps gold is up, its paired interval above zero, and faithfulness has not moved beyond chance. Samples of a
# caption lie closer together; that entropy fell is not certain yet. At the end it is 0: such a caption always gets the
# same size and background. Nothing asked for variety, so it was spent. But a smaller distance can also mean fewer wrong
# pictures; read it next to the first line.
#
# ## 6. The model card
#
# A **model card** (Mitchell et al., arXiv 1810.03993) lets a stranger decide whether to use a model. For a post-trained
# generator it says at least:
#
# | | |
# |---|---|
# | what it is | from which model, by which method, reward and scale, how long; which checkpoint, **chosen how, among how many** |
# | what was measured | draws, captions, seeds; what was seen in training and what was not; **which number was the target** |
# | gains | paired, with intervals, by a judge that was not the target |
# | losses | the same for faithfulness, variety, distance; what looks different |
# | limits | where it fails, what was not tested, what it is not for |
#
# An example is the shipped world's, `distar_core/world/weights/README.md`.
#
# > **Exercise 09.6** · explain · difficulty 3 of 5 · importance 5 of 5 · 12 minutes
# >
# > Write the card of our generator after ten steps of reward only: five entries, at most 120 words, numbers from the first table above.
#
# <details><summary>Hint 1</summary>
#
# The first number that most authors print is the proxy's. What may you conclude from it?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Who chose step ten, after seeing what?
#
# </details>
# <details><summary>A model answer (numbers of the profile “fast”)</summary>
#
# **What.** The world's one-step generator after 10 of 100 steps on the shipped preference reward, no leash, one
# training seed. Chosen for its gold among six checkpoints, so the gain below is optimistic. **Measured.** 200 draws of
# held-out captions, same seeds before and after. The reward rose too; it was the target, so that is no evidence.
# **Gains.** Gold preference, not seen in training: +0.08 [+0.03, +0.13], paired, over captions. **Losses.** Samples of a caption lie
# closer together; entropy where open −0.08 [−0.18, +0.01]; faithfulness +0.5 points [−3.8, +5.5]. **Limits.** Ninety
# more steps bring gold to 0.31. 32 × 32 pixels, 19 words; says nothing about other models.
#
# </details>

# %% [markdown]
# ## What you can now say
#
# 1. A reward learnt from votes can beat its judge where votes were cast; it stays blind to what it cannot see.
# 2. Under an optimiser a proxy is right at first. Best-of-n levels off among the generator's own pictures; gradients leave them, and gold falls
#    while the proxy rises. A leash moves that point on; a strong enough reward still passes it.
# 3. A gain is real if fresh, paired draws say so by a judge that was not the target, and if you say how many were tried.
#
# ## Quiz
#
# 1. A learnt reward gives 6.1 to a picture of two squares and 4.0 to one of a circle. Which one would people prefer?
#    <details><summary>Answer</summary>Unknown. Votes compare pictures of one caption.</details>
# 2. Why did best-of-64 not break the pictures, and training did?
#    <details><summary>Answer</summary>It only chooses among pictures that the generator draws anyway. Training makes pictures that were
#    never voted on.</details>
# 3. The proxy agrees with gold on 73 % of fresh pairs. Is it then safe to climb it for 200 steps?
#    <details><summary>Answer</summary>That share belongs to pictures from before the climb. It says nothing about those that the climb leads
#    to.</details>
# 4. Before and after have been drawn with different seeds. Can you still compute a paired interval?
#    <details><summary>Answer</summary>By caption, if these are the same. By picture, no.</details>
# 5. Of ten checkpoints you report the best, with its 95 % interval. What do you add?
#    <details><summary>Answer</summary>Its value on captions and draws that had no part in the choice, and that it was the best of ten.</details>
#
# ## Exercises
#
# 09.1 the likelihood of a vote (implement, checked) · 09.2 a proxy that is right at first (derive) · 09.3 best of n
# (predict, explore) · 09.4 the paired interval (implement, checked) · 09.5 lucky seeds (debug) · 09.6 a model card
# (explain)
#
# ## Where this comes from, and what next
#
# Paired comparisons: R. A. Bradley and M. E. Terry, Biometrika 39 (1952). Goodhart's law: C. Goodhart (1975), in the
# words of M. Strathern, European Review 5 (1997). Over-optimisation against a gold reward, the KL of best-of-n and the
# form d (a − b d): L. Gao, J. Schulman and J. Hilton, arXiv 2210.10760; that the KL is at most that: A. Beirami et al.,
# arXiv 2401.01879. The bootstrap: B. Efron, Annals of Statistics 7 (1979). Model cards: M. Mitchell et al., arXiv
# 1810.03993. Gold, judge, parabola and runs are ours, and findings are about this world.
#
# Next: the recorded runs in full are in `notebooks/EXPERIMENTS.md`; `distar world evaluate` measures a generator of
# your own.
#
# Text and figures of this notebook: CC BY 4.0. Code: MIT.
