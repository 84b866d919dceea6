"""Words to embeddings, exactly as diffusers' pipeline makes them."""

import json
import random
import warnings

import pytest
import torch

from distar_core.sdxl import prompts as module
from distar_core.sdxl.miniature import TOKENS, make_pipeline, make_tokenizer
from distar_core.sdxl.prompts import PromptedUNet, PromptEncoder, read_prompts

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
