"""A fresh LoRA changes nothing, and a tied clone leaves its original alone. Gradients: test_walking_skeleton."""

import torch

from distar_core.sdxl.adapters import LORA_TARGETS, add_lora, tied_clone


def test_a_fresh_lora_changes_nothing_but_can(unets):
    base = unets.tiny()
    network, prompt = unets.PromptedNetwork(base), unets.prompts(2)
    x, t = torch.randn(2, *unets.latent_shape, dtype=torch.float64), torch.tensor([100, 700])
    state = torch.random.get_rng_state()
    clone = add_lora(tied_clone(base), rank=2, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state), "torch's global source is left as it was"
    adapted = unets.PromptedNetwork(clone)
    with torch.no_grad():
        assert torch.equal(adapted(x, t, prompt), network(x, t, prompt))
        for name, parameter in clone.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
        assert not torch.allclose(adapted(x, t, prompt), network(x, t, prompt))
        again = unets.PromptedNetwork(add_lora(tied_clone(base), rank=2, seed=3))
        assert torch.equal(again(x, t, prompt), network(x, t, prompt)), "the original is as it was"
    trainable = [name for name, p in clone.named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in name and any(target in name for target in LORA_TARGETS) for name in trainable)
