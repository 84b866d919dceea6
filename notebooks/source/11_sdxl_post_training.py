# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A run, from the first command to the export
#
# **In this notebook you run a post-training from beginning to end: choose a card, launch, watch, stop, resume, tell a healthy log
# from a hacked one, ask other judges, and export. On a CPU the same commands run the miniature.**
#
# > **Goals.** Compute the hours and the price of a run. Drive one by its commands. Find a stale assistant and a hacked reward in
# > logs and panels. Decide from a page of judges whether to go on.
# >
# > **Before you start.** Notebooks 08 (pulls, the stuck assistant), 09 (Goodhart's law) and 10 (memory, bf16). The packages of the
# > extra “models”: `python -m pip install -e ".[models]"`.
# >
# > **Time.** Forty minutes to read, eighty with the exercises; the cells run for about two minutes of that on one CPU core. No GPU,
# > no network, no download. Nobody has run SDXL itself to the end here: every log in this notebook is the miniature's.

# %% tags=["setup"]
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from typer.testing import CliRunner

from distar_core.course import check, predict, profile, require, reveal
from distar_core.course.recorded import DATA, LETTERS, RECORDED, sheet
from distar_core.evaluation.report import cells_of, read_panels
from distar_core.figures import charts
from distar_core.figures.picture import BLUE, ORANGE, RED, Style, image_grid
from distar_core.figures.runs import run_curves
from distar_core.runs import watch
from distar_core.sdxl.cards import CARDS
from distar_core.sdxl.loading import quiet
from distar_core.sdxl.plan import counted, hours_at
from distar_core.sdxl.recipe import SdxlRecipe, find_recipe
from distar_core.world.evaluation import held_out_captions

require("models")
short = profile().name == "ci"
folder = Path(tempfile.mkdtemp())

# %% [markdown] tags=["instructor"]
# **Board plan (90 minutes).** 15 min: 11.1 on the board, with a price that the class looks up. 20 min: launch, and while it runs, the
# files of a run; stop it by hand, resume. 20 min: the three logs, a vote before the reveal, reasons before the vote. 20 min: the
# pencil, then 11.5 in pairs. 15 min: the page of judges, 11.6 aloud. The export is homework.
#
# **Typical misconceptions.**
#
# 1. *“The reward rises, so it works.”* It rises in every run of this notebook. That is what it is told to do.
# 2. *“The gap is small, so the generator is near its reference.”* A stale assistant sees a small gap.
# 3. *“A stopped run is a lost run.”* Noise and prompts are functions of the step; a resumed run is the same run.
# 4. *“The card does 165 TFLOP/s, so …”* Nobody reaches the peak, and a fast card waits for its host.
# 5. *“distar watch says fine, so it is.”* It knows seven ways to fail, by limits from other runs. Section 3 has a run that fails in an eighth.

# %% [markdown]
# ## 1. Which recipe for which card
#
# A run of SDXL is one command. Ask what it takes before you pay:
#
# ```
# distar doctor --sdxl --price 2                        # what is here; hours and cost of each recipe on common cards
# distar train sdxl RUN --recipe 24gb --dry-run         # a run of your own: memory, time, disk, downloads, from shapes alone
# distar train sdxl RUN --recipe 24gb --set prompts=FILE
# ```
#
# | your card | recipe | what learns |
# |---|---|---|
# | 24 GB | `24gb` | adapters of rank 64, one sample at a time |
# | 24 GB, not all of it free | `24gb` with `--set pixels=512` | the same; the decoder's arrays are a quarter |
# | 80 GB | `80gb` | full copies, weights in float32 |
# | several, 32 GB and more each | `n-gpus`, started by `torchrun` | full copies, a part in each |
# | none | `distar train world` | the miniature, full copies |
#
# Two more lines for cards with room: `--recipe 24gb --set cuda_graphs=true` from 32 GB, and `--set micro_batch=4` with it on 80 GB.
#
# The counts come from shapes (notebook 10); the package has them for its own recipes:

# %%
recipes = {name: SdxlRecipe.read(find_recipe(name)) for name in ("24gb", "80gb")}
counts = {name: counted()[name].ledger for name in recipes}
for name, count in counts.items():
    run = recipes[name]
    work = f"{count.flops_per_sample / 1e12:.0f} TFLOP a sample, {run.steps} steps of {run.batch}"
    print(f"{name}: {count.need / 2**30:.1f} GiB with reserves, {work}")

# %% [markdown]
# Time has two sides. The card computes: work by speed, and it reaches a *share* of its peak. And the host launches: tens of thousands of
# kernels a sample, one by one, from Python. Both go on at the same time. How long does launching take? Hosts differ: on an
# H200 a sample took 2.86 s, while its kernels were busy for a third of that; an H100 behind a slower host took 5 to 7 s:

# %%
launch = 2.86  # seconds a sample of `24gb`, launched kernel by kernel; notebooks/records/sdxl_true_size.md

# %% [markdown]
# > **Exercise 11.1** · derive · difficulty 2 of 5 · importance 5 of 5 · 6 minutes
# >
# > What does a run take? It has `steps` steps of `batch` samples, of `tflop` TFLOP each; the card's peak is `peak` TFLOP/s, of which it
# > reaches `share`; launching a sample takes `launch` seconds; an hour costs `price`.


# %% tags=["exercise"]
def bill(tflop, peak, share, launch, steps, batch, price):
    """Plain numbers -> (hours, cost)."""
    # solution
    seconds = max(tflop / (share * peak), launch)
    hours = steps * batch * seconds / 3600
    return hours, hours * price
    # end


# %% tags=["check"]
checked_bill = check("11.1", bill)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# First the seconds of one sample. Card and host work at the same time: do their seconds add up?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Computing takes tflop/(share · peak) seconds, launching `launch`; a sample takes the larger of the two. One step of one sample of 3600 TFLOP, at half of
# 2 TFLOP/s, is an hour. Solutions are in `notebooks/solutions`.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** The slower side sets the pace: a sample takes the larger of tflop/(share · peak) and `launch` seconds; hours are steps · batch times that, by 3600. The cost is hours times the price.

# %% [markdown]
# Hold it to what `distar doctor` says, which knows no launching and supposes half of the peak. Put your provider's price in place of the 2:

# %%
price = 2.0
hours = {"doctor, best case": {}, "yours, best case": {}, "yours, with launching": {}}
for card in CARDS:
    for name, count in counts.items():
        if card.has(count.need):
            own, row = recipes[name], f"{name}, {card.name}"
            given = (count.flops_per_sample / 1e12, card.tflops, 0.5)
            hours["doctor, best case"][row] = hours_at(own, count, card.tflops)
            for kind, waits in (("yours, best case", 0.0), ("yours, with launching", launch)):
                hours[kind][row], cost = checked_bill(*given, waits, own.steps, own.batch, price)
            best = hours["yours, best case"][row]
            print(
                f"{row:17s} {best:4.1f} to {hours['yours, with launching'][row]:4.1f} h, {best * price:5.2f} to {cost:5.2f}"
            )

# %% tags=["figure", "hide-input"]
kinds = {"doctor, best case": Style(BLUE, "|", ""), "yours, best case": Style(BLUE, "o", "")}
kinds["yours, with launching"] = Style(RED, "s", "")
charts.dot_plot(
    [
        (
            "hours of a run",
            [charts.Mark(row, value, kind) for kind, rows in hours.items() for row, value in rows.items()],
        )
    ],
    list(hours["doctor, best case"]),
    kinds,
    columns=1,
    width=4.5,
    alt="A row for each recipe and card. In the best case hours fall from 17 on an RTX 3090 to half an hour on a B200, and yours are the doctor's. With"
    " launching the RTX 3090 stays at 17 hours, and all other rows stand at nearly 13.",
)

# %% [markdown]
# The doctor's hours are a little longer, since it counts the warm-up, too. The squares are the lesson: launched kernel by kernel, every card but the slowest takes as long as its host
# does (behind the slower host 22 to 31 hours), so **the slowest card that fits is as good as any**, unless launching costs nothing. So it can: with `cuda_graphs: true` each half of a step is
# recorded once, as a CUDA graph, and replayed. On that H100 a sample then took 1.1 s, and 0.7 with `micro_batch: 4`, about a fifth of its peak (`notebooks/records/sdxl_h100.md`). `80gb`
# records, so its squares are for `cuda_graphs: false`; `24gb` does not, since recorded steps did not fit into 24 GB (25.5 were reserved): on a larger card, add `--set cuda_graphs=true`. Your host is another one: time ten steps
# before you rent for a week.
#
# ## 2. Launch, watch, stop, resume
#
# From here on everything runs, in small. Only the first words of a command differ:
#
# | | the miniature, here | SDXL, on a card |
# |---|---|---|
# | launch | `distar train world RUN --recipe small.yaml` | `distar train sdxl RUN --recipe 24gb --set prompts=FILE` |
# | watch | `distar watch RUN` | `distar watch RUN --every 60` |
# | resume | `distar train world RUN --resume` | `distar train sdxl RUN --resume` |
# | judge | `distar evaluate … --hacking` | the same, with the rewards of `distar rewards` |
# | export | `distar export RUN FOLDER` | the same, with `--lora` for adapters |
#
# A recipe is a file; what it leaves out has a default:

# %%
steps, warmup = (4, 2) if short else (40, 10)
small = {"steps": steps, "warmup": warmup, "batch": 2 if short else 8, "panels_every": steps if short else steps // 2}
for name, keys in {"small.yaml": small, "quiet.yaml": small | {"panels_every": 0}}.items():
    (folder / name).write_text("".join(f"{key}: {value}\n" for key, value in keys.items()))
run, options = folder / "run", "--save-every 5 --count 2"


# %%
os.environ["FORCE_COLOR"] = ""  # plain text


def distar(words, last=0):
    """What `distar WORDS` does in a terminal whose folder is `folder`; print what it says, or so many last lines of it."""
    from distar_core.cli.main import app

    with contextlib.chdir(folder):
        done = CliRunner().invoke(app, words.split())
    if done.exit_code not in (0, 3):
        raise RuntimeError(done.output)
    print(*done.output.strip().splitlines()[-last:], f"(exit code {done.exit_code})", sep="\n")


# %% [markdown]
# In a terminal you launch, and open a second terminal to watch. Here the run goes to the background, as a process of its own, and the notebook is the second terminal:

# %%
python = Path(sys.executable)
started = subprocess.Popen(
    [python, "-m", "distar_core.cli.main", *f"train world run --recipe small.yaml {options}".split()],
    cwd=folder,
    env=os.environ | {"PATH": os.pathsep.join([str(python.parent), os.environ["PATH"]])},
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
)


def rows_of(log):
    """How many rows a log has so far."""
    return log.read_text("utf-8").count("\n") - 1 if log.exists() else 0


while started.poll() is None and rows_of(run / "log.csv") < warmup + steps // 4:
    time.sleep(0.2)

# %%
distar("watch run")

# %% [markdown]
# `distar watch` reads files and nothing else: it disturbs no run, and works from any machine that sees the folder. For scripts there are `--json` and the
# exit code, 3 where a sign is an alarm. Where something is *not known yet*, the line below says what it takes. Now stop it, as a queue does that takes its machine back:

# %%
started.send_signal(signal.SIGTERM)
print(started.communicate()[0].strip().splitlines()[-1], f"\n(exit code {started.returncode})")

# %% [markdown]
# The step was finished, a checkpoint written, and the last line has the command to resume. 143 is how shells report SIGTERM; with `DISTAR_STOP_CODE=0` in the environment it
# is 0, where a queue wants that.
#
# > **Predict.** You resume. How will the finished run differ from one that was never stopped?
# >
# > - **a** other noise from here on, the same on average
# > - **b** the assistant has to warm up anew
# > - **c** not at all, to the last bit

# %% tags=["predict"]
predict("11.a", "?")

# %% [markdown]
# Resume, and beside it run one that is never stopped. That one draws no panels, which must not matter:

# %%
distar(f"train world run --resume {options}", last=2)
distar(f"train world whole --recipe quiet.yaml {options}", last=2)

# %%
kept = [(path / "checkpoint.safetensors").read_bytes() for path in (run, folder / "whole")]
same = "the same file, byte for byte" if kept[0] == kept[1] else "different files"
reveal("11.a", f"the two checkpoints, of {len(kept[0]):,} bytes, are {same}")

# %% [markdown]
# Answer **c**. Noise, prompts and learning rates are functions of the step, so a checkpoint holds weights, averages, optimizers and the step, and no random source. Stop as
# often as you like; rent the cheap machines that may be taken away. What is in the folder?

# %%
for path in sorted(path for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")):
    print(f"{path.stat().st_size:12,d}  {path.relative_to(run)}")

# %% [markdown]
# `recipe.yaml` is the recipe with every key written out, `log.csv` has a row a step. **Panels** are drawn every `panels_every` steps from fixed
# prompts and seeds, so that two panels differ only by what was learnt in between:

# %% tags=["figure"]
sheet(run, steps)

# %% [markdown]
# A row for each prompt. From the left: at the start, now, and now with another seed. Then the same picture is noised: what does the *reference* make of it, its x̂₀
# (a mean of all that may lie behind the noise, so blurred and with colours of its own), what does the *assistant*, and how do they differ? There the assistant believes that the generator's pictures are not the reference's. Where the difference is grey, the leash does not pull. The
# numbers of log and panels:

# %% tags=["figure"]
run_curves(watch.read_log(run), watch.read_panels(run))

# %% [markdown]
# On the log's side: the reward, the pull of each term, the lag of the assistant (defined below, with a pencil). On the panels' side: the gap by noise level,
# diversity, three numbers about the look of pictures, and where a step's seconds go. So short a run shows little. Read two longer ones.
#
# ## 3. Three logs, one of them healthy
#
# Three runs of the miniature were recorded: 150 steps of 8 samples by Diff-Instruct\*, from one start, with the same seeds. One has the
# defaults. In one, a single key was wrong: `reward_scale` a hundred times too large. In one, `assistant_lr` was two hundred times too
# small. The letters were drawn by lot; curves of the log are means over ten steps. Negative steps are the warm-up, in which the assistant alone learns. Do not choose by the lag,
# whose turn comes later.

# %%
letters = LETTERS  # do not look it up
logs = {letter: watch.read_log(RECORDED[name]) for letter, name in letters.items()}
panels = {letter: watch.read_panels(RECORDED[name]) for letter, name in letters.items()}
looks = {"A": Style(ORANGE, "^", (0, (3, 1, 1, 1))), "B": Style(BLUE, "o", "-"), "C": Style(RED, "s", (0, (5, 1)))}


# %%
def smooth(rows, key, size):
    """Steps and values of a column, as means over so many rows that have it."""
    found = [(row["step"], row[key]) for row in rows if key in row]
    parts = [found[start : start + size] for start in range(0, len(found), size)]
    return [[sum(one) / len(part) for one in zip(*part, strict=True)] for part in parts]


# %% tags=["figure", "hide-input"]
columns = {
    "reward of the batch": (logs, "reward", "reward"),
    "reward's pull": (logs, "pull_reward", charts.Axis("length", log=True)),
    "leash's pull": (logs, "pull_regularizer", charts.Axis("length", limits=(0, 1.5))),
    "gap": (logs, "gap_norm", charts.Axis("length", limits=(0, 4))),
    "assistant's loss": (logs, "loss_assistant", charts.Axis("loss", limits=(0, 20))),
    "lag": (logs, "lag", charts.Axis("share of the gap", limits=(-1, 1), guides=(0.0,))),
    "diversity of fixed prompts": (panels, "diversity", charts.Axis("distance", limits=(0, 0.2))),
    "saturation of fixed prompts": (panels, "saturation", charts.Axis("mean", limits=(0.2, 0.3))),
}
charts.lines(
    {
        title: [
            charts.Line(
                letter, *zip(*smooth(rows[letter], key, 10 if rows is logs else 1), strict=True), style=looks[letter]
            )
            for letter in letters
        ]
        for title, (rows, key, _) in columns.items()
    },
    xlabel="step",
    ylabel=[axis for *_, axis in columns.values()],
    columns=4,
    width=2.8,
    alt="Eight panels with the runs A, B and C over 150 steps. The reward rises for all, most for C. The reward's pull is about a hundred times as long in C. The leash's pull"
    " is about 1 for all. The gap stays near 1.4 in A, falls in B and rises in C. The assistant's loss falls most in B and stays up in A. The lag is between -0.6 and 0.1 for"
    " all. Diversity falls a little, alike for all. Saturation rises in C, and in A for a while.",
)

# %% [markdown]
# And their panels after the last step. **A**:

# %% tags=["figure"]
sheet(RECORDED[letters["A"]], 150)

# %% [markdown]
# **B**:

# %% tags=["figure"]
sheet(RECORDED[letters["B"]], 150)

# %% [markdown]
# **C**:

# %% tags=["figure"]
sheet(RECORDED[letters["C"]], 150)

# %% [markdown]
# > **Exercise 11.2** · predict · difficulty 3 of 5 · importance 5 of 5 · 8 minutes
# >
# > Which letter is healthy, which hacked, which has the stale assistant? Write, for example, “A healthy, B hacked, C stale”, and for each the curve or the
# > picture that says so. Then: to which of the three will `distar watch` give an alarm?

# %% tags=["predict"]
predict("11.2", "?")

# %%
reveal("11.2", ", ".join(f"{letter} {name}" for letter, name in letters.items()))
for letter, name in (letters | {"D": "alone"}).items():
    known = [sign for sign in watch.look_at(RECORDED[name]).signs if sign.measured is not None]
    print(f"{letter}  " + "; ".join(f"{sign.name} {sign.measured:.2f} {sign.state}" for sign in known))

# %% [markdown]
# <details><summary>Answer</summary>
#
# **C** is hacked. Its reward's pull begins seventy times as long as the leash's, which is bounded (pseudo-Huber). Its gap *grows*: the assistant sees it leaving. In its panel shapes swell; the
# triangles of the first row touch. **A** has the stale assistant: its loss ends above its start, where B's falls and C's hardly moves, and its gap stays where it
# began. That gap is also the smallest, which is no praise: an assistant that does not learn sees little. **B** is healthy: pulls of one size, a gap that
# shrinks, an assistant that follows.
#
# </details>
#
# `distar watch` gives one alarm, to C: *strong reward*, a pull 35 times as long as the leash's. That sign was added because of this very run. All others let C pass, but for a *look* at the saturation, and A passes all of
# them. Most of their limits were found in the plane, and they fail here, in ways that you will meet again:
#
# - *Runaway reward* counts the gain in spreads of a batch. Here a batch spreads mostly because its prompts differ, and C gains one such spread.
# - *Collapse* asks how much of the distance between two seeds is lost: 12% in the healthy run, 11% in the hacked one. Both pay with variety; this number does not tell who got something for it. D is a run by the reward
#   alone, twice as long with twice the batch. It lost 44%, and a third of its pictures lost what the caption states: still no *look*, which begins at 50%.
# - *Stale assistant* is judged by the lag, see “With a pencil” below.
#
# “Fine” is not healthy. The reward cannot say, since it rises in all three. What said it are pulls, gap and loss *side by side*, and your eyes on a panel.
#
# > **Exercise 11.3** · debug · difficulty 3 of 5 · importance 5 of 5 · 6 minutes
# >
# > A colleague started `24gb`, whose recipe says `reward: {pickscore: 1.0}` and `reward_scale: 100`, with some `--set` that you have not seen. Ten steps later the log has (the numbers are invented) a reward of 21.7, a reward's pull of 70 and a leash's pull
# > of 1. PickScore is a cosine, about 0.22. What happened? What do you change, and do you resume?
#
# <details><summary>Hint 1</summary>
#
# By how much does 21.7 differ from what PickScore should be?
#
# </details>
# <details><summary>Hint 2</summary>
#
# See `recipe.yaml` in the run's folder: the reward's `weight` and `unit`. Which of your keys can change when a run is resumed?
#
# </details>
# <details><summary>Answer</summary>
#
# The reward was made a hundred times larger, by `{pickscore: 100}` or `unit: logit`, and the scale was kept: both multiply. (`unit: logit` is the cosine times CLIP's own temperature, about 100.) Undone, the reward's pull is 70/100 = 0.7. It is not published which of the two the paper's 100 stands for, so the pulls must decide: choose `reward_scale` so that
# the reward's pull begins no longer than the leash's (in the healthy run it was 0.6 of it). `--resume` keeps the recipe, and should: start in a new folder. Ten steps were enough to know; a thousand would have cost a hundred times
# as much.
#
# </details>
#
# ## With a pencil: a lag that does not tell
#
# By what share does the true gap, measured along the gap y that the assistant sees, exceed y? That is the log's column `lag`: the mean of ⟨y, s_q − s_ψ⟩ divided by the mean of ‖y‖², with the generator's own score s_q (no
# second network is needed: s_q is the mean of −ε/σ at x_t). An exact assistant has 0; one that sees half of the gap has 1. Single steps scatter, so `distar watch` judges a lower bound of |mean|.
#
# > **Exercise 11.4** · implement · difficulty 2 of 5 · importance 4 of 5 · 5 minutes
# >
# > A lower bound on how far the mean of some lags is from 0: how far is it still, if it is wrong by `errors` standard errors? Where that is more than the mean itself, the answer is 0. The standard error of a mean of n values is their standard
# > deviation (`std` in torch, with n − 1) over √n.


# %% tags=["exercise"]
def at_least(lags, errors):
    """A tensor [n], a number -> a distance from 0."""
    # solution
    error = lags.std() / len(lags) ** 0.5
    return max(float(lags.mean().abs() - errors * error), 0.0)
    # end


# %% tags=["check"]
checked_at_least = check("11.4", at_least)

# %% [markdown]
# <details><summary>Hint 1</summary>
#
# A lag of −1 is as bad as one of 1. Which comes first, the mean or the absolute value?
#
# </details>
# <details><summary>Hint 2</summary>
#
# |mean| − errors · std/√n, and 0 if that is negative. For lags (1, 2, 3) and 1 error it is 2 − 1/√3 = 1.42.
#
# </details>

# %% [markdown] tags=["solution"]
# **Solution.** `max(|mean| − errors · std/√n, 0)`. The absolute value of the mean: a mean of absolute values is large by chance alone.

# %%
for letter in letters:
    lags = torch.tensor([row["lag"] for row in logs[letter][-37:]])  # distar watch's window, a quarter of 150 steps
    print(f"{letter}: lag {lags.mean():+.2f}, at least {checked_at_least(lags, watch.SURE):.2f} from 0")

# %% [markdown]
# All below 0.5, where *look* begins. Of A, whose assistant has hardly learnt a thing, the sign says *fine*. Why?
#
# > **Exercise 11.5** · derive · difficulty 4 of 5 · importance 4 of 5 · 12 minutes
# >
# > The pencil's reference is N(0, 1), and guidance inside makes N(g, 1) of it; x_t = x_0 + σε, and y = s_ψ − s_ref with the guided reference. The generator draws N(m, 1); the assistant believes N(m′, 1). Find y, the true gap, and the lag. Then let the assistant be the reference itself, m′ = 0, and the generator move from 0 to
# > g, where the leash wants it: what does the lag do, and what does the leash do at g?
#
# <details><summary>Hint 1</summary>
#
# All four are Gaussians of variance 1 + σ² once they are noised. Only their means differ.
#
# </details>
# <details><summary>Hint 2</summary>
#
# y = (m′ − g)/(1 + σ²), the same at every x_t; the true gap has m in place of m′.
#
# </details>
# <details><summary>Answer</summary>
#
# Every score is (mean − x_t)/(1 + σ²), so y = (m′ − g)/(1 + σ²), the true gap (m − g)/(1 + σ²), and their difference s_q − s_ψ = (m − m′)/(1 + σ²). The **lag is (m − m′)/(m′ − g)**. Without guidance, g = 0, a stale assistant that believes in m′ = m/2 has
# lag 1, and one that is the reference sees no gap at all: an alarm either way. With guidance and m′ = 0 the lag is −m/g: 0 at first, −½ halfway, −1 at g. And y is always −g/(1 + σ²): the leash keeps pulling at g, and
# beyond. A dead assistant sees guidance, whatever the generator does.
#
# </details>
#
# Under guidance, then, the lag of a dead assistant is small while the generator is near its start. (That of the healthy run is below 0 for another reason: the assistant's own errors are part of y.) What does tell is whether its gap *moves* when it
# learns. The panels have the gap by noise level at the start, after the warm-up, and at the end:

# %%
for letter in letters:
    rows = [panels[letter][place]["gap"] for place in (0, 1, -1)]
    told = "   ".join(f"t = {t}: " + " → ".join(f"{row[t]:.3f}" for row in rows) for t in rows[0])
    print(f"{letter}  {told}")

# %% [markdown]
# In B and C the warm-up of 30 steps doubled the gap at low noise, in A it hardly moved, then or in 150 steps more. **Look at the gap in `panels.jsonl` after the warm-up, before the generator's first step**: an assistant that has learnt nothing by then, in the recipes after 100 steps,
# is not likely to begin afterwards. Under SDXL's cfg_scale of 7.5 the gap of a dead one is larger still.
#
# ## 4. Is it a hack? Ask judges that nobody trained on
#
# The trained reward cannot say whether its gain is real. `distar evaluate --hacking` draws start and model with the same prompts and seeds, scores both by other rewards, by the trained one with *wrong* prompts and on slightly changed pictures, and
# gives an alarm where two of four pieces of evidence are found: another reward falls; on most prompts two fall while the trained one rises; the own prompt matters less; most of the gain is gone after a slight change. For your run, on a few captions that no training saw:

# %%
asked = [entry.prompt for entry in held_out_captions().entries[:: 70 if short else 20]]
(folder / "prompts.txt").write_text("\n".join(asked) + "\n", encoding="utf-8")
judges = "--rewards world:preference,world:clip,world:preference-2 --hacking world:preference --seeds 2"
distar(f"evaluate judged --model start=world --model mine=run --prompts prompts.txt {judges}", last=4)

# %%
(mine,) = read_panels(folder / "judged" / "hacking.csv")
for line in mine.lines:
    print(f"{line.id:17s} {cells_of(line)[2]:25s} {line.says}")

# %% [markdown]
# All of this is in `judged/hacking.html`, with the pictures that gained most. So few captions decide little; `conflict` is the share of prompts where two rewards fall while the trained one rises, `margin` the own prompt's
# score less a wrong one's. Now the recorded runs, each on 140 captions with three pictures. *CLIP* compares picture and caption directly. The trained reward is a small network with
# eyes of its own and CLIP's features beside them; *preference 2* and *3* are of its kind, fitted to other votes.
#
# > **Predict.** Which evidence does the page have against the hacked run?
# >
# > - **a** every other reward falls
# > - **b** CLIP falls and the own prompt matters less; the two other preferences rise with the trained one
# > - **c** most of the gain is gone after JPEG or a blur

# %% tags=["predict"]
predict("11.b", "?")

# %%
found = {panel.model: panel for panel in read_panels(DATA / "hacking.csv")}
reveal("11.b", found["hacked"].verdict)
for name, panel in found.items():
    print(f"{name}: {panel.kind}, evidence: {', '.join(panel.evidence) or 'none'}")

# %% tags=["figure", "hide-input"]
lines = {
    "proxy": "trained reward",
    "world:clip": "CLIP",
    "world:preference-2": "preference 2",
    "world:preference-3": "preference 3",
}
lines |= {"margin": "own − wrong prompt", "diversity": "diversity by CLIP"}
kinds = {"healthy": looks["B"], "stale": looks["A"], "hacked": looks["C"]}
charts.dot_plot(
    [
        (
            title,
            [
                charts.Mark(name, change.mean, name, change.low, change.high)
                for name in kinds
                for change in [found[name][line].change]
            ],
        )
        for line, title in lines.items()
    ],
    list(kinds),
    kinds,
    columns=3,
    width=2.0,
    guides=[0],
    alt="Changes since the start with intervals, about a line at 0, three rows in six panels. The trained reward and preferences 2 and 3 rise for all three runs, most for the hacked one. CLIP and the"
    " own less a wrong prompt rise a little or stay for healthy and stale, and fall for hacked. Diversity falls alike for all three.",
)

# %% [markdown]
# Answer **b**. The line is 0, no change. Preferences 2 and 3 were fitted to votes that the trained reward had not seen, and rise with it: judges of one kind share blind spots. Two pieces of evidence are enough for the alarm, one from another
# family and one from the prompts. Diversity is in no rule: it falls for all.
#
# > **Exercise 11.6** · explain · difficulty 3 of 5 · importance 5 of 5 · 8 minutes
# >
# > You pay for all three runs, and have this page. For each: go on, stop, or start anew with which change? One sentence each, with the line that decides. What would you still want to see?
#
# <details><summary>Hint 1</summary>
#
# Diversity falls in all three. Is that evidence? And what is a rise of preference 2 worth, if it looks at pictures as the trained reward does?
#
# </details>
# <details><summary>Hint 2</summary>
#
# Section 3 knew something about A that no line of this page shows.
#
# </details>
# <details><summary>A model answer</summary>
#
# **Hacked**: stop. CLIP, a judge of another kind, falls, and the own prompt matters less: start anew with a hundredth of the reward_scale. **Healthy**: go on; CLIP and the margin do not fall, and the reward has risen. **Stale**: no
# sign of a hack *yet*, since the reward is weak; but its leash measures nothing, so stop it for the assistant's sake, and start anew with the right assistant_lr. I would still want to see the pictures that gained most, and people's votes: all rewards of this world share one CLIP.
#
# </details>
#
# In the miniature, and only there, we know what people want:

# %%
for name, panel in found.items():
    gold, faithful = (cells_of(panel[f"world:{judge}"])[2] for judge in ("gold", "faithful"))
    print(f"{name:8s} gold {gold}   share with all that the caption states {faithful}")

# %% [markdown]
# The page was right. The hacked run pays for its taste with captions: 13 of 100 pictures have lost what was asked for, and gold is back where it began. In D, which went on for longer, it fell.
# The stale run did no harm *yet* (0.19 to the healthy run's 0.17, intervals that overlap): its reward is weak. By the pencil its leash would not hold back a strong one.
#
# ## 5. Export, and load it elsewhere
#
# What is exported is the running average of the generator's weights, as a folder for diffusers, or with `--lora` as adapters. A **model card** is written beside it: method and formula, fingerprints, every value of the
# recipe, curves, licences, and with `--evaluation` what the judges said:

# %%
distar("export run exported --evaluation judged", last=5)
card = (folder / "exported" / "README.md").read_text("utf-8")
print(*[line for line in card.splitlines() if line.startswith("#")], sep="\n")

# %%
print(card.partition("## Evaluation")[2].partition("### Is it")[0].strip())

# %% [markdown]
# diffusers needs nothing of ours to draw with it: one step, at t = 399, without guidance.

# %%
one_step = {"num_inference_steps": 1, "timesteps": [399], "guidance_scale": 0.0, "output_type": "pt"}


def drawn_by_diffusers(path, texts):
    """A picture for each text, [P, 3, H, W] in [0, 1], by a pipeline folder."""
    with quiet():
        from diffusers import StableDiffusionXLPipeline

        pipeline = StableDiffusionXLPipeline.from_pretrained(path)
        pipeline.set_progress_bar_config(disable=True)
        pictures = [pipeline(text, generator=torch.Generator().manual_seed(7), **one_step).images[0] for text in texts]
    return torch.stack(pictures)


# %% tags=["figure"]
image_grid(
    drawn_by_diffusers(folder / "exported", asked[:4]),
    asked[:4],
    alt="Four pictures that the exported pipeline draws in one step, each under the caption that it was asked for.",
)

# %% [markdown]
# Before you publish: read the card's last sections, on licences and on what is not known. DMD2's generator is non-commercial, and so is all that starts from it.
#
# ## What you can now say
#
# 1. The slower of card and host sets the pace; I count before I rent, time ten steps, and stop and resume as I like, since a resumed run is the same run.
# 2. A log is read by pulls, gap and loss side by side, and with eyes on a panel. The reward rises in a hacked run, too, and a sign that says *fine* has limits from somewhere else.
# 3. Whether a gain is a hack is asked of judges that nobody trained on, on prompts that nobody trained on; the answer goes into the card.
#
# ## Quiz
#
# 1. Two cards cost the same an hour. One is three times as fast, and your step is launched kernel by kernel. Which do you take?
#    <details><summary>Answer</summary>Either: the host sets the pace. First make launching cheap, then buy speed.</details>
# 2. A queue takes your machine back after each hour. What does that cost in quality?
#    <details><summary>Answer</summary>Nothing. What comes from chance is a function of the step, so the resumed run is the same to the last bit.</details>
# 3. The gap of your run is the smallest that you have ever seen. Good news?
#    <details><summary>Answer</summary>Only if the assistant learns. One that is the reference sees guidance and nothing else. Did its gap move in the warm-up?</details>
# 4. A second reward of the trained one's family rises, CLIP falls. What do you believe?
#    <details><summary>Answer</summary>CLIP. Rewards of one family share blind spots, and the run has just been led into one.</details>
# 5. `distar watch` says *fine*. What has it not looked at?
#    <details><summary>Answer</summary>The pictures, other rewards, and whether its limits fit your model; those for SDXL are guesses.</details>
#
# ## Exercises
#
# 11.1 the bill (derive, checked) · 11.2 which log is which (predict) · 11.3 a reward of 21.7 (debug) · 11.4 at least so far from 0 (implement, checked) · 11.5 the lag under guidance (derive) · 11.6 go on
# or stop (explain)
#
# ## Where this comes from, and what next
#
# Diff-Instruct\*: arXiv 2410.20898. DMD2, whose generator the recipes start from: 2405.14867. PickScore: 2305.01569. Over-optimisation: Gao, Schulman and Hilton, 2210.10760. Model cards: Mitchell et al., 1810.03993. Recipes, signs, the
# rule of the page and all runs are ours; seconds of a step: `notebooks/records/sdxl_true_size.md`.
#
# Next: `docs/sdxl.md`, and a run of your own.
#
# Text and figures of this notebook: CC BY 4.0. Code: MIT.
