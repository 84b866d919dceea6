"""Exported generators draw what the trainer drew, in diffusers' own pipeline, and a LoRA is applied whole or refused.

What a LoRA does is compared with W + scale · B A put into the weights by hand, in double precision, with scales written out
in the tests.
"""

import copy
import json
import math
import warnings

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import convert_unet_state_dict_to_peft
from peft import LoHaConfig, LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from distar_core.sdxl.adapters import add_lora, tied_clone
from distar_core.sdxl.export import (
    LORA,
    export_lora,
    export_pipeline,
    fingerprint,
    load_lora,
    merged,
    original_name,
    spellings,
)
from distar_core.sdxl.shapes import SDXL
from distar_core.world.models import load_world

CAPTIONS = ["a red circle left of a blue square", "a large green triangle on a dark background"]
SEEDS = [3, 4]


@pytest.fixture(scope="module")
def world():
    return load_world()


def changed(unet, seed=0):
    """The network with some of its trainable weights moved, so that it draws something else."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in unet.parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn(p.shape, generator=rng))
    return unet


def adapted(world, seed=0):
    return changed(add_lora(tied_clone(world.unet), rank=4, seed=seed), seed)


def drawn_by(pipeline, world):
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 1, "timesteps": [399], "guidance_scale": 0.0, "output_type": "pt"}
    return pipeline(CAPTIONS, latents=world.noise(SEEDS), **options).images


def agree(first, second):
    return float((first - second).abs().max()) < 1e-4


def test_a_pipeline_folder_draws_the_trainers_picture(world, tmp_path):
    unet = changed(copy.deepcopy(world.unet).requires_grad_(True))
    export_pipeline(world.pipeline, unet, tmp_path)
    drawn = drawn_by(StableDiffusionXLPipeline.from_pretrained(tmp_path), world)
    assert agree(drawn, world.draw(CAPTIONS, SEEDS, world.generator(unet)))
    assert not agree(drawn, world.draw(CAPTIONS, SEEDS)), "control: the start draws something else"


def test_a_lora_draws_the_trainers_picture_and_so_does_its_merged_copy(world, tmp_path):
    before = fingerprint(world.unet)
    unet = adapted(world)
    wanted = world.draw(CAPTIONS, SEEDS, world.generator(unet))
    export_lora(unet, tmp_path)
    for load in (load_lora, lambda pipeline, folder: pipeline.load_lora_weights(folder)):
        pipeline = load_world().one_step_pipeline()
        assert not agree(drawn_by(pipeline, world), wanted), "control: not before it is loaded"
        load(pipeline, tmp_path)
        assert agree(drawn_by(pipeline, world), wanted)
    whole = merged(unet)
    assert not any("lora" in name for name, _ in whole.named_parameters())
    assert agree(world.draw(CAPTIONS, SEEDS, world.generator(whole)), wanted)
    assert fingerprint(world.unet) == fingerprint(unet) == before, "the base is as it was"


def test_a_lora_of_another_base_is_refused(world, tmp_path):
    export_lora(adapted(world), tmp_path)
    other = load_world()
    changed(other.unet.requires_grad_(True))
    with pytest.raises(ValueError, match=r"was trained on base \w{16}, but this UNet is \w{16}; load its own base"):
        load_lora(other.one_step_pipeline(), tmp_path)


def test_what_is_not_there_is_said(world, tmp_path):
    with pytest.raises(ValueError, match="the network has no LoRA; it was trained as a full copy"):
        export_lora(world.unet, tmp_path)
    with pytest.raises(FileNotFoundError, match="write one with: distar export RUN"):
        load_lora(world.one_step_pipeline(), tmp_path)


def test_a_fingerprint_follows_the_weights_and_not_the_precision(world):
    again = copy.deepcopy(world.unet)
    assert fingerprint(again.half()) == fingerprint(world.unet)
    assert fingerprint(world.pipeline.unet) != fingerprint(world.unet)


def test_a_network_has_the_fingerprint_of_its_file_in_whatever_type_it_computes(world):
    """The world's files are in half precision, of which bfloat16 rounds the last three digits away."""
    rounded = load_world(dtype=torch.bfloat16)
    for precision in (torch.float16, torch.float32):
        wanted = fingerprint(world.unet, precision)
        assert fingerprint(rounded.unet, precision) == wanted
        assert fingerprint(add_lora(tied_clone(rounded.unet), rank=2), precision) == wanted
        unknown = UNet2DConditionModel.from_config(rounded.unet.config).bfloat16()
        unknown.load_state_dict(rounded.unet.state_dict())
        assert fingerprint(unknown, precision) != wanted, "control: from its own digits it cannot be told"
    moved = changed(copy.deepcopy(rounded.unet).requires_grad_(True))
    assert fingerprint(moved) not in (fingerprint(world.unet), fingerprint(rounded.pipeline.unet))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_lora_trained_in_bfloat16_loads_onto_the_file_that_it_started_from(world, tmp_path, dtype):
    export_lora(adapted(load_world(dtype=torch.bfloat16)), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = load_world(dtype=dtype)
        load_lora(other.one_step_pipeline(), tmp_path)
    reference = load_world(dtype=dtype)
    with pytest.raises(ValueError, match="was trained on base"):
        load_lora(reference.one_step_pipeline(reference.pipeline.unet), tmp_path)


def test_a_base_in_bfloat16_from_no_file_is_warned_about(world, tmp_path):
    export_lora(adapted(world), tmp_path)
    unknown = UNet2DConditionModel.from_config(world.unet.config).bfloat16()
    unknown.load_state_dict(world.unet.state_dict())
    with pytest.warns(UserWarning, match="do not show"):
        load_lora(world.one_step_pipeline(unknown), tmp_path)


# A layer of each kind, and its name in SDXL's first code (one resnet and one sampler per block of the miniature).
QUERY, KEY = (
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_k",
)
OUT, CONV = "up_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0", "up_blocks.1.resnets.0.conv1"
ORIGINAL = {
    QUERY: "input_blocks_3_1_transformer_blocks_0_attn2_to_q",
    KEY: "middle_block_1_transformer_blocks_0_attn1_to_k",
    OUT: "output_blocks_1_1_transformer_blocks_0_attn1_to_out_0",
    CONV: "output_blocks_2_0_in_layers_2",
}
RANKS = {QUERY: 4, KEY: 4, OUT: 2, CONV: 3}
ALPHAS = {QUERY: 2.0, KEY: 4.0, OUT: 5.0, CONV: 1.5}
BY_ALPHAS = {QUERY: 1 / 2, KEY: 1.0, OUT: 5 / 2, CONV: 1 / 2}
ONES = dict.fromkeys(RANKS, 1.0)


@pytest.fixture
def pipeline(world):
    """The one-step pipeline around a UNet in double precision, a copy for each test."""
    return world.one_step_pipeline(copy.deepcopy(world.unet).double())


def made_up(unet, ranks=RANKS, seed=0):
    """A and B of each layer, of a size that moves the UNet's output."""
    rng = torch.Generator().manual_seed(seed)
    pairs = {}
    for name, rank in ranks.items():
        shape = unet.get_submodule(name).weight.shape
        a = torch.randn(rank, *shape[1:], generator=rng, dtype=torch.float64)
        b = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=rng, dtype=torch.float64)
        pairs[name] = (a / a[0].numel() ** 0.5, b)
    return pairs


def by_hand(unet, pairs, scales):
    """A copy of the UNet with scale · B A in its weights."""
    unet = copy.deepcopy(unet)
    with torch.no_grad():
        for name, (a, b) in pairs.items():
            weight = unet.get_submodule(name).weight
            weight += scales[name] * torch.einsum("or,r...->o...", b.double().flatten(1), a.double())
    return unet


@torch.no_grad()
def answers(unet):
    config, rng = unet.config, torch.Generator().manual_seed(7)
    options = {"generator": rng, "dtype": torch.float64}
    x = torch.randn(2, config.in_channels, config.sample_size, config.sample_size, **options)
    text = torch.randn(2, 5, config.cross_attention_dim, **options)
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    added = {"text_embeds": torch.randn(2, pooled, **options), "time_ids": torch.ones(2, 6, dtype=torch.float64)}
    return unet(x, torch.tensor(399), text, added_cond_kwargs=added).sample


def off(first, second):
    """How far two networks are apart, relative to what they answer."""
    first, second = answers(first), answers(second)
    return float((first - second).norm() / second.norm())


def named(pairs, before, a, b, alphas=None, names=None):
    """A file's tensors in somebody's spelling."""
    tensors = {}
    for name, pair in pairs.items():
        stem = before + (names or {}).get(name, name)
        tensors |= {stem + a: pair[0].contiguous(), stem + b: pair[1].contiguous()}
        if alphas:
            tensors[stem + ".alpha"] = torch.tensor(alphas[name])
    return tensors


def config_of(**settings):
    """Metadata as diffusers writes them."""
    return {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in settings.items()})}


PEFT = (".lora_A.weight", ".lora_B.weight")
KOHYA = (".lora_down.weight", ".lora_up.weight")
FLAT = {name: name.replace(".", "_") for name in RANKS}
PATTERNS = {"rank_pattern": {"to_out.0": 2, f"^{CONV}": 3}, "r": 4}
FILES = {  # spelling, metadata, and the scales by hand
    "diffusers": (("unet.", *PEFT), {}, ONES),
    "older diffusers": (("unet.", ".lora.down.weight", ".lora.up.weight"), {}, ONES),
    "of a UNet alone": (("", *PEFT), {}, ONES),
    "a tensor alpha": (("unet.", *PEFT, ALPHAS), {}, BY_ALPHAS),
    "kohya, diffusers' names": (("lora_unet_", *KOHYA, ALPHAS, FLAT), {"ss_network_alpha": "2.0"}, BY_ALPHAS),
    "kohya, SDXL's names": (("lora_unet_", *KOHYA, ALPHAS, ORIGINAL), {}, BY_ALPHAS),
    "kohya, no alpha": (("lora_unet_", *KOHYA, None, ORIGINAL), {}, ONES),
    "alpha beside the tensors that say it": (("unet.", *PEFT, ALPHAS), {"alpha": "8", "rank": "4"}, BY_ALPHAS),
    "rank pattern": (
        ("unet.", *PEFT),
        config_of(lora_alpha=4, **PATTERNS),
        {QUERY: 1.0, KEY: 1.0, OUT: 2.0, CONV: 4 / 3},
    ),
    "alpha pattern": (
        ("unet.", *PEFT),
        config_of(lora_alpha=2, alpha_pattern={"attn1.to_k": 12, "conv1": 1}, **PATTERNS),
        {QUERY: 1 / 2, KEY: 3.0, OUT: 1.0, CONV: 1 / 3},
    ),
    "rsLoRA": (
        ("unet.", *PEFT),
        config_of(lora_alpha=4, use_rslora=True, **PATTERNS),
        {QUERY: 2.0, KEY: 2.0, OUT: 4 / math.sqrt(2), CONV: 4 / math.sqrt(3)},
    ),
    "rsLoRA of a UNet alone": (
        ("", *PEFT),
        {"lora_adapter_metadata": json.dumps({"lora_alpha": 4, "use_rslora": True, **PATTERNS})},
        {QUERY: 2.0, KEY: 2.0, OUT: 4 / math.sqrt(2), CONV: 4 / math.sqrt(3)},
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_applied_with_the_scale_that_it_says(pipeline, tmp_path, kind):
    spelling, metadata, scales = FILES[kind]
    base, pairs = copy.deepcopy(pipeline.unet), made_up(pipeline.unet)
    path = tmp_path / "any name.safetensors"
    save_file(named(pairs, *spelling), path, metadata=metadata)
    assert load_lora(pipeline, path) is pipeline
    assert off(pipeline.unet, by_hand(base, pairs, scales)) < 1e-12
    assert off(pipeline.unet, base) > 1e-2, "control: it does something"
    if scales != ONES:
        assert off(pipeline.unet, by_hand(base, pairs, ONES)) > 1e-2, "control: and the scale matters"
    pipeline.unload_lora_weights()
    assert off(pipeline.unet, base) == 0


ADAPTERS = {  # what peft is asked for, and each layer's scale by hand
    "plain": ({"lora_alpha": 4}, lambda name, rank: 1),
    "alpha": ({"lora_alpha": 6}, lambda name, rank: 6 / 4),
    "rsLoRA": ({"lora_alpha": 4, "use_rslora": True}, lambda name, rank: 4 / 2),
    "rank pattern": ({"lora_alpha": 4, "rank_pattern": {"to_k": 2}}, lambda name, rank: 4 / rank),
    "alpha pattern": (
        {"lora_alpha": 4, "alpha_pattern": {"to_k": 9}},
        lambda name, rank: 9 / 4 if "to_k" in name else 1,
    ),
}


def adapter(unet, name="default", seed=0, **settings):
    """The UNet with an adapter on the attention's queries and keys, all of it random."""
    unet.requires_grad_(False)
    settings = {"r": 4, "target_modules": ["to_q", "to_k"], **settings}
    unet.add_adapter(LoraConfig(**settings), adapter_name=name)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, p in unet.named_parameters():
            if f".{name}." in key and p.ndim > 1:
                p.copy_(torch.randn(p.shape, generator=rng) / p.shape[1] ** 0.5)
    return unet


def pairs_of(unet, name="default"):
    """A and B of each layer, by their parameters' names."""
    found = {key: p.detach() for key, p in unet.named_parameters() if f".{name}.weight" in key}
    stems = [key.removesuffix(f".lora_A.{name}.weight") for key in found if ".lora_A." in key]
    return {s: (found[f"{s}.lora_A.{name}.weight"], found[f"{s}.lora_B.{name}.weight"]) for s in stems}


def in_diffusers(pipeline, folder):
    pipeline.load_lora_weights(folder)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_is_exported_as_it_computes(world, pipeline, tmp_path, kind):
    settings, scale = ADAPTERS[kind]
    base = copy.deepcopy(pipeline.unet)
    unet = adapter(copy.deepcopy(base), **settings)
    pairs = pairs_of(unet)
    wanted = by_hand(base, pairs, {name: scale(name, len(a)) for name, (a, _) in pairs.items()})
    assert off(unet, wanted) < 1e-12
    export_lora(unet, tmp_path / "ours")
    layers = {"unet_lora_layers": get_peft_model_state_dict(unet)}
    config = unet.peft_config["default"].to_dict()
    StableDiffusionXLPipeline.save_lora_weights(tmp_path / "theirs", **layers, unet_lora_adapter_metadata=config)
    for load, folder in ((load_lora, "ours"), (in_diffusers, "ours"), (load_lora, "theirs")):
        load(pipeline, tmp_path / folder)
        assert off(pipeline.unet, wanted) < 1e-7, (load, folder)
        assert off(pipeline.unet, base) > 1e-2
        pipeline.unload_lora_weights()
    assert off(merged(unet), wanted) < 1e-12
    written = load_file(tmp_path / "ours" / LORA)
    plain = {name: tuple(written[f"unet.{name}{end}"] for end in PEFT) for name in pairs}
    assert off(by_hand(base, plain, dict.fromkeys(plain, 1.0)), wanted) < 1e-7, "right for a reader that knows no scale"


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_two_adapters_at_a_time_are_exported_together(pipeline, tmp_path):
    base = copy.deepcopy(pipeline.unet)
    unet = adapter(copy.deepcopy(base), "first", lora_alpha=6)
    adapter(unet, "second", seed=1, r=2, lora_alpha=2, use_rslora=True, target_modules=["to_k", "to_v"])
    adapter(unet, "idle", seed=2)
    first, second = pairs_of(unet, "first"), pairs_of(unet, "second")
    assert first.keys() & second.keys(), "some layers have both"
    unet.set_adapters(["first", "second"], [1.0, 0.5])
    one = by_hand(base, first, dict.fromkeys(first, 6 / 4))
    wanted = by_hand(one, second, dict.fromkeys(second, 0.5 * 2 / math.sqrt(2)))
    export_lora(unet, tmp_path)
    for load in (load_lora, in_diffusers):
        load(pipeline, tmp_path)
        assert off(pipeline.unet, wanted) < 1e-7
        assert off(pipeline.unet, one) > 1e-2, "control: the first alone is something else"
        pipeline.unload_lora_weights()
    assert off(merged(unet), wanted) < 1e-12


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed")
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda unet: adapter(unet, use_dora=True), "Dora"),
        (lambda unet: adapter(unet, lora_bias=True, init_lora_weights=True), "bias"),
        (lambda unet: adapter(unet, bias="all"), "bias='all'"),
        (lambda unet: adapter(unet, modules_to_save=["conv_in"]), "conv_in"),
        (lambda unet: unet.add_adapter(LoHaConfig(r=2, target_modules=["to_q"])), "loha"),
        (lambda unet: adapter(unet).disable_adapters(), "switched off"),
        (lambda unet: adapter(unet).fuse_lora(), "fused"),
    ],
)
def test_what_a_file_cannot_hold_is_not_exported(world, tmp_path, change, named):
    unet = copy.deepcopy(world.unet)
    change(unet)
    with pytest.raises(ValueError, match=named):
        export_lora(unet, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_adapter_that_is_switched_off_is_not_merged(pipeline):
    base = copy.deepcopy(pipeline.unet)
    unet = adapter(pipeline.unet)
    unet.disable_adapters()
    assert off(merged(unet), base) == 0
    unet.enable_adapters()
    assert off(merged(unet), base) > 1e-2


def without(tensors, *ends):
    return {key: value for key, value in tensors.items() if not key.endswith(ends)}


TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
REFUSED = {  # what is done to a good file's tensors, its metadata, and what the refusal has to name
    "text encoder": (lambda t: t | {TEXT: torch.ones(1, 1)}, {}, TEXT),
    "kohya's text encoder": (lambda t: t | {"lora_te1_x.lora_down.weight": torch.ones(1, 1)}, {}, "lora_te1_x"),
    "another network's layer": (
        lambda t: t | {"unet.down_blocks.9.x.lora_A.weight": torch.ones(1, 1)},
        {},
        "down_blocks.9",
    ),
    "DoRA": (lambda t: t | {f"unet.{QUERY}.lora_magnitude_vector": torch.ones(64)}, {}, "lora_magnitude_vector"),
    "kohya's DoRA": (lambda t: t | {"lora_unet_x.dora_scale": torch.ones(64)}, {}, "dora_scale"),
    "a bias": (lambda t: t | {f"unet.{QUERY}.lora_B.bias": torch.ones(64)}, {}, "lora_B.bias"),
    "a half": (lambda t: without(t, f"{KEY}.lora_B.weight"), {}, KEY),
    "another shape": (lambda t: t | {f"unet.{KEY}.lora_A.weight": torch.ones(4, 3)}, {}, KEY),
    "named twice": (lambda t: t | {f"{KEY}.lora_A.weight": torch.ones(4, 64)}, {}, KEY),
    "an alpha for one": (lambda t: t | {f"unet.{QUERY}.alpha": torch.tensor(2.0)}, {}, KEY),
    "an alpha of 0": (lambda t: t | {f"unet.{name}.alpha": torch.tensor(0.0) for name in RANKS}, {}, "other than 0"),
    "alpha twice": (lambda t: t | {f"unet.{QUERY}.alpha": torch.tensor(2.0)}, config_of(**PATTERNS), "twice"),
    "an alpha in kohya's metadata alone": (lambda t: t, {"ss_network_alpha": "1"}, KEY),
    **{
        f"{key} where nobody reads it": (lambda t: t, {key: "8"}, f"{key} '8'")
        for key in ("lora_alpha", "alpha", "network_alpha", "rank", "r")
    },
    "rsLoRA in quotation marks": (lambda t: t, config_of(use_rslora="false", **PATTERNS), "use_rslora 'false'"),
    "another rank": (lambda t: t, config_of(r=4, lora_alpha=4), "rank 4, but its tensors have rank [23]"),
    "DoRA in the metadata": (lambda t: t, config_of(use_dora=True, **PATTERNS), "use_dora=True"),
    "PiSSA": (lambda t: t, config_of(init_lora_weights="pissa", **PATTERNS), "pissa"),
    "LoHa in the metadata": (lambda t: t, config_of(peft_type="LOHA", **PATTERNS), "LOHA"),
    "metadata of no sense": (lambda t: t, {"lora_adapter_metadata": "[1"}, "no JSON object"),
    "empty": (lambda t: {}, {"format": "pt"}, "no tensors"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_cannot_be_applied_whole_is_refused_and_named(world, tmp_path, kind):
    change, metadata, names = REFUSED[kind]
    pipeline = world.one_step_pipeline(tied_clone(world.unet))
    good = {key: value.float() for key, value in named(made_up(pipeline.unet), "unet.", *PEFT).items()}
    save_file(change(good), tmp_path / LORA, metadata=metadata)
    with pytest.raises(ValueError, match=names) as error:
        load_lora(pipeline, tmp_path)
    assert LORA in str(error.value)
    assert not any("lora" in name for name, _ in pipeline.unet.named_modules()), "the pipeline is as it was"
    save_file(good, tmp_path / LORA)
    load_lora(pipeline, tmp_path)


def test_a_scale_in_a_file_beside_the_lora_is_not_passed_over(world, tmp_path):
    pipeline = world.one_step_pipeline(tied_clone(world.unet))
    pairs = {key: value.float() for key, value in named(made_up(pipeline.unet), "unet.", *PEFT).items()}
    save_file(pairs, tmp_path / LORA)
    beside = tmp_path / "adapter_config.json"
    beside.write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 16}), "utf-8")
    with pytest.raises(ValueError, match=r"adapter_config\.json has lora_alpha 16"):
        load_lora(pipeline, tmp_path)
    save_file(pairs, tmp_path / LORA, metadata=config_of(lora_alpha=4, **PATTERNS))
    load_lora(pipeline, tmp_path)  # control: the file itself says its scale
    pipeline.unload_lora_weights()
    beside.unlink()
    save_file(pairs, tmp_path / LORA)
    load_lora(pipeline, tmp_path)  # control: nothing says one


def test_a_damaged_file_and_a_second_lora_are_refused(world, tmp_path):
    pipeline = world.one_step_pipeline(tied_clone(world.unet))
    export_lora(adapted(world), tmp_path)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / LORA).read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut\.safetensors"):
        load_lora(pipeline, tmp_path / "cut.safetensors")
    load_lora(pipeline, tmp_path)
    with pytest.raises(ValueError, match="default_0"):
        load_lora(pipeline, tmp_path)
    pipeline.unload_lora_weights()
    load_lora(pipeline, tmp_path)


@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters")
def test_what_diffusers_left_out_is_an_error(world, tmp_path, monkeypatch):
    pipeline = world.one_step_pipeline(tied_clone(world.unet))
    export_lora(adapted(world), tmp_path)
    load = UNet2DConditionModel.load_lora_adapter

    def forgetful(self, tensors, **options):
        return load(self, {key: value for key, value in tensors.items() if not key.startswith(KEY)}, **options)

    monkeypatch.setattr(UNet2DConditionModel, "load_lora_adapter", forgetful)
    with pytest.raises(RuntimeError, match=KEY):
        load_lora(pipeline, tmp_path)
    assert not any("lora" in name for name, _ in pipeline.unet.named_modules())


@pytest.mark.parametrize("size", ["SDXL", "miniature"])
def test_layers_have_the_names_that_diffusers_translates(world, size):
    unet = world.unet
    if size == "SDXL":
        with torch.device("meta"):
            # with fewer transformer blocks
            unet = UNet2DConditionModel(**SDXL["unet"] | {"transformer_layers_per_block": (1, 2, 3)})
    known = spellings(unet)
    layers = set(known.values())
    assert len(known) == 4 * len(layers), "no two layers share a spelling"
    stems = {f"lora_unet_{original_name(name, unet).replace('.', '_')}": name for name in layers}
    file = {stem + end: torch.zeros(()) for stem in stems for end in KOHYA}
    theirs, _ = StableDiffusionXLPipeline.lora_state_dict(dict(file), unet_config=unet.config)
    theirs = {id(value): key for key, value in convert_unet_state_dict_to_peft(theirs).items()}
    for stem, name in stems.items():
        assert known[stem] == name
        assert [theirs[id(file[stem + end])] for end in KOHYA] == [f"unet.{name}{end}" for end in PEFT]
