"""What is named on the hub is fetched once, read from the cache without a network, and refused in a sentence."""

import pytest

from distar_core.runs.hub import Named, fetched, named, sizes_in


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", Named("stabilityai/stable-diffusion-xl-base-1.0")),
        ("tianweiy/DMD2/model_fp16.bin", Named("tianweiy/DMD2", "model_fp16.bin")),
        ("me/model/unet/", Named("me/model", "unet")),
        ("model", None),
        ("./me/model", None),
        ("/me/model", None),
        ("../me/model", None),
        ("~/me/model", None),
        ("me\\model", None),
        ("me/..", None),
        ("", None),
    ],
)
def test_what_may_be_a_name_on_the_hub(source, what):
    assert named(source) == what


def test_what_is_on_the_disk_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named("me/model") == Named("me/model")
    (tmp_path / "me" / "model").mkdir(parents=True)
    assert named("me/model") is None


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    for name in ("config.json", "unet/config.json", "unet/weights.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_only_what_is_wanted_is_fetched_and_only_once(hub, repository, kind):
    (hub.models if kind == "model" else hub.datasets)["me/x"] = repository
    what = named("me/x", kind)
    folder = fetched(what, ["*.json"])
    assert set(hub.sent) == {"me/x/config.json", "me/x/unet/config.json"}
    assert sizes_in(what, folder) == {
        name: len(name) for name in ("config.json", "unet/config.json", "unet/weights.bin")
    }
    hub.sent.clear()
    assert fetched(what, ["unet/*"], revision=folder.name) == folder
    assert set(hub.sent) == {"me/x/unet/weights.bin"}
    assert (folder / "unet/weights.bin").read_text() == "unet/weights.bin"


def test_without_a_network_the_cache_is_read(hub, repository):
    hub.models["me/x"] = repository
    what = named("me/x")
    folder = fetched(what, ["config.json"])
    for how in ("off", "unplugged"):
        hub.go(how)
        assert fetched(what, ["config.json"]) == folder
        assert sizes_in(what, folder) == {"config.json": len("config.json")}
        for absent, wanted in ((what, ["unet/weights.bin"]), (named("me/other"), ["config.json"])):
            with pytest.raises(FileNotFoundError, match=f"hf download {absent.name}") as told:
                fetched(absent, wanted)
            assert "\n" not in str(told.value)


def test_unknown_and_gated_names_are_told_apart(hub):
    hub.gated.add("me/gated")
    for name, said in (
        ("me/none", "there is no me/none on this disk"),
        ("me/gated", "https://huggingface.co/me/gated"),
    ):
        with pytest.raises(FileNotFoundError, match=said) as told:
            fetched(named(name), ["*"])
        assert "hf auth login" in str(told.value)
        assert "\n" not in str(told.value)
    with pytest.raises(FileNotFoundError, match="datasets/me/gated"):
        fetched(named("me/gated", "dataset"), ["*"])
