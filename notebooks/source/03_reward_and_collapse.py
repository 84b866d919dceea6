# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Reward, the tilted optimum, and three museum pieces
#
# **In this notebook you derive the best answer to a reward, find out which method goes there, and diagnose three runs that
# went wrong.**
#
# > **Goals.** Derive the tilted optimum and draw samples from it. Say what Diff-Instruct++ asks for, and where it comes to
# > rest instead. Recognise collapse, reward hacking and a runaway, each by the instrument that shows it.
# >
# > **Before you start.** Notebook 00: generator, reference, reward, leash, pull. You can complete a square.
# >
# > **Time.** Forty minutes to read, an hour and a half with the exercises; the runs take about a minute of that on one CPU
# > core. No GPU, no network.

# %% tags=["setup"]
from dataclasses import replace

import torch

from distar_core import METHODS, GaussianMixture, post_train, probes
from distar_core.course import check, museum, predict, profile, reveal
from distar_core.figures import charts, plane
from distar_core.figures.names import label_of
from distar_core.figures.picture import CYCLE, STYLES, TRUTH
from distar_core.lab import STUDIES, read_rows, values_of
from distar_core.lab.study import fact
from distar_core.mixture import LinearReward, QuadraticReward
from distar_core.toy import frontier
from distar_core.toy import ring as toy
from distar_core.toy.summary import summarise
from distar_core.truth import grid

torch.set_num_threads(1)
settings = profile()

# %% [markdown] tags=["instructor"]
# **Board plan, 50 minutes.** 5: reference, reward, leash: what would be the *best* cloud? Collect guesses. 10: the three lines
# of the tilt, with Z and log Z; let the room say why KL is never negative. 10: the pencil, α s² and the weights. 5: vote on
# 03.3, then the two pulls α and w m/(1 + σ²) as two springs. 15: the museum in groups of three, one sheet with the reward
# curves alone; each group may buy one more instrument and must say which and why. 5: what to inspect, as a table on the board.
#
# **Misconceptions.**
#
# - *“The tilt moves samples to better places.”* It changes chances. Where the reference has no samples, the tilt has none.
# - *“A larger α only makes the method faster.”* It changes the optimum. Speed is the learning rate.
# - *“Diff-Instruct++ converges to p_ref exp(α r)/Z, since it maximises reward minus KL.”* That optimum belongs to KL on clean
#   samples. With KL on noised samples the point of rest is another one (03.4).
# - *“KL is the cause of collapse.”* On this ring KL with w = 1 rests almost on the tilt. The weight matters as much as the word.
# - *“The reward went up, so the run is fine.”* It goes up in all three museum pieces.

# %% [markdown]
# ## The best answer to a reward
#
# You trust the reference, and a reward tells which of its samples people like. What would be the best new distribution? Not the
# reward's best point: that is one picture for ever. You want more of what is liked, and otherwise the least change.
#
# A direct way: draw many samples from the reference and keep some, each with a chance in proportion to exp(α r). The number α
# is the strength of the reward, `reward_scale` in the library. (RLHF writes α for it. It is not the signal α of x_t = αx₀ + σε,
# which is 1 here, and shows up only in the name of the weight σ²/α².) The reward is the bump of notebook 00, at most 1, around the
# mode on the right.

# %%
reference, reward = toy.reference(), toy.REWARDS["mode"]
pool = reference.sample(20_000, torch.Generator().manual_seed(0))


def keep(alpha, count=2000):
    chances = (alpha * reward(pool)).softmax(0)
    chosen = chances.multinomial(count, replacement=True, generator=torch.Generator().manual_seed(1))
    return pool[chosen], chances


# %% tags=["figure", "hide-input"]
plane.clouds(
    {f"kept with α = {alpha}": keep(alpha)[0] for alpha in (0, 2, 6)},
    reference,
    reward=reward,
    alt="Three clouds on the ring of eight modes. With alpha 0 all modes are equally full; with alpha 2 the right-hand mode"
    " is fullest and the left ones are thin; with alpha 6 almost all dots are in the right-hand mode, which is about as"
    " wide as before, and some in its two neighbours.",
)

# %% [markdown]
# α = 0 is the reference itself. As α grows, the left-hand side fades and the right-hand mode fills up. No dot goes where the
# reference has none.
#
# The distribution of the kept samples is the **tilted optimum**, or **tilt**: p_ref(x) exp(α r(x))/Z. The number Z, the mean of
# exp(α r) under the reference, makes it sum to 1. On a fine grid the tilt can be computed without sampling. Both
# ways, in numbers (*modes* and *spread* as in notebook 00; *worth*, 1/Σ chance², the **effective sample size**: how many samples of
# equal chance would tell as much as the 20,000):

# %%
lattice = grid.Grid()
mass, values = lattice.mass(reference.to(torch.float64).log_density), reward(lattice.points).reshape(101, 101)
for alpha in (0, 2, 6, 20):
    points, chances = keep(alpha)
    found = summarise(points, reward(points), reference)
    exact = float((grid.tilt_on_grid(mass, values, alpha) * values).sum())
    text = f"α = {alpha:2d}: reward {found.reward:.2f}, on the grid {exact:.2f}"
    print(f"{text}   modes {found.modes:.1f}   spread {found.spread:.2f}   worth {1 / chances.square().sum():.0f}")

# %% [markdown]
# Why train anything, then? At α = 20 the samples are worth about a tenth of their number. If a picture has n
# independent parts that each add to the reward, n such shares multiply, and soon nothing is left. So a *generator* is trained
# to draw from the tilt directly.
#
# ## Why exactly this one
#
# **RLHF**, reinforcement learning from human feedback, states the wish as one problem: find the p that makes
#
# J(p) = α E_p r − KL(p ‖ p_ref)
#
# as large as possible. (Others write E_p r − β KL; their β is 1/α.) KL(p ‖ q) = E_p log p/q measures the change. It is never
# negative, and zero only for p = q. Three lines answer it:
#
# 1. J(p) = E_p [α r − log p + log p_ref] = −E_p log [p / (p_ref exp(α r))]
# 2. With q = p_ref exp(α r)/Z this is J(p) = log Z − KL(p ‖ q).
# 3. Only the last term depends on p, and its best value is 0. So **p = q, the tilt, and J = log Z**.
#
# Line 2 needs a finite Z; you will see it fail. A consequence: among all p of equal mean reward J ranks by KL alone, so a tilt
# has the smallest KL to the reference at its mean reward. Two rivals: one keeps only the best k modes, one shrinks the ring towards the reward's best point.

# %% tags=["figure", "hide-input"]
means, ones = reference.means.double(), torch.ones(8, dtype=torch.float64)
near_first = (means - means[0]).norm(dim=1).argsort()


def mixture(weights, means, deviations):
    return lattice.mass(GaussianMixture.isotropic(weights / weights.sum(), means, deviations).log_density)


paths = {
    "tilt": [grid.tilt_on_grid(mass, values, alpha / 4) for alpha in range(33)],
    "the best k modes": [mixture(ones[:k], means[near_first[:k]], ones[:k] / 4) for k in (8, 7, 5, 3, 1)],
    "the ring, shrunk": [mixture(ones, means + k / 20 * (means[0] - means), ones / 4 * (1 - k / 20)) for k in range(5)],
}
rewards = {name: [float((p * values).sum()) for p in path] for name, path in paths.items()}
kl = {name: [float((p * (p / mass).log().nan_to_num()).sum()) for p in path] for name, path in paths.items()}
charts.lines(
    {"": [charts.Line(name, rewards[name], kl[name]) for name in paths]},
    alt="KL to the reference against mean reward. The dashed black curve of the tilts lies lowest and reaches 1.7 nats at"
    " reward 0.94; the line of the best k modes lies above it and reaches 2.1; the shrunk ring shoots up to 2.5 nats before"
    " its mean reward is 0.45.",
    xlabel="mean reward",
    ylabel="KL to the reference (nats)",
    width=5,
    height=3.2,
)

# %% [markdown]
# Reward is bought with KL, and the tilts (black dashes) are the best buy. Throwing modes away costs more. Moving samples off
# the data costs by far the most, since the reference has next to nothing there.

# %% [markdown]
# ## With a pencil
#
# The pencil's reference is N(0, 1), its reward r(x) = x. Multiply the density by exp(αx), here with α = 1, then normalise:

# %% tags=["figure", "hide-input"]
x = torch.linspace(-3.5, 4.5, 161)
bell = (-(x**2) / 2).exp() / (2 * torch.pi) ** 0.5
charts.lines(
    {
        "": [
            charts.Line("reference N(0, 1)", x, bell, style=STYLES["distilled"]),
            charts.Line("exp(αx)/20", x, x.exp() / 20, style=CYCLE[0]),
            charts.Line("product, not normalised", x, bell * x.exp(), style=CYCLE[2]),
            charts.Line("tilt", x, bell * (x - 0.5).exp(), style=TRUTH),
        ]
    },
    alt="The bell curve of N(0, 1) in grey; a rising exponential; their product, a higher bell centred at 1; and dashed the"
    " same bell, normalised: the grey one moved by 1 to the right, as wide as before.",
    xlabel="x",
    ylabel=charts.Axis("density", limits=(0, 0.72)),
    width=6,
    height=3,
)

# %% [markdown]
# The product is again a bell of the same width, further to the right and too high by the factor Z.
#
# > **Exercise 03.1** · derive · difficulty 2 of 5 · importance 5 of 5 · 8 minutes
# >
# > Tilt N(m, s²) by the reward r(x) = x with strength α: complete the square in −(x − m)²/(2s²) + αx. Return the mean, the
# > variance, and log Z.
#
# <details><summary>Hint 1</summary>
#
# Collect the powers of x: −x²/(2s²) + x (m/s² + α) + …. The first tells the variance. Mean over variance is the factor of x.
#
# </details>
# <details><summary>Hint 2</summary>
#
# With M the new mean, what is left over is (M² − m²)/(2s²). That is log Z. Put M in and simplify.
#
# </details>


# %% tags=["exercise"]
def tilted_gaussian(m, s, alpha):
    """Mean, deviation and strength, tensors [N] each -> mean, variance and log Z of the tilt, [N] each."""
    # solution
    return m + alpha * s**2, s**2, alpha * m + alpha**2 * s**2 / 2
    # end


# %% tags=["check"]
checked_gaussian = check("03.1", tilted_gaussian)

# %% [markdown] tags=["solution"]
# **Solution.** −(x − m)²/(2s²) + αx = −(x − M)²/(2s²) + (M² − m²)/(2s²) with M = m + α s². So the mean moves by α s², the
# variance stays, and log Z = (M² − m²)/(2s²) = α m + α² s²/2.

# %% [markdown]
# A mixture Σ w_k N(μ_k, s_k²) is tilted part by part: each part becomes its own tilted Gaussian, times its own Z_k.
#
# > **Exercise 03.2** · implement · difficulty 2 of 5 · importance 4 of 5 · 8 minutes
# >
# > Tilt a mixture of round Gaussians in n dimensions by r(x) = aᵀx with strength α: return the new weights, which sum to 1, and
# > the new means. The deviations stay as they are; they differ from part to part.
#
# <details><summary>Hint 1</summary>
#
# The number aᵀx of a sample of part k is a Gaussian with mean aᵀμ_k and variance s_k² |a|². Put these into log Z of 03.1.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `means @ a` has shape [K]. For the new means you need `deviations[:, None] ** 2 * a`, of shape [K, n]. |a|² is `a @ a`.
#
# </details>


# %% tags=["exercise"]
def tilted_mixture(weights, means, deviations, a, alpha):
    """weights [K], means [K, n], deviations [K], a [n], alpha a number -> weights [K] and means [K, n] of the tilt."""
    # solution
    grown = weights * (alpha * means @ a + alpha**2 * deviations**2 * (a @ a) / 2).exp()
    return grown / grown.sum(), means + alpha * deviations[:, None] ** 2 * a
    # end


# %% tags=["check"]
checked_mixture = check("03.2", tilted_mixture)

# %% [markdown] tags=["solution"]
# **Solution.** `grown = weights * (alpha * means @ a + alpha**2 * deviations**2 * (a @ a) / 2).exp()`, divided by its sum, and
# `means + alpha * deviations[:, None] ** 2 * a`. The exponent is log Z_k.

# %%
# your function on the ring, with the reward x₁/2 (x₁ runs to the right)
a, deviations = torch.tensor([0.5, 0.0]), torch.full((8,), 0.25)
for alpha in (0.0, 1.0, 3.0):
    weights, moved = checked_mixture(reference.weights, reference.means, deviations, a, alpha)
    print(f"α = {alpha:g}: right-hand mode {weights[0]:.3f} at {moved[0, 0]:.3f}, left-hand mode {weights[4]:.4f}")

# %% tags=["figure", "hide-input"]
linear = LinearReward(a)
across = QuadraticReward(torch.diag(torch.tensor([0.0, -1.0])))
panels = {
    "reference": reference,
    "r = x₁/2, α = 3": GaussianMixture.isotropic(weights, moved, deviations),
    "r = −x₂²/2, α = 2": reference.tilt(across, 2.0),
}
plane.clouds(
    {name: law.sample(2000, torch.Generator().manual_seed(2)) for name, law in panels.items()},
    reference,
    alt="Three clouds on the ring. The reference: eight equal modes. The linear tilt: the three modes on the right are well"
    " filled, the others are thin or empty. The quadratic tilt: the modes at the left and right are full, the top and"
    " bottom ones nearly empty, the diagonal ones thin and a little nearer to the middle line.",
)

# %% [markdown]
# Under the linear reward the modes hardly move: by α s² |a|, which is 0.03 at α = 1. The weights do the work. At such strengths
# even a reward without a maximum has its optimum close to the data. This quadratic reward (right) also narrows the modes a
# little.
#
# ### When there is no optimum
#
# Line 2 of the proof needs a finite Z. Take N(0, 1) and r(x) = x²/2. The exponent is −x²/2 + αx²/2, so the tilt has variance
# 1/(1 − α). From α = 1 on the reward outgrows the reference's tail, and Z is infinite.

# %%
standard = GaussianMixture.isotropic(torch.ones(1), torch.zeros(1, 1), torch.ones(1))
square = QuadraticReward(torch.ones(1, 1))
for alpha in (0.5, 0.9, 0.99, 1.1):
    try:
        print(f"α = {alpha}: variance {float(standard.tilt(square, alpha).variances):.1f}")
    except ValueError as error:
        print(f"α = {alpha}: {error}")

# %% [markdown]
# The library refuses. A training loop would run on, and the samples leave for infinity: one museum piece below is a cousin.

# %% [markdown]
# ## What Diff-Instruct++ asks for
#
# Diff-Instruct++ keeps the reward and replaces KL by **integral KL**: KL between the *noised* generator and the *noised*
# reference, averaged over noise levels σ with a weight w(σ) (reconstructed). It is notebook 00's KL leash.
#
# The reward looks at clean samples, the leash at noised ones. Is the answer still the tilt?
#
# > **Exercise 03.3** · predict · difficulty 2 of 5 · importance 5 of 5 · 2 minutes
# >
# > The pencil: reference N(0, 1), generator N(m, 1), reward x, α = 1. The tilt has m = 1. Now the leash is KL at the single
# > level σ = 1, with weight 1. Where does m come to rest?
# >
# > - **a** at 1: it is reward minus KL all the same
# > - **b** below 1: noise makes the leash stronger
# > - **c** above 1: noise makes the leash weaker

# %% tags=["predict"]
predict("03.3", "?")

# %%
x, step = torch.linspace(-25, 25, 5001, dtype=torch.float64), 0.01


def objective(m, alpha, sigma):
    own, other = (torch.distributions.Normal(mean, (1 + sigma**2) ** 0.5) for mean in (m, 0.0))
    kl = (own.log_prob(x).exp() * (own.log_prob(x) - other.log_prob(x))).sum() * step
    return float(alpha * m - kl)


tried = torch.linspace(0, 6, 241).tolist()
best = {sigma: max(tried, key=lambda m, sigma=sigma: objective(m, 1.0, sigma)) for sigma in (0.01, 0.5, 1.0, 2.0)}
reveal("03.3", f"m = {best[1.0]:.2f}")
print({f"σ = {sigma}": round(m, 2) for sigma, m in best.items()})

# %% [markdown]
# Answer **c**: 2, not 1, by trying many values of m. Noise blurs both sides, so they look more alike and the leash gives way.
# With almost no noise it is the tilt again. By hand: KL of two Gaussians of
# variance 1 + σ² whose means differ by m is m²/(2(1 + σ²)). The reward pulls with α, the leash with w m/(1 + σ²). They balance
# at **m = α (1 + σ²)/w**.
#
# > **Exercise 03.4** · derive · difficulty 3 of 5 · importance 4 of 5 · 6 minutes
# >
# > Now there are L levels σ, each drawn with equal chance and each with its own weight w. The leash is the *mean* over levels
# > of w KL. Where does m come to rest?
#
# <details><summary>Hint 1</summary>
#
# There is one m, and all levels pull on it at once. Write down the mean of their pulls, and set it equal to α.
#
# </details>
# <details><summary>Hint 2</summary>
#
# The mean pull is m times the mean of w/(1 + σ²). `.mean()` is all you need beside a division.
#
# </details>


# %% tags=["exercise"]
def rest_of_kl(alpha, weights, sigmas):
    """alpha a number; weights and levels [L] -> m, one number."""
    # solution
    return alpha / (weights / (1 + sigmas**2)).mean()
    # end


# %% tags=["check"]
checked_rest = check("03.4", rest_of_kl)

# %% [markdown] tags=["solution"]
# **Solution.** `alpha / (weights / (1 + sigmas**2)).mean()`. The points of rest of the single levels, α (1 + σ²)/w, are *not*
# averaged: pulls add, points of rest do not.

# %% [markdown]
# Put in the ring's eight noise levels and the two weights of notebook 00, σ²/α² (here σ²) and 1.

# %%
sigmas = torch.tensor(toy.LEVELS, dtype=torch.float64)
for name, w in {"kl-x0": sigmas**2, "kl-one": torch.ones(8, dtype=torch.float64)}.items():
    print(f"{label_of(name):16s} m = {float(checked_rest(1.0, w, sigmas)):.2f} α")

# %% [markdown]
# The tilt has m = α. At equal α the three go to three places. For one Gaussian and a linear reward each is the
# tilt at another strength. You turn the knob until the mean reward is what you want.
#
# ### On the ring the shape differs, too
#
# Points of rest under the bump reward, solved on a grid without any network (trained networks may stop short of them):

# %%
names = ("tilt", "kl-x0", "kl-one")
known = {name: [p for p in frontier.curve(frontier.read_points(), "mode", name) if p.trusted] for name in names}
for target in frontier.aims("mode"):
    for name, points in known.items():
        p = min(points, key=lambda p: abs(p.summary.reward - target))
        s, text = p.summary, f"reward {p.summary.reward:.2f}  {label_of(name):15s} α {p.reward_scale:.2f}"
        print(f"{text}   modes {s.modes:.1f}   spread {s.spread:.2f}   KL {s.kl:.2f}")

# %% tags=["figure", "hide-input"]
metrics = {
    "modes": charts.Axis("effective number of modes", guides=[8.0]),
    "kl": charts.Axis("KL to the reference", guides=[0.0]),
    "spread": charts.Axis("spread in the fullest mode", guides=[0.244]),
}
curves = []
for name, points in known.items():
    heights = {key: [getattr(p.summary, key) for p in points] for key in metrics}
    curves.append(charts.Curve(name, [p.summary.reward for p in points], heights))
charts.frontier(
    curves,
    [],
    metrics,
    alt="Modes, KL to the reference, and spread against mean reward. The dashed tilt and KL with w = 1 lie almost on each"
    " other in modes and KL; the spread of w = 1 is slightly smaller. KL with w = sigma squared has fewer modes, two to three"
    " times the KL, and a spread that falls towards 0.",
)

# %% [markdown]
# KL with w = 1 (orange) rests almost on the tilt. KL with w = σ² (red) does not: at equal reward it has fewer modes, a KL to
# the reference about three times the tilt's, and a spread far below 0.244. Its leash is almost silent at low noise, where a
# mode's width is visible, so the reward squeezes the mode. The weight decides how far from the tilt Diff-Instruct++ rests.
#
# ### A method that does aim at the tilt
#
# **DIDR** (Diff-Instruct with Diffused Reward) takes the tilt, noises *it*, and lets integral KL pull the generator there. The
# reward sits inside the target score at every level: s_ref + s_r, where s_r is what the reward adds to the score after noising.
# For a linear reward on a mixture the noised tilt is one more mixture, so its score is exact (claim 23 in `tests/claims`). Other
# rewards need a grid, or the approximation `didr-proxy`.
#
# Run it under x₁/2 at α = 2, beside Diff-Instruct++ with a strength that brings about the same reward. Both have w = σ².

# %%
generator = toy.distilled(reference, steps=settings.distil_steps)
methods = {
    "DIDR": replace(toy.on_levels(METHODS["didr"]), reward_scale=2.0),
    "kl-x0": replace(toy.TOY_METHODS["kl-x0"], reward_scale=0.9),
}


def train(method, steps=settings.steps):
    state = toy.toy_state(generator, reference, linear, seed=0, steps=steps)
    for _ in post_train(state, method, toy.no_conditions, steps=steps, seed=0, **toy.LOOP):
        pass
    return state


states = {name: train(method) for name, method in methods.items()}

# %%
tilt = reference.tilt(linear, 2.0)
start = generator(torch.randn(5000, 2, generator=torch.Generator().manual_seed(1)), None).detach()
clouds = {"the tilt": tilt.sample(5000, torch.Generator().manual_seed(3))}
clouds |= {name: toy.sample(state, 5000) for name, state in states.items()}


def compare(name, points):
    found, to_tilt = summarise(points, linear(points), reference), summarise(points, linear(points), tilt).kl
    text = f"{label_of(name):14s} reward {found.reward:5.2f}   modes {found.modes:.1f}   spread {found.spread:.2f}"
    print(f"{text}   off the data {found.off_support:4.0%}   KL to the tilt {to_tilt:.2f}")


for name, points in {"start": start, **clouds}.items():
    compare(name, points)

# %% tags=["figure", "hide-input"]
plane.clouds(
    clouds,
    reference,
    reward=linear,
    alt="Three clouds. The tilt: clean modes, fuller towards the right. DIDR: much the same shares, with dots between the"
    " modes. KL with w = sigma squared: the right-hand modes are drawn out to the right, with more dots between the modes.",
)

# %% [markdown]
# DIDR lands on the tilt's mean reward and number of modes, but with dots between the modes, more of them than at the start
# (*off the data*: farther than three deviations from every mode). Diff-Instruct++ has the same reward, more modes, and lies
# much farther from the tilt.
#
# The pulls tell the two apart. For DIDR, split its one pull in two: what the reward adds, and the rest.

# %% tags=["figure", "hide-input"]
dots, arrows = toy.spread_out(clouds["the tilt"][:300], 10), {}
for name, method in methods.items():
    moves = probes.motion(states[name], method, dots)
    if "reward" not in moves:
        plain = probes.motion(states[name], replace(method, reward_scale=0.0), dots)["regularizer"]
        moves = {"reward": moves["regularizer"] - plain, "regularizer": plain}
    arrows[name] = (dots, moves["reward"], moves["regularizer"])
plane.pull_picture(
    arrows,
    reference,
    reward=linear,
    backgrounds=clouds,
    alt="Ten dots in two panels. DIDR: the reward's arrows point to the right-hand modes, long for dots on the left and shorter"
    " on the right. KL: the reward's arrow is the same at every dot. In both the regularizer's arrows point back and are about"
    " as long, so that the sums are almost too short to see.",
)

# %% [markdown]
# In the right panel the reward (pink) pulls every dot alike: it does not know where the data are. In the left one it pulls hard
# where a noised sample could still end in a better mode, and less where none is left. In both the sums are short: both
# runs are close to rest, each with its own cloud.
#
# One seed proves little; here are five, recorded. **Excess KL** is the KL to the tilt of *equal mean reward*, both sides
# blurred with σ = 0.15. Written down before the runs:

# %%
print(STUDIES["didr"].prediction)

# %% tags=["figure"]
rows = read_rows("didr")  # recorded: distar lab didr --profile full, five seeds
STUDIES["didr"].picture(rows)

# %%
facts = STUDIES["didr"].facts(rows)
for name in values_of(rows, "method"):
    excess = [[f"{facts[fact(reward, name, k)]:.2f}" for k in range(3)] for reward in ("linear", "mode")]
    print(
        f"{label_of(name):20s} excess KL by rising scale, linear {' / '.join(excess[0])}   mode {' / '.join(excess[1])}"
    )

# %% [markdown]
# The prediction did not hold. DIDR with its exact target is 0.25 to 0.41 nats off, not within 0.1, and first at one strength of
# six. Elsewhere KL with w = 1 or pseudo-Huber is closer, though w = 1 has hardly moved at its weakest. (Thin line: the start's
# KL to the reference.) As expected, the proxy is level or behind, and KL with w = σ² farthest, but for the runaway. A right
# target is not enough. Our suspicion: the runs are short, and DIDR's weight hardly looks at low noise. Give it w = 1:

# %%
compare("DIDR", clouds["DIDR"])
loud = replace(methods["DIDR"], weight=toy.TOY_METHODS["kl-one"].weight)
compare("DIDR, w = 1", toy.sample(train(loud), 5000))

# %% [markdown]
# Closer, in one seed. A longer run, `train(methods["DIDR"], 5 * settings.steps)`, helps, too.
#
# **In your browser.** [DIDR beside KL](docs/web/leash.html#left=didr&left.scale=2&right=kl-x0&right.scale=0.9&reward=linear), with exact
# scores and as long as you like.

# %% [markdown]
# ## Three museum pieces
#
# Three runs went wrong in three ways. One **collapsed**: it makes a single picture. One **hacked the
# reward**: it found places where the reward is high and people would disagree. One **ran away**: it never comes to rest. You are
# not told which is which, nor their reward, leash and strength.

# %% tags=["figure", "hide-input"]
steps = settings.steps // 2
exhibits = {letter: museum.exhibit(museum.piece(letter), generator, steps=steps) for letter in "ABC"}


def chart(**instruments):
    return {
        f"piece {letter}": [charts.Line(text, e.column("step"), e.column(name)) for name, text in instruments.items()]
        for letter, e in exhibits.items()
    }


charts.lines(
    chart(reward=""),
    alt="Mean reward over training steps, one panel for each piece with its own height. A rises from 0.3 and levels off at"
    " about 1.26; B rises from 0 to above 200 in the shape of an S; C rises from 0.3 and levels off at 1.",
    xlabel="generator step",
    ylabel=["mean reward", "", ""],
    width=2.3,
    height=2.5,
)

# %% [markdown]
# A training log shows this: three rewards that rise and level off. Mind the heights. A second instrument: the mean length of the
# two pulls on a sample.

# %% tags=["figure", "hide-input"]
charts.lines(
    chart(reward_pull="pull of the reward", leash_pull="pull of the leash"),
    alt="Mean length of the pulls over steps. A: the reward's stays at about 2, the leash's rises to 2 and stays. B: the"
    " reward's stays at 2, the leash's falls to 0.3. C: the reward's falls from 0.3 to almost 0, the leash's is 0.",
    xlabel="generator step",
    ylabel=charts.Axis("mean length of a pull", limits=(-0.05, 2.3)),
    width=2.3,
    height=2.9,
)

# %% [markdown]
# And four more. *log p_ref*: the median log-density of the samples under the reference. *gap*: the mean length of the
# difference of the two scores, in eps-units. `nan`: there is none (no sample within three deviations of the fullest mode; no
# leash).

# %%
print(f"log p_ref of the reference's own samples: {reference.log_density(pool).median():.2f}")
for name, text in {"modes": "modes", "spread": "spread", "log_density": "log p_ref", "gap": "gap"}.items():
    for letter, exhibit in exhibits.items():
        early, late = exhibit.column(name)[len(exhibit.readings) // 10], exhibit.column(name)[-1]
        print(f"{text:10s} piece {letter}:  after a tenth {early:8.2f}   at the end {late:12.2f}")

# %% tags=["figure", "hide-input"]
arrows = {}
for letter, exhibit in exhibits.items():
    young = museum.exhibit(exhibit.piece, generator, steps=steps, until=max(1, steps // 10), readings=1)
    points = young.readings[-1].points
    dots = toy.spread_out(points[points.abs().max(1).values < 2.5][:300], 8)
    moves = probes.motion(young.state, exhibit.piece.method, dots)
    arrows[f"piece {letter}"] = (dots, moves["reward"], moves.get("regularizer", torch.zeros_like(dots)))
plane.pull_picture(
    arrows,
    reference,
    alt="Eight dots in each of three panels. A: equal arrows of the reward to the right, leash arrows about half as long"
    " against them. B: equal reward arrows to the right, leash arrows in several directions, none to be seen at the two dots"
    " farthest out. C: tiny reward arrows towards the right-hand mode and no leash arrows.",
)

# %% [markdown]
# These are the pulls on eight samples after a tenth of the run, on one scale.
#
# > **Exercise 03.5** · debug · difficulty 3 of 5 · importance 5 of 5 · 10 minutes
# >
# > Which piece collapsed, which hacked its reward, which ran away? For each, name the one reading that decides, and what you
# > would change. Write it like `A collapse, B …` into the cell.
#
# <details><summary>Hint 1</summary>
#
# Is the piece at rest at the end? It is if the pulls balance, or if none is left. A flat curve proves nothing: the learning
# rate falls to zero at the end of every run.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Of the two that rest, one has samples that are *likelier* than the reference's own, the other samples that the reference
# never makes.
#
# </details>

# %% tags=["predict"]
predict("03.5", "?")

# %% tags=["figure", "hide-input"]
reveal("03.5", ", ".join(f"{letter} {exhibit.piece.label}" for letter, exhibit in exhibits.items()))
plane.clouds(
    {f"piece {letter}, {exhibit.piece.label}": exhibit.readings[-1].points for letter, exhibit in exhibits.items()},
    reference,
    half_width=6,
    alt="The samples at the end of the three runs in a wide window. A: a cloud around (4.5, 0), to the right of every mode. B:"
    " the window is empty, all samples are outside. C: a small spot in the middle of the right-hand mode.",
)

# %% [markdown]
# - **A, reward hacking.** At rest: leash and reward balance at 2. But log p_ref is near −54, and no sample is in any mode. The
#   reward is high where the reference has nothing, and the leash, KL with w = σ² at α = 10, is too weak to forbid it.
# - **B, runaway.** Not at rest: the reward pulls with 2, the leash with 0.3, although the gap is in the hundreds. The curve
#   flattens only because the learning rate runs out. The reward is x₁/2 at α = 4; the leash is pseudo-Huber, whose pull has a
#   limit however large the gap is (claim 25). At α = 1 it holds.
# - **C, collapse.** Nothing pulls any more: reward 1, the maximum. One mode, spread 0.05. There was no leash. And log p_ref is
#   *better* than the reference's: the middle of a mode is its likeliest point.
#
# **In your browser.** [B runs away](docs/web/leash.html#left=kl-one&left.scale=4&right.scale=4&reward=linear&story=5), and [C collapses](docs/web/leash.html#axis=modes&story=1).

# %% [markdown] tags=["instructor"]
# **More misconceptions, for the museum.**
#
# - *“The curve is flat, so it has converged.”* All three learning rates fall to zero. Ask for the pulls.
# - *“High log-density means good samples.”* C beats the reference's own samples. Ask what a typical sample looks like, as
#   against the likeliest.
# - *“One effective mode means collapse.”* All three have one; the count goes by the nearest mode at any distance.
# - *“The leash in A was off.”* It pulls as hard as the reward; it is only too cheap to overcome far from the data.

# %% [markdown]
# ### Behind piece A: proxy and gold
#
# Real rewards are fitted to what people say. What people would say is called **gold**, the fit the **proxy**. In piece A gold
# is our bump reward, asked at 500 samples of the reference; a linear function was fitted to the answers, and the run saw that.

# %%
hacked = exhibits["A"].piece
fresh = reference.sample(4000, torch.Generator().manual_seed(5))
marks = torch.stack([hacked.reward(fresh, None), hacked.judge(fresh, None)])
right, up = hacked.reward.direction
print(f"proxy = {hacked.reward.constant:.2f} + {right:.2f} x₁ + {up:.2f} x₂")
print(f"correlation of proxy and gold on fresh samples of the reference: {torch.corrcoef(marks)[0, 1]:.2f}")

# %% [markdown]
# On the reference's data this looks like a good reward model.
#
# > **Exercise 03.6** · predict · difficulty 2 of 5 · importance 5 of 5 · 2 minutes
# >
# > Over the run the proxy rose from 0.3 to 1.26. What did gold, which starts at 0.3 and can reach 1, do meanwhile?
# >
# > - **a** it rose along, and levelled off lower
# > - **b** it rose, turned, and fell below where it began
# > - **c** it fell from the first step on

# %% tags=["predict"]
predict("03.6", "?")

# %% tags=["figure", "hide-input"]
gold, at = exhibits["A"].column("judged"), exhibits["A"].column("step")
top = gold.index(max(gold))
reveal(
    "03.6", f"gold {gold[0]:.2f} at the start, {gold[top]:.2f} at its top (step {at[top]}), {gold[-1]:.2f} at the end"
)
charts.lines(
    {
        "piece A": [
            charts.Line("proxy, which the run sees", at, exhibits["A"].column("reward")),
            charts.Line("gold, what people would say", at, gold),
        ]
    },
    alt="Two curves over training steps. The proxy rises from 0.3 to 1.26 and levels off. Gold starts with it, rises to almost"
    " 0.5 after about a quarter of the run, and then falls to 0.24, below its start.",
    xlabel="generator step",
    ylabel="mean over the samples",
    markers=True,
    width=5.5,
)

# %% [markdown]
# Answer **b**. At first more proxy means more gold. Then the samples leave the region where the proxy was fitted; it goes on
# rising there, gold does not. In the end people like the samples less than before; the proxy's curve never tells. This is
# over-optimisation of a reward model: Goodhart's law.
#
# > **Exercise 03.7** · explore · difficulty 3 of 5 · importance 4 of 5 · 10 minutes
# >
# > Cure piece A. The cell below lowers α from 10 to 3.4: gold stays near 0.7. Vary `reward_scale`, from 2 to 12, and the leash (one
# > that the cell prints) to find two cures that end at about the same *proxy*. Which leash buys more gold for it?


# %%
def cure(name, reward_scale):
    patient = replace(hacked, method=replace(toy.TOY_METHODS[name], reward_scale=reward_scale))
    end = museum.exhibit(patient, generator, steps=steps, readings=1).readings[-1]
    print(
        f"{label_of(name):20s} α {reward_scale:5.2f}: proxy {end.reward:.2f}   gold {end.judged:.2f}   modes {end.modes:.1f}"
    )


print(*toy.TOY_METHODS, sep=" · ")
cure("kl-x0", reward_scale=3.4)

# %% [markdown] tags=["solution"]
# **Solution.** Two other leashes at about the same proxy. KL with w = σ² buys least gold: silent at low noise, it lets the
# samples leave the modes.

# %% tags=["solution"]
cure("kl-one", reward_scale=10.0)
cure("l2", reward_scale=6.0)

# %% [markdown]
# ## What to inspect
#
# | you see | look at | likely cause | remedy |
# | --- | --- | --- | --- |
# | reward at its maximum | modes and spread fall | collapse: no leash, or none at low noise | a leash; more weight at low noise |
# | reward rises, samples look odd | log p_ref; share off the data; people's marks on *new* samples | reward hacking | lower α; stop earlier; ask people anew and refit |
# | reward grows with the number of steps | leash's pull below the reward's, gap grows | runaway: unbounded reward, bounded pull | lower α; bounded reward; other distance |
# | reward is flat | do the pulls balance? is the learning rate zero? | at rest, or out of steps | a longer run |

# %% [markdown]
# ## Why not REINFORCE or DPO?
#
# Language models use other tools. **REINFORCE** (policy gradient) estimates the slope of E r by r(x) ∂ log p(x). **DPO**
# (direct preference optimization) trains on pairs of samples through the ratio p(x)/p_ref(x). Both need log p of the generator.
# A one-step generator x = g(z) has none that one can compute.
#
# But it has what a language model lacks: x depends smoothly on the parameters, so the reward's gradient can go straight
# through, ∂r/∂x · ∂x/∂m. This **pathwise** gradient is what every method here uses.
#
# Where both exist one can compare: x = m + s z with m = 1, s = ½, reward tanh x. Both estimate ∂ E r/∂m. The *baseline* version
# subtracts E r from r, which keeps the mean and calms it. All by summing over a fine line of z:

# %%
z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
chance = (-(z**2) / 2).softmax(0)


def mean_and_variance(m, s):
    r = (m + s * z).tanh()
    rows = {"REINFORCE": r * z / s, "REINFORCE, baseline": (r - chance @ r) * z / s, "pathwise": 1 - r**2}
    return {name: (float(chance @ row), float(chance @ (row - chance @ row) ** 2)) for name, row in rows.items()}


for name, (mean, variance) in mean_and_variance(1.0, 0.5).items():
    print(f"{name:20s} mean {mean:.4f}   variance of one sample {variance:.3f}")

# %% tags=["figure", "hide-input"]
widths = torch.logspace(-1.3, 0, 14, dtype=torch.float64)
table = [mean_and_variance(1.0, s) for s in widths]
charts.lines(
    {"": [charts.Line(name, widths, [row[name][1] for row in table]) for name in table[0]]},
    alt="Variance of one sample's estimate against the width s of the generator, both axes logarithmic. REINFORCE rises to"
    " over two hundred as s falls to 0.05; with a baseline it stays between 0.35 and 0.65; pathwise lies lowest and falls to"
    " 0.001.",
    xlabel=charts.Axis("width s of the generator", log=True),
    ylabel=charts.Axis("variance of one sample", log=True),
    width=5.2,
    height=3.2,
)

# %% [markdown]
# At s = ½ the pathwise gradient has about a twenty-fifth of REINFORCE's variance, and an eighth once REINFORCE has its baseline.
# The narrower the generator, the wider the gap. And this is one coordinate: REINFORCE multiplies one number, r, with noise in
# *every* coordinate, so its total variance grows with their number.
#
# In fairness: REINFORCE needs no gradient of the reward, so a person's click will do; samplers of many noisy steps do have the
# densities it needs; and preference pairs have been used for few-step models (PSO). The claim is narrow: a differentiable
# reward, a one-step generator.

# %% [markdown]
# ## What you can now say
#
# 1. Reward minus KL on clean samples has one optimum, the tilt p_ref exp(α r)/Z, if Z is finite; it changes chances.
# 2. Diff-Instruct++ has the reward on clean samples and KL on noised ones, so it rests elsewhere, how far depending on the
#    weight; DIDR aims at the tilt and comes near it.
# 3. A reward that rises proves nothing: collapse shows in modes and spread, hacking in log p_ref and gold, a runaway in pulls.
#
# ## Quiz
#
# 1. What separates distillation from DI\*?
#    <details><summary>Answer</summary>Distillation has no reward: the generator is to match the reference. DI\* adds a reward
#    to the leash and leaves the reference on purpose, as far as the leash allows. At α = 0 it is Score Implicit Matching, a
#    distillation (claim 24).</details>
# 2. The reference gives a region probability zero. How much does the tilt put there, if the reward is enormous in it?
#    <details><summary>Answer</summary>Nothing: zero times exp(α r) is zero. (A Gaussian is zero nowhere.)</details>
# 3. Diff-Instruct++ and the tilt at the same α have different mean rewards. Is one of them broken?
#    <details><summary>Answer</summary>No. α means another thing for each: m = α against m = α (1 + σ²)/w. Compare at equal mean
#    reward.</details>
# 4. A run's samples have a higher median log p_ref than the reference's own. Good news?
#    <details><summary>Answer</summary>Not by itself. The centre of a mode is the likeliest point, so a collapsed generator scores
#    best.</details>
# 5. A proxy correlates 0.92 with gold on the reference's samples. How can training on it lower gold?
#    <details><summary>Answer</summary>Training moves the samples to where the proxy is high and was never fitted. The
#    correlation was measured where the samples *were*.</details>
#
# ## Exercises
#
# 03.1 the tilt of a Gaussian (derive, checked) · 03.2 the tilt of a mixture (implement, checked) · 03.3 where does m go
# (predict) · 03.4 integral KL at rest (derive, checked) · 03.5 three pieces (debug) · 03.6 gold (predict) · 03.7 a cure (explore)
#
# ## Where this comes from, and what next
#
# The tilt as this optimum is standard; `tests/claims` holds its closed forms (claim 3) and DIDR's target (claim 23). Diff-Instruct++: arXiv 2410.18881. Diff-Instruct\*: 2410.20898. DIDR: 2605.24001. We reconstructed their equations;
# s_r and `didr-proxy` are derived in this project. Weights and noise levels are our defaults. Proxy and gold: Gao, Schulman
# and Hilton, 2210.10760. REINFORCE: Williams 1992. DPO: 2305.18290. PSO: 2410.03190.
#
# Next: notebook 04, the score leash line by line.
#
# Text and figures of this notebook: CC BY 4.0. Code: MIT.
