# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # One-step generators and the assistant
#
# **In this notebook you move a generator with nothing but two scores, train the assistant that supplies one of them,
# and see what happens when it falls behind.**
#
# > **Goals.** Say what a one-step generator is, and why its score is unknown. Write the assistant's loss and the pull
# > of KL. Train without a single picture. Recognise a stale assistant.
# >
# > **Before you start.** Notebooks 00 and 01: the pull, the score of x_t = x₀ + σε, denoising score matching.
# >
# > **Time.** Thirty-five minutes to read, eighty with the exercises; the cells run for about a minute on one CPU core.
# > No GPU, no network.

# %% tags=["setup"]
from dataclasses import replace

import torch

from distar_core import GaussianMixture, losses, post_train, probes
from distar_core.course import check, predict, profile, reveal
from distar_core.figures import charts, plane
from distar_core.figures.charts import Line
from distar_core.figures.names import label_of
from distar_core.figures.picture import TRUTH
from distar_core.lab import STUDIES, read_rows, values_of
from distar_core.lab.assistant import error_by_level
from distar_core.lab.study import fact
from distar_core.toy import ring as toy
from distar_core.toy.summary import summarise
from distar_core.truth import quadrature

torch.set_num_threads(1)
settings = profile()

# %% [markdown] tags=["instructor"]
# **Board plan, 60 minutes.** 0–8: a rubber sheet of z, stretched over the ring; thin rubber is low density. 8–15: who
# sees what; collect where the noisy samples come from before you show the table. 15–27: exercises 02.1 and 02.2 in
# pairs. 27–37: differentiate KL at the board, two terms, cross out the second one with ∫p = 1; then m and s. 37–43:
# the three runs of 02.4, a vote for each panel. 43–52: draw m′ = −k m(t − τ) and act it out: one student walks,
# another calls out where he stood three seconds ago. 52–60: the recorded study, prediction beside finding.

# %% [markdown] tags=["instructor"]
# **Misconceptions to expect.**
#
# - *“You need pictures to make the noisy samples.”* They are the generator's own samples with noise.
# - *“The assistant learns the data distribution.”* It learns the generator's, wherever that is at the moment.
# - *“The assistant is a second generator,”* or a judge of real and fake. It never sees a reference sample. It answers
#   with an arrow, not with a probability.
# - *“A falling assistant loss means that training goes well.”* Its floor moves with the generator (notebook 01). A
#   collapsed generator is easy to denoise.
# - *“The value of the KL loss is the KL divergence.”* Only its gradient means anything.

# %% [markdown]
# ## A generator bends the plane
#
# A **one-step generator** is a function g: draw z from a standard normal, apply g once, done. Think of the z-plane as
# a rubber sheet with a net drawn on it, and eight numbered pins. The function carries both to the x-plane.

# %%
reference = toy.reference()
generator = toy.distilled(reference, steps=settings.distil_steps)
angles = torch.arange(8) * torch.pi / 4
pins = 1.2 * torch.stack([angles.cos(), angles.sin()], dim=1)
turn, along = torch.linspace(0, 2 * torch.pi, 181), torch.linspace(0, 2.6, 181)
spokes = (torch.arange(24) + 0.5) * torch.pi / 12
circles = torch.arange(0.4, 2.5, 0.4)[:, None, None] * torch.stack([turn.cos(), turn.sin()], dim=-1)
rays = along[:, None] * torch.stack([spokes.cos(), spokes.sin()], dim=-1)[:, None]
net = torch.cat([circles, rays])  # [30, 181, 2]

# %% tags=["figure", "hide-input"]
with torch.no_grad():
    carried = generator(net, None), generator(pins, None)
plane.mapped(
    {"z": (net, pins), "x₀ = g(z)": carried},
    mixtures={"x₀ = g(z)": reference},
    alt="Left, six circles and 24 spokes with numbers 1 to 8 around the centre. Right, the same net after the generator: the"
    " circles crowd together into an eight-cornered band, the spokes bunch up at the corners, where the modes and the"
    " numbers are; between the modes the spokes are far apart.",
)

# %% [markdown]
# Each eighth of the z-plane went to one mode. Inside the modes the net is dense. Between them it is stretched: few z land
# there, but some do, because a smooth function cannot tear the sheet. These are notebook 00's dots
# between the modes.
#
# The law of x₀ is called the **push-forward** of the normal law: dense where the sheet is squeezed, thin where it is
# stretched. Sampling from it is trivial. Its *density* at a point x is not: you would need every z that lands on x, and
# the stretch there. That is out of reach for a network with 65,536 inputs (SDXL's latents: 4 · 128 · 128), and without a
# density there is no formula for the score.
#
# ### Two ways to teach a generator
#
# **Regression.** Our g was *distilled*: squared error on 20,000 pairs (z, x₀), where x₀ is the end of the slow flow from z
# (notebook 01). Each pair costs about a hundred evaluations of the reference's score.
#
# **Score distillation.** No pairs. Let g draw; ask in which direction its *distribution* differs from the reference's;
# push. This is Diff-Instruct, the base of every method in this course. It needs two scores at the same place: the
# reference's, which is known, and the generator's own, which is not.

# %% [markdown]
# ## The assistant
#
# You cannot compute the generator's score, but you have its samples, as many as you like. Notebook 01 showed what to do
# with samples: add noise, x_t = x₀ + σε; the score of x_t is the mean of −ε/σ given x_t, and squared error on the target
# −ε/σ learns that mean. The **assistant** s_ψ is a network (with weights ψ) that is trained like this on the generator's
# own samples, while the generator moves. Others call it the fake score.
#
# > **Exercise 02.1** · implement · difficulty 2 of 5 · importance 5 of 5 · 6 minutes
# >
# > Write the assistant's loss for each sample, σ²‖s_ψ(x_t) + ε/σ‖². The factor σ² turns it into an error of the
# > guessed noise. One thing more: x_t comes from the generator, and this loss must not move the generator.


# %% tags=["exercise"]
def denoising_loss(assistant, x_t, noise, sigma):
    """A function x_t -> score, x_t and noise [B, n], noise levels [B, 1] -> the loss of each sample, [B]."""
    # solution
    return (sigma * assistant(x_t.detach()) + noise).square().sum(dim=-1)
    # end


# %% tags=["check"]
checked_denoising = check("02.1", denoising_loss)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Pull σ² into the square: σ times the score, plus ε. Which inputs carry a graph that leads to the generator?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Call the assistant on `x_t.detach()`. Square, and sum over the last axis. The solution is in `notebooks/solutions`.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** `(sigma * assistant(x_t.detach()) + noise).square().sum(dim=-1)`. A score is −ε̂/σ, so this is ‖ε −
# ε̂‖²: the usual loss of a diffusion network, on the generator's samples.

# %% [markdown]
# Whom does your loss move? One backward pass, with the assistant and the generator of the toy:

# %%
state = toy.toy_state(generator, reference, None, seed=0, steps=1)
student, assistant = state.roles.generator.module, state.roles.assistant.module
z, noise = torch.randn(2, 256, 2, generator=torch.Generator().manual_seed(0))
level = torch.full((256, 1), 0.7)
x_t = student(z, None) + level * noise
checked_denoising(lambda x: assistant(x, level[:, 0], None), x_t, noise, level).mean().backward()
for name, module in {"assistant": assistant, "generator": student}.items():
    print(f"{name}: {sum(p.grad is not None for p in module.parameters())} tensors of weights got a gradient")

# %% [markdown]
# ### Who sees what
#
# The most common misreading of this family is that pictures are needed to make the noisy samples. They are not:
#
# | | gets | ever sees data? |
# | --- | --- | --- |
# | reference score | the generator's noised samples x_t | once, when it was trained |
# | assistant | the generator's noised samples x_t, and their ε | never |
# | generator | z | never |
#
# All that is left of the data is in the reference's weights. (Prompts are data, too.)
#
# ## The pull of KL
#
# Take a generator whose score *is* known, a ring like the reference's but shifted to the right by 0.5. The arrows are
# seen at σ = 0.5, from the generator's noised samples.

# %% tags=["figure", "hide-input"]
sigma = torch.tensor(0.5)
shifted = GaussianMixture.isotropic(
    reference.weights, reference.means + torch.tensor([0.5, 0.0]), torch.full((8,), 0.25)
)
samples = shifted.sample(2000, torch.Generator().manual_seed(0))
noisy = samples + sigma * torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
seen = toy.spread_out(noisy[:400], 60)
ref = reference.diffuse(toy.SCHEDULE, sigma).score(seen)
gap = ref - shifted.diffuse(toy.SCHEDULE, sigma).score(seen)
difference, alone = "reference score − own score", "reference score alone"
plane.arrows(
    {difference: (seen, gap), alone: (seen, ref)},
    reference,
    dots={difference: samples, alone: samples},
    longest=2.0,
    half_width=4.2,
    alt="Two panels with faint samples on a ring that is shifted to the right of the grey contours. Left, most of the arrows at"
    " sixty noised samples point to the left. Right, longer arrows that point to the nearest mode or to the ring.",
)

# %% [markdown]
# Left: most arrows point left, back onto the reference. (The long one in the empty middle points right: seen from there,
# the shifted ring's left side is the nearest thing, and the own score comes with a minus.) Where the two distributions
# agree, the scores cancel and nothing moves. Right: the reference's score alone would not do. Every sample would run
# uphill to the top of a mode. The own score, with a minus, spreads the samples out again.
#
# Why is this difference the gradient of KL? Let θ be the generator's weights, p_θ the density of its noised samples x_t and
# s_θ the score of that, the own score. At one noise level, KL is the mean of log p_θ(x_t) − log p_ref(x_t) over the
# generator's own x_t. Change the generator's weights θ a little, and two things happen:
#
# 1. **The samples move,** by ∂x_t/∂θ. log p_θ − log p_ref changes by its slope, s_θ − s_ref, times that.
# 2. **The curve p_θ itself changes** under samples that stand still. The mean of ∂ log p_θ/∂θ over p_θ is ∫ ∂p_θ/∂θ, the
#    derivative of ∫p_θ = 1. That is zero: what is gained at one place is lost at another.
#
# So only the first part is left:
#
# $$\nabla_\theta\,\mathrm{KL} = \mathbb{E}\left[(s_\theta(x_t) - s_{\mathrm{ref}}(x_t))^\top\,\frac{\partial x_t}{\partial\theta}\right].$$
#
# Only the *value* of the scores appears, so nobody differentiates through a score network, and the assistant may stand in
# for s_θ. Diff-Instruct takes a weighted mean over noise levels, the **integral KL**.
#
# > **Exercise 02.2** · implement · difficulty 3 of 5 · importance 5 of 5 · 6 minutes
# >
# > PyTorch wants a loss. Write one whose gradient in x_t is s_ψ(x_t) − s_ref(x_t) for each sample, no more and no
# > less. Its value may be anything.


# %% tags=["exercise"]
def kl_loss(assistant, reference_score, x_t):
    """Two functions x_t -> score, and x_t [B, n] -> the loss of each sample, [B]."""
    # solution
    gap = assistant(x_t) - reference_score(x_t)
    return (gap.detach() * x_t).sum(dim=-1)
    # end


# %% tags=["check"]
checked_kl = check("02.2", kl_loss)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# The gradient of a·x in x is a, if a is a constant.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Inner product of the detached gap with the live x_t, over the last axis. (The squared length of the gap has another
# gradient, which runs through both networks.)
#
# </details>
#
# Does it hold? For a generator with three Gaussian pieces on a line, each with a place and a width, KL and its gradient can
# be integrated numerically. Your loss, averaged over z and ε, must give the same six numbers.

# %% [markdown] tags=["solution"]
# **Solution.** `(gap.detach() * x_t).sum(dim=-1)`. Since x_t = x₀ + σε, autograd carries the pull from x_t through x₀
# to θ.

# %%
setting = quadrature.line_setting(toy.SCHEDULE, 0.7)
own, ref = setting.frozen_law().score, setting.target().score
nodes = quadrature.rotated_nodes(setting, 2000)  # z and ε on a fine grid with weights: a mean without chance
found = quadrature.expect(lambda x0, x_t, noise: checked_kl(own, ref, x_t), setting, nodes).gradient
truth = quadrature.true_gradients(setting, quadrature.squared(), "score").kl
for name, row in {"KL, integrated": truth, "your loss": found}.items():
    print(f"{name:15s}", *(f"{value:+.6f}" for value in row.tolist()))

# %% [markdown]
# They agree to all printed digits (claim 11 in `tests/claims`, at every noise level).
#
# ## With a pencil
#
# The Gaussian of notebook 01: x₀ = m + s z, so x_t has the law N(m, s² + σ²). The reference is N(0, 1).
#
# > **Exercise 02.3** · derive · difficulty 3 of 5 · importance 4 of 5 · 10 minutes
# >
# > Write down both scores at x_t = m + s z + σε, subtract, multiply by ∂x_t/∂m = 1 and by ∂x_t/∂s = z, and take the
# > mean. Return the two entries of the gradient of KL.


# %% tags=["exercise"]
def kl_gradient(m, s, sigma):
    """Three numbers -> (dKL/dm, dKL/ds) at this noise level."""
    # solution
    own, ref = s**2 + sigma**2, 1 + sigma**2
    return m / ref, s / ref - s / own
    # end


# %% tags=["check"]
checked_gradient = check("02.3", kl_gradient)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# s_θ = −(x_t − m)/(s² + σ²) and s_ref = −x_t/(1 + σ²). The mean of z and of ε is 0, that of z² is 1, that of zε is 0.
#
# </details>
# <details><summary>Hint 2</summary>
#
# For m: the own score is 0 on average, the reference's is −m/(1 + σ²). For s: the mean of z x_t is s, in both scores.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** m/(1 + σ²) and s/(1 + σ²) − s/(s² + σ²). Both vanish at m = 0, s = 1 and nowhere else with s > 0.

# %%
for sigma in (0.2, 1.0, 3.0):
    in_m, in_s = checked_gradient(1.0, 0.5, sigma)
    print(f"m = 1, s = ½, σ = {sigma}: dKL/dm = {in_m:+.3f}   dKL/ds = {in_s:+.3f}")

# %% [markdown]
# Descent takes m down to 0 and s up to 1. Every level sees the wrong mean. The wrong width shows at low noise (−1.24) and
# is gone at σ = 3 (−0.004), as notebook 01 found for the scores themselves.
#
# ### All of Diff-Instruct in twenty lines
#
# Now without the formula, with samples and an assistant only. The pencil's score is a straight line, so two weights will
# do, slope and height: the best **linear assistant** is exact (exercise 01.4). σ = 1.


# %%
def train(rate, steps=250, denoising=checked_denoising, pull=checked_kl, start=(1.0, 0.5)):
    """The path of m, s and the variance that the assistant believes in, [steps, 3]; the assistant starts out exact."""
    m, s = (torch.tensor(value, requires_grad=True) for value in start)
    variance, sigma = start[1] ** 2 + 1, torch.ones(1, 1)
    line = torch.tensor([-1 / variance, start[0] / variance], requires_grad=True)
    fast, slow = torch.optim.SGD([line], rate), torch.optim.SGD([m, s], 0.05)
    rng, path = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        z, noise = torch.randn(2, 1024, 1, generator=rng)
        x_t = m + s * z + sigma * noise
        fast.zero_grad()
        denoising(lambda x: line[0] * x + line[1], x_t, noise, sigma).mean().backward()
        fast.step()
        slow.zero_grad()
        pull(lambda x: line[0] * x + line[1], lambda x: -x / 2, x_t).mean().backward()
        slow.step()
        path.append(torch.stack([m, s, -1 / line[0]]).detach())
    return torch.stack(path)


# %%
learned, exact_path, (m, s) = train(rate=0.2), [], (1.0, 0.5)
for _ in range(250):
    in_m, in_s = checked_gradient(m, s, 1.0)
    m, s = m - 0.05 * in_m, s - 0.05 * in_s
    exact_path.append((m, s))
exact_path = torch.tensor(exact_path)
print(f"largest distance between the paths: {float((learned[:, :2] - exact_path).abs().max()):.3f}")

# %% tags=["figure", "hide-input"]
steps = torch.arange(250)
charts.lines(
    {
        name: [
            Line("with the assistant", steps, learned[:, k]),
            Line("exact gradient", steps, exact_path[:, k], style=TRUTH),
        ]
        for k, name in enumerate(("m", "s"))
    },
    xlabel="step",
    ylabel=charts.Axis("", guides=[0.0, 1.0]),
    alt="Two panels over 250 steps. m falls from 1 to 0 and s rises from a half to 1. In both, the run with the assistant"
    " lies on the dashed line of the exact gradient.",
)

# %% [markdown]
# The run with the assistant follows the exact flow to within 0.03, and m runs a little ahead: even this assistant is a
# little late. Keep that in mind. The generator never saw a sample of the reference, only its score, −x/2.
#
# > **Exercise 02.4** · debug · difficulty 3 of 5 · importance 4 of 5 · 6 minutes
# >
# > A, B and C are three runs of the same code. One is right. In one the pull has the wrong sign, in one the noise in
# > the assistant's loss. Before you open the answer: which is which, and which of the two curves gives it away?


# %%
def turned_pull(*inputs):
    return -checked_kl(*inputs)


def turned_noise(assistant, x_t, noise, sigma):
    return checked_denoising(assistant, x_t, -noise, sigma)


runs = {"A": train(0.1, 40, denoising=turned_noise), "B": train(0.1, 40), "C": train(0.1, 40, pull=turned_pull)}

# %% tags=["figure", "hide-input"]
charts.lines(
    {name: [Line("m", range(40), path[:, 0]), Line("s", range(40), path[:, 1])] for name, path in runs.items()},
    xlabel="step",
    ylabel=charts.Axis("m and s", guides=[0.0, 1.0]),
    width=2.6,
    alt="Three panels of m and s over 40 steps. In A both fall, s to almost 0. In B m falls and s rises"
    " towards 1. In C m rises and s falls.",
)

# %% [markdown]
# <details><summary>Answer</summary>
#
# B is right. C has the pull's sign turned: m *and* s run away from the reference. A has the noise's sign turned. Its
# assistant learns minus the score, and, once it has, the pull is −s_θ − s_ref: both terms squeeze. The own score is zero on
# average, so m still falls as in B, and only s gives the bug away. Always plot a measure of spread.
#
# </details>

# %% [markdown]
# ## On the ring
#
# Now two dimensions, networks, and the library's loop. The start is a generator distilled for 60 steps only: a blurred
# disk. No reward; the regularizer is KL with w = 1. Where will Diff-Instruct end, compared with the fully distilled
# generator?
#
# - **a** closer to the reference: it was trained against the reference itself, not against pairs
# - **b** much closer than it started, but not as close
# - **c** on fewer than eight modes: KL collapses

# %% tags=["predict"]
predict("02.a", "?")

# %%
rough = toy.distilled(reference, steps=60)
method = replace(toy.TOY_METHODS["kl-one"], reward_at="nowhere", reward_scale=0.0)
run = toy.toy_state(rough, reference, None, seed=0, steps=settings.steps, lr=2e-3)
for _ in post_train(run, method, toy.no_conditions, steps=0, seed=0, **toy.LOOP):
    pass  # the warm-up: the assistant alone
first = toy.sample(run, 2000)
first_moves = probes.motion(run, method, toy.spread_out(first[:300], 16))["regularizer"]

# %%
for _ in post_train(run, method, toy.no_conditions, steps=settings.steps, seed=0, **toy.LOOP):
    pass
clouds = {"start": first, "Diff-Instruct": toy.sample(run, 2000)}
with torch.no_grad():
    clouds["regression on pairs"] = generator(torch.randn(2000, 2, generator=torch.Generator().manual_seed(1)), None)
found = {name: summarise(x, x[:, 0], reference) for name, x in clouds.items()}
reveal("02.a", ", ".join(f"{name}: KL {one.kl:.2f}, modes {one.modes:.1f}" for name, one in found.items()))

# %% tags=["figure", "hide-input"]
plane.clouds(
    clouds,
    reference,
    notes={name: f"off the data: {one.off_support:.0%}" for name, one in found.items()},
    alt="Three clouds. Start: a blurred disk, half of it off the modes. Diff-Instruct: eight clumps with threads"
    " of dots between neighbours. Regression: eight clumps, fewer dots between.",
)

# %% [markdown]
# Answer **b**. (“Modes 8.0” at the start says little: each sample counts for its nearest mode, however far.) Two scores
# turned a blurred disk into eight modes, all in use. Regression is closer here: it is told where every z should go. Score
# distillation pays where pairs are expensive, and when a reward comes in: nobody has pairs for the distribution that
# people would prefer.
#
# The pulls at the start, after the assistant's warm-up, and at the end (no reward, so the sum is the regularizer's arrow):

# %% tags=["figure", "hide-input"]
last = clouds["Diff-Instruct"]
dots = {"start": toy.spread_out(first[:300], 16), "end": toy.spread_out(last[:300], 16)}
moves = {"start": first_moves, "end": probes.motion(run, method, dots["end"])["regularizer"]}
plane.pull_picture(
    {name: (dots[name], torch.zeros(16, 2), moves[name]) for name in dots},
    reference,
    backgrounds={"start": first, "end": last},
    alt="Sixteen samples at the start: arrows point from outside and from the middle to the ring. Sixteen at the end: most"
    " have no visible arrow, a few between the modes still have one.",
)

# %% [markdown]
# At the start outer samples are pulled in, and inner ones out to the ring. At the end most arrows have shrunk to nothing,
# even between modes: few samples are left there, and the assistant has hardly seen them.
#
# ## When the assistant falls behind
#
# The assistant learns from samples of a generator that moves on. Suppose it is late: it still believes in the mean
# m_old. Keep s = 1, so that all variances are 1 + σ² and only the means differ. Then
#
# $$s_\psi(x) - s_{\mathrm{ref}}(x) = \frac{m_{\mathrm{old}} - x}{1+\sigma^2} + \frac{x}{1+\sigma^2} = \frac{m_{\mathrm{old}}}{1+\sigma^2}.$$
#
# The pull does not contain m. Such an assistant is called **stale**. The generator is steered by where it *was*, like
# water in a shower with a long pipe. At σ = 1, with a delay τ: m′(t) = −½ m(t − τ).
#
# > **Exercise 02.5** · predict · difficulty 2 of 5 · importance 4 of 5 · 2 minutes
# >
# > Start at m = 1 (and m was 1 before), with delays 0.5, 2 and 4. (Without delay m falls to a third in about 2.2.)
# > What happens?
# >
# > - **a** all three reach 0, the later the longer the delay
# > - **b** the first settles, the second overshoots and settles, the third swings wider and wider
# > - **c** all three overshoot once, then settle

# %% tags=["predict"]
predict("02.5", "?")


# %%
def delayed(delay, step=0.01, until=30.0):
    """m(t) with m'(t) = −½ m(t − delay) from m = 1, by small steps."""
    lag = round(delay / step)
    m = [1.0] * (lag + 1)
    for _ in range(round(until / step)):
        m.append(m[-1] - step * 0.5 * m[-1 - lag])
    return torch.tensor(m[lag:])


late = {delay: delayed(delay) for delay in (0.5, 2.0, 4.0)}
reveal(
    "02.5",
    ", ".join(f"delay {d:g}: lowest {float(m.min()):+.2f}, at the end {float(m[-1]):+.2f}" for d, m in late.items()),
)

# %% tags=["figure", "hide-input"]
time = torch.arange(3001) * 0.01
charts.lines(
    {"": [Line(f"delay {delay:g}", time, m) for delay, m in late.items()]},
    xlabel="time",
    ylabel=charts.Axis("m", guides=[0.0]),
    width=6.2,
    alt="Three curves from m = 1. With delay 0.5 m falls to 0. With delay 2 it overshoots to -0.5, swings and settles. With"
    " delay 4 the swings grow, up to 4 near time 29.",
)

# %% [markdown]
# Answer **b**. For m′ = −k m(t − τ) it is known that m overshoots when kτ > 1/e, and swings wider and wider when kτ > π/2;
# here that is τ > 0.74 and τ > 3.14. A faster *generator* (larger k) makes the same delay dangerous: staleness is a matter
# of two speeds.
#
# A real assistant is not a recording; it follows. If its belief n moves towards m at a rate r, n′ = r(m − n), while m′ =
# −k n, then m″ + r m′ + rk m = 0: a swing with friction. It overshoots when r < 4k, but it never swings wider and wider,
# however slow the assistant is. In small steps, and with the width to learn as well, take `train` with three rates.

# %%
paths = {rate: train(rate, steps=600) for rate in (0.2, 0.01, 0.001)}
for rate, path in paths.items():
    m, s, believed = path[200].tolist()
    lowest = float(path[:, 0].min())
    print(f"rate {rate}: lowest m {lowest:+.2f}; at step 200 the variance is {s**2 + 1:.2f}, believed {believed:.2f}")

# %% tags=["figure", "hide-input"]
charts.lines(
    {
        name: [Line(f"assistant's rate {rate:g}", range(600), path[:, k]) for rate, path in paths.items()]
        for k, name in enumerate(("m", "s"))
    },
    xlabel="step",
    ylabel=charts.Axis("value", guides=[0.0, 1.0]),
    alt="Two panels over 600 steps for three rates. At 0.2 m falls to 0 and s rises to 1. At 0.01 m overshoots to -0.7 and returns,"
    " s dips a little. At 0.001 m overshoots to below -2.5 and creeps back, s rises to 1.4, then falls to 0.",
)

# %% [markdown]
# The middle rate overshoots and comes home. The lowest overshoots farther; m creeps back there, too, but something worse
# happens: s goes to 0. This assistant has averaged over all places where the generator has been, so it believes in a wide
# law, with a variance of about 9 where 1.06 is true. The leash works against a width that is not there, and squeezes. **A
# stale assistant can turn a leash into a collapse.**
#
# **In your browser.** [A late assistant](docs/web/leash.html#left=star&left.scale=0.83&right.lag=100&axis=modes&story=6), in the plane and under a reward.
#
# ### A symptom that costs nothing
#
# The loss of Theorem 3.1 (Diff-Instruct\*, Score Implicit Matching; notebook 04) has a useful property: with an exact
# assistant its mean is zero, wherever the generator is. (Its gradient is not. As in 02.2, value and gradient are two
# things.) Otherwise the mean is −w E[d′(y)ᵀ(s_ψ − s_θ)], y the gap s_ψ − s_ref, d the distance that measures it, d′ its
# gradient (claim 18; notebook 04 derives it). Here it is for the pencil with s = 1, m = 1, σ = 1, against the mean b that
# the assistant believes in.

# %% tags=["figure", "hide-input"]
beliefs = torch.linspace(-1, 2.5, 141)
rng = torch.Generator().manual_seed(0)
x0 = 1 + torch.randn(20_000, 1, generator=rng)
noise, one = torch.randn(20_000, 1, generator=rng), torch.ones(())
noised = losses.Noised(x0, x0 + noise, noise, one, one, one)


def mean_loss(belief, distance):
    scores = losses.Scores((belief - noised.x_t) / 2, -noised.x_t / 2)
    return float(losses.score_divergence(noised, scores, distance=distance, unit="eps").mean())


distances = {"star": losses.PseudoHuber(0.05), "l2": losses.SquaredL2()}
charts.lines(
    {"": [Line(name, beliefs, [mean_loss(b, d) for b in beliefs]) for name, d in distances.items()]},
    xlabel="mean b that the assistant believes in (true: 1)",
    ylabel=charts.Axis("mean loss", guides=[0.0]),
    width=6.2,
    alt="Two curves of the mean loss against the belief b. Both cross zero at b = 1, the truth, and again at b = 0; between them the"
    " mean loss is positive, outside negative.",
)

# %% [markdown]
# Zero at b = 1, where the assistant is right. Positive between 0 and 1: the generator is farther from the reference than
# the assistant thinks. Negative beyond 1: it is nearer. Negative below 0, too: there the assistant believes in the wrong
# side. But zero at b = 0 as well. There the assistant believes that the generator *is* the reference, so y vanishes and
# nothing pulls. **A mean away from zero proves that the assistant is wrong; a mean of zero does not prove that it is
# right.**
#
# ### The museum piece
#
# Our museum keeps failures that are worth recognising. Here Diff-Instruct\* is on the ring, with the reward of notebook
# 00. Two runs, the same in everything, but in one the assistant's learning rate is 30 times smaller.

# %%
reward = toy.REWARDS["mode"]
leash = replace(toy.TOY_METHODS["star"], reward_scale=0.82)


def watched(assistant_lr):
    """A run, and its mean reward and mean loss step by step, [2, steps]."""
    run = toy.toy_state(generator, reference, reward, seed=0, steps=settings.steps, assistant_lr=assistant_lr)
    records = list(post_train(run, leash, toy.no_conditions, steps=settings.steps, seed=0, **toy.LOOP))
    moved = [record for record in records if record.step >= 0]
    return run, torch.stack([torch.stack([r.reward.mean(), r.losses["regularizer"].mean()]) for r in moved]).T


museum = {"assistant as usual": watched(2e-3), "30 times slower": watched(2e-3 / 30)}

# %% tags=["figure", "hide-input"]
window = max(1, settings.steps // 16)
smooth = {name: curves.unfold(1, window, 1).mean(-1) for name, (_, curves) in museum.items()}
charts.lines(
    {
        f"{title}, mean of {window} steps": [
            Line(name, torch.arange(curves.shape[1]) + (window - 1) / 2, curves[k]) for name, curves in smooth.items()
        ]
        for k, title in enumerate(("reward", "loss of the leash"))
    },
    xlabel="step",
    ylabel=[charts.Axis(label, guides=[0.0]) for label in ("mean reward", "mean loss")],
    alt="Left, mean reward: as usual it rises to 0.6; with the slow assistant it shoots up to 0.94, dips and stays at 0.9. Right,"
    " the mean loss: as usual close to 0; with the slow assistant first up to 0.15, then about -0.12 for the rest.",
)

# %%
for name, (run, curves) in museum.items():
    points, late_loss = toy.sample(run, 4000), curves[1, curves.shape[1] // 2 :]
    found, error = summarise(points, reward(points), reference), float(late_loss.std()) / len(late_loss) ** 0.5
    print(f"{name:19s} reward {found.reward:.2f}  modes {found.modes:.1f}  spread {found.spread:.2f}", end="  ")
    print(f"mean loss in the second half {float(late_loss.mean()):+.3f} ± {error:.3f}")

# %% tags=["figure", "hide-input"]
clouds = {name: toy.sample(run, 2000) for name, (run, _) in museum.items()}
arrows = {}
for name, (run, _) in museum.items():
    dots = toy.spread_out(clouds[name][:300], 14)
    moves = probes.motion(run, leash, dots)
    arrows[name] = (dots, moves["reward"], moves["regularizer"])
plane.pull_picture(
    arrows,
    reference,
    reward=reward,
    backgrounds=clouds,
    alt="Left, samples around the ring, densest on the right; long turquoise arrows in many directions, short pink ones to the"
    " reward. Right, all samples on one swollen clump on the right-hand mode; most turquoise arrows point away from its"
    " centre.",
)

# %% [markdown] tags=["instructor"]
# **Ask here:** “Why does the mean loss of the slow run change its sign?” First the generator runs away from what the
# assistant believes; later the assistant believes in places that the generator has left. Misconception: *“zero loss, so it
# has converged.”* Where its curve crosses zero the assistant is as wrong as ever.

# %% [markdown]
# As usual: reward 0.61, almost six modes. Slow: one swollen mode, reward 0.90 after a peak of 0.94. Most of its turquoise
# arrows point outwards: the leash widens the one mode and does not find the other seven. The mean loss tells the story.
# At first it is positive: the generator runs to the reward, and the assistant thinks that it is still near the reference.
# When the assistant notices, one mode is left. From then on the mean loss is −0.12, sixty standard errors from zero, if
# the steps are counted as independent. (The usual assistant is not exact either: 0.008, about four.) On its way down the
# curve crosses zero, near step 175, with the reward at its peak: a zero is no proof of health.
#
# > **Exercise 02.6** · explain · difficulty 3 of 5 · importance 5 of 5 · 5 minutes
# >
# > A colleague's run shows the slow run's curves. She concludes: “The reward is too strong, the leash cannot hold it”,
# > and wants to halve the reward scale. What in the two curves contradicts her, and which run would you do next?
#
# <details><summary>A model answer</summary>
#
# The mean loss is many standard errors from zero, so the assistant is wrong, and no conclusion about the leash's strength
# is possible. Next: the *same* reward scale with more assistant updates, or a slower generator. If the collapse goes
# away, the strength was not the problem: that is the other run above.
#
# </details>
#
# ### Which noise level fails first?
#
# Blur a histogram of 400,000 samples of a generator, and you have its true score at every level. The picture shows the
# assistant's squared error beside the squared *true* gap, s_θ − s_ref, which is what the leash wants to see.

# %% tags=["figure", "hide-input"]
panels = {}
for name, (run, _) in museum.items():
    by_level = error_by_level(run)
    error, gap = zip(*by_level.values(), strict=True)
    panels[name] = [Line("assistant's squared error", list(by_level), error), Line("squared gap", list(by_level), gap)]
    print(f"{name:19s}", *(f"σ = {level:.2g}: {e / g:.0%}" for (level, (e, g)) in by_level.items()), sep="  ")
charts.lines(
    panels,
    xlabel=charts.Axis("noise level σ", log=True),
    ylabel=charts.Axis("eps-units, squared", log=True),
    markers=True,
    alt="Two panels against the noise level on logarithmic axes. As usual: error and gap coincide up to about 0.27, then the error falls"
    " to a fiftieth of the gap. Slow assistant: both are larger, and the error leaves the gap only from about 0.4 on, by less.",
)

# %% [markdown]
# At σ = 0.1 the usual assistant's squared error is 95 % of the squared gap. The toy's assistant is the reference plus a
# correction, which is what is learned; without any it would have 100 %: at low noise ours has learned next to nothing. From σ = 0.72 on it is good, 11 % and less. The slow one is
# worse at every level. **Low noise fails first.** There the fine shape of each mode has to be learned, from targets that
# are almost all noise.
#
# ### How good must it be? A recorded study
#
# Is that good enough? The study `assistant` puts a generator of 32 Gaussian pieces on the ring, whose score is known at
# every level, and trains it with Diff-Instruct\* and the reward. Half-way it computes the gradient of the leash twice, on
# the same 4096 samples a level: with the assistant, and with the exact score. Updates, learning rate and width of the
# assistant are varied, once two together. With the toy's usual assistant, all levels together, the **cosine** between the two
# gradients (1: same direction; 0: unrelated) is
#
# - **a** above 0.9
# - **b** about 0.5
# - **c** about 0

# %% tags=["predict"]
predict("02.b", "?")

# %%
rows, study = read_rows("assistant"), STUDIES["assistant"]
usual = [row for row in rows if row["assistant"] == "default" and row["regularizer"] == "star"]
reveal("02.b", f"{sum(row['cosine_half'] for row in usual) / len(usual):.2f}, the mean of {len(usual)} seeds")
print("expected before the runs:", study.prediction)

# %% tags=["figure"]
facts = study.facts(rows)  # recorded: distar lab assistant --profile full
for name in values_of(rows, "regularizer"):
    print(
        f"{label_of(name):20s} cosine, all levels {facts[fact('cosine', name)]:.2f}, at σ = 0.1 {facts[fact('cosine_lowest', name)]:.2f}, "
        f"at σ = 3.2 {facts[fact('cosine_highest', name)]:.2f}; below 0.5 at {facts[fact('failing', name)]} of 8 levels"
    )
study.picture(rows)

# %% [markdown]
# Answer **c**: the expectation written down before the runs was wrong in its first sentence.
#
# - *By level.* With the usual assistant (blue) the gradient is right at high noise and unrelated to the truth at low
#   noise, or slightly against it, with the border near σ = 0.7. In the sum the low levels outweigh the high ones: that is
#   why it is about 0. Better assistants move the border down a little, stale and narrow ones up; with ten times the
#   updates the four lowest levels are still unrelated.
# - *Score against KL.* KL keeps part of the direction at every level, except with the stale assistant. The score leash
#   differentiates through its assistant, so the assistant's *slope* must be right, too. That is its price.
# - *The outcome.* More updates end at less KL, at about the same reward; stale and narrow assistants let go. The exact
#   score ends at the least KL, but also at less reward, so compare with care. It is not without trouble either: rare
#   samples get very strong pulls, and one seed of five broke down.
#
# How can training work at all? Our reading: the high levels decide how much lies in which mode, and there the assistant
# is good; the shape within a mode is held poorly. Whether SDXL's assistant, which starts as a copy of a large network,
# shares this weakness, we do not know.
#
# ## What you can now say
#
# 1. A one-step generator is a function of noise. Its samples are free, its density and score are unknown; an assistant
#    learns the score from the samples.
# 2. The gradient of KL is the mean of (own score − reference score) times ∂x_t/∂θ: no pictures, no density, no
#    derivative of a score.
# 3. An assistant that is late makes the generator overshoot and can collapse it; a mean loss away from zero gives it
#    away, a mean of zero proves nothing.
#
# ## Quiz
#
# 1. What has the score to do with the data distribution?
#    <details><summary>Answer</summary>There are two scores. The *reference's* was learned from data by denoising; it is
#    all that remains of the data. The *assistant's* belongs to the generator's distribution, and was learned from the
#    generator's samples. The generator never sees data; it feels them through the reference's score only.</details>
# 2. Where do the noisy samples come from, at which both scores are asked?
#    <details><summary>Answer</summary>From the generator: x_t = x₀ + σε with x₀ = g(z). No picture of the data is
#    noised.</details>
# 3. In the gradient of KL, why may you ignore that the generator's density changes with θ?
#    <details><summary>Answer</summary>That part is the mean of ∂ log p_θ/∂θ over p_θ itself, the derivative of ∫p_θ =
#    1, so it is zero. What is left is that the samples move.</details>
# 4. `((assistant(x_t) - reference_score(x_t)) * x_t).sum(1)` without `detach`: what goes wrong?
#    <details><summary>Answer</summary>Autograd differentiates the scores, too. The value stays, but the pull gets a
#    second term, the gap's slope times x_t, and is not that of KL.</details>
# 5. The mean of the Theorem 3.1 loss has been zero for 500 steps. Is all well?
#    <details><summary>Answer</summary>Perhaps. But the mean is also zero when the assistant believes that the generator
#    is the reference. Train the assistant alone for a while: does the gap change?</details>
#
# ## Exercises
#
# 02.1 the assistant's loss (checked) · 02.2 the pull of KL (checked) · 02.3 the pencil's gradient (checked) · 02.4
# two sign bugs (debug) · 02.5 a delay (predict) · 02.6 too strong, or stale? (explain)
#
# ## Where this comes from, and what next
#
# Diff-Instruct, integral KL and its gradient: arXiv 2305.18455. Score Implicit Matching, arXiv 2410.16794, and
# Diff-Instruct\*, arXiv 2410.20898: the loss of Theorem 3.1, which we reconstructed. Denoising score matching: Vincent,
# 2011. In `tests/claims`: the pull of KL (11), the mean loss (18), the gradient's bias (19). The bounds 1/e and π/2 are
# classical results on delay equations. Rates, weights and noise levels are our defaults.
#
# Next: notebook 03, rewards. `distar lab assistant --profile full` repeats the study.
#
# Text and figures of this notebook: CC BY 4.0. Code: MIT.
