"""SDXL in true size with random weights on a GPU: memory, seconds by phase and motion of the loop's own step.

    python tools/true_size.py OUT.jsonl '{"roles": "lora"}' '{"roles": "full", "steps": 50}' '{"what": "inference"}'

Every experiment is a process of its own, a line of JSON in OUT.jsonl. Nothing is downloaded: the networks have SDXL's
shapes (2,567 M weights in a UNet) and random weights, so times and memory are SDXL's and pictures are noise.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import itertools
import json
import math
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distar_core.sdxl.shapes import PICKSCORE_VISION, SDXL

DEFAULTS: dict[str, Any] = dict(  # noqa: C408
    what="train",
    roles="lora",  # lora: rank 64 on two tied bases in bf16; full: float32 masters under FSDP2; cast: the same without FSDP2
    method="di-star",
    pixels=1024,
    batch=1,
    micro_batch=None,
    steps=12,
    rank=64,
    checkpoint_unets=True,
    checkpoint_vae=True,
    checkpoint_reward=True,
    adapters="fp32",  # fp32; tf32; autocast: bf16 products from float32 adapters
    optimizer="rmsprop",
    ema=None,
    channels_last=False,
    compile=False,
    attention=None,  # flash, cudnn or efficient; None: what torch chooses
    cap_gib=None,
    phases=False,
    cudnn_benchmark=False,
    profile=False,  # seconds in kernels, whatever the host does between them
    graph=False,  # the two half steps captured as CUDA graphs and replayed
)
GIB = 2**30
DEVICE = "cuda"


def filled(make: Callable[[], Any], dtype: torch.dtype) -> Any:
    """A network on the device with random weights of variance one over fan-in, frozen, in evaluation mode."""
    with torch.device("meta"):
        network = make()
    network = network.to(dtype).to_empty(device=DEVICE)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1 / math.sqrt(parameter[0].numel()))
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return network.requires_grad_(False).eval()


def built(make: Callable[[], Any], dtype: torch.dtype) -> Any:
    """A transformers network on the device, whose buffers need their own values."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(DEVICE):
            network = make()
    finally:
        torch.set_default_dtype(before)
    return network.requires_grad_(False).eval()


class Phases:
    """Device seconds by phase; events only, so that nothing waits."""

    def __init__(self) -> None:
        self.marks: list[tuple[str, Any]] = []

    def enter(self, name: str) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self.marks.append((name, event))

    def seconds(self) -> dict[str, float]:
        self.enter("end")
        torch.cuda.synchronize()
        total: dict[str, float] = collections.defaultdict(float)
        for (name, start), (_, end) in itertools.pairwise(self.marks):
            total[name] += start.elapsed_time(end) / 1e3
        return total


def shard(unet: Any) -> None:
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in unet.modules():
        if isinstance(block, (BasicTransformerBlock, ResnetBlock2D)):
            fully_shard(block, mp_policy=policy)
    fully_shard(unet, mp_policy=policy)


def memory() -> dict[str, float]:
    return {
        "peak_allocated_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
        "peak_reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
    }


def kernels(step: Callable[[], Any]) -> dict[str, Any]:
    """Seconds that the device spends in kernels during one step, and where most of them go."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        step()
        torch.cuda.synchronize()
    total: dict[str, float] = collections.defaultdict(float)
    count = 0
    for event in seen.key_averages():
        total[event.key] += event.self_device_time_total / 1e6
        count += event.count
    most = sorted(total.items(), key=lambda item: -item[1])[:14]
    return {
        "kernel_seconds": round(sum(total.values()), 4),
        "kernel_count": count,
        "kernels": {name[:70]: round(value, 4) for name, value in most},
    }


def graphed(loop: Any, state: Any, method: Any, conditions: Any, batch: int) -> dict[str, Any]:
    """The loop's two half steps captured once and replayed, which takes the host out of the step."""
    generator, assistant = state.roles.generator, state.roles.assistant

    def fixed(law: Any, stream: str) -> Any:
        drawn = loop.make_batch(
            state, law, conditions, seed=0, step=0, stream=stream, batch=batch, rows=slice(0, batch)
        )
        noise = drawn.noise(drawn.z)
        return drawn._replace(noise=lambda x0: noise)

    one, two = fixed(method.assistant_time_law, "assistant/0"), fixed(method.time_law, "generator")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()

    def halves() -> Any:
        loop.assistant_step(state, method, one)
        assistant.update(0)
        pulls = loop.generator_step(state, method, two)
        generator.update(0)
        return pulls

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        halves()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    graph = torch.cuda.CUDAGraph()
    started = time.perf_counter()
    with torch.cuda.graph(graph):
        pulls = halves()
    torch.cuda.synchronize()
    captured = time.perf_counter() - started
    values, taken = [], []
    for _ in range(20):
        started = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
        values.append(float(pulls.reward.mean()))
    return {
        "graph_seconds_a_step": round(sorted(taken)[10], 4),
        "graph_seconds_a_sample": round(sorted(taken)[10] / batch, 4),
        "graph_capture_seconds": round(captured, 2),
        "graph_rewards": [round(value, 3) for value in values[::5]],
        **{f"graph_{name}": value for name, value in memory().items()},
    }


def train(o: SimpleNamespace) -> dict[str, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    import distar_core.training as loop
    from distar_core import (
        NetworkScore,
        OneStep,
        PseudoHuber,
        Roles,
        State,
        TimeLaw,
        Trainable,
        find_method,
        scaled_linear_schedule,
    )  # fmt: skip
    from distar_core.losses import score_divergence_detached
    from distar_core.sdxl.adapters import add_lora, tied_clone
    from distar_core.sdxl.compute import compute_in, recompute_blocks
    from distar_core.sdxl.decoded import Decoded
    from distar_core.sdxl.latents import checkpointed
    from distar_core.sdxl.ledger import phases_of
    from distar_core.sdxl.prompts import Prompt, PromptedUNet

    class Autocast(PromptedUNet):
        """Products in bf16, adapters in float32."""

        def forward(self, x_t: Tensor, t: Tensor, condition: Prompt | None) -> Tensor:
            with torch.autocast(DEVICE, torch.bfloat16):
                return super().forward(x_t, t, condition)

    def unet() -> Any:
        return filled(lambda: UNet2DConditionModel(**SDXL["unet"]), torch.bfloat16)

    torch.backends.cuda.matmul.allow_tf32 = o.adapters == "tf32"
    torch.backends.cudnn.benchmark = o.cudnn_benchmark
    torch.manual_seed(0)
    reference, base = unet(), unet()
    if o.roles == "lora":
        generator = add_lora(tied_clone(base), rank=o.rank, seed=1)
        assistant = add_lora(tied_clone(reference), rank=o.rank, seed=2)
        if o.adapters == "autocast":
            from peft.tuners.tuners_utils import BaseTunerLayer

            for network in (generator, assistant):
                for layer in network.modules():
                    if isinstance(layer, BaseTunerLayer):
                        layer.cast_input_dtype_enabled = False
    else:
        assistant = copy.deepcopy(reference).float().requires_grad_(True)
        generator = base.float().requires_grad_(True)
    for network in (reference, generator, assistant):
        if o.channels_last:
            network.to(memory_format=torch.channels_last)
        if o.checkpoint_unets:
            recompute_blocks(network)
    if o.roles == "full":
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511", RANK="0", WORLD_SIZE="1")
        torch.distributed.init_process_group("nccl", device_id=torch.device("cuda:0"))
        shard(generator)
        shard(assistant)
    elif o.roles == "cast":
        compute_in(generator, torch.bfloat16)
        compute_in(assistant, torch.bfloat16)
    if o.compile:
        torch._dynamo.config.recompile_limit = 64
        for network in (reference, generator, assistant):
            network.compile_repeated_blocks()
    schedule = scaled_linear_schedule()
    row = find_method(o.method)
    phases = Phases()
    reward = None
    if row.reward_at != "nowhere":
        vae = filled(lambda: AutoencoderKL(**SDXL["vae"]), torch.bfloat16)
        vae.encoder = vae.quant_conv = None
        if o.channels_last:
            vae.to(memory_format=torch.channels_last)
        if o.checkpoint_vae:
            vae = checkpointed(vae)
        vision = built(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**PICKSCORE_VISION)), torch.bfloat16)

        class PickScore:
            differentiable = True

            def __call__(self, *, images: Tensor, prompts: Any) -> Tensor:
                small = F.interpolate(images, (224, 224), mode="bicubic", antialias=True).clamp(0, 1).bfloat16()
                found = again(embedded, small) if o.checkpoint_reward else embedded(small)
                return F.normalize(found.float(), dim=-1)[:, 0] * 100

        def embedded(images: Tensor) -> Tensor:
            return vision(pixel_values=images).image_embeds

        # saving the random sources' states would make the host wait for the device
        again = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False, preserve_rng_state=False)
        reward = Decoded(vae, PickScore())

    shape = (4, o.pixels // 8, o.pixels // 8)
    prompted = Autocast if o.adapters == "autocast" else PromptedUNet
    roles = [prompted(network, pixels=o.pixels, tokens=77) for network in (generator, reference, assistant)]
    one_step = OneStep(roles[0], schedule, "eps", 399, shape)
    scores = [NetworkScore(role, schedule, "eps") for role in roles[1:]]

    def learner(module: nn.Module, ema: float = 0.0) -> Trainable:
        trained = [p for p in module.parameters() if p.requires_grad]
        rate = 1e-4 if o.roles == "lora" else 1e-6
        if o.optimizer == "rmsprop":
            optimizer: Any = torch.optim.RMSprop(trained, lr=rate, alpha=0.99, foreach=False, capturable=o.graph)
        else:
            optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.0, 0.99), foreach=False)
        return Trainable(module, optimizer, ema_decay=ema)

    ema = (0.999 if o.roles != "lora" else 0.0) if o.ema is None else o.ema
    state = State(
        Roles(learner(one_step, ema), scores[0], learner(scores[1]), reward), schedule, place=lambda t: t.to(DEVICE)
    )
    times = TimeLaw.levels(range(20, 980))
    method = replace(row, time_law=times, assistant_time_law=times)
    if method.guidance != "none":
        method = replace(method, cfg_scale=7.5)
    if isinstance(method.distance, PseudoHuber):
        method = replace(method, distance=PseudoHuber(0.1 * math.sqrt(math.prod(shape))))
    if method.reward_scale:
        method = replace(method, reward_scale=100.0)
    if o.method == "detached":
        method = replace(method, regularizer=score_divergence_detached, exact=False, law=None)
    text = torch.randn(64, 77, 2048, device=DEVICE, dtype=torch.bfloat16)
    pooled = torch.randn(64, 1280, device=DEVICE, dtype=torch.bfloat16)

    def conditions(step: int, rows: slice) -> Prompt:
        place = slice(0, rows.stop - rows.start)
        return Prompt(text[place], pooled[place], ("a",) * (rows.stop - rows.start))

    def norm(parameters: list[Tensor]) -> float:
        total = sum(float(p.square().sum()) for p in parameters)
        return math.sqrt(total)

    def whole(p: Tensor) -> Tensor:
        return p.full_tensor() if hasattr(p, "full_tensor") else p

    watched = dict(list(state.roles.generator.parameters().items())[:40])
    before = {name: whole(p.detach()).clone() for name, p in watched.items()}
    torch.cuda.synchronize()
    static = torch.cuda.memory_allocated()
    attend = contextlib.nullcontext()
    if o.attention:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        kinds = {"flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION", "efficient": "EFFICIENT_ATTENTION"}
        attend = sdpa_kernel(getattr(SDPBackend, kinds[o.attention]))
    records, stamps = [], [time.perf_counter()]
    warm = min(4, o.steps - 1)
    torch.cuda.reset_peak_memory_stats()
    with attend, phases_of(state, phases.enter) if o.phases else contextlib.nullcontext():
        for record in loop.post_train(
            state, method, conditions, steps=o.steps, seed=0, batch=o.batch, micro_batch=o.micro_batch
        ):
            records.append(record)
            if record.step == warm - 1:
                torch.cuda.synchronize()
                phases.marks.clear()
                stamps.append(time.perf_counter())
    torch.cuda.synchronize()
    by_phase = phases.seconds() if o.phases else {}
    seconds = (time.perf_counter() - stamps[-1]) / (o.steps - warm)
    found = {
        "static_gib": round(static / GIB, 2),
        **memory(),
        "allocator_retries": torch.cuda.memory_stats()["num_alloc_retries"],
        "seconds_a_step": round(seconds, 4),
        "seconds_a_sample": round(seconds / o.batch, 4),
        "first_steps_seconds": round(stamps[-1] - stamps[0], 2) if len(stamps) > 1 else None,
    }
    finite = all(bool(loss.isfinite().all()) for record in records for loss in record.losses.values())
    moved = norm([whole(p.detach()) - before[name] for name, p in watched.items()])
    found |= {
        "losses_finite": finite,
        "generator_moved": moved,
        "of_norm": norm(list(before.values())),
        "first_losses": {k: float(v.mean()) for k, v in records[0].losses.items()},
        "last_losses": {k: float(v.mean()) for k, v in records[-1].losses.items()},
        "gap_norm": None if records[-1].gap_norm is None else float(records[-1].gap_norm.mean()),
        "pull_norms": {k: float(v.mean()) for k, v in records[-1].pull_norms.items()},
        "rewards": [round(float(r.reward.mean()), 3) for r in records if r.reward is not None][:: max(1, o.steps // 8)],
    }
    if o.profile:
        found |= kernels(lambda: next(loop.post_train(state, method, conditions, steps=10**6, seed=0, batch=o.batch)))
    if o.graph:
        print(json.dumps(found), flush=True)
        found |= graphed(loop, state, method, conditions, o.batch)
    if o.phases:
        found["phases"] = {name: round(value / (o.steps - warm), 4) for name, value in by_phase.items()}
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return found


def timed_call(function: Callable[[], Any], repeats: int = 3) -> tuple[float, dict[str, float]]:
    """Median seconds of a call, and the peak of memory."""
    function()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - started)
    return sorted(taken)[len(taken) // 2], memory()


@torch.no_grad()
def inference(o: SimpleNamespace) -> dict[str, Any]:
    """One step of SDXL, fifty guided steps of it, and fifty of FLUX-dev, words to pixels, one picture at a time."""
    from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        T5Config,
        T5EncoderModel,
    )  # fmt: skip

    found: dict[str, Any] = {}
    dtype = torch.bfloat16
    z = torch.randn(1, 4, 128, 128, device=DEVICE, dtype=dtype)
    small = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768
    )
    large = CLIPTextConfig(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280
    )
    words = torch.randint(0, 49000, (1, 77), device=DEVICE)
    clip = built(lambda: CLIPTextModel(small), dtype)
    if o.model == "sdxl":
        big = built(lambda: CLIPTextModelWithProjection(large), dtype)
        unet = filled(lambda: UNet2DConditionModel(**SDXL["unet"]), dtype)
        vae = filled(lambda: AutoencoderKL(**SDXL["vae"]), dtype)
        ids = torch.tensor([1024.0, 1024, 0, 0, 1024, 1024], device=DEVICE)
        t = torch.tensor([399], device=DEVICE)

        def text(count: int) -> tuple[Tensor, Tensor]:
            rows = words.expand(count, -1)
            first, second = clip(rows, output_hidden_states=True), big(rows, output_hidden_states=True)
            return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1), second.text_embeds

        def noise(x: Tensor, embedded: tuple[Tensor, Tensor]) -> Tensor:
            extra = {"text_embeds": embedded[1], "time_ids": ids.expand(len(x), 6)}
            return unet(x, t, encoder_hidden_states=embedded[0], added_cond_kwargs=extra, return_dict=False)[0]

        def one() -> Tensor:
            return vae.decode(z - 0.1 * noise(z, text(1))).sample

        def fifty() -> Tensor:
            x, embedded = z, text(2)
            for _ in range(50):
                plain, conditional = noise(x.expand(2, -1, -1, -1), embedded).chunk(2)
                x = x - 0.01 * (plain + 7.5 * (conditional - plain))
            return vae.decode(x).sample

        embedded = text(1)
        for name, call in (
            ("text", lambda: text(1)),
            ("unet", lambda: noise(z, embedded)),
            ("decode", lambda: vae.decode(z).sample),
            ("one_step", one),
            ("fifty_guided_steps", fifty),
        ):
            seconds, peak = timed_call(call)
            found[name] = {"seconds": round(seconds, 4), **peak}
        return found
    wide = T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
    )
    t5 = built(lambda: T5EncoderModel(wide), dtype)
    flux = filled(lambda: FluxTransformer2DModel(guidance_embeds=True), dtype)
    vae = filled(
        lambda: AutoencoderKL(
            **{**SDXL["vae"], "latent_channels": 16}, use_quant_conv=False, use_post_quant_conv=False
        ),
        dtype,
    )
    long_words = torch.randint(0, 32000, (1, 512), device=DEVICE)
    packed = torch.randn(1, 4096, 64, device=DEVICE, dtype=dtype)
    image_ids, text_ids = torch.zeros(4096, 3, device=DEVICE), torch.zeros(512, 3, device=DEVICE)
    image_ids[:, 1] = torch.arange(64, device=DEVICE).repeat_interleave(64)
    image_ids[:, 2] = torch.arange(64, device=DEVICE).repeat(64)
    guidance, at = torch.full((1,), 3.5, device=DEVICE), torch.full((1,), 0.5, device=DEVICE)

    def said() -> tuple[Tensor, Tensor]:
        return t5(long_words).last_hidden_state, clip(words).pooler_output

    def velocity(x: Tensor, embedded: tuple[Tensor, Tensor]) -> Tensor:
        return flux(
            hidden_states=x, encoder_hidden_states=embedded[0], pooled_projections=embedded[1], timestep=at.to(dtype),
            img_ids=image_ids, txt_ids=text_ids, guidance=guidance, return_dict=False,
        )[0]  # fmt: skip

    def picture() -> Tensor:
        x, embedded = packed, said()
        for _ in range(50):
            x = x - 0.02 * velocity(x, embedded)
        latents = x.view(1, 64, 64, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 16, 128, 128)
        return vae.decode(latents).sample

    embedded = said()
    for name, call in (
        ("text", said),
        ("transformer", lambda: velocity(packed, embedded)),
        ("fifty_steps", picture),
    ):
        seconds, peak = timed_call(call, repeats=2)
        found[name] = {"seconds": round(seconds, 4), **peak}
    return found


def card(o: SimpleNamespace) -> dict[str, Any]:
    """The card's measured ceilings: bf16 matrix products on random data, and a copy on the device."""
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    seconds, _ = timed_call(lambda: [a @ b for _ in range(20)])
    source = torch.randn(2**30, device=DEVICE)
    into = torch.empty_like(source)
    copied, _ = timed_call(lambda: [into.copy_(source) for _ in range(5)])
    q = torch.randn(1, 10, 4096, 64, device=DEVICE, dtype=torch.bfloat16)
    attended, _ = timed_call(lambda: [F.scaled_dot_product_attention(q, q, q) for _ in range(50)])
    x = torch.randn(1, 320, 128, 128, device=DEVICE, dtype=torch.bfloat16)
    weight = torch.randn(320, 320, 3, 3, device=DEVICE, dtype=torch.bfloat16)
    plain, _ = timed_call(lambda: [F.conv2d(x, weight, padding=1) for _ in range(50)])
    x, weight = (tensor.to(memory_format=torch.channels_last) for tensor in (x, weight))
    last, _ = timed_call(lambda: [F.conv2d(x, weight, padding=1) for _ in range(50)])
    conv = 2 * 128 * 128 * 320 * 320 * 9 * 50 / 1e12
    return {
        "name": torch.cuda.get_device_name(),
        "total_gib": round(torch.cuda.get_device_properties(0).total_memory / GIB, 2),
        "matrix_tflops": round(20 * 2 * 8192**3 / seconds / 1e12),
        "copy_tb_s": round(5 * 8 * 2**30 / copied / 1e12, 2),
        "attention_tflops": round(50 * 4 * 10 * 4096**2 * 64 / attended / 1e12),
        "conv_tflops": round(conv / plain),
        "conv_channels_last_tflops": round(conv / last),
    }


def main(out: str, texts: list[str]) -> None:
    if not torch.cuda.is_available():
        sys.exit("there is no GPU here that torch can use; run this where torch.cuda.is_available() is True")
    if len(texts) > 1:
        for text in texts:
            # a process of its own for each, so that no experiment sees another's memory
            subprocess.run([sys.executable, __file__, out, text], check=False)
        return
    o = SimpleNamespace(**(DEFAULTS | json.loads(texts[0])))
    started = time.perf_counter()
    found: dict[str, Any] = {"asked": json.loads(texts[0])}
    try:
        if o.cap_gib:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(o.cap_gib * GIB / total)
        found |= {"train": train, "inference": inference, "card": card}[o.what](o)
    except Exception as error:
        traceback.print_exc()
        found["error"] = f"{type(error).__name__}: {error}"[:400]
        found |= memory()
    import diffusers

    found |= {
        "wall_seconds": round(time.perf_counter() - started, 1),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": f"torch {torch.__version__}, diffusers {diffusers.__version__}",
    }
    print(json.dumps(found), flush=True)
    with open(out, "a") as file:
        file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
