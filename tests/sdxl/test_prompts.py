"""Words to embeddings, exactly as diffusers' pipeline makes them."""

import copy as copies
import json
import random
import string
import warnings
import weakref
from types import SimpleNamespace

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from distar_core.sdxl import prompt_files
from distar_core.sdxl import prompts as module
from distar_core.sdxl.miniature import TOKENS, make_pipeline, make_tokenizer
from distar_core.sdxl.prompt_files import read_prompts
from distar_core.sdxl.prompts import PromptedUNet, PromptEncoder, Prompts

WORDS = ("a", "red", "right", "triangle", "circle", "on", "of")


@pytest.fixture(scope="module")
def pipeline():
    torch.manual_seed(0)
    return make_pipeline(WORDS)


def test_every_word_is_one_token():
    # letter-by-letter merges of "right" would split "triangle"
    for words in (WORDS, WORDS[::-1]):
        tokenizer = make_tokenizer(words)
        for word in words:
            start, token, end = tokenizer(word).input_ids
            assert (start, end) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
            assert tokenizer.convert_ids_to_tokens(token) == word + "</w>"
        assert tokenizer.eos_token_id == len(tokenizer) - 1, "CLIP pools at the largest id"
        assert len(tokenizer("tar").input_ids) == 2 + 3, "an unknown word falls into letters"


def test_embeddings_equal_those_of_the_pipeline(pipeline):
    prompts = ["a red circle", "a triangle right of a circle", "a red circle"]
    embedded = PromptEncoder.of(pipeline)(prompts)
    text, _, pooled, _ = pipeline.encode_prompt(prompts, num_images_per_prompt=1, do_classifier_free_guidance=False)
    torch.testing.assert_close(embedded.text, text, rtol=0, atol=1e-5)
    torch.testing.assert_close(embedded.pooled, pooled, rtol=0, atol=1e-5)
    assert not torch.allclose(embedded.text[0], embedded.text[1], atol=1e-2)
    rows = embedded.rows(torch.tensor([1, 0]))
    assert rows.words == (prompts[1], prompts[0])
    assert torch.equal(rows.text, embedded.text[[1, 0]])


def test_a_prompt_is_embedded_once(pipeline, monkeypatch):
    encoder = PromptEncoder.of(pipeline)
    first = encoder(["a red circle"])
    monkeypatch.setattr(encoder, "tokens", lambda prompts: pytest.fail("embedded again"))
    assert torch.equal(encoder(["a red circle"] * 2).text[1], first.text[0])


def test_prompts_are_embedded_in_bounded_batches_and_the_latest_kept(pipeline, monkeypatch):
    words = ["a red circle", "a circle", "a red", "circle", "red"]
    whole = PromptEncoder.of(pipeline)(words)
    monkeypatch.setattr(module, "AT_ONCE", 2)
    monkeypatch.setattr(module, "KEPT", 3)
    encoder = PromptEncoder.of(pipeline)
    sizes = []
    pipeline_embed = encoder._embed
    monkeypatch.setattr(encoder, "_embed", lambda ids: sizes.append(len(ids[0])) or pipeline_embed(ids))
    for _ in range(2):
        found = encoder([*words, words[0]])
        torch.testing.assert_close(found.text, whole.text[[*range(5), 0]])
        torch.testing.assert_close(found.pooled, whole.pooled[[*range(5), 0]])
        assert found.words == (*words, words[0])
        assert len(encoder._known) == 3
    # the second time only the two that were not kept are embedded again
    assert sizes == [2, 2, 1, 2]
    # what is kept does not hold on to the batch that it came from
    assert all(text.untyped_storage().nbytes() == text.nbytes for text, _ in encoder._known.values())


def test_the_null_condition_is_zeros_as_in_the_pipeline(pipeline):
    network = PromptedUNet(pipeline.unet, pixels=32, tokens=TOKENS)
    _, null_text, _, null_pooled = pipeline.encode_prompt(
        ["a"] * 2, num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    x = torch.randn(2, 4, 8, 8)
    null = network.null(x)
    assert torch.equal(null.text, null_text)
    assert torch.equal(null.pooled, null_pooled)
    with torch.no_grad():
        assert torch.equal(network(x, torch.tensor([5, 5]), None), network(x, torch.tensor([5, 5]), null))


def test_the_network_gets_what_the_pipeline_gives(pipeline):
    """The prediction inside the pipeline's own loop equals the wrapper's: the same time ids, text and pooled embedding."""
    seen = {}

    def keep(module, args, kwargs, output):
        seen.update(x_t=args[0], t=args[1], output=output[0])

    hook = pipeline.unet.register_forward_hook(keep, with_kwargs=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline("a red circle", num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    hook.remove()
    network = PromptedUNet(pipeline.unet, pixels=32, tokens=TOKENS)
    with torch.no_grad():
        prompt = PromptEncoder.of(pipeline)(["a red circle"])
        found = network(seen["x_t"], seen["t"].expand(1), prompt)
    torch.testing.assert_close(found, seen["output"], rtol=0, atol=1e-6)
    # control: other time ids give another prediction
    with torch.no_grad():
        other = PromptedUNet(pipeline.unet, pixels=64, tokens=TOKENS)(seen["x_t"], seen["t"].expand(1), prompt)
    assert float((other - found).abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("prompts", "why"), [([], "there are no prompts"), (["a red circle", "a red circle", "  "], "prompt 2 is empty")]
)
def test_no_prompt_is_one_sentence(pipeline, prompts, why):
    with pytest.raises(ValueError, match=why):
        PromptEncoder.of(pipeline)(prompts)


def test_long_prompts_are_cut_counted_and_said(pipeline):
    long = "a red circle " * 6
    with pytest.warns(UserWarning, match=rf"1 of 2 prompts have more than {TOKENS} tokens and are cut, the first"):
        ids, _ = PromptEncoder.of(pipeline).tokens(["a red circle", long])
    assert ids.shape == (2, TOKENS)


def test_words_that_the_model_never_saw_are_named(pipeline):
    encoder = PromptEncoder.of(pipeline, WORDS)
    with pytest.warns(UserWarning, match=r"the model has never seen 'purple', 'cat'; it knows a, circle, of"):
        encoder(["a red circle", "a purple cat"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder(["a red triangle"])
        PromptEncoder.of(pipeline)(["a purple cat"])  # of other models nobody knows the words


TWO = ["a red circle, left of it a square", '"giggle" on a wall']
QUOTED = '"a red circle, left of it a square",x\n"""giggle"" on a wall",y\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "\n".join(TWO)),
        ("prompts", "\ufeff" + "\r\n\r\n".join(TWO) + "\r\n"),
        ("p.tsv", "Prompt\tCategory\tNote\n" + "\tAbstract\t\n".join(TWO) + "\tAbstract"),
        ("p.TSV", "\ufeffid\tcaption\r\n" + "".join(f"{k}\t{p}\r\n" for k, p in enumerate(TWO))),
        ("p.csv", "Text,source\n" + QUOTED),
        ("p.csv", "prompt,text\n" + QUOTED),
        ("p.json", json.dumps(TWO)),
        ("p.json", json.dumps([{"id": 1, "Prompt": p} for p in TWO], indent=1)),
        ("p.jsonl", "\n\n".join(json.dumps({"tag": "x", "prompt": p}) for p in TWO) + "\n"),
        ("p.jsonl", "\n".join(map(json.dumps, TWO))),
    ],
)
def test_prompts_are_read_from_their_column(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, "utf-8", newline="")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_prompts(path) == TWO


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("p.tsv", "a red circle\tx\na square\ty\n", ["line 1", "'a red circle', 'x'"]),
        ("p.csv", "id,Prompt,prompt\n1,a,b\n", ["'id', 'Prompt', 'prompt'"]),
        ("p.csv", "prompt\na square\na red circle, left of it a square\n", ["line 3", "2 cells for 1 columns"]),
        ("p.csv", 'prompt\n"a square\na circle\n', ["line 3"]),
        ("p.csv", 'prompt\n"a\nsquare"\n', ["line 3", "U+000A"]),
        ("p.tsv", "id\tprompt\n1\ta square\n2\n", ["line 3", "1 cells for 2 columns"]),
        ("p.json", '{"prompts": ["a square"]}', ["'prompts'"]),
        ("p.json", '[{"prompt": "a square"}, {"tag": 1}]', ["entry 2", "'tag'"]),
        ("p.json", '["a square", null]', ["entry 2", "null"]),
        ("p.json", '["a square",\n"a circle"', ["line 2"]),
        ("p.json", '["a\\nsquare"]', ["entry 1", "U+000A"]),
        ("p.json", '["a \\ud800 square"]', ["entry 1", "U+D800"]),
        ("p.jsonl", '"a square"\n\na circle\n', ["line 3"]),
        ("p.jsonl", '{"prompt": 7}', ["line 1", "7"]),
        ("p.txt", "a square\na \x07circle", ["line 2", "U+0007"]),
        ("p.txt", "a square\na circle\x0c", ["line 2", "U+000C"]),
        ("p.txt", "Prompt\tCategory\nbond\tAbstract\n", ["line 1", "U+0009", ".tsv"]),
        ("p.txt", "a \u2028square", ["line 1", "U+2028"]),
        ("p.txt", "\u200b\n \n", ["empty"]),
        ("p.tsv", "Prompt\tNote\n\t\n", ["empty"]),
        ("p.json", "", ["empty"]),
        ("p.json", "[]", ["empty"]),
    ],
)
def test_a_prompt_file_that_cannot_be_read_says_where(tmp_path, name, text, told):
    path = tmp_path / name
    path.write_text(text, "utf-8", newline="")
    with pytest.raises(ValueError, match="prompt file") as caught:
        read_prompts(path)
    for part in [str(path), *told]:
        assert part in str(caught.value)


def test_no_prompt_file_is_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        read_prompts(tmp_path / "none.tsv")


def test_zero_width_characters_are_left_out_but_not_what_scripts_and_emoji_need(tmp_path):
    artist, persian = "\U0001f469\u200d\U0001f3a8", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"
    path = tmp_path / "p.txt"
    path.write_text(f"a\u200b red\ufeff \u200dcircle\u2060\n{artist} paints\u200c\n{persian}\na red circle\n", "utf-8")
    assert read_prompts(path) == ["a red circle", f"{artist} paints", persian, "a red circle"]


def test_prompts_written_one_per_line_are_read_again_as_they_are(tmp_path):
    rng, signs = random.Random(0), "ab \u3000\u00a0\u00e9\u200b\u200c\u200d\ufeff\U0001f469"
    first, second = tmp_path / "p.json", tmp_path / "p.txt"
    first.write_text(json.dumps(["a", *("".join(rng.choices(signs, k=6)) for _ in range(2000))]), "utf-8")
    prompts = read_prompts(first)
    second.write_text("\n".join(prompts), "utf-8")
    assert read_prompts(second) == prompts


@pytest.mark.parametrize("option", ["--w 1024", "--ar 3:2", "<lora:ink:0.8>", "(red:1.3)"])
def test_options_of_other_tools_are_warned_about(tmp_path, option):
    path = tmp_path / "p.txt"
    path.write_text(f"a red circle\na square {option}\na - b, well-known -- (at 12:30)\n", "utf-8")
    with pytest.warns(UserWarning, match="1 of 3 prompts") as caught:
        assert len(read_prompts(path)) == 3
    assert option.split()[0] in str(caught[0].message)


def test_an_unknown_extension_is_read_as_text_and_said(tmp_path):
    path = tmp_path / "p.md"
    path.write_text("a red circle\n", "utf-8")
    with pytest.warns(UserWarning, match=r"\.jsonl"):
        assert read_prompts(path) == ["a red circle"]


def parquet(path, rows=None, **columns):
    """Write a Parquet file, in groups of so many rows."""
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=rows)
    return path


def test_prompts_are_read_from_their_column_of_a_parquet_file(tmp_path):
    pictures = [b"0" * 1000] * 5
    given = [TWO[0], None, " ", f"{TWO[1]}\u200b", "a\tred\r\ncircle"]
    wanted = [*TWO, "a red circle"]
    plain = parquet(tmp_path / "a.parquet", rows=2, image=pictures, Prompt=given)
    coded = parquet(tmp_path / "b.PARQUET", TEXT=pyarrow.array(given).dictionary_encode(), id=[*range(5)])
    wide = parquet(tmp_path / "c.parquet", caption=pyarrow.array(given, pyarrow.large_string()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_prompts(plain) == read_prompts(coded) == read_prompts(str(wide)) == wanted


def test_a_parquet_file_that_cannot_be_read_says_why(tmp_path):
    whole = parquet(tmp_path / "whole.parquet", prompt=["a"]).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[:-20])
    (tmp_path / "pointer.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    for path, told in (
        (parquet(tmp_path / "a.parquet", words=["a"], url=["b"]), ["'words', 'url'"]),
        (parquet(tmp_path / "b.parquet", prompt=[1, 2]), ["'prompt'", "int64"]),
        (parquet(tmp_path / "c.parquet", prompt=["a", "a\x07circle"]), ["row 2", "U+0007"]),
        (parquet(tmp_path / "d.parquet", prompt=pyarrow.array([None], pyarrow.string())), ["empty"]),
        (tmp_path / "cut.parquet", ["no Parquet"]),
        (tmp_path / "pointer.parquet", ["git lfs pull"]),
    ):
        with pytest.raises(ValueError, match=path.name) as caught:
            read_prompts(path)
        assert all(part in str(caught.value) for part in told), caught.value
        assert "\n" not in str(caught.value)


@pytest.fixture
def dataset(hub, tmp_path):
    """A data set of the hub, me/set, with these files: name -> prompts, as text or Parquet."""

    def make(**files):
        folder = tmp_path / "set"
        hub.datasets["me/set"] = folder
        for name, prompts in {"README_md": ["card"], **files}.items():
            path = folder / name.replace("__", "/").replace("_md", ".md").replace("_txt", ".txt").replace(
                "_parquet", ".parquet"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".parquet":
                parquet(path, text=prompts)
            else:
                path.write_text("\n".join(prompts), "utf-8")
        return hub

    return make


SHARDS = {f"data__{part}-0000{k}-of-00002_parquet": [f"{part} {k}"] for part in ("train", "test") for k in range(2)}


@pytest.mark.parametrize(
    ("files", "name", "wanted"),
    [
        ({"prompts_txt": ["a circle", "a square"]}, "me/set", ["a circle", "a square"]),
        ({"a_txt": ["x"], "deep__b_parquet": ["a circle"]}, "me/set", ["a circle"]),
        (SHARDS, "me/set", ["train 0", "train 1"]),
        (SHARDS, "me/set/data", ["train 0", "train 1"]),
        (SHARDS, "me/set/data/test-00001-of-00002.parquet", ["test 1"]),
        ({"one_parquet": ["a"], "two_parquet": ["b"]}, "me/set/two.parquet", ["b"]),
    ],
)
def test_a_data_set_of_the_hub_is_read_by_name(dataset, files, name, wanted):
    hub = dataset(**files)
    for how in ("on", "off"):
        hub.go(how)
        assert read_prompts(name) == wanted
    assert not any("test-00000" in sent for sent in hub.sent), "only what is read is fetched"


def test_a_data_set_that_cannot_be_read_says_why(dataset, hub, monkeypatch):
    with pytest.raises(FileNotFoundError, match="me/none"):
        read_prompts("me/none")
    hub = dataset(one_parquet=["a"], two_parquet=["b"])
    with pytest.raises(ValueError, match=r"me/set/FILE: one\.parquet, two\.parquet"):
        read_prompts("me/set")
    with pytest.raises(FileNotFoundError, match=r"me/set/none\.txt has no file of prompts"):
        read_prompts("me/set/none.txt")
    monkeypatch.setattr(prompt_files, "LARGEST", 10)
    hub.sent.clear()
    with pytest.raises(ValueError, match="without pictures"):
        read_prompts("me/set/one.parquet")
    assert not any(sent.endswith("parquet") for sent in hub.sent)


def test_a_file_of_prompts_is_no_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no prompt file prompts/parti\.tsv"):
        read_prompts("prompts/parti.tsv")


def relative(found, wanted):
    return float((found.detach() - wanted.detach()).norm() / wanted.detach().norm())


TEXTS = ("a red circle", "a circle", "a triangle right of a circle", "red", "a red circle", "circle")


@pytest.mark.parametrize("how", ["held", "drawn", "cached"])
def test_prompts_by_number_are_embedded_wherever_they_come_from(pipeline, monkeypatch, tmp_path, how):
    monkeypatch.setattr(module, "AT_ONCE", 4)
    monkeypatch.setattr(module, "HELD", 10**9 if how == "held" else 0)
    encoder = PromptEncoder.of(pipeline)
    cache = tmp_path / "new" / "prompts.safetensors" if how == "cached" else None
    prompts = Prompts(encoder, TEXTS, cache)
    text, _, pooled, _ = pipeline.encode_prompt(list(TEXTS), num_images_per_prompt=1, do_classifier_free_guidance=False)
    first = prompts.rows(torch.tensor([5, 2]))
    for index in ([0, 1, 2, 3, 4, 5], [3], [2, 2, 0]):
        found = prompts.rows(torch.tensor(index))
        assert relative(found.text, text[index]) < 1e-5
        assert relative(found.pooled, pooled[index]) < 1e-5
        assert found.words == tuple(TEXTS[place] for place in index)
    again, fresh = (
        prompts.rows(torch.tensor([5, 2])),
        Prompts(PromptEncoder.of(pipeline), TEXTS, cache).rows(torch.tensor([5, 2])),
    )
    for other in (again, fresh):
        assert torch.equal(other.text, first.text), "to the last bit, whatever was asked for before"
        assert torch.equal(other.pooled, first.pooled)
    if cache:
        stored = load_file(cache)
        assert stored["text"].shape == text.shape
        assert torch.equal(stored["pooled"][[5, 2]], first.pooled)
        assert [path.name for path in cache.parent.iterdir()] == [cache.name]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_cache_keeps_the_encoders_type(dtype, tmp_path):
    encoder = wide_encoder(dtype)
    prompts = Prompts(encoder, ["a red circle", "a circle"], tmp_path / "cache.safetensors")
    found, wanted = prompts.rows(torch.tensor([1])), encoder.embed(["a circle"])
    assert found.text.dtype == dtype
    assert torch.equal(found.text, wanted.text)
    assert torch.equal(found.pooled, wanted.pooled)


def test_a_cache_of_others_or_without_room_is_refused(pipeline, monkeypatch, tmp_path):
    path = tmp_path / "cache.safetensors"
    encoder = PromptEncoder.of(pipeline)
    Prompts(encoder, TEXTS, path)
    other = copies.deepcopy(pipeline.text_encoder)
    next(other.parameters()).data.mul_(1.0001)
    for encoders, texts in (
        (encoder, TEXTS[:-1]),
        (encoder, TEXTS[::-1]),
        (PromptEncoder(encoder.tokenizers, (other, pipeline.text_encoder_2)), TEXTS),
    ):
        with pytest.raises(FileExistsError, match=r"cache\.safetensors"):
            Prompts(encoders, texts, path)
    Prompts(encoder, TEXTS, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"cache\.safetensors is damaged"):
        Prompts(encoder, TEXTS, path)
    monkeypatch.setattr(module, "CACHEABLE", 5)
    with pytest.raises(ValueError, match="a cache of 6 prompts"):
        Prompts(encoder, TEXTS, tmp_path / "large.safetensors")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match=r"small\.safetensors takes"):
        Prompts(encoder, TEXTS[:2], tmp_path / "small.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_cache_that_was_interrupted_leaves_nothing(pipeline, monkeypatch, tmp_path):
    encoder, embed = PromptEncoder.of(pipeline), PromptEncoder.embed
    monkeypatch.setattr(module, "AT_ONCE", 2)

    def interrupted(self, prompts):
        if "red" in prompts:
            raise KeyboardInterrupt
        return embed(self, prompts)

    monkeypatch.setattr(PromptEncoder, "embed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Prompts(encoder, TEXTS, tmp_path / "cache.safetensors")
    assert not list(tmp_path.iterdir())


class Wide(torch.nn.Module):
    """A text encoder that costs nothing and gives embeddings as wide as half of SDXL's."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0, 1, 1024).to(dtype), requires_grad=False)

    def forward(self, ids, output_hidden_states):
        hidden = ids[..., None] * self.weight
        return SimpleNamespace(hidden_states=[hidden, hidden], text_embeds=hidden[:, 0])


def wide_encoder(dtype=torch.float32):
    tokenizer = make_tokenizer(WORDS)
    return PromptEncoder((tokenizer, tokenizer), (Wide(dtype), Wide(dtype)))


class Live(TorchDispatchMode):
    """The bytes of tensors made inside that are still alive, now and at most."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = set()

    def gone(self, place, size):
        self.known.discard(place)
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **kwargs or {})
        for tensor in made if isinstance(made, (list, tuple)) else [made]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                place, size = storage._cdata, storage.nbytes()
                if place not in self.known:
                    self.known.add(place)
                    self.now += size
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self.gone, place, size)
        return made


def test_a_hundred_thousand_prompts_take_no_more_memory_than_one_batch(tmp_path):
    letters = string.ascii_lowercase
    texts = ["a " + "".join(letters[k // 26**place % 26] for place in range(4)) for k in range(100_000)]
    assert len(set(texts)) == 100_000
    path = parquet(tmp_path / "p.parquet", prompt=texts)
    encoder = wide_encoder()
    with Live() as live:
        prompts = Prompts(encoder, read_prompts(path))
        batch = 64 * (16 * 2048 + 1024) * 4
        at_start, most = live.now, []
        for step in range(40):
            live.most = live.now
            found = prompts.rows(torch.arange(64) * 1500 + step)
            assert found.text.shape == (64, 16, 2048)
            most.append(live.most)
            del found
    assert at_start < batch
    assert most[-1] <= most[0] < 4 * batch
    assert len(prompts) * batch / 64 > 500 * most[-1], "all of them would be 800 times that"
    with Live() as live:
        few = Prompts(encoder, texts[:500])
    assert live.now >= len(few) * batch / 64, "control: what is held is counted"
