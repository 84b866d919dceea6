# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Theorem 3.2: guidance as an implicit reward
#
# **In this notebook you show that classifier-free guidance is a reward that nobody wrote down, and set it against one that
# somebody did.**
#
# > **Goals.** Write the guided score of two Gaussians, and say what it is not the score of. Derive Theorem 3.2 in three lines
# > and hold the loss to it. Say when guidance inside a leash differs from guidance outside. Read a map over reward_scale and cfg_scale.
# >
# > **Before you start.** Notebook 00. Helpful: 03 (collapse) and 04 (Theorem 3.1). Bayes' rule.
# >
# > **Time.** Fifty minutes to read, eighty with the exercises; the runs take about a minute of that on one CPU core.
# > No GPU, no network.

# %% tags=["setup"]
from dataclasses import replace
from functools import partial

import torch

from distar_core import losses, post_train, probes
from distar_core.course import check, predict, profile, reveal
from distar_core.figures import charts, plane
from distar_core.figures.names import label_of
from distar_core.lab import STUDIES, landscape, over_seeds, read_rows, values_of
from distar_core.roles import MixtureScore, guided
from distar_core.toy import labels as labelled_toy
from distar_core.toy import ring as toy
from distar_core.truth import gaussians, quadrature

torch.set_num_threads(1)
settings = profile()

# %% [markdown] tags=["instructor"]
# **Board plan (90 minutes).** 10 min: the picture of three fields, and the two spellings. 20 min: the pencil, with the class
# computing mean and width for cfg_scale 1; then “is this the score of the sharpened Gaussian, noised?” 20 min: Theorem 3.2 in
# three lines; run the check; the runaway without a leash. 20 min: inside and outside. 20 min: the landscape, the published
# numbers, and the explain exercise in pairs.
#
# **Typical misconceptions.**
#
# 1. *“A scale of 7.5 is a scale of 7.5.”* In one spelling 0 is off, in the other 1 is. Ask which one a number belongs to.
# 2. *“Guidance samples from p(x|c)^(1+scale)/p(x)^scale.”* The field at σ = 0 is that density's score; the field at σ > 0 is
#    not the score of that density noised. Section 2 has the numbers.
# 3. *“The detach in the CFG loss is an approximation, to save memory.”* It is what makes the pull the gradient of the reward.
# 4. *“The generator is guided.”* Only the reference's score is. The generator is called once, without any scale, and has
#    learnt the effect.

# %% [markdown]
# ## 1. One picture of guidance
#
# So far the reference drew one kind of picture. A text-to-image model draws what a **condition** c asks for: a prompt. Our
# prompts are four **labels**: right, top, left, bottom. Each owns two neighbouring modes of a ring, and the modes are so wide
# that the labels overlap.

# %% tags=["figure"]
reference = labelled_toy.labelled_reference()
labels = labelled_toy.labels_for(4000, reference)
clean = labelled_toy.draw(reference, labels, torch.Generator().manual_seed(0))
groups = {name: labels == k for k, name in enumerate(labelled_toy.DIRECTIONS)}
at_start = labelled_toy.over_labels(labelled_toy.summarise_labels(clean, labels, reference, labelled_toy.REWARD))
print(f"p(own label | x₀), mean over the samples: {at_start.label:.2f}; spread within a label: {at_start.spread:.2f}")
plane.clouds(
    {"reference": clean},
    reference,
    groups=groups,
    half_width=4.2,
    alt="Samples of eight wide modes on a ring, in four colours with four markers: each label owns two neighbouring modes,"
    " and neighbouring labels mix at their borders.",
)

# %% [markdown]
# Grey lines are contours of the reference, here and below. At the borders a sample does not tell you its label. Bayes' rule
# on the mixture gives p(label | x₀), the probability of each label once you have seen the sample; its own label gets 0.91 on
# average. *Spread* is the deviation per axis of a label's samples, its two modes together.
#
# The reference now has two scores. Write p_t for its density at noise level t. The **conditional score**
# s_c = ∇ log p_t(x_t | c) knows the label. The **null score** s_null = ∇ log p_t(x_t) belongs to all labels together. A
# diffusion network gives both when its prompt was left empty in a part of its training; the empty prompt is the *null
# condition*. Here they are for “top” at σ = 1, with their difference:

# %% tags=["figure", "hide-input"]
score = MixtureScore(reference, toy.SCHEDULE)
axis = torch.linspace(-3.2, 3.2, 9)
points, top = torch.cartesian_prod(axis, axis), 1
t = torch.full((len(points),), 1.0)
conditional, null = score(points, t, top), score(points, t, None)
fields = {"s_c, label top": conditional, "s_null": null, "s_c − s_null": conditional - null}
plane.arrows(
    {title: (points, field) for title, field in fields.items()},
    reference,
    half_width=4.2,
    dots={"s_c, label top": clean[labels == top], "s_c − s_null": clean[labels == top]},
    alt="Three fields of arrows at sigma 1. Conditional: all point to the two upper modes. Null: they point inwards from"
    " outside the ring, and are too short to see within. Difference: they point upwards, away from the other labels;"
    " longest at the bottom, nearly nothing at the top.",
)

# %% [markdown]
# Faint dots are samples of “top”. The third field is the idea: it drops what all labels share, and points away from the
# *other* labels. Above the ring, where the label is certain, it vanishes. **Classifier-free guidance** (Ho and Salimans, arXiv
# 2207.12598) goes further along it:
#
# > guided score = s_c + cfg_scale · (s_c − s_null)
#
# ### The trap of 7.5
#
# There are two spellings of one formula:
#
# | spelling | off | a published 7.5 means |
# |---|---|---|
# | s_c + cfg_scale · (s_c − s_null), ours | cfg_scale = 0 | cfg_scale = 7.5 |
# | s_null + g · (s_c − s_null), as in the diffusers library | g = 1 | cfg_scale = 6.5 |
#
# They agree when g = 1 + cfg_scale. The tables of Diff-Instruct\* list 0 for “no guidance”, which fits the first spelling, or
# a plain off-switch. We do not know which one its 7.5 is. Do the two formulas agree, up to rounding?

# %%
for cfg_scale in (0.0, 1.0, 7.5):
    other = null + (1 + cfg_scale) * (conditional - null)
    print(
        f"cfg_scale {cfg_scale:g}: largest difference {(guided(conditional, null, cfg_scale) - other).abs().max():.1e}"
    )

# %% [markdown]
# ## 2. With a pencil: a shift and a sharpening
#
# Two Gaussians on a line. The null is N(0, 1). The condition asks for N(1, ¼), whose deviation is ½. A Gaussian's score is
# −(x − mean)/variance.
#
# > **Predict.** Guide N(1, ¼) away from N(0, 1) with cfg_scale 1, at σ = 0. The guided score belongs to a Gaussian with mean
# > above 1 and
# >
# > - **a** the same deviation: a shift
# > - **b** a smaller deviation
# > - **c** a larger deviation

# %% tags=["predict"]
predict("06.a", "?")

# %% [markdown]
# > **Exercise 06.1** · derive · difficulty 2 of 5 · importance 5 of 5 · 8 minutes
# >
# > Condition N(mean_c, dev_c²), null N(0, dev_0²), both noised: x_t = x_0 + σ ε. Write the guided score at x, in our spelling.
# > Do it on paper first, for σ = 0. (dev is a deviation; s_c stays the name of a score.)


# %% tags=["exercise"]
def guided_gaussian(x, sigma, cfg_scale, mean_c, dev_c, dev_0):
    """Points x [N] and plain numbers -> the guided score at noise level sigma, [N]."""
    # solution
    conditional = -(x - mean_c) / (dev_c**2 + sigma**2)
    null = -x / (dev_0**2 + sigma**2)
    return conditional + cfg_scale * (conditional - null)
    # end


# %% tags=["check"]
checked_guided = check("06.1", guided_gaussian)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Noise adds its variance: at level σ the condition is N(mean_c, dev_c² + σ²) and the null is N(0, dev_0² + σ²).
#
# </details>
# <details><summary>Hint 2</summary>
#
# Three lines: the conditional score, the null score, the formula. Try x = 0, σ = 0, cfg_scale = 1 with the numbers 1, ½, 1:
# the conditional score is 4, the null score 0, so the guided score is 8. Solutions are in `notebooks/solutions`.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** The guided score is −(1 + cfg_scale)(x − mean_c)/(dev_c² + σ²) + cfg_scale · x/(dev_0² + σ²). It is a straight
# line in x. At σ = 0 its slope is −P with P = (1 + cfg_scale)/dev_c² − cfg_scale/dev_0², and it vanishes at
# (1 + cfg_scale) mean_c/(dev_c² P). For 1, ½, 1 and cfg_scale 1: P = 8 − 1 = 7, mean 8/7.

# %% [markdown]
# Your result is a straight line in x, as a Gaussian's score is. Its **zero** is the mean; minus its slope is one over the
# variance. Read both off:


# %%
def line_of(cfg_scale, sigma):
    """The zero and minus the slope of the guided score of N(1, 1/4) away from N(0, 1)."""
    at_0, at_1 = checked_guided(torch.tensor([0.0, 1.0], dtype=torch.float64), sigma, cfg_scale, 1.0, 0.5, 1.0)
    return float(at_0 / (at_0 - at_1)), float(at_0 - at_1)


sharpened = {cfg_scale: line_of(cfg_scale, 0.0) for cfg_scale in (0.0, 1.0, 3.0)}
for cfg_scale, (zero, slope) in sharpened.items():
    print(f"cfg_scale {cfg_scale:g}: mean {zero:.3f}, deviation {slope**-0.5:.3f}")
reveal("06.a", f"at cfg_scale 1 the deviation is {sharpened[1.0][1] ** -0.5:.3f}, from 0.5")

# %% tags=["figure", "hide-input"]
x = torch.linspace(-1, 3, 200, dtype=torch.float64)
scores_at_0 = [charts.Line(f"cfg_scale {w:g}", x, checked_guided(x, 0.0, w, 1.0, 0.5, 1.0)) for w in sharpened]
densities = [
    charts.Line(f"cfg_scale {w:g}", x, torch.distributions.Normal(m, p**-0.5).log_prob(x).exp())
    for w, (m, p) in sharpened.items()
]
charts.lines(
    {"guided score, σ = 0": scores_at_0, "the density it belongs to": densities},
    alt="Left, three falling straight lines: the larger cfg_scale, the steeper, with zeros at 1, 1.14 and 1.23. Right,"
    " three bell curves with these means, taller and narrower with cfg_scale.",
    xlabel="x",
    ylabel=["score", "density"],
)

# %% [markdown]
# Answer **b**: a shift and a sharpening. The density is p(x|c)^(1 + cfg_scale)/p(x)^cfg_scale, normalised. For two arbitrary
# Gaussians it may not exist: the slope must stay negative. For a label and its null it always does, because the null
# *contains* the label: p(x) ≥ p(c) p(x|c), so the ratio p(x|c)/p(x) never exceeds 1/p(c).
#
# ### A famous misconception
#
# The tempting next sentence: “so at σ = 1 the guided score is that of the sharpened Gaussian, noised with σ = 1, and sampling
# with guidance draws from it.”
#
# > **Predict.** For cfg_scale 1 the sharpened Gaussian is N(1.143, 1/7). Noised, its score still has its zero at 1.143. Where
# > is the zero of the guided score at σ = 1? **a** at 1.143 as well · **b** between 1 and 1.143 · **c** beyond 1.143

# %% tags=["predict"]
predict("06.b", "?")

# %%
zero, slope = line_of(1.0, 1.0)
print(f"guided score at σ = 1:          zero {zero:.3f}, minus slope {slope:.3f}")
print(f"sharpened Gaussian, noised too: zero {sharpened[1.0][0]:.3f}, minus slope {1 / (1 / 7 + 1):.3f}")
reveal("06.b", f"the zero lies at {zero:.3f}")

# %% tags=["figure", "hide-input"]
panels = {}
for sigma in (0.2, 1.0, 3.0):
    mixed = checked_guided(x, sigma, 1.0, 1.0, 0.5, 1.0)
    noised = -(x - 8 / 7) / (1 / 7 + sigma**2)
    panels[f"σ = {sigma:g}"] = [
        charts.Line("guided score, cfg_scale 1", x, mixed * sigma),
        charts.Line("score of N(8/7, 1/7), noised", x, noised * sigma),
    ]
charts.lines(
    panels,
    width=2.7,
    alt="Three panels for sigma 0.2, 1 and 3, both scores times sigma against x. At 0.2 the two lines nearly coincide; at 1"
    " the guided line is steeper and crosses zero farther out; at 3 it lies above the other and crosses near 1.9.",
    xlabel="x",
    ylabel=charts.Axis("σ · score", guides=(0.0,)),
)

# %% [markdown]
# Answer **c**. The more noise, the farther out the zero; at cfg_scale 1 it tends to 2. But each line is the score of a
# Gaussian, and noise moves no mean: noised versions of one density would all have the same zero. So the guided fields of
# different levels contradict each other: no density has them all as its noised scores. What comes out depends on *who follows them*. The next cell compares two
# followers. The *sampler* is the usual many-step deterministic one; it follows the guided score from much noise to none. “One
# step” is a generator m + s z under the KL leash of notebook 00, with the guided score in the reference's place, an exact
# assistant and the toy's eight noise levels, once it has come to **rest**: where training no longer moves it.

# %%
pair = {
    "levels": toy.LEVELS,
    "mean": 1.0,
    "deviation": 0.5,
    "null_deviation": 1.0,
    "steps": min(settings.steps, 400),
    "nodes": 41,
}


def rest_of(loss, weight, cfg_scale, placement="inside"):
    """Mean and deviation of the generator m + s z at rest; inside: the guided score in the reference's place."""
    with_guidance = gaussians.placed(loss, placement, cfg_scale)
    return gaussians.fixed_point(lambda n, s: weight(n) * with_guidance(n, s), **pair)


for w in (1.0, 3.0):
    rows = {
        "the sharpened Gaussian": (sharpened[w][0], sharpened[w][1] ** -0.5),
        "a sampler that follows the flow": gaussians.end_of_flow(
            lambda x, sigma, w=w: checked_guided(x, sigma, w, 1.0, 0.5, 1.0)
        ),
        "one step, KL, w = 1": rest_of(losses.integral_kl, losses.weight_one, w),
        "one step, KL, w = σ²/α²": rest_of(losses.integral_kl, losses.weight_x0, w),
    }
    for name, (mean, deviation) in rows.items():
        print(f"cfg_scale {w:g}   {name:32s} mean {mean:.2f}   deviation {deviation:.2f}")

# %% [markdown]
# The first line of each block is what the tempting sentence promises. No follower ends there, and the two weights differ, too.
# For samplers the point is proved by Bradley and Nakkiran (arXiv 2408.09000). Look at the last line: at cfg_scale 3, with the
# weight of our default Diff-Instruct++, the deviation is **0**. This generator collapses to one
# point, and no reward was switched on. Or was there one?

# %% [markdown]
# ## 3. Theorem 3.2: the reward inside guidance
#
# Bayes' rule says p(c | x_t) = p(x_t | c) p(c)/p(x_t). Take the logarithm:
#
# > log p(x_t | c)/p(x_t) = log p(c | x_t) − log p(c)
#
# The gradient of the left side in x_t is s_c − s_null. So guidance climbs **log p(c | x_t): how recognisable the label is** in
# the noised sample. On a line, with two labels:

# %% tags=["figure", "hide-input"]
two_labels = toy.GaussianMixture.isotropic(
    torch.tensor([0.4, 0.6], dtype=torch.float64),
    torch.tensor([[-1.0], [1.5]], dtype=torch.float64),
    torch.tensor([0.5, 0.5], dtype=torch.float64),
    labels=torch.tensor([0, 1]),
)
x = torch.linspace(-5, 5, 300, dtype=torch.float64)[:, None]
posterior, slopes = [], []
for sigma in (0.2, 1.0, 3.0):
    noised = two_labels.diffuse(toy.SCHEDULE, torch.tensor(sigma))
    posterior.append(charts.Line(f"σ = {sigma:g}", x[:, 0], noised.responsibilities(x)[:, 1].log()))
    slopes.append(charts.Line(f"σ = {sigma:g}", x[:, 0], noised.given(1).score(x)[:, 0] - noised.score(x)[:, 0]))
charts.lines(
    {"log p(c | x_t), c on the right": posterior, "its slope, s_c − s_null": slopes},
    alt="Left, three curves that rise from the left and level off just below zero on the right, steepest for sigma 0.2."
    " Right, their slopes: constant on the left, falling to nothing on the right, largest for sigma 0.2.",
    xlabel="x_t",
    ylabel=["log probability", "slope"],
)

# %% [markdown]
# The left panel is the reward. It is never above 0, since a probability is never above 1, and to the right it grows for ever
# without getting there. The right panel is guidance.
#
# Its maximum lies infinitely far out because this label is no narrower than its rival. A label that is narrower is
# most recognisable at a finite place: farther out, the wider ones claim the samples again. So it is with the pencil's pair:

# %%
places = torch.linspace(0, 6, 6001, dtype=torch.float64)
for sigma in (0.0, 0.5, 1.0):
    conditional, guided_once = (checked_guided(places, sigma, w, 1.0, 0.5, 1.0) for w in (0.0, 1.0))
    print(f"σ = {sigma:g}: most recognisable at x_t = {places[(guided_once - conditional).abs().argmin()]:.2f}")

# %% [markdown]
# That is (1 + σ²) · 4/3: the more noise, the farther out.
#
# ### The derivation
#
# Call the **implicit reward** of a generator g_θ, with weight w(t),
#
# > R(θ) = ∫ w(t) E log p_ref(x_t | c)/p_ref(x_t) dt, where x_t = α_t g_θ(z, c) + σ_t ε.
#
# 1. The expectation runs over z and ε, which do not depend on θ. So the derivative goes inside.
# 2. The reference does not depend on θ either. θ acts through x_t alone.
# 3. Chain rule: ∂R = ∫ w(t) E {s_c(x_t) − s_null(x_t)}ᵀ ∂x_t dt.
#
# A loss with that gradient, up to the sign, must hold the bracket *constant*:
#
# > L_cfg = −w(t) sg[s_c(x_t) − s_null(x_t)]ᵀ x_t
#
# This is Theorem 3.2, as reconstructed by us; sg is the stop-gradient, `detach` in PyTorch. No assistant appears: both scores
# are the reference's. It is claim 15 in `tests/claims`.

# %% [markdown]
# > **Exercise 06.2** · implement · difficulty 2 of 5 · importance 5 of 5 · 5 minutes
# >
# > Write L_cfg per sample, without its weight. The check looks at the value *and* at the gradient in each of the three inputs.


# %% tags=["exercise"]
def cfg_loss(x_t, s_c, s_null):
    """x_t [B, n] and the two scores there, [B, n] each -> the loss per sample, [B]."""
    # solution
    return -((s_c - s_null).detach() * x_t).sum(-1)
    # end


# %% tags=["check"]
checked_loss = check("06.2", cfg_loss)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The gradient in x_t, the pull, must be −(s_c − s_null), and that in both scores must be zero.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Subtract, detach, multiply with x_t, sum over the last axis, change the sign.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** `return -((s_c - s_null).detach() * x_t).sum(-1)`. The library's version is `losses.cfg_reward`.

# %% [markdown]
# ### Held to the definition
#
# Is the derivation right? Take a generator that draws one of three pieces m₁ + s₁ z, m₂ + s₂ z, m₃ + s₃ z, with fixed
# probabilities; the two labels above; one noise level. On one side the reward as it is *defined*: an integral over x_t,
# differentiated by nudging each of the six numbers up and down.

# %%
line = replace(quadrature.line_setting(toy.SCHEDULE, 0.7), reference=two_labels)


def implicit_reward():
    """R at one noise level, as an integral over x_t on a fine grid; no sample and no score in it."""
    x, cell = quadrature.grid(line.frozen_law(), 4001)
    conditional = two_labels.given(1).diffuse(line.schedule, line.t).log_density(x)
    return float((cell * line.frozen_law().log_density(x).exp() * (conditional - line.target().log_density(x))).sum())


@torch.no_grad()
def nudged(parameter, index, h=1e-4):
    """The central difference of the implicit reward in one of the generator's numbers."""
    parameter.view(-1)[index] += h
    above = implicit_reward()
    parameter.view(-1)[index] -= 2 * h
    below = implicit_reward()
    parameter.view(-1)[index] += h
    return (above - below) / (2 * h)


# %% [markdown]
# On the other side your loss, sent through the generator; once as you wrote it, and once with `detach` forgotten.


# %%
def through_the_generator(loss):
    """The gradient of a loss(x_t, s_c, s_null) in m and s, by quadrature over z and noise."""
    at = MixtureScore(two_labels, toy.SCHEDULE)

    def of_samples(x0, x_t, noise):
        return loss(x_t, at(x_t, line.t, 1), at(x_t, line.t, None))

    return quadrature.expect(of_samples, line, quadrature.rotated_nodes(line, 201)).gradient


defined = [nudged(numbers, k) for numbers in (line.generator.shifts, line.generator.scales) for k in range(3)]
pushed = -through_the_generator(checked_loss)
forgotten = -through_the_generator(lambda x_t, s_c, s_null: -((s_c - s_null) * x_t).sum(-1))
for row in zip(("m₁", "m₂", "m₃", "s₁", "s₂", "s₃"), defined, pushed.tolist(), forgotten.tolist(), strict=True):
    print("{}   by definition {:+.7f}   through the loss {:+.7f}   without detach {:+.4f}".format(*row))

# %% [markdown]
# These are gradients of the reward. The first two columns agree to the digits that nudging can give. Every m wants to go right,
# m₁ most, which lies with the other label; every s wants to be smaller: a shift *and* a sharpening, as the pencil said. The third column is something else; m₃ has
# even turned round. The stop-gradient is no approximation. With it the gradient is right, without it wrong.

# %% [markdown] tags=["instructor"]
# **A fifth misconception**, best met here: *“a bounded reward cannot be hacked.”* Let the class predict the next run before
# anyone says where log p(c | x_t) has its maximum. **A sixth**, for section 4: *“inside or outside is a matter of where the
# code puts it.”*

# %% [markdown]
# ### What this reward likes best
#
# Back to the ring. We distil a one-step generator that takes a label, as notebook 00 distilled one without, and train it on
# the implicit reward *alone*: no leash, no explicit reward.
#
# > **Predict.** log p(c | x_t) is bounded, and made of the reference itself. Where do the samples go?
# >
# > - **a** to the middle of their label, where it is most typical
# > - **b** a little outwards, to the outer edge of the ring
# > - **c** outwards and on, until the run ends

# %% tags=["predict"]
predict("06.c", "?")

# %%
generator = toy.distilled(reference, steps=settings.distil_steps)


def train(method):
    state = toy.toy_state(generator, reference, labelled_toy.REWARD, seed=0, steps=settings.steps)
    conditions = toy.labels_in_turn(reference)
    for _ in post_train(state, method, conditions, steps=settings.steps, seed=0, **toy.LOOP):
        pass
    return state


guidance_alone = labelled_toy.guided_method("outside", reward_scale=0.0, cfg_scale=1.0)
no_leash = replace(guidance_alone, regularizer=None, distance=None, unit=None, law=None, exact=False)
runaway = toy.sample(train(no_leash), len(labels), condition=labels)
found = labelled_toy.over_labels(labelled_toy.summarise_labels(runaway, labels, reference, labelled_toy.REWARD))
radius = runaway.norm(dim=1).median()
reveal("06.c", f"median radius {radius:.0f}, p(own label) {found.label:.3f}, off the data {found.off_support:.0%}")

# %% [markdown]
# Answer **c**, with a perfect score: every label is recognised, and no sample is anywhere near the data. (Adam divides by the
# size of the gradient, so even a vanishing slope keeps moving.) This is reward hacking, by a reward that nobody trained. There
# is no pull picture: it would look like the third field of section 1. Guidance needs a leash as every reward does. In large models,
# too, the guidance term alone has been found to saturate pictures and finally to diverge (Decoupled DMD, arXiv 2511.22677).

# %% [markdown]
# ## 4. Inside or outside
#
# A method can use guidance in two places.
#
# - **Outside**: leave the leash as it is, with s_c as the reference's score, and add cfg_scale · L_cfg, with the leash's w(t),
#   as a second reward.
# - **Inside**: put the guided score in the reference's place, inside the leash. No extra term.
#
# > **Predict.** Same samples, same noise, same cfg_scale. Are the two pulls the same vector?
# >
# > - **a** for the KL leash yes, for the score leash no
# > - **b** for both yes: it is one formula written twice
# > - **c** for neither

# %% tags=["predict"]
predict("06.d", "?")

# %% [markdown]
# A thousand noised samples of the reference. The assistant's scores are those of wider modes, deviation 0.6, so that there is a
# gap. Everything in float64.

# %%
count, sigma = 1000, torch.tensor(0.7, dtype=torch.float64)
c, x0 = labels[:count], clean[:count].double()
noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
ref = MixtureScore(reference.to(torch.float64), toy.SCHEDULE)
wide = MixtureScore(labelled_toy.labelled_reference(0.6).to(torch.float64), toy.SCHEDULE)
huber = partial(losses.score_divergence, distance=losses.PseudoHuber(0.05), unit="eps")


def pull(loss, placement, cfg_scale):
    """The gradient at x_t of a leash with guidance in one of the two places, [1000, 2]."""
    x_t, t = (x0 + sigma * noise).requires_grad_(), sigma.expand(count)
    noised = losses.Noised(x0, x_t, noise, t, torch.ones(count, 1), t[:, None])
    scores = losses.Scores(wide(x_t, t, c), ref(x_t, t, c), ref(x_t, t, None))
    return torch.autograd.grad(gaussians.placed(loss, placement, cfg_scale)(noised, scores).sum(), x_t)[0]


apart = {}
for name, loss in {"KL": losses.integral_kl, "pseudo-Huber": huber}.items():
    inside, outside = (pull(loss, placement, 2.0) for placement in ("inside", "outside"))
    apart[name] = float((inside - outside).norm() / outside.norm())
reveal("06.d", "relative difference " + ", ".join(f"{name} {value:.1e}" for name, value in apart.items()))

# %% [markdown]
# Answer **a**. KL's pull is the assistant's score minus the reference's: *linear* in the latter, so an added piece may stand
# inside the bracket or outside (claim 16). That takes a weight that is the same in both places. DMD's is not: it divides by
# the distance between the sample and the *reference's* guess of it, so it reads the score that guidance has changed:

# %%
x_t, t = x0 + sigma * noise, sigma.expand(count)
noised = losses.Noised(x0, x_t, noise, t, torch.ones(count, 1), t[:, None])
plain, assistant = ref(x_t, t, c), wide(x_t, t, c)
seen_there = {"inside": guided(plain, ref(x_t, t, None), 2.0), "outside": plain}
by_place = [losses.weight_dmd(noised, losses.Scores(assistant, seen)) for seen in seen_there.values()]
print(f"DMD's weight, inside against outside: {(by_place[0] / by_place[1] - 1).abs().median():.0%} apart (median)")

# %% [markdown]
# For each sample the same direction, then, and another length. And the score leash of Diff-Instruct\* is not linear at all. Turn the
# scale up:

# %% tags=["figure", "hide-input"]
scales = [0.0, 0.5, 1.0, 2.0, 4.0, 7.5]
panels = {}
for name, loss in {"kl-one": losses.integral_kl, "star": huber}.items():
    panels[name] = [
        charts.Line(placement, scales, [float(pull(loss, placement, w).norm(dim=1).mean()) for w in scales])
        for placement in ("inside", "outside")
    ]
charts.lines(
    panels,
    markers=True,
    alt="Mean length of the pull against cfg_scale. KL: inside and outside are one rising straight line. Pseudo-Huber:"
    " outside rises steeply, inside stays flat at about 1.",
    xlabel="cfg_scale",
    ylabel="mean length of the pull",
)

# %% [markdown]
# With pseudo-Huber, outside grows without limit, and inside hardly grows. Inside, guidance is part of the gap, and
# pseudo-Huber hardly asks how long a gap is (notebook 00). Its scale still decides where the generator comes to rest. Mean and
# deviation for the pencil Gaussians:

# %%
for w in (1.0, 3.0, 7.5):
    places = {
        "KL, either": rest_of(losses.integral_kl, losses.weight_one, w),
        "pseudo-Huber, inside": rest_of(huber, losses.weight_one, w),
        "outside": rest_of(huber, losses.weight_one, w, "outside"),
    }
    print(f"cfg_scale {w:g}   " + "   ".join(f"{label_of(name)} {m:.2f}, {s:.2f}" for name, (m, s) in places.items()))

# %% [markdown]
# At cfg_scale 1 outside changes mean and deviation less than inside. At 7.5 its mean is the farther one. A scale says nothing without its placement.
#
# ## 5. Three ways to break it
#
# > **Exercise 06.3** · debug · difficulty 3 of 5 · importance 4 of 5 · 6 minutes
# >
# > A colleague reports: “cfg_scale has no effect: my generator copies the reference, at 0 and at 7.5.” The code below prints the
# > gap for a generator that copies the reference, so that the assistant's scores equal the reference's. What is wrong, and why does
# > training rest at the *unguided* reference?


# %%
def colleagues_gap(cfg_scale):
    x_t, t = x0 + sigma * noise, sigma.expand(count)
    assistant, assistant_null = ref(x_t, t, c), ref(x_t, t, None)  # it has learnt to equal the reference
    target = guided(ref(x_t, t, c), ref(x_t, t, None), cfg_scale)
    return guided(assistant, assistant_null, cfg_scale) - target


print(f"largest gap at cfg_scale 7.5: {colleagues_gap(7.5).abs().max():.1e}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The assistant is guided too. The gap is then (1 + cfg_scale) times the difference of the conditional scores minus cfg_scale
# times that of the null scores: zero as soon as the generator copies the reference, whatever the scale. Guide the reference
# only; then a generator that copies it feels a pull. The library never guides the assistant.
#
# </details>
#
# **No conditions.** Without a label s_c is s_null, and guidance is nothing. The library does not train such a run in silence:

# %%
plain = toy.toy_state(toy.new_generator(toy.reference()), toy.reference(), labelled_toy.REWARD, seed=0, steps=1)
try:
    next(post_train(plain, labelled_toy.guided_method("inside", 1.0, 2.0), toy.no_conditions, steps=1, seed=0, batch=8))
except ValueError as error:
    print(error)

# %% [markdown]
# **A null that does not contain the label.** The implicit reward is bounded because the null is the mixture of *all* labels.
# Put another label there, a “negative prompt”, and the bound is gone:

# %% tags=["figure", "hide-input"]
along = torch.stack([torch.linspace(-4, 8, 200), torch.zeros(200)], dim=1)
noised = reference.diffuse(toy.SCHEDULE, torch.tensor(1.0))
right = noised.given(0).log_density(along)
nulls = {"null: all labels": noised, "null: the label left": noised.given(2)}
ratios = [charts.Line(name, along[:, 0], right - law.log_density(along)) for name, law in nulls.items()]
charts.lines(
    {"log p(x_t | right)/p_null(x_t), σ = 1": ratios},
    width=5.5,
    alt="Two curves along the horizontal axis. With all labels as null the ratio rises and levels off at a thin line at"
    " 1.39. With the label left as null it keeps rising as a straight line, to 20 and beyond.",
    xlabel="first coordinate of x_t",
    ylabel=charts.Axis("log ratio", limits=(-12, 20), guides=(1.386,)),
)

# %% [markdown]
# The thin line is −log p(c) = log 4, about 1.39. With another label as null the pull never fades.
#
# ## 6. Reward and guidance together
#
# Now the explicit reward: r(x) = tanh(x₁/2), more to the right is better. For “right” it agrees with the label. For “left” it
# disagrees. For “top” and “bottom” it prefers one of the label's two modes. Four runs of Diff-Instruct\*, one seed each; all four
# have its leash:

# %%
wanted = {
    "leash + reward": ("inside", 2.0, 0.0),
    "leash + guidance": ("inside", 0.0, 2.0),
    "leash + both, inside": ("inside", 2.0, 2.0),
    "leash + both, outside": ("outside", 2.0, 2.0),
}
methods = {name: labelled_toy.guided_method(*scales) for name, scales in wanted.items()}
states = {name: train(method) for name, method in methods.items()}
clouds = {name: toy.sample(state, len(labels), condition=labels) for name, state in states.items()}
for name, points_of in clouds.items():
    by_label = labelled_toy.summarise_labels(points_of, labels, reference, labelled_toy.REWARD)
    found = labelled_toy.over_labels(by_label)
    print(
        f"{name:21s} reward {found.reward:+.2f}   p(own label) {found.label:.2f}, of left {by_label[2].label:.2f}"
        f"   spread {found.spread:.2f}   off the data {found.off_support:.1%}"
    )

# %% tags=["figure", "hide-input"]
plane.clouds(
    clouds,
    reference,
    reward=labelled_toy.REWARD,
    groups=groups,
    columns=2,
    half_width=4.2,
    alt="Four clouds by label. Leash and reward: the samples of left have moved to the middle of the ring, top and bottom sit"
    " on their right-hand mode. Leash and guidance: four separate groups. Both inside: left is in the middle, top and bottom on"
    " their right-hand mode, tighter. Both outside: the same, but left is at home on the left.",
)

# %% [markdown]
# *Leash and reward*: the samples of “left” have moved to the middle, where the reference no longer takes them for “left”. *Leash
# and guidance*: four tidy groups; p(own label) rises to 0.99, and the spread falls to 0.63. *Both, inside*: “left” is in the
# middle again, and more samples are off the data than with either one. *Both, outside*: same scales, and “left” stays at home.
#
# The pulls say why. Eight samples of each of the two runs with both, two of each label:

# %% tags=["figure", "hide-input"]
arrows = {}
for name in ("leash + both, inside", "leash + both, outside"):
    dots, of_dots = clouds[name][:8], labels[:8]
    moves = probes.motion(states[name], methods[name], dots, condition=of_dots, draws=1024)
    arrows[name] = (dots, *(moves[term] for term in ("reward", "regularizer", "cfg") if term in moves))
plane.pull_picture(
    arrows,
    reference,
    reward=labelled_toy.REWARD,
    backgrounds=clouds,
    alt="Eight samples in each of two panels. Inside: pink reward arrows to the right, turquoise leash arrows of about the"
    " same length to the left, small sums; two dots sit in the middle of the ring. Outside: pale guidance arrows mostly point"
    " outwards from the ring, and two dots sit on the left, where the reward's arrows are short.",
)

# %% [markdown]
# Left panel: in the middle the reward is steepest. The turquoise leash, guidance included, just balances it, so the dots rest there;
# turning up cfg_scale would make it no stronger (section 4). Right panel: pale arrows are guidance as a term of its own. It mostly
# points outwards, and adds to the leash instead of sharing its limit.
#
# ### Does guidance stiffen the leash?
#
# One more use of the pencil. Add the reward r(x) = x with reward_scale 0.2, guidance inside, and see by how much it shifts the
# resting place. A stiff leash gives little:


# %%
def shift(loss, cfg_scale, reward_scale=0.2):
    leash = gaussians.placed(loss, "inside", cfg_scale)
    with_reward = gaussians.fixed_point(lambda n, s: leash(n, s) - reward_scale * n.x0[:, 0], **pair)
    return with_reward[0] - gaussians.fixed_point(leash, **pair)[0]


for name, loss in {"kl-one": losses.integral_kl, "pseudo-Huber": huber}.items():
    print(f"{label_of(name):13s}" + "".join(f"   cfg_scale {w:g}: {shift(loss, w):.3f}" for w in (0.0, 1.0, 3.0)))

# %% [markdown]
# KL becomes stiffer with guidance: a narrower target resists more. Pseudo-Huber first becomes *softer*, twice as soft at
# cfg_scale 1. No Gaussian has all the guided fields as its scores (section 2), so a gap is left even at rest. Where the gap is
# long already, a longer one adds hardly any pull. So guidance makes room for the reward.
#
# ### The landscape
#
# One seed at one pair of scales is an anecdote. The next experiment is recorded: `distar lab landscape --profile full`, five
# reward scales, five cfg scales, five seeds, guidance inside, and four pairs outside. What we expected before it ran:

# %%
print(STUDIES["landscape"].prediction)

# %% [markdown]
# > **Exercise 06.4** · predict, then explore · difficulty 3 of 5 · importance 4 of 5 · 6 minutes
# >
# > Fix reward_scale = 2, guidance inside, and turn cfg_scale up from 0 to 7.5. What does the mean *reward* do? **a** it rises ·
# > **b** it falls, since “left” is held back · **c** nothing. Afterwards, look for the cell where you would stop.

# %% tags=["predict"]
predict("06.4", "?")

# %% tags=["figure"]
rows = read_rows("landscape")
cells = {w: landscape.cell(rows, 2.0, w) for w in values_of(rows, "cfg_scale")}
means = {w: over_seeds(cell, "reward").mean for w, cell in cells.items()}
reveal("06.4", ", ".join(f"{mean:.2f} at cfg_scale {w:g}" for w, mean in means.items()))
STUDIES["landscape"].picture(rows)

# %%
facts = STUDIES["landscape"].facts(rows)
print(
    f"guidance raises the mean reward in {facts['reward_by_guidance_raised']} of {facts['pairs']} pairs of scales, and lowers it in {facts['reward_by_guidance_lowered']}"
)
for scale in ("1", "2"):
    left = [facts[f"label_left_{scale}_{w}"] for w in ("0", "7p5")]
    print(
        f"reward scale {scale}, p(own label) of “left”: {left[0]:.2f} without guidance, {left[1]:.2f} at cfg_scale 7.5"
    )
print(f"{facts['lost']} of {facts['runs']} runs diverged, all at reward scale {facts['first_lost']:g} or more")

# %% [markdown]
# Read the maps from the bottom. **Up to reward scale 1 they get on**: guidance raises p(own label), and raises the mean reward
# as well; the reward costs the label less than 0.01. **From 2 on they fight over “left”, and inside, guidance loses**: p(own
# label) is ¾ at best, three labels of four. In these two rows some runs diverged, so the numbers there are not of runs at rest.
# So answer **a**, but look at what the reward is paid for:

# %% tags=["figure", "hide-input"]
plane.maps(
    {
        "p(own label), left only": landscape.table(rows, "label_left"),
        "share off the data": landscape.table(rows, "off_support"),
    },
    values_of(rows, "cfg_scale"),
    values_of(rows, "reward_scale"),
    digits=2,
    alt="Two maps over cfg_scale and reward_scale, guidance inside, means over five seeds. The label left is kept at reward"
    " scales up to 1 and lost at 2 and 4, at every cfg_scale. The share off the data is near zero up to reward scale 1 and"
    " grows with cfg_scale from reward scale 2 on, to more than a half in the top row.",
    xlabel="cfg_scale",
    ylabel="reward_scale",
)

# %% [markdown]
# Our prediction was wrong twice. Guidance *inside* does not hold the label in conflict; guidance *outside* does, with fewer samples
# off the data, not more. (Our pilot runs were also too short: “left” was still on its way.) Outside is not simply better, and not
# at rest: one run three times as long, at reward scale 2 and cfg_scale 7.5, not among the recorded ones, kept its labels but had
# 30% of its samples off the data. Where to stop? We take reward scale 1 and cfg_scale 2: p(own label) 0.98, “left” too, 2% off
# the data. More guidance buys little label there, and costs spread.
#
# Equal scales are no equal footing. So, for the runs inside, the same rows against the reward that was *reached*:

# %% tags=["figure"]
for share in ("0p2", "0p9"):
    kept = [(facts[f"at_{share}_label_{w}"], facts[f"at_{share}_spread_{w}"]) for w in ("0", "7p5")]
    print(
        f"at mean reward {facts[f'target_{share}']:.2f}, without guidance and at cfg_scale 7.5: p(own label) {kept[0][0]:.2f} and "
        f"{kept[1][0]:.2f}, spread {kept[0][1]:.2f} and {kept[1][1]:.2f}"
    )
landscape.fair_picture(rows)

# %% [markdown]
# At every reward, guidance keeps more of the label. At a mean reward of 0.14 it costs spread. At 0.64 the spreads say little, since
# many of those samples are off the data. One toy, one reward: no law, but a list of what to plot.

# %% [markdown]
# ### What was published
#
# The release of Diff-Instruct\* on SDXL lists both scales. These numbers are *published*, in the tables of its repository
# (`pkulwj1994/diff_instruct_star`), not measured here; ImageReward on the Parti prompts:
#
# | (reward scale, cfg scale) | ImageReward | against the row above |
# |---|---|---|
# | start, a distilled model (DMD2) | 0.938 | |
# | (0, 0) | 0.782 | −0.156 |
# | (0, 7.5) | 1.049 | +0.267 |
# | (100, 7.5), the method | 1.067 | +0.018 |
# | (100, 7.5), longer training | 1.140 | +0.073 |
#
# The explicit reward adds 0.018 to guidance alone: one seed, no interval, so nobody can say whether that is more than noise. The table
# does show that most of the way from (0, 0) was guidance, the implicit reward.

# %% [markdown]
# > **Exercise 06.5** · explain · difficulty 3 of 5 · importance 5 of 5 · 6 minutes
# >
# > In three sentences: why does “distilling with guidance is already RLHF” hold for the KL leash, word for word? And what has to
# > change in it for Diff-Instruct\*?
#
# <details><summary>A model answer</summary>
#
# With KL and the guided score the pull is s_ψ − s_c − cfg_scale (s_c − s_null), s_ψ being the assistant's. The first two terms are the
# leash to the plain reference, the third is minus the gradient of cfg_scale times log p(c | x_t), a reward at every noise level: reward plus
# leash, which is RLHF (with a weight that does not read the scores). With a nonlinear distance, guidance inside does not come out of the bracket as a term of its own, so “is” has to
# become “acts like”; there only guidance outside *is* a reward plus a leash.
#
# </details>

# %% [markdown]
# ## What you can now say
#
# 1. Guidance follows s_c − s_null, the slope of log p(c | x_t): a bounded reward for being recognisable, paid at every noise level. It
#    needs a leash like any reward.
# 2. At σ = 0 the guided score is that of a shifted, sharpened density; at σ > 0 it is not the score of that density noised. What you
#    get depends on who follows the field.
# 3. For the KL leash inside and outside are the same vector, unless its weight reads the scores; for pseudo-Huber they are
#    different methods. A scale means nothing without its placement and its spelling.
#
# ## Quiz
#
# 1. A paper says “guidance 1”. What do you ask?
#    <details><summary>Answer</summary>Which spelling. In s_null + g (s_c − s_null) it means off; in s_c + cfg_scale (s_c − s_null) it
#    means on, and equals g = 2.</details>
# 2. Why is the implicit reward bounded, and why does a generator that follows it alone still run away?
#    <details><summary>Answer</summary>It is log p(c | x_t) up to a constant, and a probability is at most 1. But the ring's labels
#    are equally wide, so it comes closest to that infinitely far out, where no other label competes: the slope fades and never
#    turns. For a label narrower than its rivals it turns at a finite place; for the pencil's at 4/3.</details>
# 3. Which of the two scores in L_cfg does the assistant supply?
#    <details><summary>Answer</summary>Neither. Both belong to the reference, one with the condition, one without.</details>
# 4. You move guidance from inside to outside at the same cfg_scale. With which leash does nothing change?
#    <details><summary>Answer</summary>With KL, if its weight does not read the scores (DMD's does): its pull is linear in the
#    reference's score, so the added piece is the same vector in either place.</details>
# 5. You raise cfg_scale and the mean reward rises. Did guidance and reward help each other?
#    <details><summary>Answer</summary>Not necessarily. Look at the label, the spread and the share off the data, at equal mean reward: here
#    part of the rise was a leash that gave way.</details>
#
# ## Exercises
#
# 06.1 the guided score of two Gaussians (derive, checked) · 06.2 the loss of Theorem 3.2 (implement, checked) · 06.3 guidance
# without effect (debug) · 06.4 the landscape (predict, explore) · 06.5 distilling with guidance is RLHF (explain)
#
# ## Where this comes from, and what next
#
# Classifier-free guidance: arXiv 2207.12598. What its samples are not: arXiv 2408.09000. Distilling with guidance as RLHF:
# Diff-Instruct++, arXiv 2410.18881. Theorem 3.2: Diff-Instruct\*, arXiv 2410.20898; we reconstructed its statement and derived it anew,
# claims 15 to 17 in `tests/claims`. “Inside” and “outside” are our reading of the release's “IN” and “OUT”. The resting places and the
# landscape are computed here. Levels, weights and c = 0.05 are our defaults.
#
# Next: notebook 07 maps every toy object to a part of SDXL, the two scores of guidance among them.
#
# Text and figures of this notebook: CC BY 4.0. Code: MIT.
