"""ImageReward on a small network: against the same arithmetic in plain torch, and what it refuses."""

import pickle
import warnings

import pytest
import torch
from torch.nn.functional import conv2d, embedding, gelu, layer_norm, linear, normalize

from distar_core.rewards import imagereward
from distar_core.rewards.heads import AffineHead, five_layers
from distar_core.rewards.imagereward import MEAN, SPARE, STD, TOKENS, ImageReward
from distar_core.rewards.laion import LaionAesthetic
from distar_core.rewards.preprocess import Preprocess
from tests.rewards.small import HEADS, IMAGES, PROMPTS, SETTINGS, TEXT_HEADS, WORDS, make_network, make_tokenizer
from tools.golden_rewards import fill


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def reward(network):
    return ImageReward(network, make_tokenizer())


def attend(queries, keys, values, heads, mask=None):
    """Attention in several heads; [B, n, width] each, mask [B, n of keys]."""
    split = lambda x: x.unflatten(-1, (heads, -1)).transpose(1, 2)  # noqa: E731
    q, k, v = map(split, (queries, keys, values))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(mask[:, None, None] == 0, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def by_hand(weights, pixels, ids, mask):
    """BLIP's two networks and the head in plain torch, from weights by name: pixels [B, 3, 224, 224] -> [B]."""

    def at(name, x):
        return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name, x, eps):
        return layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    eye = "blip.visual_encoder."
    patches = conv2d(
        pixels, weights[f"{eye}patch_embed.proj.weight"], weights[f"{eye}patch_embed.proj.bias"], stride=16
    )
    x = torch.cat([weights[f"{eye}cls_token"].expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)], 1)
    x = x + weights[f"{eye}pos_embed"]
    for block in (f"{eye}blocks.{number}." for number in range(SETTINGS["depth"])):
        queries, keys, values = at(f"{block}attn.qkv", norm(f"{block}norm1", x, 1e-6)).chunk(3, -1)
        x = x + at(f"{block}attn.proj", attend(queries, keys, values, HEADS))
        x = x + at(f"{block}mlp.fc2", gelu(at(f"{block}mlp.fc1", norm(f"{block}norm2", x, 1e-6))))
    seen = norm(f"{eye}norm", x, 1e-6)
    tongue = "blip.text_encoder."
    words = embedding(ids, weights[f"{tongue}embeddings.word_embeddings.weight"])
    words = words + weights[f"{tongue}embeddings.position_embeddings.weight"][: ids.shape[1]]
    y = norm(f"{tongue}embeddings.LayerNorm", words, 1e-12)
    for layer in (f"{tongue}encoder.layer.{number}." for number in range(SETTINGS["num_hidden_layers"])):
        for part, over, shown in (("attention", None, mask), ("crossattention", seen, None)):
            own = f"{layer}{part}.self."
            source = y if over is None else over
            read = attend(at(f"{own}query", y), at(f"{own}key", source), at(f"{own}value", source), TEXT_HEADS, shown)
            y = norm(f"{layer}{part}.output.LayerNorm", y + at(f"{layer}{part}.output.dense", read), 1e-12)
        inner = gelu(at(f"{layer}intermediate.dense", y))
        y = norm(f"{layer}output.LayerNorm", y + at(f"{layer}output.dense", inner), 1e-12)
    value = y[:, 0]
    for place in (0, 2, 4, 6, 7):
        value = at(f"mlp.layers.{place}", value)
    return (value[:, 0] - 0.16717362830052426) / 1.0333394966054072


def test_the_value_is_that_of_the_same_arithmetic_in_plain_torch(network, reward):
    weights = {name: value.double() for name, value in network.state_dict().items()}
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 8, 9, 3, 0]])
    pixels = reward.preprocess(IMAGES).double()
    found = reward(images=IMAGES, prompts=PROMPTS)
    torch.testing.assert_close(found.double(), by_hand(weights, pixels, ids, ids.ne(0)), rtol=0, atol=1e-5)
    # controls: padding that is read, and other numbers of heads
    assert float((by_hand(weights, pixels, ids, ids.ge(0)) - found).abs()[1]) > 1e-4
    other = ImageReward(make_network(num_attention_heads=4), make_tokenizer())
    assert other.state_dict().keys() == reward.state_dict().keys(), "the same weights fit"
    assert float((other(images=IMAGES, prompts=PROMPTS) - found).abs().min()) > 1e-4


def test_the_head_is_folded_into_one_affine_map():
    layers = five_layers(768)
    features = normalize(torch.randn(16, 768, generator=torch.Generator().manual_seed(0)))
    head = AffineHead(layers, 768)
    torch.testing.assert_close(head(features), layers(features)[:, 0], rtol=0, atol=1e-6)
    assert next(layers.parameters()).dtype == torch.float32, "the layers stay as they are"
    folded = head.weight.clone()
    assert torch.equal(head.to(torch.bfloat16).weight, folded)
    curved = torch.nn.Sequential(*layers[:2], torch.nn.ReLU(), *layers[2:])  # control
    with torch.no_grad():
        assert float((AffineHead(curved, 768)(features) - curved(features)[:, 0]).abs().max()) > 1e-4


def test_a_reward_stays_in_evaluation_mode(reward):
    around = torch.nn.ModuleList([reward, torch.nn.Dropout(0.5)]).train()
    assert around[1].training, "control"
    assert not any(module.training for module in reward.modules())
    assert not any(parameter.requires_grad for parameter in reward.parameters())


@pytest.mark.parametrize("shape", [(1, 1), (300, 17), (40, 900), (224, 224)])
def test_pictures_of_any_size_have_a_gradient(reward, shape):
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (gradient,) = torch.autograd.grad(reward(images=images, prompts=PROMPTS).sum(), images)
    assert gradient.isfinite().all()
    assert gradient.flatten(1).any(1).all()


def in_plain_bfloat16():
    """Without oneDNN, which stops on processors that list instructions for bfloat16 but may not use them."""
    return torch.backends.mkldnn.flags(enabled=False)


def make_laion():
    class Eye(torch.nn.Conv2d):
        def forward(self, pixels):
            return super().forward(pixels).mean((2, 3))

    eye, layers = Eye(3, 768, 14, stride=14), five_layers(768)
    fill(eye.state_dict() | layers.state_dict())
    return LaionAesthetic(eye, Preprocess(224), layers)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("make", [lambda: ImageReward(make_network(), make_tokenizer()), make_laion])
def test_weights_in_bfloat16_give_the_same_up_to_their_digits(make):
    values, gradients = {}, {}
    for dtype in (torch.float32, torch.bfloat16):
        images = IMAGES.clone().requires_grad_()
        reward = make().to(dtype)
        with in_plain_bfloat16():
            value = reward(images=images, prompts=PROMPTS)
            (gradients[dtype],) = torch.autograd.grad(value.sum(), images)
            values[dtype] = value.detach()
            assert reward(images=IMAGES.bfloat16(), prompts=PROMPTS).dtype == torch.float32
        assert values[dtype].dtype == gradients[dtype].dtype == torch.float32
    gap = float((values[torch.bfloat16] - values[torch.float32]).abs().max())
    assert 0 < gap < 0.05
    cosine = torch.cosine_similarity(*(gradient.flatten() for gradient in gradients.values()), dim=0)
    assert float(cosine) > 0.99


def test_the_rating_is_linear_in_the_unit_embedding_and_deaf_to_prompts():
    reward = make_laion()
    with torch.no_grad():
        embedded = normalize(reward.visual(reward.preprocess(IMAGES)))
        found = reward(images=IMAGES, prompts=PROMPTS)
    torch.testing.assert_close(found, embedded @ reward.head.weight + reward.head.bias)
    assert torch.equal(found, reward(images=IMAGES, prompts=PROMPTS[::-1]))


def test_prompts_over_the_limit_are_warned_about_once(reward):
    fits, cut = "a " * (TOKENS - 2), "a " * (TOKENS - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reward(images=IMAGES, prompts=[fits, "a"])
    with pytest.warns(UserWarning, match=rf"1 of 1 new prompts .* {TOKENS} tokens that ImageReward") as told:
        found = reward(images=IMAGES, prompts=[cut, fits])
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = reward(images=IMAGES, prompts=[cut, fits])
    assert torch.equal(found, again)


@pytest.mark.parametrize(("words", "told"), [(WORDS[:-1], "9 entries"), ([*WORDS, "b", "c", "d"], "13 entries")])
def test_another_tokenizer_is_refused(network, words, told):
    with pytest.raises(ValueError, match=rf"{told}.*{len(WORDS) + 2}.*bert-base-uncased"):
        ImageReward(network, make_tokenizer(words))


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, network):
    """The small network as the published checkpoint is: 5 tensors more."""
    monkeypatch.setattr(imagereward, "make_network", make_network)
    state = network.state_dict() | {name: torch.zeros(2) for name in SPARE}
    path = tmp_path / "ImageReward.pt"
    torch.save(state, path)
    return path, state


def test_the_checkpoint_is_loaded_whole(checkpoint, reward):
    path, state = checkpoint
    expected = reward(images=IMAGES, prompts=PROMPTS)
    assert torch.equal(ImageReward.load(path, make_tokenizer())(images=IMAGES, prompts=PROMPTS), expected)
    torch.save({name: value.half() for name, value in state.items()}, path)
    halves = ImageReward.load(path, make_tokenizer())
    assert next(halves.parameters()).dtype == torch.float32
    assert 0 < float((halves(images=IMAGES, prompts=PROMPTS) - expected).abs().max()) < 1e-2


@pytest.mark.parametrize("kind", ["missing", "unexpected", "misshapen", "NaN", "global", "list", "pointer"])
def test_any_other_checkpoint_is_refused(checkpoint, kind):
    path, state = checkpoint
    name = "blip.visual_encoder.blocks.1.attn.qkv.bias"
    wrong = {
        "missing": {key: value for key, value in state.items() if key != name},
        "unexpected": state | {"extra": torch.zeros(1)},
        "misshapen": state | {name: torch.zeros(3)},
        "NaN": state | {name: torch.full_like(state[name], torch.nan)},
        "global": {name: warnings.WarningMessage},
        "list": [torch.zeros(1)],
    }
    told = {
        "missing": f"1 missing ({name})",
        "unexpected": "1 unexpected (extra)",
        "misshapen": f"1 misshapen ({name})",
    }
    told |= {
        "NaN": f"1 weights ({name})",
        "global": "could run code",
        "list": "tensors by name",
        "pointer": "git lfs pull",
    }
    if kind == "pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\n", "utf-8")
    else:
        torch.save(wrong[kind], path)
    with pytest.raises(ValueError, match=r"ImageReward\.pt") as caught:
        ImageReward.load(path, make_tokenizer())
    assert told[kind] in str(caught.value)


def test_a_pickle_that_would_run_code_does_not(checkpoint, tmp_path):
    path, _ = checkpoint
    mark = tmp_path / "ran"

    class Harm:
        def __reduce__(self):
            return (mark.write_text, ("ran",))

    path.write_bytes(pickle.dumps({"weights": Harm()}, protocol=2))
    with pytest.raises(ValueError, match=r"ImageReward\.pt"):
        ImageReward.load(path, make_tokenizer())
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # control
    assert mark.exists()


def test_its_normalisation_is_the_published_one(network, reward):
    raw = reward(images=IMAGES, prompts=PROMPTS) * STD + MEAN
    shifted = make_network()
    with torch.no_grad():
        shifted["mlp"]["layers"][7].bias.sub_(1)
    found = ImageReward(shifted, make_tokenizer())(images=IMAGES, prompts=PROMPTS) * STD + MEAN
    torch.testing.assert_close(found, raw - 1, rtol=0, atol=1e-5)
