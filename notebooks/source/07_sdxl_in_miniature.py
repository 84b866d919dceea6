# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # SDXL in miniature: every part opened and looked at
#
# **In this notebook you open a text-to-image model part by part, and find everything that you know from the toy inside.**
#
# > **Goals.** Map every toy object of notebooks 00 to 06 to a part of SDXL. Follow a caption from its words to a picture. Say
# > why the one-step network is asked at t = 399. Estimate the memory that post-training SDXL takes, before you rent a GPU.
# >
# > **Before you start.** Notebooks 00 and 01 (noise levels, predictions), 02 (the assistant), 06 (the null condition). You
# > need the extra packages of the models: `pip install -e ".[models]"`.
# >
# > **Time.** Forty-five minutes to read, eighty with the exercises; the cells take about half a minute of that on one CPU
# > core. No GPU, no network: every weight ships with the package.

# %% tags=["setup"]
import torch

from distar_core.course import check, predict, profile, require, reveal
from distar_core.evaluation.statistics import wilson_interval
from distar_core.figures import charts, plane
from distar_core.figures.picture import CYCLE, Style, image_grid
from distar_core.lab import bench_world
from distar_core.roles import NetworkScore, OneStep
from distar_core.sdxl import T_STAR, adapters, latents, prompts
from distar_core.world import models, oracle, scenes
from distar_core.world.recipe import WorldRecipe

require("models")
torch.set_num_threads(1)
settings = profile()

# %% [markdown] tags=["instructor"]
# **Board plan (90 minutes).** 10 min: the picture of section 1; fill in the table with the class before you show it. 15 min:
# words; the null that is not the empty string. 10 min: latents, and the channel that carries the picture. 15 min: noise; read
# the grid of guesses column by column. 25 min: why 399: the two curves, the pencil, then the sweep. 15 min: the ledger, first
# on the board from “who learns, who is stored once”, then by the cell. The two debug exercises are homework.
#
# **Typical misconceptions.**
#
# 1. *“t = 399 means that the generator starts from a picture with 76% noise.”* It starts from noise alone. 399 is an input that
#    the network was trained with, and the pair (α, σ) that turns its output into x₀. Section 5 shows both.
# 2. *“The null condition is the empty prompt.”* In SDXL it is zeros. The empty string has an embedding of its own.
# 3. *“Unit noise has variance 1 and so has x_t, so z is a noised latent.”* Per number, yes. Per direction, no: neighbours in a
#    latent belong together, in z they do not.
# 4. *“LoRA trains 4% of the weights, so it takes 4% of the memory.”* The frozen weights still have to be there, twice. Section 6.
# 5. *“The VAE is frozen, so it costs nothing.”* The reward's gradient goes through its decoder, and the decoder's activations
#    at 1024 pixels are large.

# %% [markdown]
# ## 1. The whole in one picture
#
# **SDXL** (arXiv 2307.01952) is the text-to-image diffusion that Diff-Instruct\* was run on; most people use it through the library `diffusers`, which calls all its parts together a **pipeline**. Our *miniature world* is a pipeline of the same classes
# with few weights, trained on rendered pictures of one or two objects.

# %%
world = models.load_world()
pipeline = world.pipeline
for name, part in pipeline.components.items():
    if isinstance(part, torch.nn.Module):
        print(f"{name:15s} {type(part).__name__:28s} {sum(p.numel() for p in part.parameters()):9,d} parameters")
print("the one-step generator:", f"{sum(p.numel() for p in world.unet.parameters()):,} parameters")

# %% [markdown]
# The **UNet** looks at a noised picture and guesses the noise; SDXL's has 2,567,463,684 parameters, 2200 times as many. Two **text
# encoders** read the caption. The **VAE**, an autoencoder, goes between pictures and the smaller arrays that the UNet works on. The last
# line is a second UNet, the one-step generator. Both UNets draw, from captions that neither saw in training:

# %% tags=["figure"]
draws = scenes.both_groups(3)
fast, slow = world.draw(draws.captions, draws.seeds), world.draw_reference(draws.captions, draws.seeds)
titles = []
for name, shown in {"one step": fast, "twenty steps": slow}.items():
    verdicts = oracle.judge(shown, draws.captions).all
    titles += [
        f"{name}: {said}{'' if good else ' (wrong)'}" for said, good in zip(draws.captions, verdicts, strict=True)
    ]
image_grid(
    torch.cat([fast, slow]),
    titles,
    alt="Two rows of six small pictures, coloured circles, squares and triangles: above from the one-step generator, below"
    " from the twenty-step reference, for the same six captions. The rows nearly agree; one triangle above is orange, not yellow.",
)

# %% [markdown]
# The first row took one call of a UNet for each picture, the second forty: twenty steps, each with and without the caption, for
# guidance. “Wrong” is the verdict of the **oracle**, which needs no network: it finds the objects and reads off what they are.
#
# Here is the map. Read it now, and again at the end.
#
# | in the toy | in SDXL, and in the miniature | section |
# |---|---|---|
# | a point x₀ in the plane | a **latent**: 4 × 8 × 8 numbers here, 4 × 128 × 128 in SDXL, which the VAE decodes into a picture | 3 |
# | mixture, whose score is known | the reference UNet, which guesses ε; `NetworkScore` turns ε̂ into a score | 4 |
# | label | the embedded caption | 2 |
# | label None, all labels together | the null condition: zeros | 2 |
# | noise level σ, with α = 1 | a time t from 0 to 999, with its α and σ | 4 |
# | z, two numbers | noise in the shape of a latent | 5 |
# | generator x₀ = g(z) | a UNet, called once at t = 399 | 5 |
# | assistant | a third UNet, which starts as the reference | 6 |
# | reward r(x₀) | a judge of decoded pictures and their captions (the oracle is none: it has no gradient) | 3, and notebook 08 |

# %% [markdown]
# ## 2. Words
#
# A **tokenizer** cuts a caption into tokens, pieces that have a number each, adds a start and an end token, and fills the row up to a
# fixed length: 16 here, 77 in SDXL. Every word that the world knows is one token. What becomes of a word that it does not know?

# %%
caption = "a red circle left of a blue square"
print(pipeline.tokenizer.tokenize(caption))
print(pipeline.tokenizer.tokenize("a purple circle"))

# %% tags=["figure", "hide-input"]
image_grid(
    world.draw(["a purple circle"] * 6, seeds=range(6)),
    [f"purple, seed {seed}" for seed in range(6)],
    width=1.3,
    alt="Six pictures for a purple circle: green or red blobs on dark ground, one or two of them, one of both colours. None is"
    " purple.",
)

# %% [markdown]
# “Purple” falls into letters, whose vectors were never trained. Nothing fails; our library warns you, a pipeline would not. (SDXL's
# tokenizer knows longer pieces.) You get round things in known colours, and no picture tells you that the word was not understood.
#
# Two text encoders read the tokens. Of each we take the **penultimate** states: the vectors, one a token, that enter its last layer.
# Side by side they are what the UNet attends to. The second encoder also gives one vector for the whole caption, the **pooled**
# embedding. By hand:

# %%
ids = world.encoder.tokens([caption])
with torch.no_grad():
    first, second = (own(i, output_hidden_states=True) for own, i in zip(world.encoder.encoders, ids, strict=True))
text = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
prompt = world.encoder([caption])
print("text", list(text.shape), " pooled", list(second.text_embeds.shape))
print("as the library has it:", torch.equal(text, prompt.text) and torch.equal(second.text_embeds, prompt.pooled))

# %% [markdown]
# SDXL's text is 768 + 1280 = 2048 wide for each of 77 tokens, its pooled embedding 1280. The UNet adds the pooled one to what it
# knows about t, together with six numbers called **time ids**: the picture's original size, where it was cropped, the size wanted.
# Ours are always (32, 32, 0, 0, 32, 32). They have nothing to do with t.
#
# How alike are two captions? The cosine of their embeddings is 1 for the same direction and 0 for unrelated ones:

# %%
said = [
    caption,
    "a blue square right of a red circle",
    "a blue square left of a red circle",
    "a red square left of a blue circle",
    "a green triangle above a yellow circle",
    "a small yellow circle",
]
print(*(f"{k}: {words}" for k, words in enumerate(said, start=1)), sep="\n")

# %% tags=["figure", "hide-input"]
embedded = world.encoder(said)
unit = {"text, all tokens": embedded.text.flatten(1), "pooled": embedded.pooled}
unit = {name: torch.nn.functional.normalize(rows, dim=1) for name, rows in unit.items()}
plane.maps(
    {f"cosine, {name}": rows @ rows.T for name, rows in unit.items()},
    range(1, 7),
    range(1, 7),
    digits=2,
    xlabel="caption",
    ylabel="caption",
    alt="Two six by six maps of cosines between captions. Text: 0.91 between captions 1 and 4, 0.45 between 1 and 2, about 0.2"
    " to captions about other things. Pooled: at least 0.96 among captions 1 to 4, 0.42 to 0.49 to caption 5, near 0 to caption 6.",
)

# %% [markdown]
# Captions 1 and 2 *mean* the same scene; 3 and 4 use the same words for others. To the pooled embedding all four are nearly the same: it
# knows the topic, hardly the grammar. The text tells them apart, but not by meaning: 1 is nearer to 4, which differs in two words, than to its own paraphrase 2.
# (Part of this is our cosine, which sets token beside token. Averaged over tokens first, the cosine of 1 and 4 is 0.98, that of
# 1 and 2 is 0.72.)
#
# > **Predict.** Hand the one-step generator the *text* of “a red circle left of a blue square on a light background” and the *pooled*
# > embedding of “a small yellow triangle on a dark background”. What does it draw?
# >
# > - **a** what the text says
# > - **b** what the pooled embedding says
# > - **c** the objects of one on the background of the other

# %% tags=["predict"]
predict("07.a", "?")

# %%
pair = ["a red circle left of a blue square on a light background", "a small yellow triangle on a dark background"]
count = {"ci": 40, "fast": 100, "full": 400}[settings.name]
one, other = world.encoder([pair[0]] * count), world.encoder([pair[1]] * count)
crossed = prompts.Prompt(text=one.text, pooled=other.pooled)


def share_of(caption, condition):
    """How many of the pictures drawn under a condition are what a caption says."""
    shown = world.pictures(world.generator()(world.noise(range(count)), condition).detach())
    return float(oracle.judge(shown, [caption] * count).all.double().mean())


# %%
of_text, of_pooled = (share_of(said, crossed) for said in pair)
print(f"uncrossed, {share_of(pair[0], one):.0%} of the pictures are what the caption says")
reveal("07.a", f"{of_text:.0%} are what the text says, {of_pooled:.0%} what the pooled embedding says")

# %% [markdown]
# Answer **a**: here the text decides, nearly alone. (A finding about the miniature; we have not tried it on SDXL.)
#
# ### Nothing is not the empty string
#
# Guidance needs the null condition (notebook 06). In training one caption in ten was replaced by zeros, text and pooled: zeros *are* the
# null. The empty string is something else. It has tokens, start and end, and therefore an embedding.

# %%
empty = prompts.embed(
    world.encoder.encoders,
    [own("", padding="max_length", return_tensors="pt").input_ids for own in world.encoder.tokenizers],
)
null = world.prompted(pipeline.unet).null(torch.zeros(1))
for name, own in {"a caption": prompt, "the empty string": empty, "the null condition": null}.items():
    print(f"{name:19s} length of the text embedding {own.text.norm():5.1f}   pooled {own.pooled.norm():.1f}")
try:
    world.encoder([""])
except ValueError as error:
    print(error)

# %% [markdown]
# Our library refuses "". In `diffusers`, for SDXL, `negative_prompt=None` gives zeros and `negative_prompt=""` the embedding of the empty
# string: two different guided scores, and no message. Section 4 shows the difference as pictures.

# %% [markdown]
# ## 3. Latents
#
# A picture here has 3 · 32 · 32 = 3072 numbers; its latent has 4 · 8 · 8 = 256, a twelfth. SDXL goes from 3 · 1024 · 1024 to
# 4 · 128 · 128, a forty-eighth. The VAE's encoder goes there, its decoder back. Noise, scores and pulls all live in the latent.

# %% tags=["figure", "hide-input"]
scene = scenes.read_caption(caption + " on a dark background")
picture = scenes.render(scenes.lay_out([scene], torch.Generator().manual_seed(1)))
with torch.no_grad():
    latent = latents.encode(pipeline.vae, picture)
back = world.pictures(latent)
channels = [(channel / 6 + 0.5).expand(3, 8, 8) for channel in latent[0][:, None]]
image_grid(
    [picture[0], *channels, back[0], 4 * (back - picture)[0].abs()],
    ["picture", *(f"latent, channel {k}" for k in range(4)), "decoded again", "error, four times"],
    columns=7,
    width=1.3,
    alt="A red circle left of a blue square on dark ground; four grey arrays of eight by eight cells, in which two lumps sit"
    " where the objects are; the decoded picture, a little softer; the error, bright along the outlines.",
)

# %% [markdown]
# The latent is still a map of the picture: left stays left. What is lost sits on the outlines. How much is it, over many pictures? And
# what do the latents' four channels look like?

# %%
rendered, captions = scenes.training_scenes(5 * count, torch.Generator().manual_seed(0))
pictures = scenes.render(rendered)
again, config = world.reconstructed(pictures), pipeline.vae.config
with torch.no_grad():
    data = latents.encode(pipeline.vae, pictures)
print(f"root mean square error {(again - pictures).square().mean().sqrt():.3f}, of a range of 1")
print(f"{oracle.judge(again, captions).all.double().mean():.1%} are still what their caption says")
print("deviation of the VAE's own channels", [f"{d:.2f}" for d in config.latents_std])
print("deviation of the UNet's latents    ", [f"{d:.2f}" for d in data.std((0, 2, 3))])

# %% [markdown]
# The second line is what the VAE costs on rendered pictures. (It is no strict ceiling: a model may draw scenes that survive the decoder
# more easily.) Noise has deviation 1 in every number,
# so every channel should, too; the UNet gets the VAE's channels normalised one by one. (SDXL has one factor for all, 0.13025.) Are channels of equal deviation equally important? Set one at a time to its mean, 0. The number is the change of the
# decoded pixels, over many pictures:

# %% tags=["figure"]
masks = [(torch.arange(4) != k).view(1, 4, 1, 1) for k in range(4)]
change = [(world.pictures(data[:count] * mask) - again[:count]).square().mean().sqrt() for mask in masks]
image_grid(
    torch.cat([back, *(world.pictures(latent * mask) for mask in masks)]),
    ["all channels", *(f"without channel {k}: {c:.3f}" for k, c in enumerate(change))],
    width=1.4,
    alt="The decoded circle and square with all channels; without channel 0 both are gone and a dim greenish frame is left;"
    " without channel 1, 2 or 3 the picture looks almost the same.",
)

# %% [markdown]
# Channel 0 carries nearly the whole picture, channel 3 a little, 1 and 2 nothing that you can see. The leash compares latents, and counts
# all four alike. A *reward* looks at the decoded picture; its gradient comes back through the decoder. They measure with different rulers.

# %% [markdown]
# ## 4. Noise
#
# In the toy α was 1 and σ the noise level. SDXL numbers its levels t = 0, …, 999 and lets the signal shrink while the noise
# grows: x_t = α x₀ + σ ε with α² + σ² = 1.

# %%
schedule = world.schedule
t = torch.arange(1000)
alpha, sigma = schedule.alpha(t), schedule.sigma(t)
for level in (0.1, 0.5, 1.0, 4.0):
    print(f"the toy's σ = {level:g} is t = {int((sigma / alpha - level).abs().argmin())}")
print(f"t = 999: α = {alpha[-1]:.3f}, so even the last level keeps a trace of the picture")

# %% tags=["figure", "hide-input"]
charts.lines(
    {
        "signal and noise": [charts.Line("α", t, alpha), charts.Line("σ", t, sigma)],
        "the toy's σ: noise over signal": [charts.Line("σ/α", t, sigma / alpha)],
    },
    xlabel="t",
    ylabel=["", charts.Axis("σ/α", log=True)],
    alt="Left, alpha falls from nearly 1 to 0.07 over t from 0 to 999 while sigma rises to nearly 1; they cross near t 354."
    " Right, sigma over alpha on a logarithmic axis rises from 0.03 to 14.6.",
)

# %% [markdown]
# Dividing x_t by α gives x₀ + (σ/α) ε. So **σ/α is the σ of notebooks 00 to 06**; the toy's levels, 0.1 to 4, are t from 10 to 744. SDXL's
# UNet guesses ε. From ε̂ follow the score, −ε̂/σ (notebook 01), and a form that is new here, the *velocity* v = α ε̂ − σ x̂₀, which some networks guess;
# x̂₀ you write yourself.
#
# > **Exercise 07.1** · implement · difficulty 1 of 5 · importance 5 of 5 · 4 minutes
# >
# > From a batch of noised latents and the network's ε̂, compute x̂₀. Every row has its own α and σ.


# %% tags=["exercise"]
def x0_from_eps(x_t, eps, alpha, sigma):
    """Noised latents and guesses of their noise [B, C, h, w], alpha and sigma [B] -> x0, [B, C, h, w]."""
    # solution
    alpha, sigma = alpha.view(-1, 1, 1, 1), sigma.view(-1, 1, 1, 1)
    return (x_t - sigma * eps) / alpha
    # end


# %% tags=["check"]
checked_x0 = check("07.1", x0_from_eps)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Solve x_t = α x₀ + σ ε for x₀: subtract, then divide.
#
# </details>
# <details><summary>Hint 2</summary>
#
# A tensor of shape [B] lines up with the *last* axis of [B, C, h, w], the width. Give α and σ the shape [B, 1, 1, 1] first, with
# `.view(-1, 1, 1, 1)`. Solutions are in `notebooks/solutions`.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** `(x_t - sigma * eps) / alpha`, with α and σ of shape [B, 1, 1, 1]. Without the `view` PyTorch broadcasts along the width:
# an error if B differs from it, and silently wrong if it does not. The library does this in one place, `schedule.convert`.

# %% [markdown]
# Your line turns a guess of the noise into a guess of the picture. Noise the latent from above, and ask the reference at six levels: with
# the caption, with the null condition, and with the empty string.


# %%
@torch.no_grad()
def guess(x_t, t, condition):
    """What the reference takes for the clean latent behind x_t."""
    eps = world.prompted(pipeline.unet)(x_t, t, condition)
    return checked_x0(x_t, eps, schedule.alpha(t).float(), schedule.sigma(t).float())


steps = (99, 299, 499, 699, 899, 999)
times = torch.tensor(steps)
x_t = schedule.add_noise(latent.expand(6, -1, -1, -1), world.noise([7]).expand(6, -1, -1, -1), times).float()
dark = world.encoder([caption + " on a dark background"] * 6)
nothing = prompts.Prompt(empty.text.expand(6, -1, -1), empty.pooled.expand(6, -1))
guesses = {"with caption": dark, "null": None, "empty string": nothing}

# %%
with torch.no_grad():
    eps = world.prompted(pipeline.unet)(x_t, times, dark)
for form in ("eps", "x0", "v", "score"):
    value = schedule.convert(eps, x_t, times, source="eps", target=form)
    sizes = [f"{row.square().mean().sqrt():5.2f}" for row in value]
    print(f"{form:6s}", *(f"t = {step}: {size}  " for step, size in zip(steps, sizes, strict=True)))

# %% tags=["figure", "hide-input"]
sheet, titles = [world.pictures(x_t)], [f"noised, t = {step}" for step in steps]
for name, condition in guesses.items():
    sheet.append(world.pictures(guess(x_t, times, condition)))
    titles += [f"{name}, t = {step}" for step in steps]
image_grid(
    torch.cat(sheet),
    titles,
    width=1.2,
    alt="Four rows of six pictures for t from 99 to 999. Noised: scraps of colour hide the scene from t 299 on. With the"
    " caption: the scene is right up to 699, then soft, the circle half green. Null: right up to 299, colours fade at 499 and 699, then two blue blobs."
    " Empty string: wrong from 499 on, at the end one blue lump.",
)

# %% [markdown]
# Printed are the sizes of one guess in its four forms: the same knowledge, but the score grows as 1/σ at low noise. Read the pictures column
# by column. At **99** everything is visible, and the condition hardly matters. At **699** the null guess still has place
# and number, but no longer the colours: mixed paint is a mean over possible scenes. At **999** only the caption knows. So guidance, the difference between the rows
# “with caption” and “null”, changes the guessed *picture* most at high noise. (That of the *noise* most at low noise.) And a leash sees the scene as a whole at high t, outlines and
# shades at low t; a weight over levels chooses between these.
#
# The last row is the trap of section 2: the network was never trained on the empty string. At 499 it turns the red circle green.

# %% [markdown]
# ## 5. Why 399
#
# The one-step generator is a UNet called once: z → ε̂ = UNet(z, t = 399, caption) → x₀ = (z − σ ε̂)/α, with unit noise z as it is, not multiplied by σ.
# The whole way from words to a picture:

# %%
z = world.noise(draws.seeds)
t_star = torch.full((len(z),), T_STAR)
with torch.no_grad():
    eps = world.prompted(world.unet)(z, t_star, world.encoder(draws.captions))
    x0 = checked_x0(z, eps, schedule.alpha(t_star).float(), schedule.sigma(t_star).float())
    drawn = latents.decode(pipeline.vae, x0).clamp(0, 1)
print(f"largest difference from world.draw: {(drawn - fast).abs().max():.0e}")

# %% [markdown]
# Why 399 and not 999, where x_t is almost pure noise? Look at the formula. Two factors stand in it:
#
# - **σ/α multiplies ε̂**, so it multiplies every *error* of the network: the gain.
# - **1/α multiplies z** itself.

# %%
for step in (199, 399, 599, 999):
    print(f"t = {step}: σ/α = {sigma[step] / alpha[step]:5.2f}   1/α = {1 / alpha[step]:5.2f}")

# %% [markdown]
# At 399 an error of ε̂ arrives in x₀ 1.16 times as large, at 999 14.6 times. (Near 999 σ is almost 1, so the two factors almost
# agree; at 399 they do not.) Take the right ε, add the same error of 0.1 at each t, and decode:

# %% tags=["figure"]
steps = (99, 199, 399, 599, 799, 999)
times, clean = torch.tensor(steps), latent.expand(6, -1, -1, -1)
noise, error = (world.noise([seed]).expand(6, -1, -1, -1) for seed in (7, 9))
x_t = schedule.add_noise(clean, noise, times)
off = checked_x0(x_t, noise + 0.1 * error, schedule.alpha(times), schedule.sigma(times)).float()
image_grid(
    world.pictures(off),
    [
        f"t = {step}: off by {(row - latent[0]).square().mean().sqrt():.2f}"
        for step, row in zip(steps, off, strict=True)
    ],
    alt="Six pictures of the circle and the square from a guess with the same small error: clean at t 99 and 199, nearly clean"
    " at 399, the square half green at 599, the shapes and one colour wrong at 799, only scraps at 999.",
)

# %% [markdown]
# So why not t = 99? Because there ε̂ counts for little as well, and (σ/α) ε̂ is all that turns z into a picture. If x₀ is to have deviation
# 1 and, number by number, no correlation with z (a picture does not look like its noise), then ε̂ = (z − α x₀)/σ has the root mean square √(1 + α²)/σ. Noise has 1, and noise is what the UNet was trained
# to put out.

# %%
demanded = (1 + alpha**2).sqrt() / sigma
print(f"at 399: needed {demanded[399]:.2f}, the generator's own ε̂ has {eps.square().mean().sqrt():.2f}")

# %% tags=["figure", "hide-input"]
shown = slice(20, None)
charts.lines(
    {
        "two prices": [
            charts.Line("gain of an error, σ/α", t[shown], (sigma / alpha)[shown]),
            charts.Line("size of ε̂ that is needed", t[shown], demanded[shown]),
            charts.Line("t = 399", [399, 399], [(sigma / alpha)[399], demanded[399]], style=Style("black", "o", "")),
        ]
    },
    width=5.5,
    height=4.4,
    xlabel="t",
    ylabel=charts.Axis("factor, or root mean square", log=True, guides=(1.0,)),
    alt="Two curves over t on a logarithmic axis: the gain rises from 0.14 to 14.6, the size of the guess that is needed falls from"
    " 10 to 1; they cross a little above t 450. Two dots mark 1.16 and 1.58 at t 399.",
)

# %% [markdown]
# Near the crossing both prices are moderate. That is our reading, not a published derivation. DMD2 (arXiv 2405.14867), the distilled SDXL
# from which Diff-Instruct\* starts, is asked at 399, and the release draws there, too.
#
# ### With a pencil
#
# Is unit noise z a noised latent at t = 399? Look along one direction in the space of latents, such as the one along which the data vary most:

# %% tags=["figure"]
variances, directions = torch.linalg.eigh(torch.cov(data.flatten(1).T))
variances, directions = variances.flip(0), directions.flip(1)
places = (-1.5, -0.75, 0.0, 0.75, 1.5)
along = data.mean(0) + torch.stack(
    [k * variances[0].sqrt() * directions[:, 0].view(world.latent_shape) for k in places]
)
image_grid(
    world.pictures(along),
    [f"{k:+g} deviations" for k in places],
    width=1.2,
    alt="Five pictures along the widest direction of the latents: towards one end a light background with a lump in the middle,"
    " towards the other a dark background with a lump; the one in the middle is smears without any order.",
)

# %% [markdown]
# It leads from light to dark ground: all places move together. (The mean of all latents, in the middle, is no picture.) Let the data have the variance γ along a direction. Then x_t has the variance
# **α² γ + σ²** there, and z has 1. They agree only where γ = 1. For a single number γ *is* about 1, that is what normalising did. Here it is
# not:

# %%
a2, s2 = alpha[399] ** 2, sigma[399] ** 2
along_these = {"a single number": data.var(), "the widest direction": variances[0], "the hundredth": variances[99]}
for name, gamma in along_these.items():
    print(f"{name + ':':22s} γ = {gamma:6.2f}, x_t has variance {a2 * gamma + s2:5.2f}, z has 1")

# %% [markdown]
# Along the widest direction a noised latent varies 46 times as much as z; along the hundredth there is little but noise, σ² = 0.57 of it, and
# z has more. So z is not from the law that the reference saw at 399: it has too little along the wide directions, too much along the narrow ones. What does the *reference* make of z, asked once, at 399 and at
# 999? And the generator? (The captions are those of section 1.)


# %% tags=["figure"]
def once(unet, t_star):
    """A UNet used once, as a generator."""
    return OneStep(world.prompted(unet), schedule, "eps", t_star, world.latent_shape)


rivals = {"reference, once at 399": once(pipeline.unet, 399), "reference, once at 999": once(pipeline.unet, 999)}
rivals["generator, at 399"] = once(world.unet, T_STAR)
titles = [*draws.captions, *[""] * 12]
for row, name in enumerate(rivals):
    titles[6 * row] = f"{name}: {titles[0]}" if row == 0 else name
image_grid(
    torch.cat([world.draw(draws.captions, draws.seeds, rival) for rival in rivals.values()]),
    titles,
    width=1.2,
    alt="Three rows of six pictures. The reference once at 399, and once at 999: blobs, often of wrong or mixed colours."
    " The generator at 399: clean shapes that fit their captions.",
)

# %% tags=["figure", "hide-input"]
ranks = torch.arange(1, 31)
rows = {"data": variances[:30].clamp(min=0).sqrt()}
some = captions[: 2 * count]
for name, rival in rivals.items():
    with torch.no_grad():
        made = rival(world.noise(range(len(some))), world.encoder(some)).flatten(1)
    rows[name] = ((made - made.mean(0)) @ directions[:, :30]).std(0)
charts.lines(
    {"deviation along the thirty widest directions": [charts.Line(name, ranks, row) for name, row in rows.items()]},
    width=6.5,
    xlabel="direction",
    ylabel=charts.Axis("deviation of x₀", log=True),
    markers=4,
    alt="Deviation along the thirty widest directions of the data, on a logarithmic axis. The generator's curve lies on the data's. The"
    " reference used once at 399 lies at about half of it, and once at 999 varies widely, near the data first, then below.",
)

# %% [markdown]
# The reference at 399 reads the ground from z, where the widest direction is seven times too faint, and only in part from
# the caption: half the deviation. At 999 z nearly fits, but one guess is a mean over all scenes of the caption, with an error 14.6 times as
# large. The generator was *trained* to
# make pictures of z, by a leash as in notebook 02, without any picture; its curve is the data's.
#
# So 399 does not say how much picture is in z: there is none. It is a number that the generator has learned to be asked with.
#
# > **Exercise 07.2** · predict, then explore · difficulty 2 of 5 · importance 4 of 5 · 5 minutes
# >
# > The generator is asked with another t, in the network *and* in x₀ = (z − σ ε̂)/α. At which of these is it closest to its own
# > quality at 399? **a** 199 · **b** 599 · **c** 999. Afterwards, add 349 and 499 to the list in the
# > cell below.

# %% tags=["predict"]
predict("07.2", "?")

# %%
many = scenes.both_groups(count // 2)
right = {}
for step in (199, 399, 599, 799, 999):
    shown = world.draw(many.captions, many.seeds, once(world.unet, step))
    right[step] = wilson_interval(int(oracle.judge(shown, many.captions).all.sum()), count)
reveal("07.2", ", ".join(f"{share.mean:.0%} right at {step}" for step, share in right.items()))

# %% tags=["figure", "hide-input"]
mean, low, high = (100 * torch.tensor([share[k] for share in right.values()]) for k in range(3))
charts.lines(
    {"the same network, asked with another t": [charts.Line("", list(right), mean, low, high)]},
    markers=True,
    width=5.0,
    xlabel="t",
    ylabel=charts.Axis("% right, with 95% intervals", limits=(0, 100)),
    alt="Share of right pictures over t with intervals: a peak above ninety per cent at 399, roughly a third at 199, about two"
    " thirds at 599, a sixth at 799, none at 999.",
)

# %% [markdown]
# Answer **b**. Nothing warns you: every t gives a picture, and only a judge tells. It is no needle's eye: 349 is as good as 399. But
# 499 already costs about ten points in a hundred, two hundred levels above about thirty, two hundred below about
# sixty, and 999 everything.
#
# > **Exercise 07.3** · debug · difficulty 3 of 5 · importance 5 of 5 · 6 minutes
# >
# > A colleague exports the generator as a `diffusers` pipeline, gives it the right captions and noise, asks for one step without guidance, and
# > writes: “the export is broken.” It is not. Which argument is missing? A pipeline's **scheduler** chooses
# > the t at which the UNet is asked: run the cell, look at `exported.scheduler.timesteps`, and repair the call.

# %% tags=["figure"]
exported, said = world.one_step_pipeline(), world.encoder(draws.captions)
exported.set_progress_bar_config(disable=True)
call = {
    "prompt_embeds": said.text,
    "pooled_prompt_embeds": said.pooled,
    "latents": z,
    "guidance_scale": 0.0,
    "output_type": "pt",
}
images = exported(**call, num_inference_steps=1).images
print(f"largest difference from world.draw: {(images - fast).abs().max():.0e}; repaired, it is below 1e-04")
image_grid(
    images,
    draws.captions,
    width=1.2,
    alt="Six pictures from the exported pipeline: scraps of colour on dark ground, no object that its caption names.",
)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Which level does a scheduler begin with, if you do not tell it?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The call takes a list `timesteps`.
#
# </details>
# <details><summary>Answer</summary>
#
# `timesteps=[399]`. Without it the scheduler begins at its highest level, [999]. With it the pictures are those of `world.draw`, up to
# rounding. `diffusers` then warns that the first time is not 999 and results may be unexpected; here it is the other way round.
#
# </details>

# %% tags=["solution"]
images = exported(**call, num_inference_steps=1, timesteps=[T_STAR]).images
print(f"largest difference from world.draw: {(images - fast).abs().max():.0e}")

# %% [markdown]
# ## 6. The memory ledger
#
# Three networks take part: generator, assistant, reference. There are two ways to have them.
#
# - **Full copies.** Generator and assistant are networks of their own, and all their weights learn. The reference is frozen.
# - **LoRA.** The big weights stay frozen. A *low-rank adapter* beside some layers learns: W + B A, where B and A are thin. Assistant and
#   reference have the same frozen weights underneath, and store them **once**; the generator has its own, the distilled ones.
#
# A frozen number costs its weight. One that learns costs its weight, its gradient, and what the optimizer keeps: for Adam two averages, the
# *moments*. In single precision these are 4, 4 and 8 bytes.
#
# How can two networks share weights and have different adapters? One network with two adapters that are switched gives silently wrong
# gradients, if a layer is computed again in the backward pass (*checkpointing*, which saves memory) while the other adapter is on. The library has **tied clones**: two objects
# over the same tensors, and nothing to switch.

# %%
first = adapters.add_lora(adapters.tied_clone(pipeline.unet), rank=8, seed=0)
second = adapters.add_lora(adapters.tied_clone(pipeline.unet), rank=8, seed=1)
places = [{p.data_ptr() for p in net.parameters() if not p.requires_grad} for net in (pipeline.unet, first, second)]
own = [{p.data_ptr() for p in net.parameters() if p.requires_grad} for net in (first, second)]
shared = places[0] & places[1] & places[2]
print(f"frozen tensors: {len(places[0])} of the reference, in common with both clones: {len(shared)}")
print(f"adapter tensors: {len(own[0])} and {len(own[1])}, in common: {len(own[0] & own[1])}")

# %% [markdown]
# `data_ptr` is the place in memory where a tensor begins. All frozen tensors lie in one place for all three; no adapter does.
#
# > **Exercise 07.4** · implement · difficulty 2 of 5 · importance 5 of 5 · 8 minutes
# >
# > `base` numbers in one network, `adapter` numbers in one LoRA. `weight` bytes for a weight; a gradient takes as many as its weight;
# > `optimizer` bytes for what the optimizer keeps of a number that learns. Return the bytes of both ways.


# %% tags=["exercise"]
def ledger(base, adapter, weight, optimizer):
    """Plain numbers -> (bytes with full copies, bytes with LoRA on tied clones), for generator, assistant and reference."""
    # solution
    learns = 2 * weight + optimizer
    full = 2 * base * learns + base * weight
    lora = 2 * base * weight + 2 * adapter * learns
    return full, lora
    # end


# %% tags=["check"]
checked_ledger = check("07.4", ledger)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Make two lists for each way: numbers that learn, numbers that are frozen. Who shares?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Full copies: two networks learn, one is frozen. LoRA: two frozen networks (the distilled one, and the diffusion's for assistant and
# reference), two adapters that learn. A number that learns costs `2 * weight + optimizer`.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** Full: 2 · base · (2 weight + optimizer) + base · weight. LoRA: 2 · base · weight + 2 · adapter · (2 weight + optimizer). An
# average of the generator's weights, if you keep one, is one more copy of what learns there.

# %% [markdown]
# Hold it to the miniature. `bench_world.megabytes_of_roles` runs one step of Diff-Instruct\* and adds up the tensors of networks and optimizers,
# each storage once. It leaves gradients out. To leave them out of your ledger pass 4 as `optimizer`: 2 · 4 + 4 = 12 bytes, the
# weight's 4 and Adam's 8. (1 MB is 10⁶ bytes.)

# %%
base, adapter = (sum(p.numel() for p in first.parameters() if p.requires_grad == learns) for learns in (False, True))
whole = checked_ledger(base, adapter, 4, 8)
for k, roles in enumerate(("full", "lora")):
    recipe = WorldRecipe.read({"steps": 1, "warmup": 0, "batch": 2, "prompts": 16, "roles": roles})
    found, counted = bench_world.megabytes_of_roles(world, recipe), checked_ledger(base, adapter, 4, 4)[k] / 1e6
    print(f"{roles}: ledger {counted:.2f} MB, measured {found:.2f} MB; with gradients {whole[k] / 1e6:.2f} MB")

# %% [markdown]
# They agree. Now SDXL. A usual choice: weights and gradients in bf16, two bytes each; the optimizer keeps two moments and an exact copy
# of the weight in single precision, 12 bytes. LoRA of rank 64 on the attention layers: SDXL has 70 transformer blocks, 10 of them 640
# wide and 60 1280 wide, whose cross-attention reads text of width 2048. A layer of LoRA has rank · (in + out) numbers. Self-attention has four layers
# width → width: 8 · width. Cross-attention: query and output 4 · width, key and value 2 · (2048 + width).


# %%
def lora_of_sdxl(rank):
    """Numbers in a LoRA on to_q, to_k, to_v and to_out of both attentions of every block; a layer has rank * (in + out)."""
    return sum(blocks * rank * (14 * width + 2 * 2048) for blocks, width in ((10, 640), (60, 1280)))


sdxl = 2_567_463_684
print(f"LoRA of rank 64: {lora_of_sdxl(64):,} numbers, {lora_of_sdxl(64) / sdxl:.1%} of the UNet's")

# %% [markdown]
# > **Predict.** 3.6% of the numbers learn. By what factor do full copies take more memory than LoRA roles?
# > **a** about 28 · **b** about 7 · **c** about 2

# %% tags=["predict"]
predict("07.c", "?")

# %%
GiB = 2**30
full, lora = checked_ledger(sdxl, lora_of_sdxl(64), 2, 12)
reveal("07.c", f"{full / GiB:.1f} GiB against {lora / GiB:.1f} GiB, a factor of {full / lora:.1f}")

# %% tags=["figure", "hide-input"]
kinds = {"full copies": CYCLE[1], "LoRA on tied clones": CYCLE[0]}
sizes = {
    "miniature, MB": (base, adapter, 4, 8, 1e6),
    "SDXL, GiB, counted": (sdxl, lora_of_sdxl(64), 2, 12, GiB),
}
panels = []
for title, (numbers, few, weight, optimizer, unit) in sizes.items():
    parts = {
        "weights and gradients": checked_ledger(numbers, few, weight, 0),
        "optimizer": checked_ledger(numbers, few, 0, optimizer),
        "sum": checked_ledger(numbers, few, weight, optimizer),
    }
    marks = [
        charts.Mark(row, b / unit, kind) for row, both in parts.items() for kind, b in zip(kinds, both, strict=True)
    ]
    panels.append((title, marks))
charts.dot_plot(
    panels,
    list(parts),
    kinds,
    columns=2,
    width=2.6,
    row_height=0.4,
    alt="Two panels, miniature and SDXL, with rows for weights and gradients, optimizer, and their sum. Full copies lie far to the right"
    " of LoRA in each row, most of all for the optimizer, where LoRA is close to zero.",
)

# %% [markdown]
# Answer **b**. LoRA makes gradients and optimizer small; the two frozen networks remain, and are most of what is left. (The miniature has
# rank 8.)
#
# On top come **activations**, what a forward pass keeps for its backward pass. What follows is *counted from shapes, for one picture of 1024 × 1024 pixels, and not run*: a real run has to measure it. Attention that writes out its matrices is called materialised;
# fused attention does not keep them.

# %%
also = {
    "VAE, bf16 (83.65 M numbers, 49.49 M of them the decoder's)": 83.65e6 * 2 / GiB,
    "a judge such as PickScore, its vision tower, bf16 (632 M)": 632.08e6 * 2 / GiB,
    "one UNet's activations, fused attention": 5.0,
}
for name, size in also.items():
    print(f"{size:6.2f} GiB  {name}")
for name, roles in {"full copies": full, "LoRA": lora}.items():
    total = roles / GiB + sum(also.values())
    print(f"{name:12s} about {total:.0f} GiB; with materialised attention, 19.9 in place of 5, {total + 14.9:.0f} GiB")

# %% [markdown]
# So full copies do not fit on a card of 80 GiB. LoRA might fit on one of 24, with batch 1, fused attention, and **one network's activations
# at a time** (`Recomputed` in the library). Not in the list: the decoder's activations, which at 1024 pixels have to be cut into tiles or
# computed again, and the text encoders: embed your prompts once and let these go.
#
# > **Exercise 07.5** · debug · difficulty 3 of 5 · importance 4 of 5 · 6 minutes
# >
# > To save memory a colleague builds reference and assistant like this. The run starts, the assistant's adapters learn, and the gap
# > between the two is *exactly* zero at every step, so the leash never pulls. What is wrong?


# %%
network = adapters.tied_clone(pipeline.unet)
reference = NetworkScore(world.prompted(network), schedule, "eps")
assistant = NetworkScore(world.prompted(adapters.add_lora(network, rank=4)), schedule, "eps")


@torch.no_grad()
def gap_after_training(assistant, reference):
    """The largest gap once the adapters have moved; here they are simply pushed."""
    for name, p in assistant.named_parameters():
        if "lora_B" in name:
            p.add_(0.1)
    return float((assistant(z, t_star, None) - reference(z, t_star, None)).abs().max())


print(f"largest gap: {gap_after_training(assistant, reference)}")

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# How many networks are there? `assistant.network.unet is reference.network.unet`.
#
# </details>
# <details><summary>Hint 2</summary>
#
# `add_lora` does not make a copy: it returns the network that it was given.
#
# </details>
# <details><summary>Answer</summary>
#
# There is one network, so the adapters are in the reference, too: it moves with the assistant. The gap is zero, always, and nothing holds
# the generator. Give the assistant a clone of its own: `adapters.add_lora(adapters.tied_clone(network), rank=4)`.
#
# </details>

# %% tags=["solution"]
apart = adapters.tied_clone(pipeline.unet)
assistant = NetworkScore(world.prompted(adapters.add_lora(adapters.tied_clone(apart), rank=4)), schedule, "eps")
reference = NetworkScore(world.prompted(apart), schedule, "eps")
print(f"largest gap: {gap_after_training(assistant, reference):.2f}")

# %% [markdown]
# > **Exercise 07.6** · explain · difficulty 3 of 5 · importance 5 of 5 · 6 minutes
# >
# > A colleague says: “At t = 399 the generator gets a picture with noise, σ = 0.76, and cleans it. Let us feed it a slightly noised *photo* at 399,
# > that must look better.” Answer in three sentences: what goes in, what 399 is, and what would happen.
#
# <details><summary>A model answer</summary>
#
# What goes in is unit noise without any picture; along the wide directions it varies far less than noised data. 399 is the number
# that this network was trained with, and the pair (α, σ) in the formula for x₀, at which errors are hardly magnified and the output need not
# be large. A noised photo is an input that the *reference* knows and the generator has never seen; nothing promises that it cleans it.
#
# </details>

# %% [markdown]
# ## What you can now say
#
# 1. SDXL is the toy with other parts: a latent for the point, an ε-guessing UNet for the mixture's score, an embedded caption for the label,
#    zeros for no label, and a judge behind the decoder for the reward.
# 2. The one-step generator is a UNet asked once, with unit noise and t = 399: a number it was trained with, at which errors grow by 1.16
#    and not by 14.6.
# 3. Memory goes to what learns, at 16 bytes a number, and to what is stored; tied clones store it once.
#
# ## Quiz
#
# 1. Your guided pictures look slightly off. You passed `negative_prompt=""`. Why may that be the reason?
#    <details><summary>Answer</summary>The empty string has an embedding; the null of the training is zeros.</details>
# 2. Which t of SDXL is the toy's σ = 1?
#    <details><summary>Answer</summary>The one where σ/α = 1, so α = σ = 0.71: t = 354.</details>
# 3. What are 1.16 and 1.53 at t = 399?
#    <details><summary>Answer</summary>1.16 is σ/α, by which an error of ε̂ is multiplied; 1.53 is 1/α, by which z is.</details>
# 4. Every number of z and of x_t at 399 has variance 1. Why are they still different laws?
#    <details><summary>Answer</summary>In x_t the numbers move together, so that wide directions have a much larger variance. In z every
#    direction has variance 1.</details>
# 5. You halve the rank of the LoRA. Does that halve the memory of the roles?
#    <details><summary>Answer</summary>No. At rank 64 most of it is the two frozen networks, and they stay.</details>
#
# ## Exercises
#
# 07.1 x₀ from ε̂ (implement, checked) · 07.2 another t (predict, explore) · 07.3 an export that seems broken (debug) · 07.4 the memory ledger
# (implement, checked) · 07.5 a gap of exactly zero (debug) · 07.6 what 399 is (explain)
#
# ## Where this comes from, and what next
#
# SDXL: arXiv 2307.01952. Latent diffusion: arXiv 2112.10752. DMD2: arXiv 2405.14867. Diff-Instruct\*: arXiv 2410.20898; its release draws
# with `timesteps=[399]`. LoRA: arXiv 2106.09685. The trace of a picture at the last level: arXiv 2305.08891. SDXL's parameters and
# activations are counted from its configuration, not measured. The two prices of section 5 are our reading.
#
# Next: post-train this miniature, with the roles that you have just met, and a judge that notebook 08 opens.
#
# Text and figures of this notebook: CC BY 4.0. Code: MIT.
