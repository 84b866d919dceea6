"""The model card of an export, README.md beside it: what it is, how it was made, what came of it, and what it may be used for.

Everything is read from the run's folder and its recipe; nothing is drawn or measured anew.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..evaluation.harness import read_finished
from ..evaluation.report import Writer, panel_table, panels_of_table
from ..evaluation.summary import scorers_of, summarise
from ..evaluation.tables import Table, markdown_table
from ..extras import installed_version
from ..figures.charts import Axis, Line, lines
from ..figures.picture import Picture
from ..figures.runs import TERMS
from ..losses import PseudoHuber, integral_kl, score_divergence, weight_dmd, weight_one, weight_x0
from ..methods import Method
from ..rewards.published import find_reward
from ..runs.hub import named
from ..runs.logs import COLUMNS, numbers_in, rows_before
from ..runs.settings import write_yaml
from ..templates import fill
from . import T_STAR
from .published import LICENCES, Origin
from .recipe import PictureRecipe, SdxlRecipe

CARD, CURVES = "README.md", "curves.png"
CALL = f"num_inference_steps=1, timesteps=[{T_STAR}], guidance_scale=0.0"
"""How any of diffusers' pipelines draws with a one-step generator."""
PACKAGES = ("torch", "diffusers", "transformers", "peft")
PART_OF_RUN = 10
"""The run's numbers at its start and end are means over so many parts of its steps: a tenth each."""
WEIGHTS: dict[Callable[..., Any], str] = {
    weight_one: "",
    weight_x0: r"\tfrac{\sigma_t^2}{\alpha_t^2}",
    weight_dmd: r"\tfrac{\sigma_t^2}{\alpha_t^2\,\mathrm{mean}|x_0-\hat x_{\mathrm{ref}}|}",
}
UNITS = {"score": "", "eps": r"\sigma_t", "x0": r"\tfrac{\sigma_t^2}{\alpha_t}"}


def origin_of(role: str, source: str) -> Origin:
    """Of a model that a recipe names: on the hub, or a path on the disk."""
    hub = named(source)
    if hub is None:
        return Origin(role, Path(source).name, None, None)
    return Origin(role, "/".join(part for part in hub[:2] if part), hub.url, LICENCES.get(hub.name))


def origins_of(recipe: SdxlRecipe) -> list[Origin]:
    """Reference, generator, autoencoder and rewards of a recipe, those that it names."""
    found = [origin_of("reference", recipe.reference), origin_of("one-step generator at the start", recipe.generator)]
    if recipe.vae is not None:
        found.append(origin_of("autoencoder", recipe.vae))
    for name in recipe.reward.root if recipe.rewarded else ():
        reward = find_reward(name)
        found.append(Origin(f"reward {name}", reward.source, None, reward.licence, inside=False))
    return found


def formula(method: Method) -> str:
    """What the generator's gradient is that of, in LaTeX: the mean over z, c, t and ε of the method's terms."""
    target, terms, weight = r"s_{\mathrm{ref}}", [], WEIGHTS[method.weight]
    if method.reward_at == "sample" and method.reward_scale:
        terms.append(rf"-{method.reward_scale:g}\,r(x_0,c)")
    if method.regularizer is integral_kl:
        terms.append(rf"+{weight}\mathrm{{sg}}[s_\psi-{target}]^\top x_t")
    elif method.regularizer is score_divergence:
        unit = UNITS[str(method.unit)]
        terms.append(rf"-{weight}{unit}\,d'({unit}(s_\psi-{target}))^\top(s_\psi+\varepsilon/\sigma_t)")
    if method.guides and method.guidance == "outside":
        terms.append(rf"-{method.cfg_scale:g}\,{weight}\mathrm{{sg}}[s_c-s_\varnothing]^\top x_t")
    return rf"\mathbb E\big[{' '.join(terms).lstrip('+')}\big]"


def where(method: Method) -> list[str]:
    """What stands for what in `formula`, a phrase each."""
    said = []
    if method.regularizer is not None:
        said.append(
            r"$x_t=\alpha_t x_0+\sigma_t\varepsilon$, $s_\psi$ the assistant's score, $\mathrm{sg}[\cdot]$ held constant"
        )
        plain = "$s_c$, the reference's score with the prompt"
        if method.guides and method.guidance == "inside":
            plain = (
                rf"$s_c+{method.cfg_scale:g}\,(s_c-s_\varnothing)$, the reference's score guided away from that without "
                "a prompt"
            )
        elif method.guides:
            plain += r", and $s_\varnothing$ that without one"
        if method.reward_at == "every_level_by_proxy" and method.reward_scale:
            plain += (
                rf", plus ${method.reward_scale:g}\,\nabla_{{x_t}} r(\hat x_0(x_t),c)$, the reward's gradient at what the "
                "reference makes of $x_t$"
            )
        said.append(rf"$s_{{\mathrm{{ref}}}}$ is {plain}")
    if isinstance(method.distance, PseudoHuber):
        said.append(rf"$d'(y)=y/\sqrt{{\|y\|^2+c^2}}$ with $c={method.distance.c:g}$ (pseudo-Huber)")
    return said


def without_place(text: str) -> str:
    """A path on this disk by its last part; any other text as it is."""
    return Path(text).name if Path(text).is_absolute() else text


def public(recipe: PictureRecipe) -> dict[str, Any]:
    """The keys of a recipe with their values, of paths on this disk the last part alone: a card is read by others."""

    def shown(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shown(one) for key, one in value.items()}
        return without_place(value) if isinstance(value, str) else value

    return {key: shown(value) for key, value in recipe.written.items()}


Log = Sequence[Mapping[str, float]]


def read_log(run: Path, done: int) -> Log:
    """The steps before `done` in a run's log that moved the generator, numbers by column; empty if there is no log as it was
    written. Later ones are of a generator that was not saved.
    """
    try:
        rows = rows_before(done, run / "log.csv")
    except (OSError, ValueError):
        return []
    return [numbers_in(row) for row in rows if int(row["step"]) >= 0]


def columns_of(log: Log) -> dict[str, str]:
    """The columns that tell how a run went, and what to call them: reward, gap and pulls, those that it has."""
    known = {"reward": "reward", "gap_norm": "gap, ‖σ (s_ψ − s_ref)‖"}
    known |= {name: f"pull of the {TERMS[name]}" for name in COLUMNS if name in TERMS}
    return {name: words for name, words in known.items() if log and name in log[0]}


def curves(log: Log) -> Picture | None:
    """Reward, pulls and gap over the steps of a run; None where there is no log."""
    names = columns_of(log)
    if not names:
        return None
    steps = [row["step"] for row in log]

    def line(name: str) -> Line:
        return Line(names[name], steps, [row[name] for row in log])

    pulls = [name for name in names if name.startswith("pull_")]
    floor = log[0].get("gap_floor")
    panels: dict[str, tuple[list[Line], Axis]] = {}
    if "reward" in names:
        panels["reward"] = [line("reward")], Axis("mean over the batch")
    panels["pulls"] = [line(name) for name in pulls], Axis("norm, mean over the batch", log=True)
    if "gap_norm" in names:
        guides = (floor,) if floor else ()
        panels["gap"] = [line("gap_norm")], Axis("norm, mean over the batch", guides=guides)
    told = "; ".join(f"{names[name]} from {log[0][name]:.3g} to {log[-1][name]:.3g}" for name in names)
    alt = f"Curves over {len(log)} steps of the generator, first and last value: {told}."
    content = {title: drawn for title, (drawn, _) in panels.items()}
    return lines(content, alt=alt, xlabel="step", ylabel=[axis for _, axis in panels.values()])


def start_and_end(log: Log) -> Table:
    """Means over the first and the last part of a run's steps, a row for each of `columns_of`."""
    part = max(len(log) // PART_OF_RUN, 1)
    words = "step" if part == 1 else f"{part} steps"
    rows = [["mean over the batch", f"first {words}", f"last {words}"]]
    for name, title in columns_of(log).items():
        ends = (log[:part], log[-part:])
        rows.append([title, *(f"{sum(row[name] for row in end) / part:.4g}" for end in ends)])
    return rows


def evaluated(folder: Path, own: Collection[Path], weights: Callable[[str], Collection[str]]) -> dict[str, Any]:
    """What the evaluation in a folder says, as facts for a card: tables of its summary, its panels of hacking if it has some,
    and what this model is called there.

    A model is this one if it drew with these weights, wherever they lay; one whose type is not told, if it lay where this one is.

    Args:
        own: where this model is: its run, and its export.
        weights: by the type in which an evaluation computed, the digests that it has of these weights.

    Raises:
        FileNotFoundError, ValueError: as harness.read_finished and report.panels_of_table; ValueError if none of its models is this
            one, also where one lay there and had other weights.
    """
    models, rows = read_finished(folder)
    places = {path.resolve() for path in own}
    there = {
        name
        for name, settings in models.items()
        if places & {Path(settings[key]).resolve() for key in ("source", "lora") if key in settings}
    }
    drew = {row["model"]: row["weights"] for row in rows}
    types = {name: re.match(r"in (\w+) on ", settings.get("computes", "")) for name, settings in models.items()}
    known = {dtype: weights(dtype) for dtype in {match[1] for match in types.values() if match}}

    def is_this(name: str) -> bool:
        match = types[name]
        return name in there if match is None else drew[name] in known[match[1]]

    found = [name for name in models if is_this(name)]
    if not found and there:
        raise ValueError(
            f"the evaluation in {folder} is of {' and '.join(sorted(there))} with other weights than are exported now; evaluate "
            "this model again, in another folder, or leave out --evaluation"
        )
    if not found:
        sources = ", ".join(f"{name} ({settings.get('source')})" for name, settings in models.items())
        raise ValueError(
            f"the evaluation in {folder} is of {sources}, and none of these is {' or '.join(map(str, own))}; evaluate this "
            "model first, or leave out --evaluation"
        )
    rewards = scorers_of(rows)
    writer = Writer({scorer: _factor(scorer) for scorer in rewards})
    sets = [
        {
            "name": one.name,
            "prompts": one.prompts,
            "seeds": one.seeds,
            "first": one.models[0],
            "means": writer.means(one),
            "gaps": writer.gaps(one) if one.gaps else [],
        }
        for one in summarise(rows)
    ]
    drawn = [["model", "draws"], *([name, settings.get("draws", "")] for name, settings in models.items())]
    panels = [panel for panel in panels_of_table(folder) if panel.model in found]
    return {
        "own": " and ".join(found),
        "sets": sets,
        "rewards": rewards,
        "models": drawn,
        "panels": [{"verdict": panel.verdict, "table": panel_table(panel)} for panel in panels],
        "alarm": any(panel.is_alarm for panel in panels),
    }


def _factor(scorer: str) -> float:
    try:
        return find_reward(scorer).factor
    except ValueError:
        return 1.0


def loading_lines(
    recipe: PictureRecipe,
    folder: str,
    *,
    lora: bool,
    model: str = "world.models import load_world",
    place: Callable[[str], str] = str,
) -> list[str]:
    """The Python lines that load an export as a pipeline of diffusers.

    Args:
        folder: of the export, as it is to be written.
        model: of a LoRA whose recipe does not name its model: what in distar_core loads that.
        place: how the models that a recipe names are written.
    """
    if not lora:
        return [
            "from diffusers import StableDiffusionXLPipeline",
            f"pipeline = StableDiffusionXLPipeline.from_pretrained({folder!r})",
        ]
    start = f"{model.rpartition(' ')[2]}()"
    if isinstance(recipe, SdxlRecipe):
        model = "sdxl.models import load_text_to_image"
        options = [f"generator={place(recipe.generator)!r}"]
        options += [] if recipe.vae is None else [f"vae={place(recipe.vae)!r}"]
        options += [] if recipe.variant is None else [f"variant={recipe.variant!r}"]
        start = f"load_text_to_image({place(recipe.reference)!r}, {', '.join(options)})"
    return [
        f"from distar_core.{model}",
        "from distar_core.sdxl.export import load_lora",
        f"pipeline = load_lora({start}.one_step_pipeline(), {folder!r})",
    ]


def drawing_line(prompt: str) -> str:
    """The Python line that draws a picture with a loaded pipeline."""
    return f"picture = pipeline({prompt!r}, {CALL}).images[0]"


def front_matter(recipe: PictureRecipe, origins: Sequence[Origin], *, lora: bool) -> str:
    """The YAML that the hub reads: the licence, what it was made from, and how it is found."""
    from huggingface_hub import ModelCardData

    inside = [origin for origin in origins if origin.inside]
    licences = list(dict.fromkeys(origin.terms for origin in inside))
    told: dict[str, Any] = {"license": "unknown"}
    if None not in licences:
        tags = [licence.tag for licence in licences if licence]
        several = {"license": "other", "license_name": "-and-".join(tags), "license_link": f"{CARD}#licences"}
        told = {"license": tags[0]} if len(tags) == 1 else several
    on_hub = [hub.name for origin in inside if origin.url and (hub := named(origin.name)) is not None]
    tags = ["text-to-image", "one-step", recipe.method_name.replace("*", "-star"), *(["lora"] if lora else [])]
    if on_hub:
        told |= {"base_model": on_hub}
    return ModelCardData(library_name="diffusers", pipeline_tag="text-to-image", tags=tags, **told).to_yaml()


def write_card(
    folder: Path,
    run: Path,
    recipe: PictureRecipe,
    origins: Sequence[Origin],
    *,
    done: int,
    lora: bool,
    fingerprint: str,
    pixels: int,
    prompt: str,
    evaluation: Mapping[str, Any] | None = None,
) -> None:
    """Write README.md, and the picture that it shows, beside an export.

    Args:
        folder: of the export.
        run: of the run, with its log and its configuration.
        done: how many steps of the generator it has made.
        fingerprint: of the exported generator's weights, or of the LoRA's file.
        pixels: of a side of its pictures.
        prompt: for the example.
        evaluation: what `evaluated` found; None where there is none.
    """
    log = read_log(run, done)
    picture = curves(log)
    if picture is not None:
        picture.save(folder / CURVES)
    configuration = json.loads((run / "config.json").read_text("utf-8"))
    prints = [
        ["weights", "fingerprint"],
        *(
            [words, configuration[key]]
            for key, words in {
                "unet": "the reference's UNet",
                "start": "the generator's, at the start",
                "vae": "autoencoder",
                "text_encoder": "first text encoder",
                "text_encoder_2": "second text encoder",
                "judge": "reward",
                "prompts": "the prompts",
            }.items()
            if key in configuration
        ),
        ["this LoRA's file" if lora else "this generator", fingerprint],
    ]
    inside = [origin for origin in origins if origin.inside]
    text = fill(
        "distar_core.sdxl",
        "card.md.j2",
        front=front_matter(recipe, origins, lora=lora),
        title=folder.resolve().name,
        recipe=recipe,
        method=recipe.method,
        formula=formula(recipe.method),
        where=where(recipe.method),
        rewarded=recipe.method.reward_scale,
        lora=lora,
        pixels=pixels,
        done=done,
        loading=[*loading_lines(recipe, folder.resolve().name, lora=lora, place=without_place), drawing_line(prompt)],
        origins=[[one.role, f"[{one.name}]({one.url})" if one.url else one.name, one.licence_words] for one in origins],
        fingerprints=prints,
        curves=CURVES if picture is not None else None,
        alt="" if picture is None else picture.alt,
        ends=start_and_end(log) if picture is not None else [],
        keys=write_yaml(public(recipe)),
        evaluation=evaluation,
        licences=list(dict.fromkeys(one.terms for one in inside if one.terms)),
        closed=[one for one in inside if one.terms and not one.terms.commercial],
        unknown=[one for one in inside if one.terms is None],
        outside=[one for one in origins if not one.inside],
        made={"distar-core": version("distar-core")} | {name: installed_version(name) for name in PACKAGES},
        markdown=markdown_table,
    )
    (folder / CARD).write_text(text, "utf-8")
