"""The twenty kinds of folders and files in which SDXL and its relatives come: each loads right, or is refused in one sentence
before a network is read.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from distar_core.sdxl import loading
from distar_core.sdxl.loading import find_pipeline, load_pipeline, load_unet, quiet
from distar_core.sdxl.models import load_text_to_image

UNET = "unet/diffusion_pytorch_model.safetensors"
FILES = (
    UNET,
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder_2/model.safetensors",
)
SCHEDULER, INDEX = "scheduler/scheduler_config.json", "model_index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 5135\n"
PROMPTS, SEEDS = ["a red circle", "a circle"], [3, 4]


@pytest.fixture
def unread(monkeypatch):
    """Nothing may be read from here on: whoever loads a network's weights fails the test."""

    def refuse(*_):
        pytest.fail("a network was read")

    monkeypatch.setattr(loading.StoredUNet, "load", refuse)
    monkeypatch.setattr(loading.StoredNetwork, "load", refuse)


def one_sentence(error, *parts):
    """Whether an error's text is one line with all of these in it."""
    return "\n" not in str(error.value) and all(str(part) in str(error.value) for part in parts)


def rewrite(file, change):
    """Put a function's result in place of a file's weights."""
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def halved(weights):
    return {name: value.half() for name, value in weights.items()}


def to_variant(copy, *, keep):
    """Store all weights in half precision under the name of the variant fp16, beside the plain ones or in their place."""
    for file in FILES:
        path = copy / file
        save_file(halved(load_file(path)), path.with_suffix(".fp16.safetensors"), metadata={"format": "pt"})
        if not keep:
            path.unlink()


def in_shards(copy, variant=None):
    """Store the UNet in shards; returns them."""
    unet = load_pipeline(copy).unet
    shutil.rmtree(copy / "unet")
    with quiet():
        unet.save_pretrained(copy / "unet", max_shard_size="2MB", variant=variant)
    found = sorted((copy / "unet").glob("*.safetensors"))
    assert len(found) > 2
    return found


def weights_of(pipeline):
    return {
        f"{part}.{name}": value
        for part in ("unet", "vae", "text_encoder", "text_encoder_2")
        for name, value in getattr(pipeline, part).state_dict().items()
    }


def same(found, wanted):
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_plain(folder):
    assert load_pipeline(folder).unet.dtype == torch.float32


def test_as_sdxl_itself_is_stored(folder, copied):
    """An index of an older diffusers, without parts that came later, and text encoders with a prefix and positions."""
    copy = copied({INDEX: {"add_watermarker": None, "_diffusers_version": "0.19.0.dev0"}})
    index = json.loads((copy / INDEX).read_text("utf-8"))
    for part in ("image_encoder", "feature_extractor"):
        index.pop(part)
    (copy / INDEX).write_text(json.dumps(index), "utf-8")
    for part in ("text_encoder", "text_encoder_2"):
        rewrite(
            copy / part / "model.safetensors",
            lambda w: (
                {
                    name
                    if name.startswith("text_projection")
                    else f"text_model.{name.removeprefix('text_model.')}": value
                    for name, value in w.items()
                }
                | {"text_model.embeddings.position_ids": torch.arange(16)[None]}
            ),
        )
    assert same(weights_of(load_pipeline(copy)), weights_of(load_pipeline(folder)))


@pytest.mark.parametrize("keep", [False, True])
def test_the_fp16_variant_alone_and_beside_the_plain_weights(folder, copied, keep):
    copy, exact = copied(), weights_of(load_pipeline(folder))
    to_variant(copy, keep=keep)
    rounded = {name: value.half().float() for name, value in exact.items()}
    assert not same(rounded, exact), "control"
    assert same(weights_of(load_pipeline(copy)), exact if keep else rounded)
    assert same(weights_of(load_pipeline(copy, variant="fp16")), rounded)
    with pytest.raises(FileNotFoundError) as told:
        load_pipeline(copy, variant="bf16")
    assert one_sentence(told, "'bf16'", "fp16")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(folder, copied, variant):
    copy = copied()
    in_shards(copy, variant)
    assert same(weights_of(load_pipeline(copy)), weights_of(load_pipeline(folder)))
    assert same(load_unet(copy).state_dict(), load_pipeline(folder).unet.state_dict())


def test_a_shard_missing(copied, request):
    copy = copied()
    shard = in_shards(copy)[1]
    shard.unlink()
    request.getfixturevalue("unread")
    for load in (load_pipeline, load_unet):
        with pytest.raises(FileNotFoundError) as told:
            load(copy)
        assert one_sentence(told, shard.name, copy / "unet")


def test_an_index_of_shards_that_is_none(copied, request):
    copy = copied()
    in_shards(copy)
    (copy / "unet/diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map": []}')
    request.getfixturevalue("unread")
    with pytest.raises(ValueError, match="weight_map"):
        load_pipeline(copy)


def test_a_unet_as_bin(folder, copied, capfd):
    copy = copied()
    torch.save(load_file(copy / UNET), copy / "unet/diffusion_pytorch_model.bin")
    (copy / UNET).unlink()
    assert same(weights_of(load_pipeline(copy)), weights_of(load_pipeline(folder)))
    assert capfd.readouterr().err == ""


DIFFUSIONS = {
    "v-prediction": {"prediction_type": "v_prediction"},
    "linear betas": {"beta_schedule": "linear"},
    "zero-terminal SNR": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
    "500 times": {"num_train_timesteps": 500},
}


@pytest.mark.parametrize("kind", DIFFUSIONS)
def test_another_diffusion_is_honoured(folder, copied, kind):
    """What it means is compared with diffusers' own schedulers in test_models."""
    model = load_text_to_image(copied({SCHEDULER: DIFFUSIONS[kind]}))
    own = load_text_to_image(folder)
    asked = (model.prediction, model.schedule.high, float(model.schedule.alpha(torch.tensor(400))))
    assert asked != (own.prediction, own.schedule.high, float(own.schedule.alpha(torch.tensor(400))))
    assert (model.prediction == "v") == ("prediction_type" in DIFFUSIONS[kind])


def test_an_empty_prompt_as_the_null_condition(folder, copied):
    model = load_text_to_image(copied({INDEX: {"force_zeros_for_empty_prompt": False}}))
    null = model.prompted(model.pipeline.unet).null(torch.zeros(1))
    assert torch.equal(null.text, model.encoder.empty().text)
    own = load_text_to_image(folder)
    assert not own.prompted(own.pipeline.unet).null(torch.zeros(1)).text.any(), "control"


@pytest.mark.parametrize("kind", ["StableDiffusionXLImg2ImgPipeline", "StableDiffusionPipeline"])
def test_the_refiner_and_sd_15(copied, unread, kind):
    with pytest.raises(ValueError, match=kind) as told:
        load_pipeline(copied({INDEX: {"_class_name": kind}}))
    assert one_sentence(told, "StableDiffusionXLPipeline")


@pytest.mark.parametrize("form", ["original", "ckpt", "network", "on the hub"])
def test_a_single_file(folder, tmp_path, unread, hub, form):
    file, remedy = tmp_path / "sd_xl_base_1.0.safetensors", "from_single_file"
    if form == "original":
        save_file({"model.diffusion_model.out.2.bias": torch.zeros(4), "first_stage_model.x": torch.zeros(1)}, file)
        with pytest.raises(ValueError, match=remedy):
            load_unet(file, config_of=folder)
    elif form == "ckpt":
        file = tmp_path / "old.ckpt"
        file.write_bytes(b"pickle")
    elif form == "network":
        shutil.copy(folder / UNET, file)
        remedy = "as the generator"
    else:
        file, remedy = "me/model/sd_xl_base_1.0.safetensors", "owner/name"
    with pytest.raises(FileNotFoundError) as told:
        load_pipeline(file)
    assert one_sentence(told, file, "single file", remedy)
    assert hub.sent == []


def test_a_name_on_the_hub(folder, copied, hub):
    copy = copied()
    to_variant(copy, keep=True)
    (copy / "sd_xl_base_1.0.safetensors").write_bytes(b"not wanted")
    hub.models["me/model"] = copy
    whole = weights_of(load_pipeline(folder))
    assert same(weights_of(load_pipeline("me/model", variant="fp16")), {n: v.half().float() for n, v in whole.items()})
    assert {name for name in hub.sent if name.endswith("safetensors")} == {
        f"me/model/{file.replace('.safetensors', '.fp16.safetensors')}" for file in FILES
    }
    assert same(weights_of(load_pipeline("me/model")), whole)
    hub.go("off")
    model = load_text_to_image("me/model", generator="me/model/unet")
    assert model.draw(PROMPTS, SEEDS).shape == (2, 3, 32, 32)
    with pytest.raises(FileNotFoundError) as told:
        load_pipeline("me/other")
    assert one_sentence(told, "me/other", "hf download me/other")


def test_of_a_model_on_the_hub_whose_weights_are_not_in_the_cache_the_remedy_is_told(folder, hub):
    hub.models["me/model"] = folder
    find_pipeline("me/model")
    for path in Path(constants.HF_HUB_CACHE).rglob("model.safetensors"):
        path.unlink()
    hub.go("unplugged")
    with pytest.raises(FileNotFoundError) as told:
        load_pipeline("me/model")
    assert one_sentence(told, "me/model", "text_encoder", "hf download me/model")


def test_of_a_model_on_the_hub_that_is_refused_no_weights_are_fetched(copied, hub, unread):
    hub.models["me/model"] = copied({SCHEDULER: {"prediction_type": "flow_prediction"}})
    with pytest.raises(ValueError, match="flow_prediction"):
        load_pipeline("me/model")
    assert hub.sent
    assert not any(name.endswith(".safetensors") for name in hub.sent)


def test_shards_on_the_hub(folder, copied, hub):
    copy = copied()
    in_shards(copy)
    hub.models["me/model"] = copy
    assert same(weights_of(load_pipeline("me/model")), weights_of(load_pipeline(folder)))


@pytest.mark.parametrize("where", ["disk", "hub"])
def test_dmd2s_generator(folder, tmp_path, hub, where):
    wanted = load_pipeline(folder).unet.half()
    repository = tmp_path / "DMD2"
    repository.mkdir()
    torch.save(wanted.state_dict(), repository / "dmd2_sdxl_1step_unet_fp16.bin")
    hub.models["me/DMD2"] = repository
    start = repository if where == "disk" else "me/DMD2"
    model = load_text_to_image(folder, generator=f"{start}/dmd2_sdxl_1step_unet_fp16.bin", dtype=torch.float32)
    assert same(model.unet.state_dict(), wanted.float().state_dict())
    assert model.unet is not model.pipeline.unet
    if where == "hub":
        for absent in ("me/DMD2/other.bin", "me/DMD2/unet"):
            with pytest.raises(FileNotFoundError) as told:
                load_unet(absent, config_of=folder)
            assert one_sentence(told, "me/DMD2", absent.removeprefix("me/DMD2/"))


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("code ran",))


@pytest.mark.parametrize("where", ["generator", "folder"])
def test_a_pickle_that_would_run_code(folder, copied, tmp_path, unread, where):
    if where == "folder":
        copy, generator = copied(), None
        path = copy / "unet/diffusion_pytorch_model.bin"
        (copy / UNET).unlink()
    else:
        copy, path = folder, tmp_path / "evil.bin"
        generator = path
    torch.save({"conv_in.weight": Evil()}, path)
    with pytest.raises(ValueError, match="could run code") as told:
        load_text_to_image(copy, generator=generator)
    assert one_sentence(told, path, ".safetensors")


@pytest.mark.parametrize("where", ["generator", *FILES])
def test_an_lfs_pointer(folder, copied, tmp_path, unread, where):
    copy, generator = copied(), None
    path = copy / where
    if where == "generator":
        path = generator = tmp_path / "dmd2.bin"
    path.write_text(POINTER)
    with pytest.raises(ValueError, match="git lfs pull") as told:
        load_text_to_image(copy, generator=generator)
    assert one_sentence(told, path)


def old_format(folder, pad):
    """Write a tokenizer as transformers of 2023 did: words, merges and special tokens in files of their own."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
    vocabulary, merges = tokenizer["vocab"], tokenizer["merges"]
    for file in folder.iterdir():
        file.unlink()
    specials = ("<|startoftext|>", "<|endoftext|>")
    words = ["!", *(word for word in vocabulary if word not in (*specials, "!")), *specials]

    def token(content):
        return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}

    start, end = map(token, specials)
    for name, content in {
        "vocab.json": {word: place for place, word in enumerate(words)},
        "special_tokens_map.json": {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": pad},
        "tokenizer_config.json": {
            "add_prefix_space": False,
            "bos_token": start | {"__type": "AddedToken"},
            "eos_token": end | {"__type": "AddedToken"},
            "unk_token": end | {"__type": "AddedToken"},
            "pad_token": pad,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": 16,
            "tokenizer_class": "CLIPTokenizer",
        },
    }.items():
        (folder / name).write_text(json.dumps(content), "utf-8")
    lines = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), "utf-8")
    return len(words)


@pytest.mark.parametrize("again", [False, True])
def test_tokenizers_in_the_old_format_and_the_old_end_of_text(copied, again):
    """The first pads with the end token, the second with "!", and both encoders pool at the largest, for which 2 stands."""
    copy = copied({f"{part}/config.json": {"eos_token_id": 2} for part in ("text_encoder", "text_encoder_2")})
    for part, pad in (("", "<|endoftext|>"), ("_2", "!")):
        count = old_format(copy / f"tokenizer{part}", pad)
        config = copy / f"text_encoder{part}/config.json"
        config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"vocab_size": count}), "utf-8")
        rewrite(
            copy / f"text_encoder{part}/model.safetensors",
            lambda w: {
                name: torch.cat([value, value[:1] + 1]).contiguous() if "token_embedding" in name else value
                for name, value in w.items()
            },
        )
    pipeline = load_pipeline(copy)
    if again:
        for part in ("tokenizer", "tokenizer_2"):
            shutil.rmtree(copy / part)
            getattr(pipeline, part).save_pretrained(copy / part)
        pipeline = load_pipeline(copy)
    first, second = (
        tokenizer("a red circle", padding="max_length").input_ids
        for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2)
    )
    end = pipeline.tokenizer.eos_token_id
    assert end == max(first) == len(pipeline.tokenizer) - 1
    assert first[:5] == second[:5]
    assert (first[4:], second[4:]) == ([end] * 12, [end] + [0] * 11)
    with torch.no_grad():
        found = load_text_to_image(copy).encoder(["a red circle"])
        text = pipeline.text_encoder_2(torch.tensor([second]), output_hidden_states=True)
        hidden = pipeline.text_encoder_2.text_model.final_layer_norm(text.hidden_states[-1])
        wanted = pipeline.text_encoder_2.text_projection(hidden)
    torch.testing.assert_close(found.pooled, wanted[:, 4])
    assert not torch.allclose(found.pooled, wanted[:, 15], atol=1e-2), "control: not at the last place"


@pytest.mark.parametrize("where", ["folder", "generator"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_a_quantized_unet(folder, copied, tmp_path, unread, dtype, where):
    copy, generator = (copied(), None) if where == "folder" else (folder, tmp_path / "unet.safetensors")
    file = generator or copy / UNET
    weights = load_file(folder / UNET)
    save_file({name: value.to(dtype) for name, value in weights.items()}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="quantization") as told:
        load_text_to_image(copy, generator=generator)
    assert one_sentence(told, file, str(dtype).removeprefix("torch."), len(weights))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_a_network_that_says_it_is_quantized(copied, unread, part):
    copy = copied({f"{part}/config.json": {"quantization_config": {"quant_method": "bitsandbytes"}}})
    with pytest.raises(ValueError, match="bitsandbytes") as told:
        load_pipeline(copy)
    assert one_sentence(told, part)


def test_the_generator_is_looked_at_before_the_reference_is_read(folder, tmp_path, unread):
    path = tmp_path / "unet.safetensors"
    save_file(dict(list(load_file(folder / UNET).items())[1:]), path)
    with pytest.raises(ValueError, match="1 missing"):
        load_text_to_image(folder, generator=path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_text_to_image(folder, generator=tmp_path / "nowhere.bin")


def test_another_autoencoder(folder, copied, hub):
    other = copied({"vae/config.json": {"force_upcast": False, "scaling_factor": 0.5}}) / "vae"
    rewrite(other / "diffusion_pytorch_model.safetensors", lambda w: {name: 2 * value for name, value in w.items()})
    hub.models["me/vae"] = other
    own = load_pipeline(folder).vae
    for vae in (other, other.parent, "me/vae"):
        pipeline = load_pipeline(folder, vae=vae)
        assert pipeline.vae.config.scaling_factor == 0.5
        assert same(pipeline.vae.state_dict(), {name: 2 * value for name, value in own.state_dict().items()})
    assert load_pipeline(folder, dtype=torch.float16, vae=other).vae.dtype == torch.float16


def test_an_autoencoder_that_overflows_in_half_precision_is_not_used_in_it(folder, unread):
    """SDXL's own says force_upcast; in bfloat16 it has the range."""
    with pytest.raises(ValueError, match="sdxl-vae-fp16-fix") as told:
        load_pipeline(folder, dtype=torch.bfloat16, vae_dtype=torch.float16)
    assert one_sentence(told, "force_upcast", "bfloat16")
    for dtype, asked, kept in (
        (torch.bfloat16, None, torch.bfloat16),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float16, None, torch.float32),
        (torch.float16, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.bfloat16),
    ):
        assert find_pipeline(folder, dtype=dtype, vae_dtype=asked).types["vae"] == kept
