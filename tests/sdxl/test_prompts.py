"""Words to embeddings, exactly as diffusers' pipeline makes them."""

import warnings

import pytest
import torch

from distar_core.sdxl.miniature import TOKENS, make_pipeline, make_tokenizer
from distar_core.sdxl.prompts import PromptedUNet, PromptEncoder

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
