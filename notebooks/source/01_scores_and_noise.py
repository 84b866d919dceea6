# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Scores and noise
#
# **In this notebook you write the score of a mixture, add noise to it in closed form, and see it become a denoiser and a
# sampler.**
#
# > **Goals.** Compute the score of a mixture. Add noise to it without sampling. Convert between score, noise and clean
# > sample. Say what is visible at which noise level.
# >
# > **Before you start.** Notebook 00. You can differentiate a logarithm, and you know what a Gaussian is. Nothing about
# > diffusion is needed.
# >
# > **Time.** Thirty minutes to read, sixty-five with the exercises; the cells run for about twenty seconds on one CPU core.
# > No GPU, no network.

# %% tags=["setup"]
from itertools import pairwise

import torch

from distar_core import GaussianMixture, VarianceExploding, ring, scaled_linear_schedule
from distar_core.course import check, predict, profile, reveal
from distar_core.figures import charts, plane
from distar_core.figures.picture import BLUE, RED, Style
from distar_core.toy import ring as toy
from distar_core.toy.summary import summarise
from distar_core.truth import quadrature

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
settings = profile()

# %% [markdown] tags=["instructor"]
# **Board plan, 45 minutes.** 0–8: draw a bell and its logarithm; the score is the slope of the second; ask what a factor in
# front of the density does. 8–18: two bells, two straight lines, and the S between them; exercise 01.1 in pairs. 18–25: α
# scales, σ adds, variances add; vote on prediction 01.a before the clouds appear. 25–33: the scatter of −ε/σ and the curve
# through its middle; leave this identity on the board, for notebook 04 starts from it. 33–40: Tweedie as a corollary; gains
# at t = 399 and 999. 40–45: vote on prediction 01.b, then the six clouds.

# %% [markdown] tags=["instructor"]
# **Misconceptions to expect.**
#
# - *“Long arrows mean many data.”* The reverse: there the density is low and its logarithm steep. Point at the corners of the
#   first picture.
# - *“The score is the derivative in the parameters.”* So it is in classical statistics. Here it is the derivative in x.
# - *“Noise with deviation σ widens a clump from s to s + σ.”* Variances add, deviations do not: 0.3 and 0.4 give 0.5.
# - *“A perfect network has denoising loss zero.”* It cannot know the noise, only its mean given x_t. Show the floor.
# - *“A denoiser returns a clean picture.”* It returns the mean of all clean pictures that could be behind x_t.

# %% [markdown]
# ## A score is an arrow uphill
#
# The reference is the ring of notebook 00: eight clumps, or modes, each with standard deviation 0.25 (“deviation” from here
# on). At every point of a lattice stands its score, all shortened by one factor. Before you run the cell: where do you expect
# the longest arrows?

# %% tags=["figure", "hide-input"]
reference, schedule = toy.reference(), VarianceExploding()
lattice = torch.cartesian_prod(torch.linspace(-3.2, 3.2, 13), torch.linspace(-3.2, 3.2, 13))
plane.arrows(
    {"score of the reference": (lattice, reference.score(lattice))},
    reference,
    longest=1.2,
    alt="Arrows on a lattice over eight clumps on a ring. Nearly every arrow points to the nearest clump. They are longest"
    " in the corners, long around the empty middle, and hardly visible inside a clump.",
)

# %% [markdown]
# The arrows point towards the nearest clump. They are longest in the corners, far from all clumps. They vanish at the top of
# one, and in the exact middle, where eight pulls cancel. So a long arrow does not mean much density. It means that the
# density grows by a large *factor* in a small step along it.
#
# That is the definition. The **score** of a density p is the gradient of its logarithm in x:
#
# $$\text{score}(x) = \nabla_x \log p(x) = \frac{\nabla_x p(x)}{p(x)}.$$
#
# A density must integrate to 1, and that integral can be out of reach. A score does not care. Multiply p by a constant, and
# log p moves up as a whole; its slope stays. Here it is in one dimension, with two clumps.

# %% tags=["figure", "hide-input"]
weights, means, deviation = torch.tensor([0.35, 0.65]), torch.tensor([[-1.5], [1.0]]), 0.5
line = GaussianMixture.isotropic(weights, means, torch.full((2,), deviation))
x = torch.linspace(-3.5, 3, 261)[:, None]
log_p, slope = line.log_density(x), line.score(x)[:, 0]
p, scaled = "p, which integrates to 1", "20 p, which does not"
charts.lines(
    {
        "log-density": [charts.Line(p, x, log_p), charts.Line(scaled, x, log_p + torch.tensor(20.0).log())],
        "score": [charts.Line(p, x, slope), charts.Line(scaled, x, slope)],
    },
    xlabel="x",
    ylabel=["log p(x)", "d log p/dx"],
    alt="Left, two log-densities with two hills each, one above the other at a fixed distance. Right, their scores: one"
    " curve, since both agree; it falls, climbs steeply between the hills, and falls again.",
)

# %% [markdown]
# Left: two hills, and the same hills higher up. Right: their scores lie on each other, zero on each top and in the valley.
# So a network can learn a score without knowing the integral.
#
# ## The score of a mixture
#
# One round Gaussian N(μ, s²) has the log-density −‖x − μ‖²/(2s²) plus a constant. Its score is (μ − x)/s², an arrow to the
# mean, longer with distance. In one dimension it is a straight line.
#
# A mixture has components k with weights w_k (shares, not the w of a leash); here all have the same deviation s. The
# **responsibility** r_k(x) is the probability that a point found at x was drawn from component k: w_k N_k(x), divided by the
# sum of all w_j N_j(x). Differentiate the logarithm of that sum; since ∇N_k = N_k (μ_k − x)/s², you get
#
# $$\text{score}(x) = \sum_k r_k(x)\,\frac{\mu_k - x}{s^2},$$
#
# the average of the components' scores, weighted by responsibilities.

# %% tags=["figure", "hide-input"]
alone = (means[:, 0] - x) / deviation**2
share = line.responsibilities(x)
left, right, both = "left component", "right component", "mixture"
charts.lines(
    {
        "scores": [
            charts.Line(left, x, alone[:, 0]),
            charts.Line(right, x, alone[:, 1]),
            charts.Line(both, x, slope, style=Style("black", "", "-")),
        ],
        "responsibilities": [charts.Line(left, x, share[:, 0]), charts.Line(right, x, share[:, 1])],
    },
    xlabel="x",
    ylabel=["score", "share at x"],
    alt="Left, two parallel falling lines, the scores of the components, and the mixture's score, which follows the left"
    " line up to about -0.8, climbs, and follows the right line from about 0.2 on. Right, the responsibilities cross"
    " from one component to the other in the same stretch.",
)

# %% [markdown]
# The black curve follows the line of the component that is responsible, and in between climbs from one to the other. Take one
# point of that stretch apart:

# %%
point = torch.tensor([[-0.2]])
r, arrows = line.responsibilities(point)[0], (means[:, 0] - point[0]) / deviation**2
print("responsibilities  ", [round(value, 3) for value in r.tolist()])
print("component scores  ", [round(value, 3) for value in arrows.tolist()])
print(f"weighted average   {float(r @ arrows):.3f}     score of the mixture {float(line.score(point)):.3f}")

# %% [markdown]
# The left component pulls with −5.2 and is a quarter responsible, the right one with 4.8 and three quarters. Together: 2.34.
#
# > **Exercise 01.1** · implement · difficulty 3 of 5 · importance 5 of 5 · 10 minutes
# >
# > Write the score of a mixture of round Gaussians that all have the same deviation, at many points at once. It must work
# > at a point 60 deviations away from every mode, too. There every N_k(x) is so small that the computer stores 0, so
# > compute with logarithms.


# %% tags=["exercise"]
def mixture_score(x, weights, means, deviation):
    """Points [B, n], weights [K], means [K, n], one deviation -> the score at each point, [B, n]."""
    # solution
    offsets = means - x[:, None]  # [B, K, n]
    log_joint = weights.log() - offsets.square().sum(-1) / (2 * deviation**2)  # log(w_k N_k) up to a constant, [B, K]
    responsibilities = log_joint.softmax(-1)
    return (responsibilities[..., None] * offsets).sum(1) / deviation**2
    # end


# %% tags=["check"]
checked_score = check("01.1", mixture_score)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Three steps: all differences μ_k − x, [B, K, n]; the responsibilities, [B, K]; the weighted sum over k.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `means - x[:, None]` gives the differences. The softmax over k of log w_k − ‖x − μ_k‖²/(2s²) is the
# responsibility, and never divides 0 by 0. The solution is in `notebooks/solutions`.
#
# </details>
#
# Test it against the definition; autograd can differentiate log p itself:

# %% [markdown] tags=["solution"]
# **Solution.** Softmax of logarithms is w_k N_k/Σ w_j N_j, computed so that the largest exponent is 0. The common factor
# (2πs²)^(−n/2) cancels. Since all components are equally wide, (Σ r_k μ_k − x)/s² is the same thing and shorter.

# %%
points = reference.sample(500, torch.Generator().manual_seed(0)).requires_grad_()
(by_autograd,) = torch.autograd.grad(reference.log_density(points).sum(), points)
by_hand = checked_score(points.detach(), reference.weights, reference.means, 0.25)
print(f"largest difference to autograd: {float((by_hand - by_autograd).abs().max()):.0e}")

# %% [markdown]
# They agree.
#
# ## Add noise
#
# Hardly a sample falls far from the clumps, so a score cannot be learned there. Noise mends this. Diffusion models look at
#
# $$x_t = \alpha_t\,x_0 + \sigma_t\,\varepsilon, \qquad \varepsilon \sim N(0, I).$$
#
# α scales the clean sample x₀, and σ times fresh Gaussian noise ε is added. A **schedule** says which α and σ belong to the
# time t. *Variance-exploding*: α = 1, and σ grows; this is ours on the ring, where t is σ itself. *Variance-preserving*:
# α² + σ² = 1; this is SDXL's.
#
# What is the **law** of x_t, its probability distribution, if x₀ comes from a mixture? First a component is drawn; noise does not change which. Then a Gaussian
# is scaled, and an independent Gaussian is added: a Gaussian again. So x_t has a mixture as its law, with the same weights.

# %% [markdown]
# > **Exercise 01.2** · implement · difficulty 2 of 5 · importance 5 of 5 · 5 minutes
# >
# > The components of x₀ have means μ_k and deviation s. What are the means and the *variance* of the components of x_t?


# %% tags=["exercise"]
def noised(means, deviation, alpha, sigma):
    """Means [K, n], one deviation, alpha, sigma -> (means [K, n], one variance) of the components of x_t."""
    # solution
    return alpha * means, alpha**2 * deviation**2 + sigma**2
    # end


# %% tags=["check"]
checked_noised = check("01.2", noised)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write x_t in full with x₀ = μ + s z, z standard normal. Which part is fixed, which is random?
#
# </details>
# <details><summary>Hint 2</summary>
#
# x_t = αμ + (αs z + σε). The variances of independent parts add; a variance is a deviation squared.
#
# </details>
#
# Is it right? The density of x_t is an integral over all x₀ that noise could have carried there. On a fine grid you can add it
# up:

# %% [markdown] tags=["solution"]
# **Solution.** Means αμ_k, variance α²s² + σ². Nothing is sampled or integrated: this is what “in closed form” means.

# %%
alpha, sigma = 0.8, 0.6
x0, x_t = torch.linspace(-6, 6, 4001)[:, None], torch.linspace(-3, 3, 61)
kernel = torch.distributions.Normal(alpha * x0, sigma).log_prob(x_t).exp()  # density of x_t given x_0, [4001, 61]
by_integral = (line.log_density(x0).exp()[:, None] * kernel).sum(0) * 12 / 4000
new_means, variance = checked_noised(means, deviation, alpha, sigma)
by_formula = GaussianMixture.isotropic(weights, new_means, torch.full((2,), variance**0.5)).log_density(x_t[:, None])
print(f"largest difference of the densities: {float((by_formula.exp() - by_integral).abs().max()):.0e}")

# %% [markdown]
# ## What is visible at which noise level
#
# Suppose the ring, whose radius is 2, is noised with σ = 1.5. What does the density of x_t look like?
#
# - **a** eight clumps, only wider
# - **b** a ring without clumps
# - **c** one bump in the middle

# %% tags=["predict"]
predict("01.a", "?")

# %%
# the pass is the highest point midway between two modes
radius, eighth = torch.linspace(0, 2.6, 2601)[:, None], torch.tensor(torch.pi / 8)
to_mode, to_pass = radius * torch.tensor([1.0, 0.0]), radius * torch.stack([eighth.cos(), eighth.sin()])
for sigma in (0.2, 0.4, 0.7, 1.0, 1.3, 1.4, 1.5):
    law = reference.diffuse(schedule, torch.tensor(sigma))
    highest, on_pass = (law.log_density(ray).exp().max() for ray in (to_mode, to_pass))
    centre = law.log_density(torch.zeros(2)).exp()
    print(
        f"σ = {sigma}: of the highest density, {on_pass / highest:4.0%} on the pass, {centre / highest:6.1%} at the centre"
    )
reveal("01.a", "from σ = 1.4 on, the centre itself is the highest point")

# %% tags=["figure", "hide-input"]
rng = torch.Generator().manual_seed(0)
x0, noise = reference.sample(1500, rng), torch.randn(1500, 2, generator=rng)
plane.clouds(
    {f"σ = {sigma}": schedule.add_noise(x0, noise, torch.tensor(sigma)) for sigma in (0.2, 0.7, 1.5)},
    reference,
    half_width=5.0,
    alt="The same 1500 samples at three noise levels over the contours of the clean ring. At 0.2 eight clumps, a little"
    " wider than the contours; at 0.7 one ring; at 1.5 one round cloud, widest spread, that fills the middle.",
)

# %% [markdown]
# Eight clumps, a ring, one cloud: answer **c**. At σ = 0.7 the density on the pass between two modes is 96 % of the highest: a
# ring with hardly a dent. From 1.4 on, the centre is highest, where the clean ring has next to nothing.
#
# Your two functions together give the score at *every* noise level.
#
# > **Exercise 01.3** · predict · difficulty 2 of 5 · importance 4 of 5 · 2 minutes
# >
# > On the lattice above, the longest score at σ = 0.2 has length 25. At σ = 2 it has about
# >
# > - **a** 250: more noise, longer arrows
# > - **b** 25: the arrows point elsewhere, their length stays
# > - **c** 0.8: about thirty times shorter

# %% tags=["predict"]
predict("01.3", "?")


# %%
def noised_score(x, sigma):
    """Points [B, 2], noise level -> score of the noised ring, [B, 2]."""
    new_means, variance = checked_noised(reference.means, 0.25, 1.0, sigma)
    return checked_score(x, reference.weights, new_means, variance**0.5)


fields = {sigma: noised_score(lattice, sigma) for sigma in (0.2, 0.7, 2.0)}
longest = {sigma: float(field.norm(dim=1).max()) for sigma, field in fields.items()}
reveal("01.3", ", ".join(f"σ = {sigma}: longest {value:.2f}" for sigma, value in longest.items()))
print("longest, times σ:", ", ".join(f"{sigma * value:.1f}" for sigma, value in longest.items()))

# %% tags=["figure", "hide-input"]
plane.arrows(
    {
        f"σ = {sigma}, stretched {longest[0.2] / longest[sigma]:.0f} ×": (
            lattice,
            field * longest[0.2] / longest[sigma],
        )
        for sigma, field in fields.items()
    },
    reference,
    longest=1.1,
    alt="Score fields at three noise levels, each stretched to the same longest arrow. At 0.2 arrows turn to the nearest"
    " clump; at 0.7 they point to the ring from inside and outside; at 2 all point to the middle.",
)

# %% [markdown]
# Answer **c**. A component's score is (μ − x)/(s² + σ²): it is divided by the *variance*, which grows from 0.10 to 4.06, forty
# times. The longest arrow shrinks 33 times, because at σ = 2 it aims at the mean of several clumps, farther away. At σ = 0.2
# each arrow knows its clump. At 0.7 it knows only the ring. At 2 it knows only where the middle is. Times σ, in the eps-units
# of exercise 00.1, the lengths are 4.9, 3.2 and 1.5.
#
# ### Three faulty generators
#
# The noise level decides what a leash made of scores can feel. Three generators each have a fault: every mode too narrow, 0.15
# in place of 0.25; one mode with twice the share of any other; one mode lost. How large is the gap between
# their score and the reference's, as a root mean square over their own x_t? All densities are known, so the mean is a sum on a
# grid. Guess first: which fault shows most at σ = 0.05, which at σ = 2?

# %%
centres, width = reference.means, torch.full((8,), 0.25)
shares = torch.tensor([2.0, 1, 1, 1, 1, 1, 1, 1]) / 9
faulty = {
    "modes too narrow": ring(deviation=0.15),
    "one mode twice as full": GaussianMixture.isotropic(shares, centres, width),
    "one mode lost": GaussianMixture.isotropic(torch.full((7,), 1 / 7), centres[1:], width[1:]),
}


def gap_size(generator, sigma):
    own, ref = generator.diffuse(schedule, sigma), reference.diffuse(schedule, sigma)
    x, cell = quadrature.grid(own, 161)  # points that cover the law of x_t, and the area that belongs to each
    gap = sigma * (own.score(x) - ref.score(x))
    return float((cell * own.log_density(x).exp() * gap.square().sum(-1)).sum().sqrt())


# %% tags=["figure", "hide-input"]
levels = torch.tensor([0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0])
gaps = {name: [gap_size(generator, sigma) for sigma in levels] for name, generator in faulty.items()}
for name, sizes in gaps.items():
    print(f"{name:24s}", *(f"{float(s):.2f}: {size:.3f}" for s, size in zip(levels, sizes, strict=True)), sep="  ")
charts.lines(
    {"": [charts.Line(name, levels, sizes) for name, sizes in gaps.items()]},
    xlabel=charts.Axis("noise level σ", log=True),
    ylabel="gap in eps-units",
    markers=True,
    width=6.2,
    alt="Gap against sigma on a logarithmic axis. For narrow modes it rises to 0.47 at sigma 0.15 and falls to almost 0"
    " beyond 1. For the fuller and the lost mode it is almost 0 at low noise, largest at 0.7 and 0.5, and falls slowly.",
)

# %% [markdown]
# The wrong width shows best at σ = 0.15 (0.47) and is gone at σ = 2 (0.009). The wrong share is almost invisible at σ = 0.05
# (0.008), shows best at 0.7 (0.14), and is still there at 2 (0.09). Even a lost mode hardly shows at 0.05 (0.02). In eps-units
# every gap goes to 0 with σ, so compare the faults at one σ: at 0.05 the wrong width shows 0.275, fourteen times as much as
# the lost mode.
#
# Why this blindness at low noise? Inside a clump one component alone is responsible, so its weight cancels: double it, and the
# score stays. Weights matter only where components overlap, and noise makes them overlap. So a method that listens at low
# noise alone feels a lost mode far less than a wrong width. Remember this when you hear that scores keep diversity.

# %% [markdown] tags=["instructor"]
# **Ask here:** “Which of the three faults would a KL divergence on clean samples notice?” All: KL compares densities, and the
# weights are in there. That scores of nearly *clean* samples miss two of them is a weakness of scores, and the noise levels
# are the cure. Misconception: *“the score determines the density, so it cannot be blind.”* It does determine it, through
# arrows in places that hardly any sample visits.

# %% [markdown]
# ## With a pencil
#
# From here to notebook 06 one Gaussian goes with you, on paper. Noise: x_t = x₀ + σε. The generator is x₀ = m + s z, with z
# standard normal, so x₀ has the law N(m, s²); m = 1 and s = ½ where numbers are wanted.
#
# > **Exercise 01.4** · derive · difficulty 2 of 5 · importance 5 of 5 · 5 minutes
# >
# > Write down the law of x_t, take the logarithm of its density, and differentiate in x. The result is a straight line
# > a x + b. Return the slope a and the height b.


# %% tags=["exercise"]
def pencil_score(m, s, sigma):
    """Three numbers -> (slope, height): the score of x_t is slope * x + height."""
    # solution
    variance = s**2 + sigma**2
    return -1 / variance, m / variance
    # end


# %% tags=["check"]
checked_pencil = check("01.4", pencil_score)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# x_t is Gaussian. Exercise 01.2 with α = 1 and one component gives its mean and variance v.
#
# </details>
# <details><summary>Hint 2</summary>
#
# log p = −(x − m)²/(2v) + constant. Its derivative is −(x − m)/v. Multiply out.
#
# </details>
#
# Put in m = 1, s = ½, σ = 1, and keep the two numbers for the next section.

# %% [markdown] tags=["solution"]
# **Solution.** x_t has the law N(m, s² + σ²), so the score is −(x − m)/(s² + σ²): slope −1/(s² + σ²), height m/(s² + σ²). With
# the numbers, −0.8 and 0.8. More noise makes the line flatter; it always crosses zero at m.

# %% [markdown]
# ## Learning a score from noise
#
# SDXL is a network that learned a score. How, if nobody can tell it the right answer? Whoever makes x_t knows the ε that went
# into it. In notebook 00 a score was −ε̂/σ, so try −ε/σ. The picture shows 400 pairs (x_t, −ε/σ) for the two clumps on the
# line, at σ = 0.7, and the exact score of x_t.

# %%
rng, sigma = torch.Generator().manual_seed(0), 0.7
x0, noise = line.sample(100_000, rng), torch.randn(100_000, 1, generator=rng)
x_t, target = x0 + sigma * noise, -noise / sigma
edges = torch.linspace(-3.5, 3.25, 19)
middles, bins = (edges[1:] + edges[:-1]) / 2, torch.bucketize(x_t[:, 0], edges)
bin_means = torch.stack([target[bins == k].mean() for k in range(1, len(edges))])

# %% tags=["figure", "hide-input"]
fine = torch.linspace(-3.5, 3.25, 200)
exact_score = line.diffuse(schedule, torch.tensor(sigma)).score(fine[:, None])
charts.lines(
    {
        "": [
            charts.Line("one draw of −ε/σ", x_t[:400], target[:400], style=Style("#9c9ca1", ".", "")),
            charts.Line("score", fine, exact_score, style=Style(BLUE, "", "-")),
            charts.Line("mean of all draws in a bin", middles, bin_means, style=Style(RED, "s", "")),
        ]
    },
    xlabel="x_t",
    ylabel="−ε/σ",
    width=6.2,
    height=3.6,
    alt="A wide cloud of grey dots, and through its middle a curve, the score. Red squares, the means of 100,000 such dots"
    " in narrow bins, lie on the curve.",
)

# %% [markdown]
# Each dot is noise. The mean of the dots at a given x_t (squares, from 100,000 draws) is the score:
#
# $$\nabla \log p_t(x_t) = \mathbb{E}\left[-\varepsilon/\sigma \mid x_t\right].$$
#
# Why? The density of x_t is p_t(x_t) = ∫ p(x₀) N(x_t; αx₀, σ²I) dx₀. Its gradient brings down −(x_t − αx₀)/σ² under the
# integral, and that is −ε/σ. Divide by p_t(x_t): on the left stands the score. On the right, by Bayes, p(x₀) N(…)/p_t(x_t)
# is the law of x₀ given x_t, so there stands the average of −ε/σ over all x₀ that could be behind x_t.
#
# And a network trained with squared error learns the mean of its targets, given its input. So minimise
# E‖network(x_t) + ε/σ‖², and what comes out is the score. This is **denoising score matching**.

# %% [markdown]
# Test it with the pencil, where the best network is a straight line. Least squares on draws of (x_t, −ε/σ), with your m, s and
# σ, must find your two numbers.

# %%
z, noise = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(1))
x_t = 1 + 0.5 * z + noise
slope, height = torch.linalg.lstsq(torch.stack([x_t, torch.ones_like(x_t)], dim=1), -noise[:, None]).solution[:, 0]
print(f"least squares: {slope:+.2f} x {height:+.2f}   exact: {checked_pencil(1.0, 0.5, 1.0)}")
print(f"loss of that line {float((slope * x_t + height + noise).square().mean()):.2f}, of predicting 0: 1")
for sigma in (0.1, 0.5, 1.0, 4.0):
    print(f"σ = {sigma}: no network has a loss below {0.5**2 / (0.5**2 + sigma**2):.3f}, in eps-units")

# %% [markdown]
# Found from noise alone. The loss is 0.2, and cannot be less: given x_t, nobody knows ε, only its mean. Times σ²,
# in eps-units, this **floor** is s²/(s² + σ²) for the pencil: the variance 1 of ε, less σ²/(s² + σ²), the mean square of σ
# times your line. It is almost 1 at low noise, almost 0 at high. So never compare losses across noise levels.
#
# ## The score is a denoiser
#
# Put ε = (x_t − αx₀)/σ into the identity, and solve for the mean of x₀:
#
# $$\mathbb{E}[x_0 \mid x_t] = \frac{x_t + \sigma^2\,\nabla \log p_t(x_t)}{\alpha}.$$
#
# This is **Tweedie's formula**. It turns a score into a **denoiser**, the best guess x̂₀ of the clean sample in squared error.
# The next picture has arrows from x_t to x̂₀, in their true length.

# %%
rng = torch.Generator().manual_seed(2)
x0, noise = reference.sample(2000, rng), torch.randn(2000, 2, generator=rng)
moves = {}
for sigma in (0.2, 0.7, 2.0):
    x_t = x0 + sigma * noise
    denoised = x_t + sigma**2 * noised_score(x_t, sigma)
    moves[f"σ = {sigma}"] = (x_t[:50], (denoised - x_t)[:50])
    print(
        f"σ = {sigma}: {summarise(denoised, denoised[:, 0], reference).off_support:.1%} of the guesses are off the data"
    )

# %% tags=["figure", "hide-input"]
plane.arrows(
    moves,
    reference,
    longest=max(float(move.norm(dim=1).max()) for _, move in moves.values()),
    half_width=4.0,
    alt="Fifty arrows from noisy samples to their denoised guesses at three noise levels. At 0.2 they are short and end in"
    " the clumps. At 0.7 most end on the ring, a few between clumps. At 2 they are long and end inside the ring.",
)

# %% [markdown]
# At σ = 0.2 nearly every guess lies in a clump. At σ = 2 two thirds of the guesses are “off the data”, farther than three
# deviations from every mode. That is no failure: the mean of several clumps lies between them. On pictures such a mean is a
# blurry image.
#
# ### Three languages
#
# A diffusion network may predict the noise ε̂, the clean sample x̂₀, or the score. They say the same thing:
#
# | known | ε̂ | x̂₀ | score |
# | --- | --- | --- | --- |
# | ε̂ | ε̂ | (x_t − σε̂)/α | −ε̂/σ |
# | x̂₀ | (x_t − αx̂₀)/σ | x̂₀ | (αx̂₀ − x_t)/σ² |
# | score | −σ score | (x_t + σ² score)/α | score |
#
# The library has `schedule.convert(value, x_t, t, source=..., target=...)` for this (claim 1). But an *error* is
# stretched on the way. SDXL predicts ε̂, at times t from 0 to 999. If ε̂ is wrong by δ, x̂₀ is wrong by −(σ/α)δ.

# %% tags=["figure", "hide-input"]
sdxl, times = scaled_linear_schedule(), torch.arange(1000)
alpha, sigma = sdxl.alpha(times), sdxl.sigma(times)
for t in (0, 20, 399, 999):
    print(f"t = {t:3d}: α = {alpha[t]:.4f}   σ = {sigma[t]:.4f}   σ/α = {sigma[t] / alpha[t]:6.3f}")
charts.lines(
    {
        "": [
            charts.Line("ε̂ → x̂₀: σ/α", times, sigma / alpha),
            charts.Line("x̂₀ → ε̂: α/σ", times, alpha / sigma),
            charts.Line("ε̂ → score: 1/σ", times, 1 / sigma),
        ]
    },
    xlabel="SDXL's time t",
    ylabel=charts.Axis("gain of an error", log=True, guides=[1.0]),
    width=6.2,
    alt="Three gains against t on a logarithmic axis. From noise to clean sample it rises from 0.03 to 14.6 and crosses 1 a"
    " little before t = 399; from clean sample to noise it is the mirror image; from noise to score it falls from 34 to 1.",
)

# %% [markdown]
# From ε̂ to x̂₀ the gain is 1.16 at t = 399 and 14.6 at t = 999. The released one-step SDXL of Diff-Instruct\* takes its step
# at t = 399, as the model it starts from does. At 999 every error in ε̂ would come out almost fifteen times as large in x̂₀.
#
# > **Exercise 01.5** · debug · difficulty 3 of 5 · importance 3 of 5 · 8 minutes
# >
# > A colleague keeps x₀ and x_t in bfloat16, throws the noise away, and computes it anew in the loss. In float32 all went
# > well; now the loss at σ = 0.002 is far too high. The next cell does as she does. Which line would you change, and why does
# > the damage grow as σ falls?


# %%
def relative_error(dtype, sigma):
    """Of the noise when it is computed anew from an x_t and an x_0 that are stored in dtype."""
    x0, noise = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(3))
    stored_x0, stored_noise = x0.to(dtype), noise.to(dtype)
    x_t = stored_x0 + sigma * stored_noise
    again = (x_t - stored_x0) / sigma
    return float((again.double() - noise).norm() / noise.norm())


types = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
for sigma in (0.002, 0.03, 0.1, 1.0):
    print(f"σ = {sigma}:", *(f"{name} {relative_error(dtype, sigma):.2g}" for name, dtype in types.items()), sep="   ")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The line with the subtraction, `again = ...`. x_t and x₀ are almost equal, so their difference has few correct digits.
# bfloat16 keeps eight significant bits: storing x_t moves it by up to 0.4 %, and the division by σ magnifies that. The result
# is 62 % wrong at σ = 0.002, and 1.7 % at 0.1. Cure: keep the ε that was drawn, as the library does. float16 has three bits
# more, so it does better here.
#
# </details>
#
# ## From score to samples
#
# A denoiser answers with a mean. How do you get a *sample*? By many small steps. Start far out, at x = σz with a large σ, where
# x_t is practically Gaussian. Lower σ a little, and move x so that it has the law of the new x_t. One way to do this without
# fresh noise is the **probability flow** (here for α = 1; p_σ is the density of x_t):
#
# $$\frac{dx}{d\sigma} = -\sigma\,\nabla \log p_\sigma(x).$$
#
# As σ falls, x walks uphill. Check it with the pencil: with the score −(x − m)/(s² + σ²), x − m changes in proportion to
# √(s² + σ²), which is the deviation of x_t. From far out, z is sent to m + s z: the pencil's generator. On the ring, with your
# score:


# %%
def flow(z, steps):
    """Euler steps of the probability flow from σ = 10 to 0: all positions, [steps + 1, N, 2]."""
    sigmas = torch.cat([torch.logspace(1, -2, steps), torch.zeros(1)])
    positions = [10 * z]
    for sigma, following in pairwise(sigmas):
        slope = -sigma * noised_score(positions[-1], sigma)
        positions.append(positions[-1] + (following - sigma) * slope)
    return torch.stack(positions)


z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
ways = flow(z, steps=121)
nearest = [torch.cdist(where, reference.means).argmin(1) for where in (z, ways[-1])]
print(f"the mode nearest to z is the mode at the end for {(nearest[0] == nearest[1]).double().mean():.1%} of the z")

# %% tags=["figure", "hide-input"]
plane.paths(
    {"probability flow, 40 starting points": ways[:, :40]},
    reference,
    marks={"σ = 2": 28, "σ = 0.7": 46, "the end": 121},
    half_width=5.0,
    alt="Forty lines, most from beyond the frame, run straight towards the middle, bend near the ring, and end in the clumps."
    " Markers at sigma 2 lie far apart, markers at 0.7 lie around the ring, most of them beside the clump of their end.",
)

# %% [markdown]
# The lines come in straight towards the middle, as the arrows at high noise say. At σ = 0.7 (squares) most are near the clump
# where they will end (triangles). Nothing is random but the start: the flow is a *map* from z to samples. On the ring, by
# symmetry, the direction of z decides the clump.
#
# ### Predict: the flow in one step
#
# Each step costs one call of the score; on SDXL that is one run of a huge network. Go from σ = 10 to 0 in *one* step.
# Where do 2000 dots go?
#
# - **a** to the eight modes, but blurred
# - **b** to one spot in the middle
# - **c** to a ring

# %% tags=["predict"]
predict("01.b", "?")

# %%
ends = {steps: flow(z, steps)[-1] for steps in (1, 4, 16, 64)}
reveal("01.b", f"the dots lie {ends[1].norm(dim=1).mean():.2f} from the middle on average; the modes lie at 2")

# %% [markdown]
# Answer **b**. Work it out: the step is x + (0 − σ)(−σ score) = x + σ² score. That is Tweedie's formula. One step of the flow
# *is* the denoiser, and at σ = 10 the mean over all that is possible lies near the middle.
#
# The generator of notebook 00 also makes a sample in one call. It was *distilled*: trained with squared error to send each z
# where the flow ends. (A regression: no reward, no leash, no pulls to draw.)

# %%
generator = toy.distilled(reference, steps=settings.distil_steps)
with torch.no_grad():
    panels = {f"flow, {steps} step{'s' * (steps > 1)}": end for steps, end in ends.items()}
    panels["distilled, 1 call"] = generator(z, None)
aim = toy.ode_map(z, reference)  # the flow in 48 second-order steps: what the generator learned from
for name, end in panels.items():
    off, far = summarise(end, end[:, 0], reference).off_support, (end - aim).norm(dim=1).median()
    print(f"{name:18s} off the data {off:6.1%}   median distance to the end of an accurate flow {far:.2f}")

# %% tags=["figure", "hide-input"]
plane.clouds(
    panels | {"reference": reference.sample(2000, torch.Generator().manual_seed(1))},
    reference,
    alt="Six clouds. Flow in one step: one spot in the middle. Four steps: eight clumps with many dots inside the ring."
    " Sixteen and sixty-four steps: eight clean clumps. Distilled generator: eight clumps with a few dots between them."
    " Reference: eight clumps.",
)

# %% [markdown]
# Four steps leave 28 % off the data, sixteen 2.2 %, the distilled generator with its one call 2.7 %. So a one-step generator
# does not take one step of the flow. It learns where the flow *ends*, and skips the way. Squared error does not blur it as it
# blurs the denoiser: behind x_t there are many x₀, but for each z there is one end.
#
# Skipping the way also skips the score: such a generator has samples, and no score of its own that a leash could compare. You
# know how to get it: noise its samples, and learn from the noise. That is the assistant of notebook 02.

# %% [markdown]
# > **Exercise 01.6** · explain · difficulty 2 of 5 · importance 5 of 5 · 4 minutes
# >
# > A friend says: “Your assistant is trained to predict random noise. Nobody can predict random noise, so it learns nothing.
# > You can see it: its loss stays far above zero.” Answer in three sentences.
# >
# > <details><summary>A model answer</summary>
# >
# > True, nobody can predict the noise itself; with squared error the network learns its *mean given x_t*. That mean is not
# > zero, and divided by −σ it is exactly the score of the generator's noised samples. The loss stays above zero by the part
# > of the noise that x_t does not reveal: at low noise nearly all of it, for a perfect network, too.
# >
# > </details>

# %% [markdown]
# ## What you can now say
#
# 1. A score is the gradient of the log-density; a mixture's is the average of its components' scores, weighted by
#    responsibilities. Noise turns the means into αμ and the variance into α²s² + σ².
# 2. The score is the mean of −ε/σ given x_t. So a network learns it from noise, and it is a denoiser in another unit.
# 3. Low noise shows the shape of each mode and is almost blind to their shares; high noise shows where the mass lies, and no
#    shape.
#
# ## Quiz
#
# 1. You know a density up to a constant factor. What do you know of its score?
#    <details><summary>Answer</summary>All of it. The logarithm turns the factor into a summand, and the gradient drops
#    it.</details>
# 2. A component N(2, 0.5²) and x_t = 0.8 x₀ + 0.6 ε. Mean and variance of x_t?
#    <details><summary>Answer</summary>Mean 1.6; variance 0.64 · 0.25 + 0.36 = 0.52. The deviation is 0.72, not
#    0.4 + 0.6.</details>
# 3. A generator on the ring has lost one mode. Why is its score at σ = 0.05 almost right *at its own samples*?
#    <details><summary>Answer</summary>They sit in the other modes, and there one component alone is responsible. The lost
#    mode is felt where it would overlap with others, in eps-units best at σ = 0.5.</details>
# 4. For the pencil, a network has the loss 0.97 at σ = 0.1 and 0.10 at σ = 4, in eps-units. Where is its ε̂ closer to
#    the best possible one?
#    <details><summary>Answer</summary>At σ = 0.1. The floors are 0.962 and 0.015, so it is 0.008 above the best possible loss
#    there, and 0.085 at σ = 4; the excess is the mean squared distance to the best ε̂.</details>
# 5. At σ = 10 a denoiser answers with a point in the empty middle of the ring. Is it broken?
#    <details><summary>Answer</summary>No. It answers with the mean of the clean samples that could be behind x_t: almost all of
#    them.</details>
#
# ## Exercises
#
# 01.1 the score of a mixture (checked) · 01.2 a noised mixture (checked) · 01.3 which arrows shrink (predict) · 01.4 the
# pencil's score (checked) · 01.5 noise computed anew (debug) · 01.6 learning from noise (explain)
#
# ## Where this comes from, and what next
#
# Scores without a normalising constant: Hyvärinen, JMLR 6, 2005. Denoising score matching: Vincent, Neural Computation 23,
# 2011. Tweedie's formula: Efron, JASA 106, 2011. Probability flow: Song and others, arXiv 2011.13456, equation 13; in the form
# used here: Karras and others, arXiv 2206.00364, equation 1. One step at t = 399: the released inference settings of
# Diff-Instruct\* (arXiv 2410.20898), and of DMD2 (arXiv 2405.14867).
#
# In `tests/claims`: claims 1 (conversions), 2 (mixtures), 26 (blindness to weights), and 4: the mean of −ε/σ given x_t is the
# first step of Theorem 3.1 of Diff-Instruct\*, as we reconstructed it.
#
# Next: notebook 02 trains one-step generators and their assistant.
#
# Text and figures of this notebook: CC BY 4.0. Code: MIT.
