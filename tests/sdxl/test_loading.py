"""What a pipeline folder or a file of weights says is honoured or refused, and nothing is loaded half."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from distar_core.sdxl.loading import load_pipeline, load_unet, quiet

UNET = "unet/diffusion_pytorch_model.safetensors"
NETWORKS = {
    "unet": UNET,
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
    "text_encoder_2": "text_encoder_2/model.safetensors",
}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5135\n"


def networks_of(pipeline):
    return [getattr(pipeline, name) for name in NETWORKS]


def same(first, second):
    weights = (network.state_dict() for network in (first, second))
    return all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_whole_folder_loads_frozen_in_the_type_asked_for(folder, capfd, dtype):
    pipeline = load_pipeline(folder, dtype=dtype)
    for part in networks_of(pipeline):
        assert {p.dtype for p in part.parameters()} == {dtype}
        assert not any(p.requires_grad for p in part.parameters())
        assert not part.training
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("force", "dtype"), [(True, torch.float32), (False, torch.float16)])
def test_an_autoencoder_that_overflows_in_half_precision_says_so_and_is_believed(copied, force, dtype):
    pipeline = load_pipeline(copied({"vae/config.json": {"force_upcast": force}}), dtype=torch.float16)
    assert (pipeline.unet.dtype, pipeline.vae.dtype) == (torch.float16, dtype)


def test_no_pipeline_and_missing_parts_are_named(folder, copied, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no pipeline folder: it has no model_index\.json"):
        load_pipeline(tmp_path)
    with pytest.raises(FileNotFoundError, match="single file; it holds the weights of one network"):
        load_pipeline(folder / UNET)
    copy = copied()
    for lost in ("text_encoder_2", "unet/config.json", UNET, "tokenizer/tokenizer.json"):
        kept = copy.with_name("kept")
        (copy / lost).rename(kept)
        with pytest.raises(FileNotFoundError, match=lost.partition("/")[0]):
            load_pipeline(copy)
        kept.rename(copy / lost)
    load_pipeline(copy)


INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"
UNET_CONFIG, VAE_CONFIG = "unet/config.json", "vae/config.json"
REFUSED = {
    "inpainting": (UNET_CONFIG, {"in_channels": 9}, "unet's in_channels is 9"),
    "learned variance": (UNET_CONFIG, {"out_channels": 8}, "unet's out_channels is 8"),
    "SD 1.5's UNet": (UNET_CONFIG, {"addition_embed_type": None}, "unet's addition_embed_type is None"),
    "another width of text": (UNET_CONFIG, {"cross_attention_dim": 64}, "unet's cross_attention_dim is 64"),
    "the refiner's time ids": (
        UNET_CONFIG,
        {"projection_class_embeddings_input_dim": 104},
        "unet's projection_class_embeddings_input_dim is 104",
    ),
    "class labels": (UNET_CONFIG, {"class_embed_type": "timestep"}, "unet's class_embed_type is 'timestep'"),
    "distilled guidance": (UNET_CONFIG, {"time_cond_proj_dim": 256}, "unet's time_cond_proj_dim is 256"),
    "image prompts": (
        UNET_CONFIG,
        {"encoder_hid_dim_type": "image_proj"},
        "unet's encoder_hid_dim_type is 'image_proj'",
    ),
    "pictures that are not square": (UNET_CONFIG, {"sample_size": [8, 16]}, "unet's sample_size is [8, 16]"),
    "a shift that diffusers passes over": (VAE_CONFIG, {"shift_factor": 0.0609}, "vae's shift_factor is 0.0609"),
    "a mean alone": (VAE_CONFIG, {"latents_mean": [0.0, 0.0, 0.0, 0.5]}, "vae's latents_mean is [0.0, 0.0, 0.0, 0.5]"),
    "a deviation of zero": (
        VAE_CONFIG,
        {"latents_mean": [0.0] * 4, "latents_std": [0, 1, 1, 1]},
        "latents_std is [0, 1",
    ),
    "a scale of zero": (VAE_CONFIG, {"scaling_factor": 0}, "vae's scaling_factor is 0"),
    "a scale in quotation marks": (VAE_CONFIG, {"scaling_factor": "0.13"}, "vae's scaling_factor is '0.13'"),
    "a scale that is no number": (VAE_CONFIG, {"scaling_factor": float("nan")}, "vae's scaling_factor is nan"),
    "a negative scale": (VAE_CONFIG, {"scaling_factor": -0.13}, "vae's scaling_factor is -0.13"),
    "an infinite mean": (
        VAE_CONFIG,
        {"latents_mean": [0, 0, 0, float("inf")], "latents_std": [1] * 4},
        "vae's latents_mean is [0, 0, 0, inf]",
    ),
    "a mean in quotation marks": (
        VAE_CONFIG,
        {"latents_mean": "0000", "latents_std": [1] * 4},
        "vae's latents_mean is '0000'",
    ),
    "a negative deviation": (
        VAE_CONFIG,
        {"latents_mean": [0] * 4, "latents_std": [1, 1, 1, -1]},
        "vae's latents_std is [1, 1, 1, -1]",
    ),
    "a size that is true": (UNET_CONFIG, {"sample_size": True}, "unet's sample_size is True"),
    "a number in quotation marks": ("text_encoder/config.json", {"vocab_size": "61"}, "'vocab_size'"),
    "a flag in quotation marks": (
        INDEX,
        {"force_zeros_for_empty_prompt": "false"},
        "force_zeros_for_empty_prompt 'false'",
    ),
    "a scheduler's flag in quotation marks": (
        SCHEDULER,
        {"rescale_betas_zero_snr": "false"},
        "rescale_betas_zero_snr 'false'",
    ),
    "texts of two lengths": (
        "text_encoder_2/config.json",
        {"max_position_embeddings": 77},
        "text_encoder_2's max_position_embeddings is 77",
    ),
    "another language": ("text_encoder/config.json", {"vocab_size": 49408}, "tokenizer has 61 tokens"),
    "more tokens than places": (
        "tokenizer_2/tokenizer_config.json",
        {"model_max_length": 77},
        "tokenizer_2 has model_max_length 77",
    ),
    "prompts of two lengths": (
        "tokenizer_2/tokenizer_config.json",
        {"model_max_length": 12},
        "model_max_length 16 and 12",
    ),
    "an end that prompts never have": (
        "text_encoder_2/config.json",
        {"eos_token_id": 49407},
        "tokenizer_2 ends a prompt with token 60, but its text encoder, whose eos_token_id is 49407",
    ),
    "no end": ("text_encoder_2/config.json", {"eos_token_id": None}, "whose eos_token_id is None"),
    "a list of ends": ("text_encoder_2/config.json", {"eos_token_id": [60]}, "whose eos_token_id is [60]"),
    "padding before a prompt": ("tokenizer/tokenizer_config.json", {"padding_side": "left"}, "padding_side 'left'"),
    "the refiner": (INDEX, {"_class_name": "StableDiffusionXLImg2ImgPipeline"}, "StableDiffusionXLImg2ImgPipeline"),
    "SD 1.5": (INDEX, {"_class_name": "StableDiffusionPipeline"}, "StableDiffusionPipeline"),
    "no text encoder": (INDEX, {"text_encoder": [None, None]}, "no text_encoder"),
    "a tiny autoencoder": (INDEX, {"vae": ["diffusers", "AutoencoderTiny"]}, "AutoencoderTiny"),
    "flow matching": (INDEX, {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, "FlowMatchEulerDiscrete"),
    "EDM": (INDEX, {"scheduler": ["diffusers", "EDMEulerScheduler"]}, "EDMEulerScheduler"),
    "no scheduler": (INDEX, {"scheduler": ["diffusers", "UNet2DConditionModel"]}, "UNet2DConditionModel"),
    "unknown prediction": (SCHEDULER, {"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction'"),
    "unknown betas": (SCHEDULER, {"beta_schedule": "guessed"}, "guessed"),
    "no noise": (SCHEDULER, {"trained_betas": [0.0] * 1000}, "from 0 to 0"),
    "fewer betas than times": (SCHEDULER, {"trained_betas": [0.1] * 30}, "num_train_timesteps is 1000, but it has 30"),
    "continuous times": (SCHEDULER, {"timestep_type": "continuous"}, "timestep_type is 'continuous'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_value_before_weights_are_read(copied, case):
    file, values, said = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(said)) as told:
        load_pipeline(copied({file: values}, weights=False))
    assert "copy" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {INDEX: {"force_zeros_for_empty_prompt": False}, SCHEDULER: {"rescale_betas_zero_snr": False}},
        {VAE_CONFIG: {"scaling_factor": 1, "latents_mean": [0, -1.5, 0, 0], "latents_std": [1, 0.5, 2, 1]}},
    ],
)
def test_control_what_can_be_honoured_comes_to_the_weights(copied, changes):
    with pytest.raises(FileNotFoundError, match="has no weights"):
        load_pipeline(copied(changes, weights=False))


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [("DPMSolverMultistepScheduler", "use_flow_sigmas", True), ("PNDMScheduler", "rescale_betas_zero_snr", True)],
)
def test_what_a_scheduler_would_pass_over_is_refused(copied, kind, key, value):
    index = {"model_index.json": {"scheduler": ["diffusers", kind]}}
    with pytest.raises(ValueError, match=kind):
        load_pipeline(copied(index | {"scheduler/scheduler_config.json": {key: value}}, weights=False))


def test_a_scheduler_of_another_kind_is_taken(copied):
    assert type(load_pipeline(copied({"model_index.json": {"scheduler": ["diffusers", "PNDMScheduler"]}})).scheduler)


def broken(path, how):
    """Change a file of weights; returns the name that a message must hold."""
    weights = load_file(path)
    name = sorted(weights)[3]
    if how == "missing":
        del weights[name]
    elif how == "unexpected":
        name = "extra.weight"
        weights[name] = torch.zeros(1)
    elif how == "misshapen":
        weights[name] = torch.zeros(3, 3, 3)
    else:
        weights = {f"feedforward_model.{key}": value for key, value in weights.items()}
        name = "feedforward_model."
    save_file(weights, path, metadata={"format": "pt"})
    return name


@pytest.mark.parametrize("part", NETWORKS)
@pytest.mark.parametrize("how", ["missing", "unexpected", "misshapen", "prefixed"])
def test_weights_that_do_not_fit_are_refused_by_name(copied, part, how):
    copy = copied()
    name = broken(copy / NETWORKS[part], how)
    with pytest.raises(ValueError, match=re.escape(name.removeprefix("text_model."))) as told:
        load_pipeline(copy)
    assert part in str(told.value)


def spoil(path, count, value=float("nan")):
    """Write a value that is not finite into one place of some weights; returns the first three names."""
    weights = load_file(path)
    names = sorted(weights)[:count]
    for name in names:
        weights[name].view(-1)[-1] = value
    save_file(weights, path, metadata={"format": "pt"})
    return names[:3]


@pytest.mark.parametrize(("part", "count"), [*((part, 1) for part in NETWORKS), ("unet", 5)])
def test_weights_that_are_not_finite_are_refused_by_name(copied, part, count):
    copy = copied()
    names = spoil(copy / NETWORKS[part], count)
    with pytest.raises(ValueError, match=f"in {count} weights") as told:
        load_pipeline(copy)
    assert all(name.removeprefix("text_model.") in str(told.value) for name in names)
    assert part in str(told.value)


def test_a_generator_that_is_not_finite_is_refused_by_name(folder, tmp_path):
    path = tmp_path / "unet.safetensors"
    shutil.copy(folder / UNET, path)
    load_unet(path, config_of=folder)  # control
    (name,) = spoil(path, 1, float("inf"))
    with pytest.raises(ValueError, match=re.escape(name)):
        load_unet(path, config_of=folder)


def test_weights_beyond_half_precision_are_refused_in_it_alone(folder, tmp_path):
    path = tmp_path / "unet.safetensors"
    shutil.copy(folder / UNET, path)
    spoil(path, 1, 1e5)
    load_unet(path, config_of=folder)
    with pytest.raises(ValueError, match="float16"):
        load_unet(path, config_of=folder, dtype=torch.float16)


def test_a_damaged_file_is_one_sentence(copied):
    copy = copied()
    for file in (UNET, "unet/config.json", "tokenizer/tokenizer.json", "model_index.json"):
        whole = (copy / file).read_bytes()
        (copy / file).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=r"is damaged or of another model .*; copy it again, whole") as told:
            load_pipeline(copy)
        assert file.partition("/")[0] in str(told.value)
        (copy / file).write_text(POINTER)
        with pytest.raises(ValueError, match="Git LFS pointer"):
            load_pipeline(copy)
        (copy / file).write_bytes(whole)
    load_pipeline(copy)


def test_a_tokenizer_without_its_words_is_refused(copied):
    """CLIPTokenizer takes a folder without them, for a language of two tokens."""
    copy = copied()
    tokenizer = copy / "tokenizer" / "tokenizer.json"
    words = json.loads(tokenizer.read_text("utf-8"))
    vocabulary = words["model"]["vocab"]
    tokenizer.unlink()
    (copy / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    with pytest.raises(FileNotFoundError, match=r"tokenizer lacks tokenizer\.json or vocab\.json and merges\.txt"):
        load_pipeline(copy)
    merges = ["#version: 0.2", *map(" ".join, words["model"]["merges"])]
    (copy / "tokenizer" / "merges.txt").write_text("\n".join(merges[:-2]), "utf-8")
    with pytest.raises(ValueError, match=r"2 words .* 'circl'"):
        load_pipeline(copy)
    (copy / "tokenizer" / "merges.txt").write_text("\n".join(merges), "utf-8")
    assert load_pipeline(copy).tokenizer("a red circle").input_ids[1:-1] == [
        vocabulary[word + "</w>"] for word in ("a", "red", "circle")
    ]


def pooled(pipeline):
    """The second text encoder's embeddings of two prompts."""
    tokens = pipeline.tokenizer_2(["a red circle", "a circle"], padding="max_length", return_tensors="pt").input_ids
    return pipeline.text_encoder_2(tokens).text_embeds


def test_two_is_taken_for_the_largest_token_as_in_the_first_sdxl(folder, copied):
    own = load_pipeline(folder)
    copy = copied({f"{part}/config.json": {"eos_token_id": 2} for part in ("text_encoder", "text_encoder_2")})
    with torch.no_grad():
        assert torch.equal(pooled(load_pipeline(copy)), pooled(own))
        own.text_encoder_2.text_model.eos_token_id = 49407
        alike = pooled(own)
        assert torch.equal(alike[0], alike[1]), "control: with a token that is never there all prompts are one"
        assert not torch.equal(*pooled(load_pipeline(copy)))
    path = copy / "text_encoder_2/config.json"
    config = json.loads(path.read_text("utf-8"))
    del config["eos_token_id"]
    path.write_text(json.dumps(config), "utf-8")
    with pytest.raises(ValueError, match="eos_token_id is 49407"):
        load_pipeline(copy)


def test_two_is_refused_where_the_end_is_not_the_largest_token(copied):
    copy = copied({"text_encoder/config.json": {"eos_token_id": 2}}, weights=False)
    path = copy / "tokenizer/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"eos_token": "circle</w>"}), "utf-8")
    with pytest.raises(ValueError, match="pools at the largest, 60"):
        load_pipeline(copy)


def test_weights_of_a_variant_alone_are_loaded(folder, copied):
    copy = copied()
    for file in NETWORKS.values():
        name = (copy / file).name.replace(".safetensors", ".fp16.safetensors")
        save_file({k: v.half() for k, v in load_file(copy / file).items()}, copy / file, metadata={"format": "pt"})
        (copy / file).rename((copy / file).with_name(name))
    pipeline, whole = load_pipeline(copy), load_pipeline(folder)
    for rounded, exact in zip(networks_of(pipeline), networks_of(whole), strict=True):
        assert {p.dtype for p in rounded.parameters()} == {torch.float32}
        assert same(rounded, exact.half().float())


@pytest.mark.parametrize("variant", [None, "bf16"])
def test_shards_are_put_together_and_a_missing_one_is_not_overlooked(folder, copied, variant):
    copy, whole = copied(), load_pipeline(folder)
    shutil.rmtree(copy / "unet")
    with quiet():
        whole.unet.save_pretrained(copy / "unet", max_shard_size="2MB", variant=variant)
    shards = sorted((copy / "unet").glob("*.safetensors"))
    assert len(shards) > 2
    assert same(load_pipeline(copy).unet, whole.unet)
    shards[1].unlink()
    with pytest.raises((FileNotFoundError, ValueError), match="unet"):
        load_pipeline(copy)


@pytest.mark.parametrize("form", ["folder", "pipeline folder", "safetensors", "bin", "old bin"])
def test_a_generator_is_loaded_from_what_people_have(folder, tmp_path, form):
    wanted = load_pipeline(folder).unet
    path = tmp_path / ("unet.safetensors" if form == "safetensors" else "dmd2_unet.bin")
    if form in ("bin", "old bin"):
        torch.save(wanted.state_dict(), path, _use_new_zipfile_serialization=form == "bin")
    else:
        save_file(wanted.state_dict(), path)
    path = {"folder": folder / "unet", "pipeline folder": folder}.get(form, path)
    unet = load_unet(path, config_of=folder)
    assert same(unet, wanted)
    assert not unet.training
    assert not any(p.requires_grad or p.is_meta for p in unet.parameters())
    assert load_unet(path, config_of=folder / "unet", dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("how", ["missing", "unexpected", "misshapen", "prefixed"])
def test_a_generator_that_does_not_fit_is_refused_by_name(folder, tmp_path, how):
    path = tmp_path / "unet.safetensors"
    shutil.copy(folder / UNET, path)
    name = broken(path, how)
    with pytest.raises(ValueError, match=re.escape(name)):
        load_unet(path, config_of=folder)


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("code ran",))


def test_other_files_are_refused_in_a_sentence(folder, tmp_path):
    path = tmp_path / "unet.bin"
    for content, said in (
        ({"conv_in.weight": Evil()}, "more than tensors"),
        ({"state_dict": {"conv_in.weight": torch.zeros(1)}}, "state_dict"),
        (torch.zeros(3), "tensors by name"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=said) as told:
            load_unet(path, config_of=folder)
        assert "\n" not in str(told.value)
    path.write_text(POINTER)
    with pytest.raises(ValueError, match="Git LFS pointer"):
        load_unet(path, config_of=folder)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        load_unet(path, config_of=folder)
    with pytest.raises(ValueError, match="config_of"):
        load_unet(folder / UNET)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_unet(tmp_path / "nowhere.bin", config_of=folder)
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_unet(folder / UNET, config_of=tmp_path)


@pytest.mark.parametrize("part", NETWORKS)
def test_a_pickle_that_would_run_code_is_told_from_a_damaged_one(copied, part):
    copy = copied()
    weights = copy / NETWORKS[part]
    pickled = weights.with_name("diffusion_pytorch_model.bin" if "diffusion" in weights.name else "pytorch_model.bin")
    state = load_file(weights)
    weights.unlink()
    torch.save(state | {next(iter(state)): Evil()}, pickled)
    with pytest.raises(ValueError, match="could run code") as told:
        load_pipeline(copy)
    assert part in str(told.value)
    torch.save(state, pickled)
    pickled.write_bytes(pickled.read_bytes()[:5000])
    with pytest.raises(ValueError, match="damaged") as told:
        load_pipeline(copy)
    assert "run code" not in str(told.value)
    torch.save(state, pickled)
    load_pipeline(copy)  # control: whole and of tensors alone
