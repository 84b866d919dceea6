# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Theorem 3.1, step by step
#
# **In this notebook you derive the gradient that Diff-Instruct\* trains with, measure what each misplaced stop-gradient
# costs, write its loss, and train with it in sixty lines of plain PyTorch.**
#
# > **Goals.** Derive the loss of Theorem 3.1 in three steps, and test each. Say what is detached in it, and why. Say what the
# > “frozen law” costs. Write the loss of Diff-Instruct\*, and read sixty lines of plain PyTorch that train with it.
# >
# > **Before you start.** Notebook 00; the chain rule; what `detach` does.
# >
# > **Time.** Forty minutes to read, ninety with the exercises; the runs take less than a minute on one CPU core. No
# > GPU, no network.

# %% tags=["setup"]
import math
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from distar_core import VarianceExploding, post_train, probes
from distar_core.course import check, predict, profile, reveal
from distar_core.draws import draw
from distar_core.figures import charts, plane
from distar_core.figures.charts import Line
from distar_core.figures.picture import CYCLE, TRUTH, Style
from distar_core.toy import ring as toy
from distar_core.truth import quadrature

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)  # a theorem deserves all the digits
settings = profile()

# %% [markdown] tags=["instructor"]
# **Board plan, 50 minutes.** 0–5: the one-dimensional world, the objective, θ underlined twice (in the law, in the score).
# 5–10: prediction 04.a, “where do noisy data come from?” 10–25: the three steps; let the class find step (i) from the cloud
# of arrows; write step (ii) as a product rule. 25–32: what flows and what does not, as a table with two columns; prediction
# 04.c. 32–42: the pencil: y = m/q + ξ(1/q − 1/v), both derivatives, half of the class each. 42–50: frozen law on one half of
# the board, moving law on the other; the cross derivatives; the loss is zero. The sixty lines are homework.

# %% [markdown]
# ## What do we want the gradient of?
#
# Test a theorem where the truth is known. The **generator** here picks one of three maps on the line and returns
# x₀ = m_k + s_k z. So θ has six numbers: three shifts m and three scales s. The **reference** is a mixture of two Gaussians.
# There is one noise level t: x_t = x₀ + σ ε, σ = 0.7. Densities and **scores**, the slopes of the log-density, are formulas.

# %%
setting = quadrature.line_setting(VarianceExploding(), 0.7)
distance = quadrature.huber(0.3)
law, target, sigma = setting.frozen_law(), setting.target(), setting.sigma
x = torch.linspace(-4.0, 4.5, 400)[:, None]
gap = sigma * (law.score(x) - target.score(x))
for name in ("weights", "shifts", "scales"):
    print(f"generator's {name}:", getattr(setting.generator, name).flatten().tolist())

# %% tags=["figure", "hide-input"]
pairs = (("generator", law), ("reference", target))
charts.lines(
    {
        "density of x_t": [Line(name, x, mixture.log_density(x).exp()) for name, mixture in pairs],
        "score": [Line(name, x, mixture.score(x)) for name, mixture in pairs],
        "gap y, and d(y)": [Line("gap y", x, gap), Line("d(y)", x, distance.value(gap))],
    },
    alt="Three panels over x. Densities: the generator has its high hump at minus one and a shoulder on the right, the"
    " reference two humps, the higher one at one and a half. Scores: two falling curves, close to each other but for a bump of"
    " the reference between 0 and 2. The gap is negative nearly everywhere, deepest, minus 0.5, near x = 0.7; there d(y) has"
    " its peak, 0.3.",
    xlabel="x",
    ylabel=[charts.Axis(label, guides=[0.0]) for label in ("density", "score", "eps-units")],
    width=2.5,
)

# %% [markdown]
# The generator has too much on the left and too little on the right, so its score is too low in between. Right: the **gap**
# y, the difference of the scores in eps-units (times σ, as in notebook 00), and the **distance** d(y) = √(y² + c²) − c,
# pseudo-Huber with c = 0.3. Its mean is the **score divergence**:
#
# $$D(\theta)=\mathbb E_{x_t\sim p_{\theta,t}}\; d\big(\sigma\,(s_\theta(x_t)-s_{\mathrm{ref}}(x_t))\big).$$
#
# The parameter θ sits in two places: in the *law* p_θ,t that x_t is drawn from, and in the *function* s_θ. The second is the
# trouble. Let one of the six numbers change, the scale s₂ of the middle map:

# %% tags=["figure", "hide-input"]
scores = {}
for s2 in (0.3, 0.5, 0.7):
    moved = quadrature.line_setting(VarianceExploding(), 0.7)
    moved.generator.scales.data[1] = s2
    scores[f"s₂ = {s2}"] = moved.frozen_law().score(x)
middle = slice(80, 320)
charts.lines(
    {
        "score of the generator": [Line(name, x[middle], score[middle]) for name, score in scores.items()],
        "its change": [Line(name, x[middle], (score - scores["s₂ = 0.5"])[middle]) for name, score in scores.items()],
    },
    alt="Left, three curves of the generator's score for s2 at 0.3, 0.5 and 0.7: they share their ends and part in the middle."
    " Right, their difference to the curve for 0.5: two waves of opposite sign, up to 0.17 high, zero near x = 0.45.",
    xlabel="x",
    ylabel=["score", "difference to s₂ = 0.5"],
    width=3.6,
)

# %% [markdown]
# The curve bends, here up and there down. ∂s_θ(x)/∂θ is how far it moves at a *fixed* x, per change of θ. With networks
# nobody has this. The **assistant** s_ψ learns one curve, that of today's θ; how it would change with θ it cannot say.
#
# **The question of Theorem 3.1.** What is the gradient of D with the law held fixed? Write sg[θ] for “θ as a constant”:
#
# $$\partial_\theta\; \mathbb E_{x_t\sim p_{\mathrm{sg}[\theta],t}}\; d\big(\sigma\,(s_\theta(x_t)-s_{\mathrm{ref}}(x_t))\big).$$
#
# This is the **frozen law**. In our small world the answer is a sum over a fine grid of x, with the formula of s_θ
# differentiated by autograd. It is the truth for all that follows:

# %%
true = quadrature.true_gradients(setting, distance, "eps")
print("m₁ m₂ m₃:", true.frozen[:3].numpy().round(6), "  s₁ s₂ s₃:", true.frozen[3:].numpy().round(6))

# %% [markdown]
# ### A misreading
#
# Diffusion models are trained on noised *data*. Diff-Instruct\* does not noise data, nor samples of the reference: x_t is a
# noised sample *of the generator*.
#
# **Predict 04.a.** Do it anyway: draw x₀ from the reference, add noise, put x_t into the loss that we derive below. It
# holds two score networks with constant weights, asked at x_t. Which gradient reaches the generator?
#
# - **a** the right one, as both laws cover the line
# - **b** the right one with a bias
# - **c** none

# %% tags=["predict"]
predict("04.a", "?")

# %%
rng = torch.Generator().manual_seed(0)
data = setting.reference.sample(100_000, rng)
noise = torch.randn(100_000, 1, generator=rng)
right_loss = quadrature.theorem_forms(setting, distance, "eps")["Theorem 3.1 loss"]
loss = right_loss(data, data + sigma * noise, noise).mean()
reveal("04.a", f"the gradient in the six parameters is {quadrature.gradient(loss, setting.generator).tolist()}")

points, cell = quadrature.grid(target, 8001)
mass = cell * target.log_density(points).exp()
values = distance.value(sigma * (setting.law().score(points) - target.score(points)))
elsewhere = quadrature.gradient((mass * values).sum(), setting.generator)
print(f"D with the reference's law: relative error {quadrature.relative_error(elsewhere, true.frozen):.2f}")

# %% [markdown]
# Answer **c**. The only road from the loss to θ is x_t = g_θ(z) + σ ε, and reference samples are not on it. One may *define*
# D with the reference's law, as the last line does on the grid. That is another objective: its gradient is 66 % off (the
# length of the difference over that of the truth), and no loss below computes it.

# %% [markdown] tags=["instructor"]
# **Misconceptions of this section.** “The noisy data are data.” No: no picture enters; prompts do, in text to image. “The
# assistant's gradient in ψ is ∂s_θ.” No: ψ are weights that fit one curve; the chain rule would need ∂ψ/∂θ, through the
# assistant's whole training. “Frozen law means that x_t is detached.” No: the law is frozen in the objective, while in the
# loss x_t is the only thing that is live.

# %% [markdown]
# ## Three steps
#
# **Step (i): the score is a mean.** *Given* x₀, x_t is Gaussian, with mean x₀ and variance σ². So its score is
# −(x_t − x₀)/σ² = −ε/σ, an arrow back to x₀: the **conditional score**. Many pairs (x₀, ε) lead to about the same x_t:

# %% tags=["figure"]
z = (torch.randn(100_000, generator=rng), torch.randn(100_000, 1, generator=rng))
x_t = setting.generator(z).detach() + sigma * noise
arrow = -noise / sigma
bins = (x_t[:, 0] / 0.25).round()
centres = [value for value in bins.unique() if (bins == value).sum() > 300]
means = [arrow[bins == value].mean() for value in centres]
charts.lines(
    {
        "arrows −ε/σ of single samples, and their mean": [
            Line("single samples", x_t[:1500], arrow[:1500], style=Style("#c3c3c8", ".", "")),
            Line("score", x, law.score(x), style=CYCLE[0]),
            Line("mean in a bin", torch.stack(centres) * 0.25, torch.stack(means), style=Style("black", "D", "")),
        ]
    },
    alt="A grey cloud of 1500 single arrows over x_t, several units tall in the middle. The score runs through it as a line, and"
    " the black diamonds, means in bins of width a quarter, lie on that line.",
    xlabel="x_t",
    ylabel=charts.Axis("−ε/σ", limits=(-4.5, 4.5)),
    width=5.5,
    height=3.4,
)

# %% [markdown]
# Single arrows scatter widely; their mean at each x_t *is* the score: s_θ(x) = E[−ε/σ given x_t = x]. For p_θ,t is a mean of
# Gaussians, one for each x₀, and its slope the mean of density times arrow; divide by p_θ,t (notebook 01). So **the braces** {s_θ(x_t) + ε/σ} have mean zero at every x_t, and still have it after multiplication by any vector
# that depends on x_t alone. This is **score projection**: for every u,
#
# $$\mathbb E\big[u(x_t)^\top\{s_\theta(x_t)+\varepsilon/\sigma\}\big]=0 .\qquad\text{(i)}$$
#
# > **Exercise 04.1** · implement · difficulty 2 of 5 · importance 4 of 5 · 5 minutes
# >
# > Estimate the left side of (i) from samples. Return the mean over the N samples, and its standard error: the standard
# > deviation of one sample's product, divided by √N.


# %% tags=["exercise"]
def projection(u, score, x_t, noise, sigma):
    """Functions u and score, x_t and noise [N, n], a number sigma -> mean and its standard error."""
    # solution
    products = (u(x_t) * (score(x_t) + noise / sigma)).sum(dim=1)
    return products.mean(), products.std() / len(products) ** 0.5
    # end


# %% tags=["check"]
checked_projection = check("04.1", projection)

# %% [markdown] tags=["solution"]
# **Solution.** The sign is the place to err: the conditional score is −ε/σ, and it is subtracted.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# First one number per sample: u(x_t) times the braces, summed over the coordinates (`dim=1`).
#
# </details>
# <details><summary>Hint 2</summary>
#
# `products.mean()` and `products.std() / len(products) ** 0.5`.
#
# </details>
#
# Three different u: with the generator's samples; by quadrature, a sum over a fine grid of (z, ε); and with noised samples of
# the reference.

# %%
nodes = quadrature.rotated_nodes(setting, 2000)
on_grid = setting.generator.place(nodes.component, nodes.normal).detach() + sigma * nodes.noise
kicks = {"x": lambda x: x, "sin 3x": lambda x: (3 * x).sin(), "gap": lambda x: law.score(x) - target.score(x)}
for name, u in kicks.items():
    exactly = nodes.weight @ (u(on_grid) * (law.score(on_grid) + nodes.noise / sigma)).sum(1)
    own = "{:+.4f} ± {:.4f}".format(*checked_projection(u, law.score, x_t, noise, sigma))
    reference = "{:+.4f} ± {:.4f}".format(*checked_projection(u, law.score, data + sigma * noise, noise, sigma))
    print(f"u = {name:7s} generator {own}   by quadrature {abs(exactly):.0e}   reference {reference}")

# %% [markdown]
# The generator's samples give zero: within about two error bars, and to rounding by quadrature (claim 4 in tests/claims).
# Over the reference's samples −ε/σ averages to the *reference's* score, and the result is many error bars from zero.
#
# **Step (ii): differentiate.** Equation (i) holds for every θ, so its derivative is zero. Hold u fixed as a function; its
# argument x_t still moves. Then θ sits in s_θ and in x_t, and the chain rule gives a term for each. They add to zero:
#
# $$\underbrace{\mathbb E\big[u(x_t)^\top\partial_\theta s_\theta(x_t)\big]}_{\text{wanted, unknown}}=
# -\,\partial_\theta\,\underbrace{\mathbb E\big[u(x_t)^\top\{s_{\mathrm{sg}[\theta]}(x_t)+\varepsilon/\sigma\}\big]}_{\theta
# \text{ in } x_t \text{ alone: computable}}\qquad\text{(ii)}$$
#
# This is the whole trick: on the left the unknown function moves, on the right only the point where it is asked. Both sides
# for u = sin, the left on a grid of x, the right over (z, ε):

# %%
points, cell = quadrature.grid(law, 8001)
mass = cell * law.log_density(points).exp()
wanted = quadrature.gradient((mass * (points.sin() * setting.law().score(points)).sum(1)).sum(), setting.generator)
moving_point = lambda x0, x_t, noise: -(x_t.sin() * (law.score(x_t) + noise / sigma)).sum(1)  # noqa: E731
computable = quadrature.expect(moving_point, setting, nodes).gradient
for side, row in {"wanted": wanted, "computable": computable}.items():
    print(f"{side:10s}", row.numpy().round(6))
assert quadrature.relative_error(computable, wanted) < 1e-10

# %% [markdown]
# Equal in all six parameters (claim 5).
#
# **Step (iii): choose u.** By the chain rule, the gradient with frozen law is E[σ d′(y)ᵀ ∂_θ s_θ]. This is the left side of
# (ii) with u = σ d′(y). Read off the right side:
#
# $$\mathcal L=-\,\sigma\,d'(y)^\top\{s_{\mathrm{sg}[\theta]}(x_t)+\varepsilon/\sigma\},\qquad
# y=\sigma\,(s_{\mathrm{sg}[\theta]}(x_t)-s_{\mathrm{ref}}(x_t)).$$
#
# This is the loss of **Theorem 3.1**, for one sample and one level. In training, the assistant s_ψ takes the place of
# s_sg[θ].
#
# **Predict 04.b.** The proof, shuffled, with one line too many. Order the letters, E first, and leave out the intruder.
#
# - **A** (i) holds for every θ, so its derivative in θ is zero.
# - **B** Put u = σ d′(y), held fixed as a function of x_t.
# - **C** s_θ(x_t) is the mean of −ε/σ given x_t, so (i) holds for every u.
# - **D** Of the two terms, bring the one with θ in x_t to the other side.
# - **E** Wanted, with the law frozen: E[σ d′(y)ᵀ ∂_θ s_θ].
# - **F** At the optimum s_θ = s_ref, so replace s_θ by s_ref in the braces.

# %% tags=["predict"]
predict("04.b", "?")

# %%
reveal(
    "04.b", "E C A D B; B may stand earlier. F is the intruder: the theorem holds at every θ, not only at the optimum."
)

# %% [markdown]
# ## Your loss, and its stop-gradients
#
# What is live in $\mathcal L$? The proof has decided it: θ acts through x_t, everywhere that x_t occurs.
#
# | in the loss | gradient |
# |---|---|
# | x_t = g_θ(z) + σ ε | flows: the only road to θ |
# | s_ψ and s_ref as functions of x_t, in the braces *and* inside d′ | flows |
# | the weights of the assistant and of the reference | constants: this is sg[θ] |
# | ε, σ | constants |
#
# > **Exercise 04.2** · implement · difficulty 4 of 5 · importance 5 of 5 · 10 minutes
# >
# > Write $\mathcal L$ per sample, with pseudo-Huber, d′(y) = y/√(‖y‖² + c²), in eps-units. The two scores come as functions.
# > The check compares values *and* the gradient in x_t, so it sees a `detach` too many.


# %% tags=["exercise"]
def theorem_loss(x_t, noise, sigma, assistant, reference, c):
    """Points and noise [B, n], sigma [B, 1], two functions from x_t to scores [B, n] -> loss [B]."""
    # solution
    own = assistant(x_t)
    y = sigma * (own - reference(x_t))
    slope = y / (y.square().sum(1, keepdim=True) + c**2).sqrt()
    return -(slope * (sigma * own + noise)).sum(1)
    # end


# %% tags=["check"]
checked_loss = check("04.2", theorem_loss)

# %% [markdown] tags=["solution"]
# **Solution.** There is no `detach` in it at all. That the assistant's weights are constants is not said here: it is said by
# whoever hands the optimizer only the generator's weights.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Move the σ in front of d′ into the braces: σ {s_ψ + ε/σ} = σ s_ψ + ε. Then both factors are in eps-units.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Compute y, then d′ (‖y‖² is a sum over coordinates, with `keepdim=True`), then minus the sum of d′ times braces.
#
# </details>
#
# Your function against the truth, with the exact score as assistant:


# %%
def sample_loss(assistant, reference=target.score):
    scores = assistant, reference
    return lambda x0, x_t, noise: checked_loss(x_t, noise, sigma.expand(len(x_t), 1), *scores, c=0.3)


mine = quadrature.expect(sample_loss(law.score), setting, nodes).gradient
print(f"relative error {quadrature.relative_error(mine, true.frozen):.0e}")

# %% [markdown]
# The theorem holds to rounding (claims 6 to 8: other levels and distances, and the plane). Now detach what should flow.
#
# **Predict 04.c.** Detach d′ and leave the rest. How far is the gradient from the truth?
#
# - **a** less than 10 %
# - **b** about 30 %
# - **c** about 80 %

# %% tags=["predict"]
predict("04.c", "?")

# %% tags=["figure"]
rows = quadrature.stop_gradient_table(setting, distance, "eps", nodes)
errors = {name: quadrature.relative_error(row, true.frozen) for name, row in rows.items()}
off = errors["wrong: d' detached"]
reveal("04.c", f"{off:.0%}")
wrong = {name: row for name, row in rows.items() if name.startswith("wrong")}
charts.bars(
    {f"{name[7:]}: {errors[name]:.0%} off": row.tolist() for name, row in wrong.items()},
    true.frozen.tolist(),
    ["m₁", "m₂", "m₃", "s₁", "s₂", "s₃"],
    alt="Four panels with six hatched bars each, one a parameter, and black dashes for the true gradient. With d prime"
    " detached the bars miss the dashes, m2 and s2 are almost zero. With the braces detached m1 and m3 have the wrong sign."
    " With the conditional score dropped s1, s2 and s3 have the wrong sign. With x_t detached all bars are zero.",
    ylabel="gradient",
)

# %% [markdown]
# Answer **c**. Dashes are the truth, bars what you would train with. To detach x_t leaves no gradient, and the other three
# are hardly better, each with a wrong sign somewhere. Add the bars of the first two panels: they give the dashes. The two are
# halves of a product rule, and neither half approximates the whole.
#
# The worst looks innocent: the reference under `no_grad`. The slope of the gap is a small difference of two larger
# ones; detach one score, and the other's slope stands alone.
#
# **In your browser.** [The same with samples](docs/web/theorem.html#line,huber,frozen,slope): the theorem's estimate runs to the truth, each
# wrong one elsewhere.

# %%
no_grad = quadrature.expect(sample_loss(law.score, lambda x: target.score(x).detach()), setting, nodes).gradient
print(f"reference under no_grad: {quadrature.relative_error(no_grad, true.frozen):.0%} off")

# %% [markdown] tags=["instructor"]
# **Misconceptions of this section.** “Stop-gradient means: no gradient through the score networks.” That is KL's loss, not
# this one. “The reference is frozen, so I run it under `no_grad`.” Its weights are frozen; its Jacobian is needed. Ask for
# the worst of the four before the figure: the braces, which are worse than no gradient at all (`no_grad` is worse by far).
# Ask later, at the pencil, why “d′ detached” must be right for a shift: what is missing is the mean of the braces times a
# function of x_t, zero by (i).

# %% [markdown]
# ## With a pencil: what the frozen law costs
#
# Now by hand. Generator x₀ = m + s z, reference N(0, 1), squared L2, d(y) = y², in score units: no σ before the gap. With
# v = s² + σ² and q = 1 + σ² the two scores are −(x − m)/v and −x/q. Write ξ = x_t − m, with mean 0 and variance v. Then
#
# $$y=\frac mq+\xi\Big(\frac1q-\frac1v\Big),\qquad \partial_m s_\theta=\frac1v,\qquad \partial_s s_\theta=\frac{2s\,\xi}{v^2}.$$
#
# > **Exercise 04.3** · derive · difficulty 3 of 5 · importance 4 of 5 · 10 minutes
# >
# > The gradient with frozen law is E[2 y ∂s_θ]. Take the means by hand; return the derivative in m and in s.


# %% tags=["exercise"]
def pencil_gradient(m, s, sigma):
    """Gradient in (m, s) of the score divergence, squared L2 in score units, law frozen: two numbers."""
    # solution
    v, q = s**2 + sigma**2, 1 + sigma**2
    return 2 * m / (q * v), 4 * s * (v - q) / (q * v**2)
    # end


# %% tags=["check"]
checked_gradient = check("04.3", pencil_gradient)

# %% [markdown] tags=["solution"]
# **Solution.** In m: 2 (m/q)(1/v) = 2m/(qv). In s: 2 · (v − q)/(qv) · v · 2s/v² = 4s(v − q)/(qv²). Negative for a generator
# that is too narrow: descent widens it.

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# For m: E y = m/q, as ξ has mean 0. For s: only the part of y with ξ counts, and E ξ² = v.
#
# </details>
# <details><summary>Hint 2</summary>
#
# In s: 2 · (1/q − 1/v) · v · 2s/v². Put 1/q − 1/v over one denominator: (v − q)/(qv).
#
# </details>
#
# > **Exercise 04.4** · predict, then explain · difficulty 3 of 5 · importance 4 of 5 · 5 minutes
# >
# > A colleague tests her loss here, at m = 1, s = ½, σ = 1. One mistake her test cannot see, neither in m nor in s. Which, and
# > why?
# >
# > - **a** d′ detached
# > - **b** the braces detached
# > - **c** the conditional score ε/σ dropped from the braces

# %% tags=["predict"]
predict("04.4", "?")

# %%
pencil = quadrature.pencil_setting(1.0, 0.5, sigma=1.0)
table = quadrature.stop_gradient_table(pencil, quadrature.squared(), "score", quadrature.rotated_nodes(pencil, 2000))
print("by hand" + 27 * " ", "m {:+.2f}   s {:+.2f}".format(*checked_gradient(1.0, 0.5, 1.0)))
for name in ("true, frozen law", "wrong: d' detached", "wrong: braces detached", "wrong: conditional score dropped"):
    print(f"{name:34s}", "m {:+.2f}   s {:+.2f}".format(*table[name]))
reveal("04.4", "c: the last row equals the truth")

# %% [markdown]
# <details><summary>Model answer</summary>
#
# The dropped term is −2y ε/σ, and y is linear in x_t, so its gradient in x_t is a constant times ε. In m that has mean 0; in
# s it meets z, independent of ε: 0 again. With curved scores or another distance the constant becomes a function of x_t, and
# the term counts: 89 % in the figure above.
#
# </details>
#
# See the row “d′ detached”, too: right in the shift m, half of the truth in the scale s. One Gaussian is too straight for a
# test, and its shift is blind to this mistake. **Test with several maps, and look at shapes.**
#
# ### The law that does not move
#
# So far only s_θ was differentiated. If the law moves, too, the gradient gains the term of d alone, its scores held fixed
# (claim 9), and is that of D itself, here m²/q² + (v − q)²/(q²v). Diff-Instruct\*, as we reconstruct it, leaves the term out.
# What does it descend, then? At each step E d(s_θ − s_ref) over the law of *this* θ, drawn below for laws frozen at three
# places.


# %%
def divergence(own, at):  # E d(s_own − s_ref) over the law of `at`
    points, cell = quadrature.grid(at.frozen_law(), 801)
    y = own.frozen_law().score(points) - own.target().score(points)
    return float(cell * (at.frozen_law().log_density(points).exp() * y.square().sum(1)).sum())


for name in ("true, frozen law", "d alone, scores frozen", "true, law differentiated"):
    print(f"{name:34s}", "m {:+.2f}   s {:+.2f}".format(*table[name]))

# %% tags=["figure", "hide-input"]
shifts = torch.linspace(-0.4, 1.4, 61).tolist()
curves, dots = [], []
for place in (1.0, 0.6, 0.25):
    frozen_at = quadrature.pencil_setting(place)
    objective = [divergence(quadrature.pencil_setting(m), frozen_at) for m in shifts]
    curves.append(Line(f"law frozen at m = {place}", shifts, objective))
    dots.append(Line("", [place], [divergence(frozen_at, frozen_at)], style=Style("black", "o", "")))
moving = [divergence(quadrature.pencil_setting(m), quadrature.pencil_setting(m)) for m in shifts]
charts.lines(
    {"three objectives, and D itself": [*curves, Line("D, law moving", shifts, moving, style=TRUTH), *dots]},
    alt="A dashed parabola, D, flat, with its minimum at m = 0. Three steeper parabolas, for laws frozen at m = 1, 0.6 and 0.25:"
    " each crosses the dashed one in the black dot at its own m, from below, and has its minimum at 0.375 times that m.",
    xlabel="m of the score, s = ½",
    ylabel=charts.Axis("objective", limits=(0.08, 0.55)),
    width=5.5,
    height=3.6,
)

# %% [markdown]
# At its dot each curve has the value of D but a steeper slope: 0.8 against 0.5 at m = 1. After a step the law is frozen anew,
# and you stand on another curve. The bottoms move ahead of you, and reach m = 0 when you do.
#
# Such a rule is a **semi-gradient**, as in temporal-difference learning. For a true gradient, ∂_s of the m-part equals ∂_m of
# the s-part. But 2m/(qv) contains s (in v), while 4s(v − q)/(qv²) does not contain m. So **the rule has a place of rest, but
# it is the gradient of no objective at all.** Without a reward the place is the reference, with either law. And with one?
#
# **Predict 04.d.** The reward r(x) = x, with strength 0.6, pushes m up. Against it the frozen law pulls with 0.8 at the
# start, the moving law with 0.5. Where do the two come to rest?
#
# - **a** the frozen law at a smaller m
# - **b** the frozen law at a larger m
# - **c** both at the same place

# %% tags=["predict"]
predict("04.d", "?")


# %%
def descent(kind, push=lambda m, s: (0.0, 0.0), steps=150, rate=0.2):
    """Way of (m, s) from (1, ½), [2, steps + 1]; push: what the reward adds to the motion."""
    way = [torch.tensor((1.0, 0.5))]
    while len(way) <= steps and way[-1][1] > 0.05 and way[-1][0] < 3:
        m, s = way[-1].tolist()
        slopes = quadrature.true_gradients(quadrature.pencil_setting(m, s), quadrature.squared(), "score", 401)
        way.append(way[-1] - rate * (getattr(slopes, kind) - torch.tensor(push(m, s))))
    return torch.stack(way).T


rewards = {
    "no reward": lambda m, s: (0.0, 0.0),
    "0.6 x": lambda m, s: (0.6, 0.0),
    "−(x − 2)²/2": lambda m, s: (2 - m, -s),
}
kinds = {"frozen law": "frozen", "law moving": "differentiated"}
ways = {title: {name: descent(kind, push) for name, kind in kinds.items()} for title, push in rewards.items()}
rests = {name: way[:, -1].numpy().round(2).tolist() for name, way in ways["0.6 x"].items()}
reveal("04.d", f"(m, s) at rest: {rests}")
print("reward −(x − 2)²/2:", {name: way[:, -1].numpy().round(2).tolist() for name, way in ways["−(x − 2)²/2"].items()})

# %% tags=["figure", "hide-input"]
panels = {}
for title, pair in ways.items():
    panels[title] = [Line(name, *way) for name, way in pair.items()]
    panels[title] += [Line("start", [1.0], [0.5], style=Style("black", "o", ""))]
    panels[title] += [Line("rest", *way[:, -1:], style=Style("black", "X", "")) for way in pair.values()]
panels["no reward"].append(Line("d alone", *descent("law"), style=CYCLE[2]))
charts.lines(
    panels,
    alt="Three panels, the mean m across, the scale s up; all ways start at m = 1, s = 0.5. No reward: frozen and moving law"
    " end at m = 0, s = 1, on slightly different ways; d alone runs right and down, away from it. Linear reward: both end at"
    " m = 1.2, s = 1. Quadratic reward: the frozen law ends at m = 1.11, s = 0.49, the moving law at m = 1.33, s = 0.39.",
    xlabel="m",
    ylabel="s",
    width=2.5,
    height=3.6,
)

# %% [markdown]
# Answer **c**, in the middle panel: both rest at m = 1.2, s = 1, where v = q makes 2m/(qv) and 2m/q² equal. On the right is a
# reward that likes x near 2, and so small s. Now the widths differ, and so do the places. Neither is better by that, as their
# mean rewards differ; but they are two methods.
#
# > **Exercise 04.5** · debug · difficulty 3 of 5 · importance 5 of 5 · 5 minutes
# >
# > A colleague reads “minimise d of the gap” and writes `loss = d(gap)`, both scores live in x_t. Her assistant is exact. Her
# > way is “d alone” on the left: the cloud shrinks and runs off. What did she leave out, and why does it shrink?
#
# <details><summary>Model answer</summary>
#
# She left out ∂_θ s_θ, the very thing that Theorem 3.1 supplies. With fixed scores each sample walks to where the gap is
# zero. For Gaussians that is one point, so the cloud shrinks (claim 10). The point, m q/(q − v), is ahead of m and moves on
# when the scores follow.
#
# </details>

# %% [markdown] tags=["instructor"]
# **Misconceptions of this section.** “Frozen is an approximation of moving.” Both are exact gradients, of different things.
# “A semi-gradient cannot converge.” Here it does, to the reference; temporal-difference learning does, too, on-policy with
# linear features. “With frozen law the samples stay where they are.” The law changes every step; it is only not
# differentiated. Ask for the sign of “d alone” in m: −0.30, so descent moves m away from the reference.

# %% [markdown]
# ## The value, and a wrong assistant
#
# **Predict 04.e.** Train the pencil's Gaussian with frozen law and an exact assistant. D falls to zero. What does the *value*
# of your loss, averaged over a batch, do meanwhile?
#
# - **a** falls with D
# - **b** rises to zero, because of the minus sign
# - **c** stays about zero from the first step on

# %% tags=["predict"]
predict("04.e", "?")


# %% tags=["figure"]
def batch_loss(here, rng, batch=256):
    z, noise = (torch.randn(batch, 1, generator=rng) for _ in range(2))
    x0 = here.generator.place(torch.zeros(batch, dtype=torch.long), z).detach()
    loss = quadrature.theorem_forms(here, quadrature.squared(), "score")["Theorem 3.1 loss"]
    return float(loss(x0, x0 + here.sigma * noise, noise).mean())


stations = [quadrature.pencil_setting(m, s) for m, s in descent("frozen", steps=59, rate=0.07).T.tolist()]
divergences = [divergence(here, here) for here in stations]
losses = [batch_loss(here, rng) for here in stations]
reveal("04.e", f"mean of 60 batch losses {sum(losses) / 60:+.3f}; D from {divergences[0]:.2f} to {divergences[-1]:.3f}")
charts.lines(
    {"training with an exact assistant": [Line("D", range(60), divergences), Line("batch loss", range(60), losses)]},
    alt="Over 60 steps D falls smoothly from 0.36 to almost zero. The loss of a batch of 256 jumps about zero, by less than"
    " a tenth at first and less and less later; it has no trend.",
    xlabel="step",
    ylabel=charts.Axis("value", guides=[0.0]),
    width=5.5,
)

# %% [markdown]
# Answer **c**. The value is step (i) with u = −σ d′(y): its mean is zero, whatever θ is. So never read this curve as
# progress. It tells something else: with an assistant s_ψ ≠ s_θ, in y as well,
#
# $$\mathbb E\,\mathcal L=-\,\mathbb E\big[\sigma\,d'(y)^\top(s_\psi-s_\theta)\big].$$
#
# A mean away from zero says that the assistant is wrong (claim 18); a mean of zero does not say that it is right. How wrong
# may it be? In the world of three maps, let it be off by δ sin x, and compare gradients with the true ones, for your loss and
# for KL's, the detached difference of the scores times x_t.


# %%
def kl_direction(assistant):
    return lambda x0, x_t, noise: ((assistant(x_t) - target.score(x_t)).detach() * x_t).sum(1)


losses = {"score divergence": (sample_loss, true.frozen), "KL": (kl_direction, true.kl)}
deltas = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3]
assistants = [lambda x, delta=delta: law.score(x) + delta * x.sin() for delta in deltas]
found = {name: [quadrature.expect(loss(s), setting, nodes) for s in assistants] for name, (loss, _) in losses.items()}
size = (mass * (law.score(points) - target.score(points)).square().sum(1)).sum().sqrt()
share = [float(delta * (mass * points.sin().square().sum(1)).sum().sqrt() / size) for delta in deltas]
for name, (_, truth) in losses.items():
    wrong = found[name][3].gradient
    print(
        f"δ = 0.1, {name:16s} error {quadrature.relative_error(wrong, truth):.2f}, cosine {quadrature.cosine(wrong, truth):.2f}"
    )
print(f"δ = 0.1 is {share[3]:.2f} of the gap (root mean squares); mean loss {found['score divergence'][3].value:+.4f}")

# %% tags=["figure", "hide-input"]
measures = {"cosine with the truth": quadrature.cosine, "relative error": quadrature.relative_error}
panels = {
    title: [Line(name, share, [measure(row.gradient, losses[name][1]) for row in rows]) for name, rows in found.items()]
    for title, measure in measures.items()
}
panels["mean of the loss"] = [Line("score divergence", share, [row.value for row in found["score divergence"]])]
charts.lines(
    panels,
    alt="Three panels against the assistant's error as a share of the gap, from 0.02 to 0.73. The cosine falls from 1, for the"
    " score divergence to 0.72, for KL to 0.79. The relative error rises to 1.6 and 0.84. The mean loss stays near zero at"
    " first and falls to minus 0.04.",
    xlabel="assistant's error / gap",
    ylabel=["cosine", "relative error", "mean loss"],
    markers=True,
    width=2.5,
)

# %% [markdown]
# An assistant that is wrong by a quarter of the gap makes the gradient of the score divergence wrong by 66 % (claim 19), that
# of KL by 28 %. Here the score divergence asks more of its assistant: you differentiate through it, so its slope enters, too.
# That is no law. Let the pencil's assistant believe in a slightly wrong variance: the error in ∂_s, relative to ∂_s, is, with
# squared L2, |2 − v/q| times KL's. So the score divergence asks *less* for q < v < 3q, a somewhat wider generator, and more
# where it is narrower (or far wider), up to twice as much where hardly any noise covers that:


# %%
def slopes_in_s(s, e):
    """d/ds at N(0, s²), score divergence and KL, by an assistant whose precision, 1/v, is wrong by the factor 1 + e."""
    here, precision = quadrature.pencil_setting(0.0, s), (1 + e) / (s**2 + 1)

    def score(x0, x_t, noise):
        return -2 * ((0.5 - precision) * x_t * (noise - precision * x_t)).sum(1)

    def kl(x0, x_t, noise):
        return (((0.5 - precision) * x_t).detach() * x_t).sum(1)

    return torch.stack(
        [quadrature.expect(loss, here, quadrature.rotated_nodes(here, 400)).gradient[1] for loss in (score, kl)]
    )


for s in (0.1, 0.5, 1.5):
    in_score, in_kl = (slopes_in_s(s, 0.01) / slopes_in_s(s, 0.0) - 1).tolist()
    known = abs(2 - (s**2 + 1) / 2)
    print(
        f"s = {s}, 1 % wrong: score {in_score:+.1%}, KL {in_kl:+.1%}, ratio {abs(in_score / in_kl):.2f}, by hand {known:.2f}"
    )

# %% [markdown]
# At low σ, where the braces contain a large ε/σ, the score divergence's single-sample gradients are several times as noisy as
# KL's (claim 14).

# %% [markdown]
# ## Diff-Instruct\* in sixty lines
#
# Now with networks, in the world of notebook 00: a ring of eight modes, a bump of reward on the right. Three cells: what is
# known; the networks, and noised samples of the generator; the loop. Its `regularizer` will be your function of exercise
# 04.2. Only the random numbers, `draw`, come from the library, so that we can compare digit by digit.

# %%
angles = torch.arange(8) * math.pi / 4
modes = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
levels = 0.1 * 32 ** (torch.arange(8) / 7)


def reference_score(sigma, x):
    offsets = modes - x[:, None]
    variance = 0.25**2 + sigma**2
    shares = (-offsets.square().sum(-1) / (2 * variance)).softmax(dim=1)
    return (shares[..., None] * offsets).sum(1) / variance


def reward(x0):
    return (-(x0 - modes[0]).square().sum(1) / (2 * 1.5**2)).exp()


# %%
def mlp(inputs):
    layers = [nn.Linear(inputs, 96), nn.SiLU()]
    layers += [nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(96, 2))


def assistant_score(correction, sigma, x):
    log = sigma.log()
    seen = torch.cat([x / (1 + sigma**2).sqrt(), log / 2, log.sin(), log.cos()], dim=1)
    return reference_score(sigma, x) - correction(seen) / sigma


def noised(generator, step, stream, batch=256):
    z = draw(0, step, f"{stream}/z", (batch, 2), slice(None))
    u = draw(0, step, f"{stream}/t", (batch,), slice(None), uniform=True)
    noise = draw(0, step, f"{stream}/noise", (batch, 2), slice(None))
    sigma = levels[(8 * u).long()][:, None]
    x0 = generator(z)
    return x0, x0 + sigma * noise, noise, sigma


# %%
def descend(optimizer, loss, rate):
    optimizer.param_groups[0]["lr"] = rate
    optimizer.zero_grad()
    loss.mean().backward()
    optimizer.step()


def train(generator, correction, regularizer, scale, steps):
    fast, slow = (torch.optim.Adam(net.parameters(), betas=(0.0, 0.99)) for net in (correction, generator))
    for step in range(-50, steps):  # the first fifty are for the assistant alone
        fall = (1 + math.cos(math.pi * max(step, 0) / steps)) / 2
        for k in range(2):
            _, x_t, noise, sigma = noised(generator, step, f"assistant/{k}")
            error = sigma * assistant_score(correction, sigma, x_t.detach()) + noise
            descend(fast, error.square().sum(1), 2e-3 * (0.1 + 0.9 * fall))
        if step >= 0:
            x0, x_t, noise, sigma = noised(generator, step, "generator")
            scores = partial(assistant_score, correction, sigma), partial(reference_score, sigma)
            loss = regularizer(x_t, noise, sigma, *scores) - scale * reward(x0)
            descend(slow, loss, 5e-4 * fall)


# %% [markdown]
# The assistant is the reference plus a learned correction. It makes the square of the braces small, and so learns the mean of
# −ε/σ.
#
# What is detached? In the assistant's step, x_t: the assistant learns *about* the generator and must not move it. In the
# generator's step, nothing: the assistant's weights are constants there because the optimizer `slow` does not hold them. (The
# library cuts the graph at x_t and x₀, to save memory, and loses nothing: claim 27.)
#
# Is this the method of `post_train`? Same weights at the start, same random numbers, ten steps:

# %%
world = toy.reference()
start = toy.distilled(world, steps=settings.distil_steps)


def fresh(steps):
    state = toy.toy_state(start, world, toy.REWARDS["mode"], seed=0, steps=steps)
    generator, correction = mlp(2), mlp(5)
    generator.load_state_dict(state.roles.generator.module.network.layers.state_dict())
    correction.load_state_dict(state.roles.assistant.module.network.body.layers.state_dict())
    return state, generator, correction


def compare(regularizer, name):
    state, generator, correction = fresh(steps=10)
    train(generator, correction, regularizer, scale=0.82, steps=10)
    method = replace(toy.TOY_METHODS[name], reward_scale=0.82)
    for _ in post_train(state, method, toy.no_conditions, steps=10, seed=0, **toy.LOOP):
        pass
    networks = generator, state.roles.generator.module, start
    ours, theirs, before = (nn.utils.parameters_to_vector(net.parameters()).detach() for net in networks)
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-9)
    print(f"weights moved by up to {(ours - before).abs().max():.4f}; they differ by {(ours - theirs).abs().max():.0e}")


leash = partial(checked_loss, c=0.05)
compare(leash, "star")

# %% [markdown]
# The same to rounding. Let it run on.

# %% tags=["figure"]
state, generator, correction = fresh(settings.steps)
train(generator, correction, leash, scale=0.82, steps=settings.steps)
with torch.no_grad():
    z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(1))
    before, after = start(z, None), generator(z)
print(f"mean reward {reward(before).mean():.2f} -> {reward(after).mean():.2f}")
plane.clouds(
    {"distilled": before, "star": after},
    world,
    reward=toy.REWARDS["mode"],
    alt="Left, the distilled generator on all eight modes. Right, after training with the sixty lines: the samples crowd the"
    " mode on the right and its neighbours, and still visit the other modes, with dots between them.",
)

# %% [markdown]
# The picture of notebook 00, driven by your own function. Here are its pulls at fourteen samples, and beside them what KL's
# loss (w = 1) would do to the same samples with the same assistant:

# %% tags=["figure"]
state.roles.assistant.module.network.body.layers.load_state_dict(correction.state_dict())
dots = toy.spread_out(after[:300], 14)
arrows = {}
for title, name in {"loss of Theorem 3.1": "star", "KL's loss instead": "kl-one"}.items():
    moves = probes.motion(state, replace(toy.TOY_METHODS[name], reward_scale=0.82), dots)
    arrows[title] = (dots, moves["reward"], moves["regularizer"])
plane.pull_picture(
    arrows,
    world,
    reward=toy.REWARDS["mode"],
    backgrounds=dict.fromkeys(arrows, after),
    alt="Fourteen samples around the ring in two panels, with the reward's arrow, the regularizer's and their sum. The reward's"
    " arrows are the same in both; the regularizer's differ in length and often in direction.",
)

# %% [markdown]
# Compare directions; lengths depend on unit and weight. KL's arrow compares two scores; the left one also contains how the
# comparison changes with x_t, so it can point elsewhere. Its sums do not vanish sample by sample, though the run is over: a
# weight of the network moves many samples at once, and only the total can come to rest.
#
# > **Exercise 04.6** · predict, then explain · difficulty 2 of 5 · importance 4 of 5 · 5 minutes
# >
# > Which one line do you change to get Diff-Instruct++, KL with the weight σ²? What is detached in the new one?

# %% tags=["predict"]
predict("04.6", "?")


# %%
def kl_loss(x_t, noise, sigma, assistant, reference):
    return (sigma**2 * (assistant(x_t) - reference(x_t)).detach() * x_t).sum(1)


compare(kl_loss, "kl-x0")
reveal("04.6", "the `return` of the regularizer, as above; it equals the library's method to rounding")

# %% [markdown]
# <details><summary>Model answer</summary>
#
# The last line of your loss. The difference of the scores *is* detached: KL's loss is a direction times x_t, and no gradient
# passes through a score. For KL this is exact, law included (claim 11). What is right there is the mistake here.
#
# </details>
#
# ## What you can now say
#
# 1. The gradient of a score divergence needs ∂s_θ/∂θ, which nobody has; score projection, differentiated, trades it for a
#    gradient through x_t.
# 2. In the loss only weights are constants: x_t is live in both scores, in the braces and inside d′. Each misplaced
#    stop-gradient is off by 80 % or more here, and one Gaussian may not show it.
# 3. With the law frozen this is a semi-gradient: a place of rest, the gradient of no objective. The loss's value is zero, and
#    tells of the assistant, not of progress.
#
# ## Quiz
#
# 1. Why does (i) hold for every u, and not only for a clever one?
#    <details><summary>Answer</summary>Given x_t, the mean of −ε/σ is s_θ(x_t), so the braces have mean zero at each x_t; and
#    given x_t, u is a constant.</details>
# 2. A friend evaluates the reference under `no_grad`, “since it is frozen”. What is wrong?
#    <details><summary>Answer</summary>Its weights are frozen; but as a function of x_t it sits inside d′, and that path is part
#    of the gradient.</details>
# 3. What must be added to the loss to get the gradient of D with the law moving?
#    <details><summary>Answer</summary>d(y). Alone, this term shrinks a Gaussian generator.</details>
# 4. Your loss curve has stayed at zero for an hour. Bad news?
#    <details><summary>Answer</summary>No news: it fits an exact assistant, whatever the generator does. Watch the gap and the
#    reward.</details>
# 5. Your test passes for m of a single Gaussian. Which mistake may still be there?
#    <details><summary>Answer</summary>d′ detached; with squared L2 also the dropped conditional score, even in s.</details>
#
# ## Exercises
#
# 04.1 score projection (checked) · 04.2 the loss (checked) · 04.3 the pencil's gradient (checked) · 04.4 what a Gaussian
# hides (predict, explain) · 04.5 the cloud that shrinks (debug) · 04.6 one line to Diff-Instruct++ (predict, explain)
#
# ## Where this comes from, and what next
#
# Theorem 3.1: Diff-Instruct\*, arXiv 2410.20898; without a reward Score Implicit Matching, arXiv 2410.16794. The statement is
# reconstructed, and the frozen law is our reading. arXiv 2605.25042 prints a theorem of the same kind, with the three steps
# (its equations 15 to 19), for the law differentiated (its Theorem 1), which adds d. The mean of −ε/σ: Vincent, Neural
# Computation 23, 2011. Semi-gradients: Sutton and Barto, *Reinforcement Learning*, second edition, 2018, section 9.3. The
# theorem and its relatives are claims 4 to 14, 18, 19 and 27 in `tests/claims`.
#
# Next: notebook 05 asks what the distance, the weight and the law do at equal reward.
#
# Text and figures of this notebook: CC BY 4.0. Code: MIT.
