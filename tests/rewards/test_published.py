"""The registry: names, files held to what was published, and every reward loaded from a folder of a small network."""

import hashlib
import json
import re
import shutil
import warnings

import pytest
import torch
from safetensors.torch import save_file

from distar_core.rewards import files, imagereward, published
from distar_core.rewards.base import PictureReward
from distar_core.rewards.clip import CONFIG, WEIGHTS, ClipScore
from distar_core.rewards.files import File, record, verify
from distar_core.rewards.heads import five_layers
from distar_core.rewards.preprocess import PreprocessWhole
from distar_core.rewards.published import PUBLISHED, find_reward, load_reward
from tests.rewards.small import IMAGES, PROMPTS, make_network, make_tokenizer
from tools.golden_rewards import fill


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(files.CACHE, str(tmp_path / "cache"))


def test_every_reward_says_what_it_is():
    assert set(PUBLISHED) >= {
        "imagereward",
        "hpsv2.1",
        "pickscore",
        "laion-aesthetic",
        "clip:ViT-g-14/laion2b_s12b_b42k",
    }
    for name, reward in PUBLISHED.items():
        assert reward.name == name
        assert all([reward.measures, reward.scale, reward.gigabytes, reward.licence, reward.source, reward.gradient])
    for file in (published.IMAGEREWARD, published.HPSV2, published.LAION, published.PICKSCORE):
        assert re.fullmatch("[0-9a-f]{40}", file.revision)


def test_names_are_looked_up():
    assert find_reward("clip:ViT-B-32/laion2b_s34b_b79k").name == "clip:ViT-B-32/laion2b_s34b_b79k"
    for name, told in (
        ("hps", "'hps'.*imagereward, hpsv2.1"),
        ("clip:ViT-B-32", "'clip:ViT-B-32'.*clip:ViT-g-14/laion2b_s12b_b42k"),
        ("clip:ViT-B-32/mine", "'mine' of ViT-B-32.*laion2b_s34b_b79k"),
        ("clip:ViT-L-14/openai", "QuickGELU.*'ViT-L-14-quickgelu'"),
    ):
        with pytest.raises(ValueError, match=told):
            find_reward(name)


def test_a_file_is_held_to_size_and_sha(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    assert verify(path, "a", size=3, sha256=digest) == digest
    assert not record().exists(), "what is known is not recorded"
    with pytest.raises(ValueError, match=r"weights has 3 bytes, but a has 4"):
        verify(path, "a", size=4)
    with pytest.raises(ValueError, match=rf"weights has SHA-256 {digest}, but a has 00"):
        verify(path, "a", sha256="00")


def test_an_unknown_sha_is_recorded_and_compared(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    first = verify(path, "a")
    assert json.loads(record().read_text("utf-8")) == {"a": first}
    assert verify(path, "a") == first
    path.write_bytes(b"abd")
    second = verify(path, "b")
    assert second != first, "control: another file has its own"
    with pytest.raises(ValueError, match=rf"SHA-256 {second}, but a had {first}.*sha256\.json"):
        verify(path, "a")
    assert json.loads(record().read_text("utf-8")) == {"a": first, "b": second}


def test_files_come_from_the_hub_at_their_revision(tmp_path, monkeypatch):
    asked = []

    def download(repository, name, *, revision):
        asked.append((repository, name, revision))
        (tmp_path / name).write_bytes(b"abc")
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    file = File("weights.bin", "owner/name", "a" * 40, size=3)
    assert file.find(None) == tmp_path / "weights.bin"
    assert asked == [("owner/name", "weights.bin", "a" * 40)]
    with pytest.raises(ValueError, match="3 bytes"):
        file._replace(size=4).find(None)


def test_a_file_outside_the_hub_is_fetched_once(monkeypatch):
    asked = []

    def download(address, path, sha256, progress):
        asked.append((address, sha256))
        with open(path, "wb") as written:
            written.write(b"abc")

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    file = File("a+b.pth", "https://example.org/owner/name", "c" * 40, sha256=hashlib.sha256(b"abc").hexdigest())
    assert file.find(None) == file.find(None) == files.cache() / "a+b.pth"
    assert asked == [(f"https://example.org/owner/name/raw/{'c' * 40}/a%2Bb.pth", file.sha256)]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("imagereward", "ImageReward .*1.8 GB, licence: Apache-2.0"),
        ("hpsv2.1", "HPSv2.1 .*2 GB, licence: Apache-2.0"),
        ("pickscore", "PickScore .*3.9 GB, licence: MIT"),
        ("laion-aesthetic", "LAION.*licence: Apache-2.0"),
    ],
)
def test_weights_that_cannot_be_fetched_are_one_sentence(monkeypatch, name, told):
    def unreachable(*_, **__):
        raise OSError("no network\nat all")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    with pytest.raises(FileNotFoundError, match=told) as caught:
        load_reward(name)
    assert "no network at all" in str(caught.value)


VISION = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


def small_clip(name, tmp_path, **changes):
    """A CLIP of that name in open_clip's list, with weights by the hash of their names."""
    import open_clip

    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({"embed_dim": 768, "vision_cfg": VISION, "text_cfg": TEXT, **changes}), "utf-8")
    open_clip.add_model_config(path)
    model = open_clip.create_model(name, load_weights=False, pretrained_text=False)
    fill(model.state_dict())
    return model


def published_folder(name, folder, tmp_path, monkeypatch):
    """A folder as it would be published for a small network of that name, and the reward that it should be."""
    import open_clip

    folder.mkdir()
    if name == "imagereward":
        network = make_network()
        monkeypatch.setattr(imagereward, "make_network", make_network)
        monkeypatch.setattr(published, "IMAGEREWARD", published.IMAGEREWARD._replace(size=None))
        torch.save(network.state_dict(), folder / published.IMAGEREWARD.name)
        make_tokenizer().save_pretrained(folder)
        return imagereward.ImageReward(network, make_tokenizer())
    if name == "hpsv2.1":
        model = small_clip("small-hps", tmp_path)
        small = ClipScore.hpsv2
        monkeypatch.setattr(ClipScore, "hpsv2", lambda weights: small(weights, "small-hps"))
        monkeypatch.setattr(published, "HPSV2", published.HPSV2._replace(size=None))
        torch.save({"epoch": 3, "state_dict": model.state_dict()}, folder / published.HPSV2.name)
        return ClipScore.of(
            model, open_clip.get_tokenizer("small-hps"), preprocess=PreprocessWhole(VISION["image_size"])
        )
    model = small_clip("small-quick", tmp_path, quick_gelu=True)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small-quick", {"openai": {"quick_gelu": True}})
    save_file(model.state_dict(), folder / WEIGHTS[0])
    config = {"embed_dim": 768, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}
    stated = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    (folder / CONFIG).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": stated}), "utf-8")
    clip = ClipScore.load(f"local-dir:{folder}")
    if name != "laion-aesthetic":
        return clip
    layers = torch.nn.ModuleDict({"layers": five_layers(768)})
    torch.save(layers.state_dict(), folder / published.LAION.name)
    monkeypatch.setattr(published, "LAION_CLIP", ("small-quick", "openai"))
    monkeypatch.setattr(published, "LAION", published.LAION._replace(size=None, sha256=None))
    return published.LaionAesthetic(clip.model.visual, clip.preprocess, layers["layers"])


ALL = ["imagereward", "hpsv2.1", "laion-aesthetic", "clip:small-quick/openai"]


@pytest.mark.parametrize("name", ALL)
def test_a_reward_is_loaded_from_a_folder(name, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    expected = published_folder(name, folder, tmp_path, monkeypatch)
    reward = load_reward(name, folder)
    assert isinstance(reward, PictureReward)
    assert reward.differentiable
    found = reward(images=IMAGES, prompts=PROMPTS)
    assert torch.equal(found, expected(images=IMAGES, prompts=PROMPTS))
    assert found.shape == (2,)
    assert not any(module.training for module in reward.train().modules())
    assert len(json.loads(record().read_text("utf-8"))) == (2 if name == "laion-aesthetic" else 1)
    with pytest.raises(ValueError, match="must lie in"):
        reward(images=IMAGES * 2, prompts=PROMPTS)
    # the same name, another file: the record knows
    path = max(folder.iterdir(), key=lambda file: file.stat().st_size)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=rf"{re.escape(path.name)} has SHA-256"):
        load_reward(name, folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="has no"):
        load_reward(name, folder)
    with pytest.raises(FileNotFoundError, match=r"none is no folder"):
        load_reward(name, tmp_path / "none")


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("name", ALL)
def test_pictures_of_any_size_have_a_gradient_in_both_types(name, tmp_path, monkeypatch):
    reward = published_folder(name, tmp_path / "folder", tmp_path, monkeypatch)
    for dtype in (torch.float32, torch.bfloat16):
        reward.to(dtype)
        for shape in ((64, 64), (100, 37)):
            images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
            with torch.backends.mkldnn.flags(enabled=False):
                value = reward(images=images, prompts=PROMPTS)
                (gradient,) = torch.autograd.grad(value.sum(), images)
            assert value.dtype == gradient.dtype == torch.float32
            assert gradient.isfinite().all()
            assert gradient.flatten(1).any(1).all()


def test_a_training_checkpoint_of_another_form_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    published_folder("hpsv2.1", folder, tmp_path, monkeypatch)
    path = folder / published.HPSV2.name
    state = torch.load(path, weights_only=True)["state_dict"]
    first = "visual.proj"
    for wrong, told in (
        (state, "no 'state_dict'"),
        ({"state_dict": {**state, "extra": torch.zeros(1)}}, "1 unexpected (extra)"),
        ({"state_dict": {key: value for key, value in state.items() if key != first}}, f"1 missing ({first})"),
        ({"state_dict": {f"module.{key}": value for key, value in state.items()}}, "remove 'module.'"),
        ({"state_dict": state | {first: torch.zeros(3)}}, f"1 misshapen ({first})"),
        ({"state_dict": state, "args": warnings.WarningMessage}, "could run code"),
    ):
        torch.save(wrong, path)
        with pytest.raises(ValueError, match=re.escape(path.name)) as caught:
            ClipScore.hpsv2(path)
        assert told in str(caught.value)


def test_a_folder_of_another_activation_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    published_folder("laion-aesthetic", folder, tmp_path, monkeypatch)
    written = json.loads((folder / CONFIG).read_text("utf-8"))
    del written["model_cfg"]["quick_gelu"]
    (folder / CONFIG).write_text(json.dumps(written), "utf-8")
    with pytest.raises(ValueError, match=r"model_cfg\.quick_gelu False, but small-quick has True"):
        load_reward("laion-aesthetic", folder)
    written["model_cfg"] |= {"quick_gelu": True, "vision_cfg": {**VISION, "width": 48}}
    (folder / CONFIG).write_text(json.dumps(written), "utf-8")
    with pytest.raises(ValueError, match=r"vision_cfg\.width 48, but small-quick has 32"):
        load_reward("laion-aesthetic", folder)


def test_a_pickscore_of_another_network_is_refused_before_its_weights_are_read(tmp_path):
    from transformers import CLIPConfig

    config = json.loads(json.dumps(published.PICKSCORE_NETWORK))
    config["vision_config"] = config["vision_config"] | {"intermediate_size": 5120}
    CLIPConfig(**config).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):  # control: the configuration is right
        load_reward("pickscore", tmp_path)
    config["text_config"]["hidden_act"] = "quick_gelu"
    CLIPConfig(**config).save_pretrained(shutil.copytree(tmp_path, tmp_path / "other"))
    record().unlink()
    with pytest.raises(ValueError, match=r"text_config\.hidden_act 'quick_gelu', but PickScore has 'gelu'"):
        load_reward("pickscore", tmp_path / "other")
