"""Small casts of roles that several test files share: points on a labelled mixture, and a tiny SDXL-like network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from distar_core import (
    LinearReward,
    MixtureScore,
    NetworkScore,
    NoiseSchedule,
    OneStep,
    PushForward,
    ResidualScore,
    Roles,
    State,
    Trainable,
    VarianceExploding,
    ring,
)
from distar_core.schedule import scaled_linear_schedule
from distar_core.sdxl.adapters import add_lora, tied_clone
from distar_core.sdxl.prompts import Prompt, PromptedUNet
from distar_core.toy.networks import MLP, TimeMLP
from tests.browser import browser  # noqa: F401 - a fixture
from tests.hub_server import serving

TEXT_LENGTH, TEXT_WIDTH, POOLED_WIDTH = 3, 12, 10
LATENT_SHAPE = (4, 8, 8)
LORA_RANK, LORA_ALPHA = 2, 3
SIDEWAYS = LinearReward(torch.tensor([0.5, 0.0]))
SLOW = frozenset((Path(__file__).parent / "slow.txt").read_text("utf-8").splitlines())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that slow.txt lists, and long ones, as slow before -m chooses among the marks."""
    for item in items:
        if item.nodeid.split("[")[0] in SLOW or item.get_closest_marker("long"):
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs an accelerator")


def to_double(tensor: Tensor) -> Tensor:
    """What State.place is for float64 roles: integer times must stay integers."""
    return tensor.double() if tensor.is_floating_point() else tensor


def sgd(module: nn.Module, lr: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=lr)


def adam(module: nn.Module, lr: float = 1e-2) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=lr, betas=(0.0, 0.99))


def labels_by_position(step: int, rows: slice) -> Tensor:
    """The condition of each row of the global batch, a function of its position alone."""
    return (torch.arange(rows.start, rows.stop) + step) % 2


def toy_state(
    *,
    seed: int = 0,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = adam,
    wrap: Callable[[nn.Module], nn.Module] = lambda role: role,
    reward: Any = SIDEWAYS,
    schedule: NoiseSchedule = VarianceExploding(),  # noqa: B008
    **trainable: Any,
) -> State:
    """A generator and an assistant of a few hundred weights on a labelled ring of four modes, in float64."""
    torch.manual_seed(seed)
    reference = MixtureScore(ring(4, labels=torch.tensor([0, 0, 1, 1])).to(torch.float64), schedule)
    generator = wrap(PushForward(MLP(2, 2, width=8, depth=2).double(), (2,)))
    assistant = wrap(ResidualScore(reference, TimeMLP(2, width=8, depth=2, labels=2).double(), schedule))
    roles = Roles(
        generator=Trainable(generator, optimizer(generator), **trainable),
        reference=reference,
        assistant=Trainable(assistant, optimizer(assistant), **trainable),
        reward=reward,
    )
    return State(roles, schedule, place=to_double)


def PromptedNetwork(unet: nn.Module) -> PromptedUNet:
    return PromptedUNet(unet, pixels=64, tokens=TEXT_LENGTH)


def tiny_unet(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Module:
    """A random UNet with SDXL's kind of conditioning and blocks, 66 thousand weights."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=LATENT_SHAPE[-1],
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=TEXT_WIDTH,
        transformer_layers_per_block=(1, 1),
        attention_head_dim=(2, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + POOLED_WIDTH,
    ).to(dtype)


def with_lora(unet: nn.Module, *, seed: int, random: bool) -> nn.Module:
    """The network with frozen weights and a LoRA: random=True makes A and B non-zero, else B starts at zero."""
    add_lora(unet, rank=LORA_RANK, alpha=LORA_ALPHA, seed=seed)
    if random:
        torch.manual_seed(seed)
        for name, p in unet.named_parameters():
            if "lora_" in name:
                nn.init.normal_(p, std=0.3)
    return unet


class Cast(NamedTuple):
    """Three roles around one kind of network, and the network that they started from."""

    base: nn.Module
    generator: OneStep
    assistant: NetworkScore
    reference: NetworkScore


def unet_cast(kind: str, dtype: torch.dtype = torch.float64, *, random: bool = False) -> Cast:
    """generator, assistant and reference as LoRAs on tied clones of one base ("lora") or as full copies ("full").

    Args:
        random: non-zero adapters, or for full copies weights that differ between the roles.
    """
    base = tiny_unet(dtype).requires_grad_(False)
    if kind == "lora":
        generator = with_lora(tied_clone(base), seed=1, random=random)
        assistant = with_lora(tied_clone(base), seed=2, random=random)
        reference = base
    else:
        generator, assistant, reference = (copy.deepcopy(base) for _ in range(3))
        for seed, unet in enumerate([generator, assistant]):
            unet.requires_grad_(True)
            torch.manual_seed(seed)
            with torch.no_grad():
                for p in unet.parameters() if random else []:
                    p.add_(0.1 * torch.randn_like(p))
    schedule = scaled_linear_schedule()
    return Cast(
        base,
        OneStep(PromptedNetwork(generator), schedule, "eps", 399, LATENT_SHAPE),
        NetworkScore(PromptedNetwork(assistant), schedule, "eps"),
        NetworkScore(PromptedNetwork(reference), schedule, "eps"),
    )


def random_prompts(count: int, dtype: torch.dtype = torch.float64, seed: int = 5) -> Prompt:
    rng = torch.Generator().manual_seed(seed)
    return Prompt(
        torch.randn(count, TEXT_LENGTH, TEXT_WIDTH, generator=rng, dtype=dtype),
        torch.randn(count, POOLED_WIDTH, generator=rng, dtype=dtype),
    )


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    """Roles on points in the plane: state(...), conditions, optimizers."""
    return SimpleNamespace(state=toy_state, conditions=labels_by_position, adam=adam, sgd=sgd)


@pytest.fixture(scope="session")
def unets() -> SimpleNamespace:
    """Roles on a tiny network of SDXL's kind: cast(kind), prompts(count), and the pieces that they are made of."""
    return SimpleNamespace(
        cast=unet_cast,
        prompts=random_prompts,
        Prompt=Prompt,
        tiny=tiny_unet,
        tied_clone=tied_clone,
        with_lora=with_lora,
        PromptedNetwork=PromptedNetwork,
        latent_shape=LATENT_SHAPE,
        to_double=to_double,
        adam=adam,
    )


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub on this machine with an empty cache: put folders into its models and datasets; go("off") sets HF_HUB_OFFLINE,
    go("unplugged") breaks the line.
    """
    from huggingface_hub import constants

    with serving() as served:

        def at(url: str) -> None:
            monkeypatch.setattr(constants, "ENDPOINT", url)
            monkeypatch.setattr(
                constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
            )

        def go(how: str) -> None:
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "off")
            at("http://127.0.0.1:9" if how == "unplugged" else served.url)

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub cache"))
        at(served.url)
        served.go = go
        yield served
