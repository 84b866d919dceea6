"""Pipeline folders and files of weights: what they say about themselves is honoured or refused, and nothing is loaded half."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..runs.weights import (
    check_end,
    check_merges,
    check_weights,
    in_one_line,
    read_json,
    read_weights,
    reading,
    refuse_misfits,
    refuse_not_finite,
    refuse_pointer,
)
from ..schedule import DiscreteSchedule, Prediction, scaled_linear_schedule

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

PIPELINE = "StableDiffusionXLPipeline"
CLASSES = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
}
"""The parts that are loaded, besides the scheduler, and the classes that each may have."""
DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS = ("diffusion_pytorch_model",), ("model", "pytorch_model")
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # either is enough
PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
SCHEDULE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no reports of diffusers and transformers inside, nor the complaint about them that their first
    import makes in a notebook without ipywidgets."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import diffusers
        import transformers

    logs = (diffusers.utils.logging, transformers.utils.logging)
    before = [(log.is_progress_bar_enabled(), log.get_verbosity()) for log in logs]
    for log in logs:
        log.disable_progress_bar()
        log.set_verbosity_error()
    try:
        yield
    finally:
        for log, (shown, verbosity) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if shown:
                log.enable_progress_bar()


def read_index(folder: Path) -> dict[str, Any]:
    """The model_index.json of an SDXL text-to-image pipeline.

    Raises:
        FileNotFoundError: if the folder is none or a part's folder is missing.
        ValueError: if it is of another kind of pipeline, or a part is absent or of a class that cannot be honoured.
    """
    if folder.is_file():
        raise FileNotFoundError(
            f"{folder} is no pipeline folder but a single file; convert it once with "
            f"{PIPELINE}.from_single_file(FILE).save_pretrained(FOLDER)"
        )
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{folder} is no pipeline folder: it has no model_index.json; name another folder, and download a hub's model "
            "into one first"
        )
    index = read_json(folder / "model_index.json")
    kind = index.get("_class_name")
    if kind != PIPELINE:
        raise ValueError(f"{folder} holds a {kind}, not a {PIPELINE}; name the folder of an SDXL text-to-image model")
    for name, classes in {"scheduler": (), **CLASSES}.items():
        said = index.get(name)
        library, used = said if isinstance(said, list) and len(said) == 2 else (None, None)
        if used is None:
            raise ValueError(f"{folder} has no {name} in its model_index.json; name a folder with all of SDXL's parts")
        if classes and (library not in ("diffusers", "transformers") or used not in classes):
            raise ValueError(f"{folder} has a {name} of class {library}.{used}; only {classes[0]} is supported")
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"pipeline folder {folder} lacks {name}; copy it again, whole")
    check_flag(folder / "model_index.json", index, "force_zeros_for_empty_prompt")
    return index


def check_flag(source: Path, said: Mapping[str, Any], key: str) -> None:
    """Raise ValueError if a key is there and neither true nor false, such as "false", which Python counts as true."""
    if not isinstance(said.get(key, False), bool):
        raise ValueError(f"{source} has {key} {said[key]!r}; write true or false, without quotation marks")


def is_number(value: Any) -> bool:
    """Whether what a JSON file says is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def are_numbers(values: Any, count: int) -> bool:
    """Whether what a JSON file says is a list of so many finite numbers."""
    return isinstance(values, list | tuple) and len(values) == count and all(map(is_number, values))


def read_configs(folder: Path) -> dict[str, dict[str, Any]]:
    """The configurations of the networks in a pipeline folder by part, with their classes' defaults filled in."""
    with quiet():
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from huggingface_hub.errors import StrictDataclassError
        from transformers import CLIPTextConfig

    found = {}
    for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL)):
        parameters = inspect.signature(kind.__init__).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        found[part] = defaults | read_json(folder / part / "config.json")
    for part in ("text_encoder", "text_encoder_2"):
        written = read_json(folder / part / "config.json")
        try:
            found[part] = CLIPTextConfig.from_dict(written).to_dict()
        except (StrictDataclassError, TypeError, ValueError) as error:
            raise ValueError(
                f"{folder / part / 'config.json'} is refused ({in_one_line(error)}); correct it"
            ) from error
    return found


def configs_of(pipeline: Any) -> dict[str, dict[str, Any]]:
    """What `read_configs` says of a folder, of a pipeline in memory."""
    networks = {part: dict(getattr(pipeline, part).config) for part in ("unet", "vae")}
    return networks | {part: getattr(pipeline, part).config.to_dict() for part in ("text_encoder", "text_encoder_2")}


def check_configs(configs: Mapping[str, Mapping[str, Any]], where: Any) -> None:
    """Raise ValueError, with part, key and value, for configurations that cannot be honoured, or do not fit each other."""
    unet, vae, first, second = (configs[part] for part in ("unet", "vae", "text_encoder", "text_encoder_2"))
    channels = vae["latent_channels"]
    width = first["hidden_size"] + second["hidden_size"]
    pooled = 6 * (unet["addition_time_embed_dim"] or 0) + second["projection_dim"]
    mean, std = vae["latents_mean"], vae["latents_std"]
    conditions = "SDXL conditions on a prompt and picture sizes alone"
    one_each = "mean and std go together, one finite number for each channel, and those of std are positive"
    rules: list[tuple[str, str, bool, str]] = [
        (
            "unet",
            "in_channels",
            unet["in_channels"] == channels,
            f"latents have {channels} (9 is an inpainting UNet's)",
        ),
        ("unet", "out_channels", unet["out_channels"] == channels, f"latents have {channels}"),
        ("unet", "addition_embed_type", unet["addition_embed_type"] == "text_time", "SDXL's is 'text_time'"),
        ("unet", "cross_attention_dim", unet["cross_attention_dim"] == width, f"the text encoders give {width}"),
        (
            "unet",
            "projection_class_embeddings_input_dim",
            unet["projection_class_embeddings_input_dim"] == pooled,
            f"a pooled prompt and six time ids give {pooled} (the refiner's UNet takes five)",
        ),
        *(
            ("unet", key, unet[key] is None, conditions)
            for key in ("class_embed_type", "num_class_embeds", "time_cond_proj_dim", "encoder_hid_dim_type")
        ),
        ("unet", "sample_size", type(unet["sample_size"]) is int, "one number is needed, for square pictures"),
        ("vae", "in_channels", vae["in_channels"] == 3, "pictures have 3"),
        ("vae", "out_channels", vae["out_channels"] == 3, "pictures have 3"),
        (
            "vae",
            "scaling_factor",
            is_number(vae["scaling_factor"]) and vae["scaling_factor"] > 0,
            "latents are divided by it, a finite positive number",
        ),
        (
            "vae",
            "shift_factor",
            not vae["shift_factor"],
            "diffusers' SDXL pipeline passes over it (write it as latents_mean, with latents_std 1, a number for each channel)",
        ),
        ("vae", "latents_mean", mean is None or (std is not None and are_numbers(mean, channels)), one_each),
        (
            "vae",
            "latents_std",
            std is None or (mean is not None and are_numbers(std, channels) and min(std) > 0),
            one_each,
        ),
        (
            "text_encoder_2",
            "max_position_embeddings",
            second["max_position_embeddings"] == first["max_position_embeddings"],
            f"text_encoder's is {first['max_position_embeddings']}",
        ),
    ]
    for part, key, holds, why in rules:
        if not holds:
            raise ValueError(
                f"{where} cannot be used: {part}'s {key} is {configs[part][key]!r}, but {why}; use an SDXL text-to-image model"
            )


def diffusion_of(scheduler: Any, written: Mapping[str, Any] | None = None) -> tuple[DiscreteSchedule, Prediction]:
    """The noise schedule and what the network predicts, as a diffusers scheduler says.

    The table is the cumulative product of 1 − β in float64. Times at which no signal is left (the last one, where
    rescale_betas_zero_snr is on) have no x_0 and no score; the table ends before them.

    Args:
        written: the scheduler's configuration as the file has it, with keys that its class may not know.

    Raises:
        ValueError: for a diffusion that is no discrete variance-preserving one, or an unknown prediction type.
    """
    name, config = type(scheduler).__name__, scheduler.config
    known = inspect.signature(type(scheduler).__init__).parameters
    for key, value in (written or {}).items():
        if key in SCHEDULE_KEYS and key not in known and value not in (None, False, "epsilon"):
            raise ValueError(f"scheduler's {key} is {value!r}, but {name} does not know it; use another scheduler")
    if config.get("timestep_type") == "continuous":
        raise ValueError(
            f"scheduler's timestep_type is 'continuous' ({name}), but the network's times must be integers"
        )
    if config.get("use_flow_sigmas") or not (hasattr(scheduler, "betas") and hasattr(scheduler, "alphas_cumprod")):
        raise ValueError(
            f"scheduler {name} has no table of noise levels (flow matching and EDM have none), and SDXL's diffusion is "
            "discrete; use a model that was trained so, with a scheduler such as EulerDiscreteScheduler"
        )
    predicted = config.get("prediction_type", "epsilon")
    if predicted not in PREDICTIONS:
        raise ValueError(f"scheduler's prediction_type is {predicted!r}; known are {', '.join(PREDICTIONS)}")
    betas = scheduler.betas.double()
    if not bool(((betas > 0) & (betas <= 1)).all()):
        raise ValueError(
            f"scheduler's betas run from {float(betas.min()):g} to {float(betas.max()):g}; they must lie in (0, 1]"
        )
    if len(betas) != config["num_train_timesteps"]:
        raise ValueError(
            f"scheduler's num_train_timesteps is {config['num_train_timesteps']}, but it has {len(betas)} betas; correct one"
        )
    power = (1 - betas).cumprod(0)
    if len(with_signal := power[power > 0]) < 2:
        raise ValueError(f"scheduler's betas leave signal at {len(with_signal)} of {len(power)} times; two are needed")
    if float((power - scheduler.alphas_cumprod.double()).abs().max()) > 1e-4:
        raise ValueError(f"scheduler {name} has alphas_cumprod that are no product of its betas; use another scheduler")
    schedule = DiscreteSchedule(with_signal)
    plain = config.get("trained_betas") is None and not config.get("rescale_betas_zero_snr")
    if plain and config["beta_schedule"] == "scaled_linear":  # the same table without diffusers' rounding to float32
        schedule = scaled_linear_schedule(config["beta_start"], config["beta_end"], config["num_train_timesteps"])
    return schedule, PREDICTIONS[predicted]


def load_scheduler(folder: Path, kind: str) -> Any:
    """The scheduler in a folder, of a class of diffusers. Raises ValueError as `diffusion_of`."""
    with quiet():
        import diffusers

    written = read_json(folder / "scheduler_config.json")
    check_flag(folder / "scheduler_config.json", written, "rescale_betas_zero_snr")
    found = getattr(diffusers, kind, None)
    if not (isinstance(found, type) and issubclass(found, diffusers.SchedulerMixin)):
        raise ValueError(f"{folder} has a scheduler of class {kind}, which diffusers does not know; use one of its own")
    try:
        with quiet():
            scheduler = found.from_config(written)  # type: ignore[attr-defined]
    except (NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder} cannot be used by {kind} ({' '.join(str(error).split())[:100]}); correct it"
        ) from error
    try:
        diffusion_of(scheduler, written)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    return scheduler


def check_same_diffusion(reference: Any, folder: Path) -> None:
    """Raise ValueError unless the scheduler of a pipeline folder states the same diffusion as the reference's scheduler does.

    Its class may be another: it does not draw, but says how its UNet's output is read.
    """
    other = load_scheduler(folder / "scheduler", read_index(folder)["scheduler"][1])
    (ours, prediction), (theirs, predicted) = diffusion_of(reference), diffusion_of(other)
    if predicted != prediction:
        raise ValueError(
            f"{folder} has a UNet that predicts {predicted!r}, but the reference's predicts {prediction!r}; name a generator "
            "of the reference's kind"
        )
    last = min(ours.high, theirs.high)
    mine, its = (schedule.alpha(torch.arange(last + 1)) for schedule in (ours, theirs))
    apart, time = (mine - its).abs().max(0)
    if ours.high != theirs.high or apart > 1e-4:
        raise ValueError(
            f"{folder} has a noise table of {theirs.high + 1} times with alpha_{time} = {its[time]:.4f}, but the reference's "
            f"has {ours.high + 1} with {mine[time]:.4f}; name a generator of the reference's kind"
        )


def _refuse_pointers(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_file():
            refuse_pointer(path)


def load_tokenizer(folder: Path, vocabulary: int, positions: int, end: Any) -> Any:
    """The CLIP tokenizer in a folder.

    Args:
        vocabulary, positions: number of tokens and length of a prompt that its text encoder has embeddings for.
        end: its text encoder's eos_token_id; see check_end.

    Raises:
        FileNotFoundError: if a file of it is missing.
        ValueError: if it does not fit its text encoder, or is damaged.
    """
    if not any(all((folder / file).is_file() for file in files) for files in TOKENIZER_FILES):
        needed = " or ".join(" and ".join(files) for files in TOKENIZER_FILES)
        raise FileNotFoundError(f"{folder} lacks {needed}; copy it again, whole")
    _refuse_pointers(folder)
    with quiet(), reading(folder):
        from transformers import CLIPTokenizer

        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) != vocabulary:
        raise ValueError(
            f"{folder} has {len(tokenizer)} tokens, but its text encoder embeds {vocabulary}; copy both from one model"
        )
    check_merges(folder, tokenizer)
    if tokenizer.model_max_length > positions:
        raise ValueError(
            f"{folder} has model_max_length {tokenizer.model_max_length:g}, but its text encoder has {positions} positions; "
            "correct tokenizer_config.json"
        )
    check_end(folder, tokenizer, end)
    return tokenizer


def _variant(folder: Path, stems: Collection[str]) -> str | None:
    """Which variant of weights to load: None for the plain ones, or "fp16" and the like where there are no others.

    Raises FileNotFoundError if there are no weights.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    names = [path.name for path in files]
    endings = ("safetensors", "safetensors.index.json", "bin", "bin.index.json")
    if not any(f"{stem}.{ending}" in names for stem in stems for ending in endings):
        pattern = rf"(?:{'|'.join(stems)})\.(?:(\w+)\.(?:safetensors|bin)|(?:safetensors|bin)\.index\.(\w+)\.json)"
        variants = [match[1] or match[2] for name in names if (match := re.fullmatch(pattern, name))]
        if not variants:
            raise FileNotFoundError(
                f"{folder} has no weights such as {next(iter(stems))}.safetensors; copy it again, whole"
            )
        return "fp16" if "fp16" in variants else variants[0]
    return None


def _load_network(kind: Any, folder: Path, stems: Collection[str], dtype: torch.dtype) -> Any:
    """A network of diffusers or transformers from its folder, whole, frozen and in evaluation mode."""
    variant = _variant(folder, stems)
    _refuse_pointers(folder)
    options = {"torch_dtype" if stems == DIFFUSERS_WEIGHTS else "dtype": dtype}
    with quiet(), reading(folder):
        network, found = kind.from_pretrained(
            folder,
            variant=variant,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are told by name
            **options,
        )
    refuse_misfits(
        folder,
        missing=found["missing_keys"],
        unexpected=found["unexpected_keys"],
        misshapen=[name for name, *_ in found["mismatched_keys"]],
    )
    refuse_not_finite(folder, network.state_dict())
    return network.requires_grad_(False).eval()


def load_pipeline(
    folder: Path | str, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> StableDiffusionXLPipeline:
    """The StableDiffusionXLPipeline in a folder, frozen. What its files say is honoured or refused before weights are read.

    Where there are only weights of a variant such as fp16, these are loaded. An autoencoder whose configuration says
    force_upcast stays in single precision where float16 is asked for, as in diffusers.

    Raises:
        FileNotFoundError: if the folder is none or a part or file is missing; the message names it.
        ValueError: if a file is damaged, does not fit, or asks for what cannot be honoured.
    """
    folder = Path(folder)
    index, configs = read_index(folder), read_configs(folder)
    check_configs(configs, folder)
    scheduler = load_scheduler(folder / "scheduler", index["scheduler"][1])
    tokenizers = {
        tokenizer: load_tokenizer(
            folder / tokenizer,
            *(configs[encoder][key] for key in ("vocab_size", "max_position_embeddings", "eos_token_id")),
        )
        for tokenizer, encoder in (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
    }
    first, second = (tokenizer.model_max_length for tokenizer in tokenizers.values())
    if first != second:
        raise ValueError(f"{folder} has tokenizers with model_max_length {first} and {second}; both must be the same")
    with quiet():
        from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection
    upcast = dtype == torch.float16 and configs["vae"]["force_upcast"]
    networks = {
        name: _load_network(kind, folder / name, stems, kept)
        for name, kind, stems, kept in (
            ("vae", AutoencoderKL, DIFFUSERS_WEIGHTS, torch.float32 if upcast else dtype),
            ("text_encoder", CLIPTextModel, TRANSFORMERS_WEIGHTS, dtype),
            ("text_encoder_2", CLIPTextModelWithProjection, TRANSFORMERS_WEIGHTS, dtype),
            ("unet", UNet2DConditionModel, DIFFUSERS_WEIGHTS, dtype),
        )
    }
    with quiet():
        pipeline = StableDiffusionXLPipeline(
            **networks,
            **tokenizers,
            scheduler=scheduler,
            force_zeros_for_empty_prompt=index.get("force_zeros_for_empty_prompt", True),
            add_watermarker=False,
        )
        return pipeline.to(device)


def load_unet(
    path: Path | str,
    *,
    config_of: Path | str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Any:
    """A UNet2DConditionModel, whole, frozen and in evaluation mode.

    Args:
        path: a folder with config.json and weights, a pipeline folder, or a bare file of weights, .safetensors or what
            torch.save wrote, such as DMD2's .bin.
        config_of: for a bare file: a UNet's or a pipeline's folder whose configuration the network has.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, weights do not fit the network by name and shape, or a bare file comes without
            config_of.
    """
    path = Path(path)
    with quiet():
        from diffusers import UNet2DConditionModel
    if path.is_dir():
        folder = _unet_folder(path)
        return _load_network(UNet2DConditionModel, folder, DIFFUSERS_WEIGHTS, dtype).to(device)
    weights = read_weights(path)
    if config_of is None:
        raise ValueError(f"{path} does not say what network its weights are of; name a folder of its kind in config_of")
    written = read_json(_unet_folder(Path(config_of)) / "config.json")
    with quiet(), torch.device("meta"):  # nothing is drawn at random, and no memory taken twice
        unet = UNet2DConditionModel.from_config(written)
    check_weights(path, weights, unet.state_dict())
    with reading(path):
        unet.load_state_dict(weights, strict=True, assign=True)
    with quiet():
        unet = unet.to(device, dtype).requires_grad_(False).eval()
    refuse_not_finite(path, unet.state_dict())
    return unet


def _unet_folder(folder: Path) -> Path:
    """The folder of a UNet: the given one, or that in a pipeline's folder. Raises FileNotFoundError without config.json."""
    found = folder / "unet" if (folder / "model_index.json").is_file() else folder
    if not (found / "config.json").is_file():
        raise FileNotFoundError(
            f"{found} has no config.json; name a folder that UNet2DConditionModel.save_pretrained made"
        )
    return found
