# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A dry run of SDXL: true size, no GPU
#
# **In this notebook you plan a post-training run of SDXL before you rent a card: who takes part, what it weighs, how long it
# computes, and what bf16 does to it. Then you take a real step in the real format.**
#
# > **Goals.** Put each line of the toy's run beside its line in SDXL. Compute a recipe's memory by hand, and hold it to a count.
# > Estimate a run's hours, and say what such an estimate leaves out. Say which numbers may be bf16, and which must not.
# >
# > **Before you start.** Notebooks 07 (the parts of SDXL, LoRA, tied clones) and 08 (pulls, the loop). The packages of the
# > extra “models”: `python -m pip install -e ".[models]"`.
# >
# > **Time.** Forty minutes to read, eighty with the exercises; the cells run for about two minutes of that on one CPU
# > core, half of it in one cell. No GPU, no network, no download. Nothing here is measured on a GPU, unless it says so.

# %% tags=["setup"]
import copy
import math
import tempfile
from pathlib import Path

import torch

from distar_core import losses, training
from distar_core.course import check, predict, profile, require, reveal
from distar_core.errors import DoesNotFitError
from distar_core.figures import charts
from distar_core.figures.picture import BLUE, CYCLE, ORANGE, RED, Style
from distar_core.rewards.shapes import reward_on_meta
from distar_core.runs.settings import Defaults
from distar_core.sdxl import latents, ledger, miniature, post_training, shapes
from distar_core.sdxl.adapters import LORA_TARGETS, tied_clone
from distar_core.sdxl.compute import recompute_blocks
from distar_core.sdxl.loading import describe_pipeline, quiet
from distar_core.sdxl.models import load_text_to_image
from distar_core.sdxl.recipe import PictureRecipe
from distar_core.toy import ring as toy
from distar_core.world.judges import load_judges
from distar_core.world.models import SHIPPED, load_world
from distar_core.world.recipe import WorldRecipe, training_prompts

require("models")
torch.set_num_threads(1)
short = profile().name == "ci"
GiB = 2**30

# %% [markdown] tags=["instructor"]
# **Board plan (90 minutes).** 10 min: the table of section 1, the right column first, the class fills in the left. 10 min: the
# meta device; let them guess the bytes of a prompt. 25 min: 10.1 on the board, one role a row, then the count. 15 min: what
# fits in 80 GiB, a vote for each change. 15 min: 10.3 in pairs, a step drawn as a list of calls. 15 min: rounding; vote on the
# cosine before it is shown. The tiny folder and 10.6 are homework.
#
# **Typical misconceptions.**
#
# 1. *“bf16 halves the memory, so train in bf16.”* It halves what is frozen. A weight that learns by steps of 5e-7 stands still
#    in bf16.
# 2. *“The model has 5 GB, my card has 24, so it fits.”* Two networks learn, one is the reference, one judge looks at decoded
#    pictures; each column of the ledger is one of these.
# 3. *“The gap is a third wrong, so the gradient is.”* The errors of samples and places are nearly independent, and the
#    gradient is a sum over all of them.
# 4. *“FLOPs over peak is the time.”* Nobody reaches the peak; section 4 ends with a record.
# 5. *“The gap went down to 2 and stayed: converged.”* It went down to the rounding. Exercise 10.5.

# %% [markdown]
# ## 1. The same loop, other roles
#
# Here is the run of notebook 00, line by line, and beside it the run that post-trains SDXL.
#
# | | the toy | SDXL |
# |---|---|---|
# | a sample x₀ | two numbers | a latent, 4 × 128 × 128 |
# | noise | α = 1, eight levels σ | `model.schedule`: α and σ of 1000 times |
# | generator | `PushForward(MLP)` | `model.generator(unet)`, asked once at t = 399 |
# | reference | `MixtureScore(ring)` | `model.score(unet)`, frozen |
# | assistant | reference + small network | `model.score(…)` of a second UNet with a LoRA, or of a copy |
# | reward | `REWARDS["mode"]` | `Decoded(vae, judge)` |
# | condition | None | a prompt: text and pooled embedding |
# | method | `"star"` | `METHODS["diff-instruct*"]`, guidance inside |
# | optimizer | Adam, β₁ = 0 | the same steps in half of the memory |
# | the roles together | `toy_state(…)` | `make_state(recipe, model, judge)` |
# | the loop | `post_train(state, method, conditions)` | `post_train(state, method, conditions)` |
#
# The last row is the point: the loop knows no network, no size and no device. Two runs of it, of two steps each, one in the plane and one in
# the miniature world of notebooks 07 to 09:

# %%
mixture = toy.reference()
plane = toy.toy_state(toy.distilled(mixture, steps=20), mixture, toy.REWARDS["mode"], seed=0, steps=2)

# %%
world, judges = load_world(), load_judges()
small = WorldRecipe.read({"roles": "lora", "steps": 2, "warmup": 0, "batch": 4, "prompts": 64})
pictures = post_training.make_state(small, world, judges.preference)
embedded = post_training.conditions_of(small, world, training_prompts(small))

# %%
runs = {
    "toy": training.post_train(plane, toy.TOY_METHODS["star"], toy.no_conditions, steps=2, seed=0, batch=4),
    "miniature": training.post_train(pictures, small.method, embedded, **small.loop),
}
for name, run in runs.items():
    for record in run:
        print(
            f"{name:9s} step {record.step}: " + ", ".join(f"{k} {v.mean():.2f}" for k, v in record.pull_norms.items())
        )

# %% [markdown]
# Both print the lengths of the same two pulls. In section 3 the same `post_train` runs a third time, on SDXL in true size.

# %% [markdown]
# ## 2. True size, without the numbers
#
# A tensor on torch's **meta device** has a shape and a type, and no numbers. A network of such tensors takes no memory, and
# “running” it computes nothing but shapes. So SDXL can be put together from its configuration alone, on any laptop:

# %%
sdxl = shapes.sdxl_on_meta()
judge = reward_on_meta("pickscore").bfloat16()


# %%
def numbers(*networks):
    """How many numbers networks have, buffers aside."""
    return sum(p.numel() for network in networks for p in network.parameters())


# %%
pipeline = sdxl.pipeline
parts = {"UNet": pipeline.unet, "decoder and encoder": pipeline.vae}
parts |= {"text encoder 1": pipeline.text_encoder, "text encoder 2": pipeline.text_encoder_2}
sizes = {name: numbers(part) for name, part in parts.items()} | {"judge": numbers(judge)}
for name, size in sizes.items():
    print(f"{name:20s} {size:13,d} numbers, {2 * size / GiB:.2f} GiB in bf16")

# %% tags=["figure", "hide-input"]
own = world.pipeline
tiny_parts = (own.unet, own.vae, own.text_encoder, own.text_encoder_2, judges.preference)
kinds = {"miniature": CYCLE[2], "SDXL": CYCLE[0]}
marks = [
    charts.Mark(name, math.log10(numbers(part)), "miniature") for name, part in zip(sizes, tiny_parts, strict=True)
]
marks += [charts.Mark(name, math.log10(size), "SDXL") for name, size in sizes.items()]
charts.dot_plot(
    [("numbers in each part, as powers of ten", marks)],
    list(sizes),
    kinds,
    columns=1,
    width=4.5,
    alt="A row for each part, the miniature and SDXL as dots on a scale of powers of ten: SDXL's UNet lies above nine, the miniature's at six;"
    " each of SDXL's parts is two to four powers larger.",
)

# %% [markdown]
# The judge is the network of PickScore, a CLIP that looks at a picture (arXiv 2305.01569); we need its size, not its opinion.
# SDXL is the miniature two to four powers of ten up, with no new part. What passes between the parts?

# %%
prompt = sdxl.encoder(["a red circle"])
print("latent", sdxl.latent_shape, f"= {math.prod(sdxl.latent_shape):,} numbers; picture", sdxl.pixels, "pixels wide")
print("text", tuple(prompt.text.shape), " pooled", tuple(prompt.pooled.shape), prompt.text.dtype)

# %% [markdown]
# > **Predict.** You want to embed a million prompts once and keep them on the disk. How much room does that take?
# > **a** about 300 MB · **b** about 3 GB · **c** about 300 GB

# %% tags=["predict"]
predict("10.a", "?")

# %%
one = prompt.text.nbytes + prompt.pooled.nbytes
reveal("10.a", f"{one:,} bytes a prompt, {1e6 * one / 1e9:.0f} GB for a million")

# %% [markdown]
# Answer **c**: 77 tokens, 2048 wide, and a pooled vector of 1280, two bytes each. So the library embeds prompts when they
# are drawn, and keeps the text encoders where they are.

# %% [markdown]
# ## 3. The ledger: by hand, then counted
#
# Two **recipes**, both for Diff-Instruct\* at 1024 pixels, one sample at a time:
#
# - **LoRA**: two frozen UNets in bf16, one that assistant and reference share and one that the generator starts from; adapters
#   of rank 64 on the attention layers learn, in float32.
# - **Full copies**: generator and assistant are copies in float32, **masters**, whose layers are cast to bf16 while they
#   compute. The two frozen UNets are there as well: reference, and start.
#
# Both keep a running average of the generator's learning weights, and an optimizer with one number for each learning weight.


# %%
class Recipe(PictureRecipe):
    """The keys of a run on pictures of any size, without defaults of its own."""

    DEFAULTS = Defaults(None)


# %%
keys = {
    "reward": "PickScore",
    "reward_scale": 100.0,
    "cfg_scale": 7.5,
    "huber_c": 0.1 * math.prod(sdxl.latent_shape) ** 0.5,
}
keys |= {"steps": 1, "batch": 1, "prompts": 1, "lr": 5e-7, "assistant_lr": 5e-7, "ema_decay": 0.99, "rank": 64}
thrifty = {"optimizer": "rmsprop", "checkpoint_unets": True, "checkpoint_decoder": True}
recipes = {roles: Recipe.read(keys | thrifty, roles=roles) for roles in ("lora", "full")}
print(recipes["lora"].method.name, recipes["lora"].written)

# %% [markdown]
# (Rates and scales are not tuned: for a count they do not matter. The optimizer is RMSprop, made to take Adam's steps with β₁ = 0, which keeps one number for a weight
# where Adam keeps two.)
#
# > **Exercise 10.1** · implement · difficulty 3 of 5 · importance 5 of 5 · 10 minutes
# >
# > How many bytes does each recipe hold *between two steps*, when all gradients are freed? `unet` numbers in one UNet, `rest` in all else that
# > is frozen, `adapter` in one LoRA; the optimizer keeps `slots` numbers of each learning weight. Frozen is bf16, 2 bytes. All
# > that learning brings with it is float32, 4 bytes.


# %% tags=["exercise"]
def held(unet, rest, adapter, slots):
    """Plain numbers -> (bytes of the LoRA recipe, bytes of the full-copy recipe)."""
    # solution
    frozen = 2 * (2 * unet + rest)
    learning = 4 * (2 + 2 * slots + 1)
    return frozen + adapter * learning, frozen + unet * learning
    # end


# %% tags=["check"]
checked_held = check("10.1", held)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# First the frozen: which UNets, and are they the same ones in both recipes? Then, for one number of a network that learns: its
# weight, what the optimizer keeps, the average. How many networks learn, how many are averaged?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Frozen are two UNets and the rest, in both. A learning weight is there twice (generator, assistant), so are its `slots`; the average is there
# once. With unet 1000, rest 370, adapter 90 and slots 1 the LoRA recipe holds 6540 bytes. Solutions are in `notebooks/solutions`.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** The frozen part is the same in both, 2 · (2 unet + rest). Each learning number costs 4 · (2 + 2 slots + 1) bytes: 20 with one
# slot, 28 with Adam's two. The recipes differ in what learns, an adapter or a UNet.

# %% [markdown]
# Now from shapes. A LoRA of rank 64 has, beside a layer from *in* to *out* numbers, 64 · (in + out) of its own:

# %%
attention = [layer for name, layer in pipeline.unet.named_modules() if name.endswith(LORA_TARGETS)]
adapter = sum(64 * sum(layer.weight.shape) for layer in attention)
rest = sum(size for name, size in sizes.items() if name != "UNet")
print(f"{len(attention)} layers, {adapter:,} numbers in one LoRA, {rest:,} in all else that is frozen")
for roles, size in zip(recipes, checked_held(sizes["UNet"], rest, adapter, 1), strict=True):
    print(f"{roles}: {size / GiB:.2f} GiB between two steps")

# %% [markdown]
# Hold it to a **count**. `count_step` runs one step of `post_train` on the meta device, sees every operation, and adds up the tensors that are alive at each
# moment. It takes about a minute for both recipes: the only long cell. (In the profile “ci” the miniature stands in for SDXL.)


# %%
model = shapes.described_on_meta(describe_pipeline(SHIPPED / "reference", dtype=torch.bfloat16)) if short else sdxl
ledgers = {roles: ledger.count_step(recipe, model, judge, ["a"]) for roles, recipe in recipes.items()}

# %%
frozen = (model.pipeline.vae, model.pipeline.text_encoder, model.pipeline.text_encoder_2, judge)
layers = [layer for name, layer in model.pipeline.unet.named_modules() if name.endswith(LORA_TARGETS)]
true = (numbers(model.unet), numbers(*frozen), sum(64 * sum(layer.weight.shape) for layer in layers), 1)
for (roles, found), own in zip(ledgers.items(), checked_held(*true), strict=True):
    print(
        f"{roles}: by hand {own / GiB:.2f} GiB, counted {found.static / GiB:.2f}, peak of a step {found.peak / GiB:.2f}"
    )

# %% tags=["figure", "hide-input"]
kinds = {"held between steps": Style(BLUE, "|", ""), "peak of the phase": Style(RED, "o", "")}
panels = []
for roles, found in ledgers.items():
    marks = [charts.Mark(phase, peak / GiB, "peak of the phase") for phase, peak in found.peaks.items()]
    panels.append(
        (
            f"{roles}, GiB",
            marks + [charts.Mark(phase, found.static / GiB, "held between steps") for phase in found.peaks],
        )
    )
charts.dot_plot(
    panels,
    list(ledgers["lora"].peaks),
    kinds,
    columns=2,
    width=2.8,
    alt="Two panels with the phases of a step as rows. LoRA holds about 15 GiB throughout and peaks near 20 at the decoder, the reward and the pulls. Full"
    " copies hold about 61 GiB and peak near 71 at the two backward passes and updates.",
)

# %% [markdown]
# Your sum is the count, but for buffers and rounding. The phases run from top to bottom. What comes and goes on top differs: with LoRA the **decoder** decides, through which the reward's gradient passes; with full copies
# the **gradients**, one number in float32 for each weight, there from a backward pass to its update.
#
# ### What makes full copies fit in 80 GiB
#
# In notebook 07 full copies with Adam came to more than 80 GiB. This recipe stays below, even with reserves: a card needs more than the count, since kernels want
# scratch space and the allocator wastes some. `need` adds 30% of what comes and goes and half a GiB for that, both estimates. Three savings are in the recipe. Which
# could it do without?
#
# - **one number** a weight in the optimizer, where Adam keeps two
# - gradients **freed** after an update; else the assistant's are alive while the generator's arrive
# - blocks **computed again** in the backward pass, *checkpointing*; else a network keeps all its activations
#
# > **Exercise 10.2** · predict · difficulty 2 of 5 · importance 5 of 5 · 3 minutes
# >
# > Take back one at a time. Which of the three still fits? **a** Adam · **b** gradients kept · **c** no checkpointing ·
# > **d** none of them

# %% tags=["predict"]
predict("10.2", "?")

# %% [markdown]
# For the third we need what one network keeps. Count single forward passes, in true size:


# %%
def kept(call, weights, x):
    """GiB that a forward pass keeps for its backward pass, on the meta device; activations alone."""
    tally = ledger.Tally("meta")
    tally.adopt("before", (*weights, x))
    before = tally.now
    with tally:
        result = call(x)
    assert result.requires_grad
    return (tally.now - before) / GiB


# %%
latent = torch.zeros(1, *model.latent_shape, device="meta", requires_grad=True)
wide = copy.deepcopy(model.pipeline.vae).float()
decoders = {"decoder, float32": wide, "decoder, bf16": model.pipeline.vae}
stays = {}
for name, vae in decoders.items():
    for how, net in (("kept", vae), ("computed again", latents.checkpointed(vae))):
        stays[name, how] = kept(lambda x, net=net: latents.decode(net, x), net.parameters(), latent)

# %%
time = torch.full((1,), 399, device="meta")
condition = model.encoder(["a red circle"])
twins = {"kept": tied_clone(model.unet), "computed again": recompute_blocks(tied_clone(model.unet))}
for how, net in twins.items():
    score = model.score(net)
    stays["UNet, bf16", how] = kept(lambda x, score=score: score(x, time, condition), net.parameters(), latent)
for (name, how), size in stays.items():
    print(f"{name:18s} blocks {how:15s} {size:6.2f} GiB")

# %% tags=["figure", "hide-input"]
kinds = {"kept": Style(RED, "s", ""), "computed again": Style(BLUE, "o", "")}
charts.dot_plot(
    [("GiB kept for the backward pass", [charts.Mark(name, size, how) for (name, how), size in stays.items()])],
    list(dict.fromkeys(name for name, _ in stays)),
    kinds,
    columns=1,
    width=4.5,
    row_height=0.4,
    alt="Activations of one forward pass at 1024 pixels. The decoder keeps about 22 GiB in float32 and 11 in bf16, the UNet about 5; computed again,"
    " the decoder keeps a quarter of that and the UNet a tenth.",
)

# %% [markdown]
# The decoder is a fiftieth of the UNet in weights, and keeps twice as much: its arrays are as large as the picture. All this is *counted from shapes, not
# measured on a card*. Without checkpointing the activations of the generator and of three scores are kept at the same time: those of four UNets.

# %%
found = ledgers["full"]
saved = stays["UNet, bf16", "kept"] - stays["UNet, bf16", "computed again"]
without = {
    "as it is": found.need / GiB,
    "Adam": found.need / GiB + (checked_held(*true[:3], 2)[1] - checked_held(*true[:3], 1)[1]) / GiB,
    "gradients kept": found.need / GiB + 4 * true[0] / GiB,
    "no checkpointing": (found.peaks["pulls"] + ledger.CONTEXT) / GiB + 4 * saved,
}
reveal("10.2", ", ".join(f"{name}: {size:.0f} GiB" for name, size in without.items()))

# %% [markdown]
# Answer **d**, as the roles are here. (The last number is low: of the reserves it has only the half GiB. And once the copy is made, the start may go to main memory:
# 4.8 GiB. The recipe `80gb` does that.) With Adam not even what is held, before any
# gradient, leaves room. And LoRA?

# %%
for roles, found in ledgers.items():
    print(f"{roles}: counted {found.peak / GiB:.1f} GiB, with reserves {found.need / GiB:.1f}")

# %% [markdown]
# By the count LoRA fits a card of 24 GiB, with little to spare. The recipe `24gb` of `distar train sdxl` is this one; nobody has run it on such a card here.
#
# ## 4. How long: FLOPs by phase
#
# One multiplication and one addition are two **FLOPs**. You can count those of a step in your head, in units of one forward
# pass of the UNet, F. Rules of thumb: a backward pass costs one F to carry the gradient to the *inputs*, and one more for the
# gradients of the *weights*, if all of them learn (an adapter's cost next to nothing). Where blocks are computed again, each
# network that is differentiated costs one F more.
#
# > **Exercise 10.3** · derive · difficulty 4 of 5 · importance 4 of 5 · 12 minutes
# >
# > How many F does a step of Diff-Instruct\* take? The assistant's half: the generator draws without a graph, the assistant scores
# > and learns. The generator's half: it draws, `scores` scores are asked at x_t, the gradient at x_t goes back through them
# > all, the generator learns. `learns` is 1 if all weights learn, else 0; `recomputes` is 1 with checkpointing, else 0.


# %% tags=["exercise"]
def forwards(scores, learns, recomputes):
    """Plain numbers -> the UNet's share of a step, in forward passes."""
    # solution
    backward = 1 + learns + recomputes
    assistant_half = 1 + 1 + backward
    pulls = scores * (1 + recomputes)
    return assistant_half + 1 + scores + pulls + backward
    # end


# %% tags=["check"]
checked_forwards = check("10.3", forwards)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# Write the step as a list of calls of a UNet. Behind each: is it differentiated? In its inputs only, or in its weights as well?
#
# </details>
# <details><summary>Hint 2</summary>
#
# The list: draw; score, with its backward pass; draw; `scores` scores, with their gradients at x_t; the generator's backward pass. A
# learner's backward pass is `1 + learns + recomputes`, that of a score at x_t `1 + recomputes`. With 2 scores, learns 0 and recomputes 0 the
# answer is 9.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** 5 + 2 scores + 2 learns + 2 recomputes + scores · recomputes: 18 F for full copies with guidance and checkpointing, 16 for
# LoRA, and 11 for LoRA without checkpointing.

# %% [markdown]
# Hold it to the count, phase by phase. The decoder and the judge have units of their own, their forward passes, D and R: each is run, run
# again, and carries a gradient to its input.


# %%
def flops_by_hand(found, learns):
    """Your rules by phase, in the counted forward passes of UNet, decoder and judge."""
    F, D, R = (found.flops[phase] for phase in ("assistant: samples", "decoder", "reward"))
    one = {"assistant: samples": F, "assistant: score": F, "assistant: backward": (2 + learns) * F}
    other = {"generator: samples": F, "scores": 3 * F, "decoder": D, "reward": R}
    return one | other | {"pulls": 6 * F + 2 * D + 2 * R, "generator: backward": (2 + learns) * F}


# %%
TFLOP = 1e12
for (roles, found), learns in zip(ledgers.items(), (0, 1), strict=True):
    F, D, R = (found.flops[phase] / TFLOP for phase in ("assistant: samples", "decoder", "reward"))
    total = checked_forwards(3, learns, 1) * F + 3 * (D + R)
    print(f"{roles}: F = {F:.2f}, D = {D:.2f}, R = {R:.2f} TFLOP; a sample takes")
    print(f"      by hand {total:.0f}, counted {found.flops_per_sample / TFLOP:.0f}")

# %% tags=["figure", "hide-input"]
kinds = {"by hand": Style(ORANGE, "D", ""), "counted": Style(BLUE, "o", "")}
panels = []
for (roles, found), learns in zip(ledgers.items(), (0, 1), strict=True):
    sums = {"by hand": flops_by_hand(found, learns), "counted": found.flops}
    marks = [charts.Mark(phase, own[phase] / TFLOP, kind) for kind, own in sums.items() for phase in sums["by hand"]]
    panels.append((f"{roles}: TFLOP a sample", marks))
charts.dot_plot(
    panels,
    list(sums["by hand"]),
    kinds,
    columns=2,
    width=2.8,
    alt="TFLOP of each phase of a step, by hand and counted, for LoRA and full copies. The pulls take the most by far, nearly 60, then the scores and the"
    " two backward passes, 13 to 20 each. By hand and counted nearly agree; by hand is a little more in the pulls and the backward passes.",
)

# %% [markdown]
# The sums agree within a tenth, the pulls less well, and the rules round up. The pulls are the largest part: the exact score divergence is differentiated through three
# scores, two of which belong to frozen networks.
#
# FLOPs become hours by a card's speed. For an H100 NVIDIA's data sheet names 989 TFLOP/s in bf16. Suppose that a run reaches half of it:


# %%
def hours(seconds, steps=10_000, batch=64):
    """Of a run with so many seconds a sample."""
    return seconds * steps * batch / 3600


# %%
peak = 989e12
# seconds a sample on an H200; the step was recorded once and is replayed whole, as a CUDA graph
recorded = {"lora": 0.9336, "full": 0.9724}
for roles, found in ledgers.items():
    half = found.flops_per_sample / (peak / 2)
    reached = found.flops_per_sample / recorded[roles] / peak
    print(f"{roles}: estimate {half:.2f} s a sample, {hours(half):.0f} hours for 10,000 steps of 64 samples")
    print(f"      recorded {recorded[roles]:.2f} s, {hours(recorded[roles]):.0f} hours, {reached:.0%} of the peak")

# %% [markdown]
# The estimate is an *estimate*, and the record says what it is worth. It comes from a session on an H200, a card with the same matrix units,
# with random weights of true size (`notebooks/records/sdxl_true_size.md`). And that is the better of two ways to run: launched from Python kernel by kernel, the LoRA step
# took 2.86 s, since the card waits for the host, and its adapters computed in slower float32. FLOPs know nothing of that. Take hours at half of
# the peak for the best case, one sample after another, and time ten steps before you rent for a week.

# %% [markdown]
# ## 5. What bf16 does to it
#
# A bf16 number has half the bytes of float32, its range, and 8 significant bits: from 1 to 2 its neighbours are 1/128 apart.
#
# ### A step that does not arrive
#
# DMD2 trains SDXL with learning rate 5e-7. A usual weight is 0.02. One line:

# %%
print(torch.tensor(0.02, dtype=torch.bfloat16) - 5e-7 == torch.tensor(0.02, dtype=torch.bfloat16))

# %% [markdown]
# The step is rounded away, and so is the next: a weight of this size never moves.
#
# > **Exercise 10.4** · implement · difficulty 2 of 5 · importance 5 of 5 · 5 minutes
# >
# > Weights are kept in `dtype`, and a step of length `rate` is subtracted from each. Which share of them changes at all? One
# > line is enough.


# %% tags=["exercise"]
def moved(weights, rate, dtype):
    """Weights [N], a step's length, a torch type -> the share of weights that change, between 0 and 1."""
    # solution
    return (weights.to(dtype) - rate != weights.to(dtype)).double().mean()
    # end


# %% tags=["check"]
checked_moved = check("10.4", moved)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# First put the weights into `dtype`. Such a tensor less a Python number is of the same type again, so it is rounded.
#
# </details>
# <details><summary>Hint 2</summary>
#
# Compare before and after with `!=`. The mean of trues and falses, as numbers, is the share.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** `(weights.to(dtype) - rate != weights.to(dtype)).double().mean()`. A step arrives where it is longer than half the distance to the
# next number, which is proportional to the weight, up to a factor of two.

# %% [markdown]
# Now for all weights of the miniature's generator, and steps from 1e-9 to 0.1:

# %%
weights = torch.cat([p.flatten() for p in world.unet.parameters()])
rates = [10 ** (k / 2) for k in range(-18, -1)]
types = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}
shares = {name: [100 * float(checked_moved(weights, rate, dtype)) for rate in rates] for name, dtype in types.items()}
for name, dtype in types.items():
    print(f"{name:7s} {checked_moved(weights, 5e-7, dtype):6.1%} of the weights move at 5e-7")

# %% tags=["figure", "hide-input"]
curves = [charts.Line(name, rates, row) for name, row in shares.items()]
curves.append(charts.Line("5e-7", [5e-7, 5e-7], [0, 100], style=Style("black", "", (0, (2, 1.5)))))
charts.lines(
    {"which weights a step changes": curves},
    xlabel=charts.Axis("length of the step", log=True),
    ylabel="% of the weights",
    markers=True,
    width=5.5,
    alt="Share of weights that change, against the length of the step on a logarithmic axis. Three S-shaped curves: at 5e-7, a dashed line, that of float32 is near"
    " 100%, those of fp16 and bf16 are near 0; they rise about 1e-5 and 1e-4.",
)

# %% [markdown]
# Hence **masters**: the optimizer moves weights in float32, and what computes is a rounded copy, which changes once enough
# steps have added up. Adapters are float32 for the same reason.
#
# ### A gap that is a quarter wrong
#
# Activations are bf16 as well. Assistant and reference nearly agree, and the leash is made of their difference.
#
# **With a pencil.** Reference N(0, 1), generator N(m, 1), noise σ. The two guesses of the noise at x are σ x/(1 + σ²) and
# σ (x − m)/(1 + σ²). Their gap is σ m/(1 + σ²): smaller than the guesses by the factor m/x. Round each guess to bf16:


# %%
def rounded(value):
    """To the nearest bf16 number, in the type that it had; a gradient is rounded on its way back."""
    return value.bfloat16().to(value.dtype)


x, m, sigma = torch.randn(100_000, generator=torch.Generator().manual_seed(0)), 0.02, 1.0
of_reference, of_generator = (sigma * (x - mean) / (1 + sigma**2) for mean in (0.0, m))
error = rounded(of_reference) - rounded(of_generator) - (of_reference - of_generator)
true_gap = sigma * m / (1 + sigma**2)
print(f"a guess is wrong by {(rounded(of_reference) - of_reference).norm() / of_reference.norm():.2%}")
print(
    f"its gap by {error.square().mean().sqrt() / true_gap:.0%}, the mean of all gaps by {abs(error.mean()) / true_gap:.2%}"
)

# %% [markdown]
# Two lessons: a small difference of rounded numbers is in good part rounding; and errors at different x have different signs, so
# that their mean nearly vanishes.
#
# And networks? bf16 is slow on CPUs, and on some it ends the program. So we **round instead of computing narrow**: the frozen
# weights, and all that enters or leaves a layer; within a layer we compute in float32, as matrix units add up. Let the assistant learn first:

# %%
recipe = small.replace(steps=1, **({"warmup": 2, "batch": 4} if short else {"warmup": 20, "batch": 16}))
exact = post_training.make_state(recipe, world, judges.preference)
conditions = post_training.conditions_of(recipe, world, training_prompts(recipe))
warmup = list(training.post_train(exact, recipe.method, conditions, **(recipe.loop | {"steps": 0})))


# %%
def enters(_, given):
    return tuple(rounded(value) if value.is_floating_point() else value for value in given)


def leaves(_, given, result):
    return rounded(result)


# %%
narrow = copy.deepcopy(exact)
for role in (narrow.roles.generator.module, narrow.roles.assistant.module, narrow.roles.reference):
    for weight in role.parameters():
        if not weight.requires_grad:
            weight.data = rounded(weight.data)
    for name, layer in role.named_modules():
        if not list(layer.children()) and "lora_" not in name:
            layer.register_forward_pre_hook(enters)
            layer.register_forward_hook(leaves)

# %% [markdown]
# (The adapters, `lora_…`, stay in float32, as on the card.) Ask `exact` and `narrow` at the same noised samples:


# %%
def batch_of(step):
    plan = {"seed": 1, "step": step, "batch": recipe.batch, "rows": slice(0, recipe.batch)}
    return training.make_batch(exact, recipe.method.time_law, conditions, stream="look", **plan)


batch = batch_of(0)
with torch.no_grad():
    samples = exact.roles.generator.module(batch.z, batch.condition)
noised = training.noised_samples(exact.schedule, samples, batch)


@torch.no_grad()
def guess_and_gap(state):
    """The assistant's guess of the noise, and its gap to the reference without guidance, [B, 4, 8, 8] each."""
    asked = (noised.x_t, noised.t, batch.condition)
    scores = losses.Scores(state.roles.assistant.module(*asked), state.roles.reference(*asked))
    return -noised.sigma * scores.assistant, losses.gap(noised, scores, "eps")


def lengths(rows):
    return rows.flatten(1).norm(dim=1)


# %%
pairs = zip(("guess", "gap"), guess_and_gap(exact), guess_and_gap(narrow), strict=True)
sizes_of, wrong = {}, {}
for name, true_rows, narrow_rows in pairs:
    sizes_of[name] = lengths(true_rows)
    wrong[name] = lengths(narrow_rows - true_rows) / sizes_of[name]
    low, middle, high = wrong[name].quantile(torch.tensor([0.0, 0.5, 1.0]))
    print(f"{name}: wrong by {low:.1%} to {high:.1%}, in the middle {middle:.1%}")
print(f"a gap is {(sizes_of['gap'] / sizes_of['guess']).median():.1%} as long as a guess, in the middle")

# %% tags=["figure", "hide-input"]
order = noised.t.argsort()
looks = {"guess": Style(BLUE, "o", ""), "gap": Style(RED, "s", "")}
charts.lines(
    {
        "wrong by rounding, sample by sample": [
            charts.Line(name, noised.t[order], 100 * part[order], style=looks[name]) for name, part in wrong.items()
        ]
    },
    xlabel="noise level t",
    ylabel=charts.Axis("error, % of the length", log=True),
    width=5.5,
    alt="Error by rounding of sixteen samples against their noise level, logarithmic axis. The guesses are wrong by about half a percent, at low t by one; the gaps of the"
    " same samples by twenty to forty percent at every t.",
)

# %% [markdown]
# > **Predict.** How well does the *generator's gradient*, over this batch, point where it should? The cosine between rounded and exact is
# > **a** about 0.75 · **b** about 0.95 · **c** above 0.99

# %% tags=["predict"]
predict("10.b", "?")


# %%
def gradient(state, step):
    state.roles.generator.zero_grad()
    training.generator_step(state, recipe.method, batch_of(step))
    return torch.cat([p.grad.flatten() for p in state.roles.generator.parameters().values()])


own, next_batch, of_narrow = gradient(exact, 0), gradient(exact, 1), gradient(narrow, 0)
alike = [float(torch.nn.functional.cosine_similarity(own, other, dim=0)) for other in (of_narrow, next_batch)]
reveal("10.b", f"{alike[0]:.4f}; that of two exact batches of {recipe.batch} is {alike[1]:.2f}")

# %% [markdown]
# Answer **c**. As in the pencil, the errors of all places and samples nearly cancel, and what they have in common adds up. Compare
# the second number: two *exact* batches agree far less. The batch limits a step, not bf16. (A finding about the miniature,
# early in a run; the gradient is the loop's own, with guidance and reward.)
#
# > **Exercise 10.5** · debug · difficulty 3 of 5 · importance 5 of 5 · 8 minutes
# >
# > A colleague trains SDXL in bf16, without guidance, and sees `gap_norm` fall from 4 to 2 and stay there. “Converged: the networks disagree by 2, and I cannot get lower.” What
# > is 2? In the cell below an assistant *becomes* the reference, as its adapters are shrunk. Read the figure, then answer.

# %%
factors, logged = [2.0**-k for k in range(-2, 7)], {"float32": [], "bf16": []}
for state, row in zip((exact, narrow), logged.values(), strict=True):
    learnt = {name: p.detach().clone() for name, p in state.roles.assistant.parameters().items()}
    for factor in factors:
        for name, p in state.roles.assistant.parameters().items():
            p.data = learnt[name] * (factor if "lora_B" in name else 1)
        row.append(float(lengths(guess_and_gap(state)[1]).mean()))
floor = post_training.gap_floor(load_world(dtype=torch.bfloat16))
print(f"gap_floor of the miniature in bf16: {floor}, of SDXL: {post_training.gap_floor(sdxl)}")

# %% tags=["figure", "hide-input"]
true_lengths = logged["float32"]
level = charts.Line("gap_floor", true_lengths, [floor] * len(factors), style=Style("black", "", (0, (2, 1.5))))
charts.lines(
    {
        "an assistant that becomes the reference": [
            charts.Line("computed in float32", true_lengths, true_lengths),
            charts.Line("rounded to bf16", true_lengths, logged["bf16"]),
            level,
        ]
    },
    xlabel=charts.Axis("true length of the gap", log=True),
    ylabel=charts.Axis("gap_norm", log=True),
    markers=True,
    width=5.5,
    alt="The logged length of the gap against its true length, both logarithmic. In float32 a straight line down. Rounded to bf16 it leaves that line near 0.1 and stays"
    " at about 0.07, a little below the dashed line of gap_floor.",
)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# At the left end the networks agree up to a hundredth. What is the rest of the bf16 curve made of?
#
# </details>
# <details><summary>Hint 2</summary>
#
# `gap_floor` is the spacing of bf16 numbers at 1 times ‖ε‖, and ‖ε‖ is about √n. What is n for SDXL?
#
# </details>
# <details><summary>Answer</summary>
#
# Rounding, more and more of it. SDXL's latents have n = 65,536 values, so ‖ε‖ is about 256, and 256/128 is 2. The floor is a rough level: here equal
# networks log a little more than half of it, and a gap logged at the floor is mostly real. Well below it `gap_norm` says nothing more. The gradient, an average, still sees a shorter gap. Say the floor beside the log; to know more, recompute one batch in float32.
# (With guidance inside, the logged gap is that to the *guided* reference: it holds guidance itself, and does not vanish.)
#
# </details>

# %% [markdown]
# ## 6. One real step in the real format
#
# Everything so far was about a folder that you do not have. Now one that takes a second to make: `make_pipeline` puts SDXL's classes together with 2.1 million
# untrained weights, and `diffusers` saves it, file by file as SDXL is saved. First *look*: configurations and shapes are read, and a step is counted, before any weight is.

# %%
folder = Path(tempfile.mkdtemp())
torch.manual_seed(0)
with quiet():
    miniature.make_pipeline(("a", "red", "circle")).save_pretrained(folder / "pipeline")
print(*sorted(path.name for path in (folder / "pipeline").iterdir()))
tiny = shapes.described_on_meta(describe_pipeline(folder / "pipeline"))
tiny_keys = {
    "reward_scale": 1.0,
    "huber_c": 1.6,
    "rank": 4,
    "batch": 4,
    "steps": 4,
    "warmup": 1,
    "prompts": 2,
    "checkpoint_unets": False,
}
plan = recipes["full"].replace(**tiny_keys)


# %%
class Brightness:
    """Mean of all pixels: a reward that anybody can check."""

    differentiable = True

    def __call__(self, *, images, prompts):
        return images.mean((1, 2, 3))


said = ["a red circle", "a circle"]

# %%
need = ledger.count_step(plan, tiny, Brightness(), said).need
try:
    ledger.require_fit(plan.replace(optimizer="adam"), tiny, Brightness(), said, memory=need)
except DoesNotFitError as error:
    print(error)

# %% [markdown]
# The library refuses in one sentence, and names a setting that it has counted. On a card, pass its memory. Your laptop has room: load the weights, run three steps, stop, and run the
# same again. (The start is the reference, asked once at 399: nobody has distilled a generator of this size.)

# %%
loaded = load_text_to_image(folder / "pipeline", generator=folder / "pipeline")


def run_for(steps, resume):
    """Take so many steps of the recipe's run in its folder, fewer if it ends."""
    state = post_training.make_state(plan, loaded, Brightness())
    run = post_training.run_recipe(plan, loaded, state, said, folder / "run", resume=resume, save_every=1)
    for _, record in zip(range(steps), run, strict=False):
        print(f"step {record.step}: assistant's loss {record.losses['assistant'].mean():.1f}", end="   ")
    run.close()
    print()


# %%
run_for(3, resume=False)
run_for(9, resume=True)
print(*sorted(path.name for path in (folder / "run").iterdir()))

# %% [markdown]
# The warm-up has the number −1; the second call goes on where the first one stopped. For SDXL the names of folders, the judge and the recipe's values change; the loop does not.
# `distar train sdxl` takes all of them from one file.
#
# > **Exercise 10.6** · explain · difficulty 3 of 5 · importance 5 of 5 · 8 minutes
# >
# > A colleague wants to rent a card of 80 GB for full copies with Adam, everything in bf16, “since then it fits”. It does. In four sentences: what goes wrong,
# > what would you run instead, what do you check before you pay, and what on the first day?
#
# <details><summary>A model answer</summary>
#
# Weights in bf16 do not move by steps of 5e-7, so the run costs money and trains next to nothing. I would keep masters in float32 and save elsewhere: an optimizer with one number
# a weight, freed gradients, checkpointing; or LoRA, which fits on a smaller card. Before I pay I count the step from the model's own folder with reserves, and compute hours from FLOPs as the best case. On
# the first day I time ten steps, compare the peak with the count, look at the lengths of both pulls, and write the floor beside the gap.
#
# </details>

# %% [markdown]
# ## What you can now say
#
# 1. SDXL is post-trained by the loop that moved dots in the plane; what changes is who takes part, and all of it can be laid out on the meta device.
# 2. Memory is a sum that I can do by hand: frozen numbers at 2 bytes, for each learning weight 20 (28 with Adam) in generator and assistant together; then what comes and goes, where decoder and gradients decide.
# 3. bf16 is for what computes, float32 for what learns: a rounded gap is wrong sample by sample and right on the average, but a rounded step never arrives.
#
# ## Quiz
#
# 1. Why does a network on the meta device tell the truth about memory and none about pictures?
#    <details><summary>Answer</summary>Shapes and types decide the bytes, and they are there. Numbers are not.</details>
# 2. Both recipes hold two frozen UNets. Which?
#    <details><summary>Answer</summary>The reference, with which a LoRA assistant shares its weights; and what the generator starts from.</details>
# 3. You raise the batch from 1 to 2. Which part of the ledger grows?
#    <details><summary>Answer</summary>What comes and goes: activations, and the decoder's most of all. What is held stays, and so do gradients.</details>
# 4. The estimate says one hour, the card takes four. Name two reasons.
#    <details><summary>Answer</summary>No kernel mix reaches half the peak so easily: norms, copies and small products are slow. And the card may wait for the host to launch
#    them.</details>
# 5. Why may frozen weights be bf16, and learning ones not?
#    <details><summary>Answer</summary>A frozen weight is rounded once, by at most 0.4%. A learning one would be rounded at every step, and most steps are shorter than half its
#    spacing.</details>
#
# ## Exercises
#
# 10.1 what a recipe holds (implement, checked) · 10.2 what full copies can do without (predict) · 10.3 forward passes of a step (derive, checked) · 10.4 steps that
# arrive (implement, checked) · 10.5 a gap that stays (debug) · 10.6 before you rent (explain)
#
# ## Where this comes from, and what next
#
# SDXL: arXiv 2307.01952. DMD2: 2405.14867. Diff-Instruct\*: 2410.20898. PickScore: 2305.01569. LoRA: 2106.09685. Recomputed activations: Chen et al., 1604.06174. Masters in float32: Micikevicius et al., 1710.03740. The
# counts are of this library's step, from SDXL's published configurations; the reserves are our estimate.
#
# Next: the records of true size are in `notebooks/records`, and `docs/rewards.md` says what judges there are.
#
# Text and figures of this notebook: CC BY 4.0. Code: MIT.
