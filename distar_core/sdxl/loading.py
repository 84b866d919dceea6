"""Pipeline folders and files of weights: what they say about themselves is honoured or refused, and nothing is loaded half."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..runs.hub import named
from ..runs.weights import (
    check_end,
    check_merges,
    check_weights,
    in_one_line,
    read_json,
    reading,
    refuse_misfits,
    refuse_not_finite,
    refuse_pointer,
)
from ..schedule import DiscreteSchedule, Prediction, scaled_linear_schedule
from .files import (
    DIFFUSERS_WEIGHTS,
    SINGLE_FILES,
    TRANSFORMERS_WEIGHTS,
    Place,
    is_original,
    place_of,
    stored,
    weight_files,
)

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
NETWORKS = {
    "vae": DIFFUSERS_WEIGHTS,
    "text_encoder": TRANSFORMERS_WEIGHTS,
    "text_encoder_2": TRANSFORMERS_WEIGHTS,
    "unet": DIFFUSERS_WEIGHTS,
}
"""The parts that have weights, and how the names of their files begin."""
SMALL = ("model_index.json", *(f"{part}/*{end}" for part in (*CLASSES, "scheduler") for end in (".json", ".txt")))
"""The files, as patterns, in which a pipeline folder says all about itself but its weights."""
SMALL_OF_NETWORK = ("config.json", *(f"{stem}*.json" for stem in DIFFUSERS_WEIGHTS))
"""The same of the folder of one network."""
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
    if folder.is_file() or folder.suffix in SINGLE_FILES:
        raise FileNotFoundError(f"{folder} is no pipeline folder but a single file; {remedy_for(folder)}")
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{folder} is no pipeline folder: it has no model_index.json; name another folder, or a model of the hub as "
            "owner/name"
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


def remedy_for(file: Path) -> str:
    """What to do with a single file in place of a pipeline folder: convert it, or name it where a UNet belongs."""
    whole = not file.is_file() or file.suffix not in (".safetensors", ".bin") or is_original(stored([file]))
    if whole:
        return f"convert it once with {PIPELINE}.from_single_file(FILE).save_pretrained(FOLDER)"
    return "it holds the weights of one network, so name the pipeline's folder, and this file as the generator"


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

    found = {
        part: _read_config(kind, folder / part / "config.json")
        for part, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL))
    }
    for part in ("text_encoder", "text_encoder_2"):
        written = read_json(folder / part / "config.json")
        refuse_quantization(folder / part / "config.json", written)
        try:
            found[part] = CLIPTextConfig.from_dict(written).to_dict()
        except (StrictDataclassError, TypeError, ValueError) as error:
            raise ValueError(
                f"{folder / part / 'config.json'} is refused ({in_one_line(error)}); correct it"
            ) from error
    return found


def _read_config(kind: Any, path: Path) -> dict[str, Any]:
    """The configuration of a network of diffusers, with its class's defaults filled in."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    written = read_json(path)
    refuse_quantization(path, written)
    return {p.name: p.default for p in parameters if p.default is not p.empty} | written


def refuse_quantization(path: Path, config: Mapping[str, Any]) -> None:
    """Raise ValueError for the configuration of a network that is stored quantized, by bitsandbytes or torchao, say."""
    if said := config.get("quantization_config"):
        kind = said.get("quant_method", said) if isinstance(said, dict) else said
        raise ValueError(
            f"{path} says that its weights are quantized ({str(kind)[:60]}), which cannot be post-trained; use a folder in "
            "float16, bfloat16 or float32"
        )


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


@dataclass(frozen=True)
class StoredUNet:
    """A UNet on the disk: looked at, fits, not read yet. It is there to be loaded once.

    Attributes:
        source: where it comes from, for messages.
        files: of its weights.
        network: without weights, on the meta device.
        weights: views of the files.
        pipeline: the folder of the pipeline that it is in, if it is in one.
    """

    source: str
    files: tuple[Path, ...]
    network: Any
    weights: Mapping[str, Tensor]
    pipeline: Path | None = None

    def load(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Any:
        """The network, whole, frozen and in evaluation mode. Raises ValueError for weights that are not finite."""
        with reading(Path(self.source)):
            self.network.load_state_dict(self.weights, strict=True, assign=True)
        with quiet():
            unet = self.network.to(dtype).requires_grad_(False).eval()
        refuse_not_finite(self.source, unet.state_dict())
        unet.stored_in = self.files
        return unet.to(device)


def find_unet(
    path: Path | str | Place, *, config_of: Path | str | None = None, variant: str | None = None
) -> StoredUNet:
    """A UNet as `load_unet` takes it, held to its configuration by names, shapes and types before a weight is read."""
    small = (*SMALL, *SMALL_OF_NETWORK)
    place = path if isinstance(path, Place) else place_of(path, small)
    pipeline = config = None
    if place.folder.is_dir():
        if (place.folder / "model_index.json").is_file():
            pipeline, place = place.folder, place.inside("unet")
        config = _config_of_unet(place.folder)
        _, files = weight_files(place, DIFFUSERS_WEIGHTS, variant)
    else:
        files = [place.folder]
        if config_of is not None:
            config = _config_of_unet(_unet_folder(place_of(config_of, small).folder))
    weights = stored(files)
    if is_original(weights):
        raise ValueError(
            f"{place} holds all networks of a model in one file; {remedy_for(place.folder)}, and name that"
        )
    if config is None:
        raise ValueError(
            f"{place} does not say what network its weights are of; name a folder of its kind in config_of"
        )
    with quiet(), torch.device("meta"):  # nothing is drawn at random, and no memory taken twice
        from diffusers import UNet2DConditionModel

        network = UNet2DConditionModel.from_config(config)
    check_weights(str(place), weights, network.state_dict())
    return StoredUNet(str(place), tuple(files), network, weights, pipeline)


def load_unet(
    path: Path | str,
    *,
    config_of: Path | str | None = None,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Any:
    """A UNet2DConditionModel, whole, frozen and in evaluation mode.

    Args:
        path: a folder with config.json and weights, a pipeline folder, or a bare file of weights, .safetensors or what
            torch.save wrote; or what is one of these on the hub: owner/name, owner/name/folder or owner/name/file, such as
            tianweiy/DMD2/dmd2_sdxl_1step_unet_fp16.bin.
        config_of: for a bare file: a UNet's or a pipeline's folder whose configuration the network has.
        variant: of a folder's weights, see load_pipeline.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged or quantized, weights do not fit the network by name and shape, or a bare file comes
            without config_of.
    """
    return find_unet(path, config_of=config_of, variant=variant).load(dtype, device)


def _unet_folder(folder: Path) -> Path:
    """The folder of a UNet: the given one, or that in a pipeline's folder."""
    return folder / "unet" if (folder / "model_index.json").is_file() else folder


def _config_of_unet(folder: Path) -> dict[str, Any]:
    """The configuration in a UNet's folder. Raises FileNotFoundError without config.json."""
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json; name a folder that UNet2DConditionModel.save_pretrained made"
        )
    config = read_json(folder / "config.json")
    refuse_quantization(folder / "config.json", config)
    return config


@dataclass(frozen=True)
class StoredNetwork:
    """A network of diffusers or transformers in a folder: its files are there and not quantized; not read yet."""

    kind: Any
    folder: Path
    variant: str | None
    files: tuple[Path, ...]

    def load(self, dtype: torch.dtype) -> Any:
        """The network, whole, frozen and in evaluation mode."""
        with quiet(), reading(self.folder):
            network, found = self.kind.from_pretrained(
                self.folder,
                variant=self.variant,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are told by name
                **{"torch_dtype" if self.kind.__module__.startswith("diffusers.") else "dtype": dtype},
            )
        refuse_misfits(
            self.folder,
            missing=found["missing_keys"],
            unexpected=found["unexpected_keys"],
            misshapen=[name for name, *_ in found["mismatched_keys"]],
        )
        refuse_not_finite(self.folder, network.state_dict())
        network.stored_in = self.files
        return network.requires_grad_(False).eval()


def _find_network(kind: Any, place: Place, part: str, variant: str | None) -> StoredNetwork:
    chosen, files = weight_files(place, NETWORKS[part], variant)
    stored(files)
    return StoredNetwork(kind, place.folder, chosen, tuple(files))


@dataclass(frozen=True)
class DescribedPipeline:
    """What a pipeline folder says about itself, and it can be honoured; of its weights nothing is known yet.

    Attributes:
        place, vae_place: where it is, and its autoencoder; of what is on the hub only small files are fetched.
        index, configs: see read_index and read_configs; the autoencoder's is that of the vae.
        scheduler, tokenizers: loaded.
        dtype, types: in which the networks are to compute, and those of them that compute in another.
    """

    place: Place
    vae_place: Place
    index: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    scheduler: Any
    tokenizers: Mapping[str, Any]
    dtype: torch.dtype
    types: Mapping[str, torch.dtype]

    @property
    def folder(self) -> Path:
        return self.place.folder


@dataclass(frozen=True)
class StoredPipeline(DescribedPipeline):
    """A pipeline folder whose files of weights are there and whole; not read yet.

    Attributes:
        networks: the autoencoder and the text encoders by part.
        unet: the reference's.
    """

    networks: Mapping[str, StoredNetwork]
    unet: StoredUNet

    def load(self, device: torch.device | str = "cpu") -> StableDiffusionXLPipeline:
        """The pipeline; see load_pipeline."""
        networks = {part: one.load(self.types.get(part, self.dtype)) for part, one in self.networks.items()}
        unet = self.unet.load(self.dtype, device)
        with quiet():
            from diffusers import StableDiffusionXLPipeline

            pipeline = StableDiffusionXLPipeline(
                **networks,
                unet=unet,
                **self.tokenizers,
                scheduler=self.scheduler,
                force_zeros_for_empty_prompt=self.index.get("force_zeros_for_empty_prompt", True),
                add_watermarker=False,
            )
            return pipeline.to(device)


def type_of_vae(config: Mapping[str, Any], dtype: torch.dtype, asked: torch.dtype | None = None) -> torch.dtype:
    """The type in which an autoencoder computes: the one asked for, or that of the other networks; where that is float16 and
    its configuration says force_upcast, as SDXL's own does, since it overflows there, it is float32.

    Raises:
        ValueError: if float16 is asked for and force_upcast said.
    """
    overflows = bool(config["force_upcast"])
    if asked == torch.float16 and overflows:
        raise ValueError(
            "this autoencoder overflows in float16, as its configuration's force_upcast says; use bfloat16 or float32, or "
            "one made for float16, such as madebyollin/sdxl-vae-fp16-fix"
        )
    return asked or (torch.float32 if dtype == torch.float16 and overflows else dtype)


def describe_pipeline(
    source: Path | str,
    *,
    dtype: torch.dtype = torch.float32,
    vae: Path | str | None = None,
    vae_dtype: torch.dtype | None = None,
) -> DescribedPipeline:
    """What the pipeline in a folder or on the hub says about itself, without its weights, of which none is fetched.

    Raises:
        FileNotFoundError, ValueError: as load_pipeline, but for what only the weights show.
    """
    if (hub := named(source)) is not None and hub.inside.endswith(SINGLE_FILES):
        raise FileNotFoundError(f"{source} is no pipeline but a single file; name its repository, as owner/name")
    place = place_of(source, SMALL)
    folder = place.folder
    index, configs = read_index(folder), read_configs(folder)
    with quiet():
        from diffusers import AutoencoderKL
    vae_place = place.inside("vae")
    if vae is not None:
        vae_place = place_of(vae, (*SMALL, *SMALL_OF_NETWORK))
        if (vae_place.folder / "model_index.json").is_file():
            vae_place = vae_place.inside("vae")
        configs["vae"] = _read_config(AutoencoderKL, vae_place.folder / "config.json")
    check_configs(configs, folder)
    types = {"vae": type_of_vae(configs["vae"], dtype, vae_dtype)}
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
    return DescribedPipeline(place, vae_place, index, configs, scheduler, tokenizers, dtype, types)


def find_pipeline(
    source: Path | str,
    *,
    dtype: torch.dtype = torch.float32,
    variant: str | None = None,
    vae: Path | str | None = None,
    vae_dtype: torch.dtype | None = None,
) -> StoredPipeline:
    """What `load_pipeline` loads. All that it refuses is refused here, but for weights that are not finite, and for names of
    weights of the autoencoder and the text encoders, of which older files have others.
    """
    said = describe_pipeline(source, dtype=dtype, vae=vae, vae_dtype=vae_dtype)
    with quiet():
        from diffusers import AutoencoderKL
        from transformers import CLIPTextModel, CLIPTextModelWithProjection
    networks = {
        part: _find_network(kind, said.vae_place if part == "vae" else said.place.inside(part), part, chosen)
        for part, kind, chosen in (
            ("vae", AutoencoderKL, variant if vae is None else None),
            ("text_encoder", CLIPTextModel, variant),
            ("text_encoder_2", CLIPTextModelWithProjection, variant),
        )
    }
    unet = find_unet(said.place, variant=variant)
    return StoredPipeline(**vars(said), networks=networks, unet=unet)


def load_pipeline(
    source: Path | str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    variant: str | None = None,
    vae: Path | str | None = None,
    vae_dtype: torch.dtype | None = None,
) -> StableDiffusionXLPipeline:
    """The StableDiffusionXLPipeline in a folder or on the hub, frozen. What its files say is honoured or refused before
    weights are read, and of a model on the hub before they are fetched.

    Args:
        source: a folder, or owner/name on the hub, which is fetched into the hub's cache or, without a network, read from
            there. What is on the disk comes first.
        dtype: in which the networks compute; what goes in and comes out is cast at their borders.
        variant: of the weights, such as "fp16" in a folder that has both; by default the plain ones, or where there are
            none the variant that there is.
        vae: another autoencoder's folder or name on the hub.
        vae_dtype: of the autoencoder alone; dtype by default, but float32 where that is float16 and the autoencoder's
            configuration says force_upcast, as in diffusers.

    Raises:
        FileNotFoundError: if the folder is none or a part or file is missing, or the hub does not have or give it; the
            message names it.
        ValueError: if a file is damaged, does not fit, or asks for what cannot be honoured; if vae_dtype is float16 for an
            autoencoder that overflows there.
    """
    return find_pipeline(source, dtype=dtype, variant=variant, vae=vae, vae_dtype=vae_dtype).load(device)
