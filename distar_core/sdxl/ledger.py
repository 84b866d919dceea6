"""What one step of post-training needs, counted before anything is loaded: live bytes and FLOPs by phase.

The loop runs unchanged on the meta device, whose tensors have shapes and types but no numbers, and every operation is seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from ..errors import DoesNotFitError
from ..rewards.base import PictureReward
from ..roles import modules_of
from ..runs.processes import ALONE
from ..training import State, post_train
from .models import TextToImage
from .phases import PHASES, phases_of
from .post_training import conditions_of, make_state
from .processes import Share, in_transit
from .recipe import PictureRecipe

GIB = 2**30
GRAIN = 512
"""CUDA's allocator gives out multiples of so many bytes."""
TRANSIT = "weights and gradients on their way between processes"
CONTEXT = GIB // 2
"""A reserve for what a process has on a card before its first tensor. An estimate, not measured here."""
SCRATCH = 0.3
"""A reserve for what kernels need besides their results and what the allocator cannot use, as a part of the bytes that come
and go within a step. On a GPU the allocated peak was above the counted one by 2 to 25 % of them, see
notebooks/records/sdxl_true_size.md."""

POOL, BESIDE = 1.55, int(0.7 * GIB)
"""Reserves where a step is recorded: a recording's own pool of memory, as a multiple of the bytes that come and go in it, and what
is computed beside it. With adapters at 1024 px the pool took 7.0 GiB for 4.5, and 0.7 were cut up, see notebooks/records/sdxl_h100.md."""


class _Layout(NamedTuple):
    """All that there is to know of a tensor on the meta device that fills a storage of its own."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor: Tensor) -> _Layout:
        return cls(tensor.shape, tensor.stride(), tensor.dtype)

    def fresh(self) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")

    def is_all_of(self, tensor: Tensor, inputs: Iterable[Any]) -> bool:
        """Whether the result of an operation on these inputs is as a fresh tensor would be."""
        if type(tensor) is not Tensor or tensor.device.type != "meta":
            return False
        storage = tensor.untyped_storage()
        theirs = (one.untyped_storage() for one in inputs if isinstance(one, Tensor))
        return storage.nbytes() == self.fresh().untyped_storage().nbytes() and all(storage is not one for one in theirs)


def _asked(value: Any) -> Any:
    """What an argument has to do with the layout of a result, as a key."""
    if isinstance(value, Tensor):
        return _Layout.of(value), value.device
    if isinstance(value, list | tuple):
        return tuple(map(_asked, value))
    return type(value), value  # 1, 1.0 and True are equal, and make tensors of other types


class _Results:
    """Results of operations on the meta device, where the layouts of the inputs decide those of the results: an operation that
    was seen before is not asked again. Torch finds them in Python, which is most of the time that counting takes.
    """

    def __init__(self) -> None:
        self._layouts: dict[Any, list[_Layout | None] | None] = {}
        self._makes_its_own: dict[Any, bool] = {}

    def of(self, func: Any, types: Sequence[type], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What func(*args, **kwargs) returns."""
        if types or not self._is_functional(func):  # types has those of tensors that are more than torch's own
            return func(*args, **kwargs)
        key = func, _asked(args), _asked(tuple(kwargs.items()))
        layouts = self._layouts.get(key)
        if layouts is not None:
            fresh = [None if one is None else one.fresh() for one in layouts]
            return tuple(fresh) if len(fresh) > 1 else fresh[0]
        result = func(*args, **kwargs)
        if key not in self._layouts:
            every = result if isinstance(result, tuple) else (result,)
            found = [None if one is None else _Layout.of(one) for one in every]
            inputs = list(tree_iter((args, kwargs)))
            own = all(layout is None or layout.is_all_of(one, inputs) for one, layout in zip(every, found, strict=True))
            self._layouts[key] = found if own else None
        return result

    def _is_functional(self, func: Any) -> bool:
        """Whether its results are tensors, each with a storage of its own."""
        if func not in self._makes_its_own:
            schema = func._schema
            tensors = all(str(one.type) == "Tensor" and one.alias_info is None for one in schema.returns)
            self._makes_its_own[func] = bool(schema.returns) and tensors and not schema.is_mutable
        return self._makes_its_own[func]


class Tally(TorchDispatchMode):
    """While it is active: live bytes of one device's tensors, and FLOPs, by phase.

    A storage counts from the operation that makes it until nobody holds it, views once. What a kernel needs besides its
    results is not seen. On the meta device attention is fused meanwhile, as on a GPU; that is switched for the whole process.

    Args:
        device: the type of device whose tensors count.
        grain: sizes are rounded up to multiples of it.

    Attributes:
        now: live bytes.
        live: the same by the phase in which they were made, or the name under which they were adopted.
        peaks: the most that was live in each phase.
        at_peak: `live` when most of all was live.
        flops: by phase: matrix products, convolutions and attention, a multiplication and an addition as two.
    """

    def __init__(self, device: str, grain: int = GRAIN) -> None:
        super().__init__()
        self.device, self.grain = device, grain
        self.phase = "before"
        self.now = 0
        self.live: Counter[str] = Counter()
        self.peaks: dict[str, int] = {}
        self.at_peak: dict[str, int] = {}
        self.flops: Counter[str] = Counter()
        self._seen: dict[int, weakref.ref[Any]] = {}
        self._attention: Any = None
        self._results = _Results() if device == "meta" else None

    def __enter__(self) -> Any:
        if self.device == "meta":
            self._attention = F.scaled_dot_product_attention
            F.scaled_dot_product_attention = _fused_attention
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if self._attention is not None:
            F.scaled_dot_product_attention, self._attention = self._attention, None

    def enter(self, phase: str) -> None:
        """Begin a phase, which lasts until the next."""
        self.phase = phase
        self._compare()

    def adopt(self, name: str, tensors: Iterable[Any]) -> None:
        """Count tensors that were there before, under a name; those that are counted already stay where they are."""
        for tensor in tensors:
            if isinstance(tensor, Tensor):
                self._see(tensor, name)

    def add(self, name: str, size: int) -> None:
        """Raise all peaks by something that no tensor stands for."""
        self.peaks = {phase: peak + size for phase, peak in self.peaks.items()}
        self.at_peak[name] = size

    def _compare(self) -> None:
        if self.now > max(self.peaks.values(), default=0):
            self.at_peak = dict(self.live)
        self.peaks[self.phase] = max(self.now, self.peaks.get(self.phase, 0))

    def _see(self, tensor: Tensor, name: str) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), -(-storage.nbytes() // self.grain) * self.grain
        if tensor.device.type != self.device or key in self._seen or not size:
            return

        def gone(_: Any) -> None:
            self.now -= size
            self.live[name] -= size
            del self._seen[key]

        self._seen[key] = weakref.ref(storage, gone)
        self.now += size
        self.live[name] += size

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = self._results.of(func, types, args, kwargs or {}) if self._results else func(*args, **(kwargs or {}))
        if count := FLOPS.get(func._overloadpacket):
            self.flops[self.phase] += count(*args, **(kwargs or {}), out_val=result)
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._see(tensor, self.phase)
        self._compare()
        return result


_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
FLOPS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    _FLASH: lambda q, k, v, *_, **__: sdpa_flop_count(q.shape, k.shape, v.shape),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(out.shape, q.shape, k.shape, v.shape)
    ),
}


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention that keeps no matrix of query by key, as a GPU computes it; on the meta device torch chooses the matrix."""
    return _FLASH(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]


def with_reserves(peak: int, held: int) -> int:
    """What a card has to have for so many bytes at the peak, of which so many are there all the time."""
    return peak + CONTEXT + int(SCRATCH * (peak - held))


class Ledger(NamedTuple):
    """What a step needs, in bytes.

    Attributes:
        held: what is there between two steps, by what it is for.
        peaks: the most that is live in each phase, what is held included.
        at_peak: what is live at the peak: what is held, and the rest by the phase that made it.
        flops: executed in each phase, for all samples that were counted.
        samples: how many those were.
        lent: where a step is recorded, the bytes of the gradients, which stay where they are; else None.
    """

    held: dict[str, int]
    peaks: dict[str, int]
    at_peak: dict[str, int]
    flops: dict[str, int]
    samples: int
    lent: int | None = None

    @property
    def static(self) -> int:
        """Bytes that are held between two steps."""
        return sum(self.held.values())

    @property
    def peak(self) -> int:
        """The most bytes that are live at a time."""
        return max(self.peaks.values())

    @property
    def need(self) -> int:
        """The peak with the reserves CONTEXT and SCRATCH: what a card has to have. Where a step is recorded, with CONTEXT, POOL and
        BESIDE.
        """
        if self.lent is None:
            return with_reserves(self.peak, self.static)
        stays = self.static + self.lent
        return stays + int(POOL * max(self.peak - stays, 0)) + CONTEXT + BESIDE

    @property
    def flops_per_sample(self) -> float:
        return sum(self.flops.values()) / self.samples


def _held(model: TextToImage, state: State) -> Iterator[tuple[str, Iterable[Any]]]:
    """What is on the device before the first step, by what it is for; what comes first owns what is shared."""

    def tensors(*modules: nn.Module) -> list[Tensor]:
        return [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]

    roles, pipeline = state.roles, model.pipeline
    learners = (roles.generator, roles.assistant)
    yield "reference", tensors(pipeline.unet)
    yield "generator's start", tensors(model.unet)
    yield "autoencoder", tensors(pipeline.vae)
    yield "text encoders", tensors(pipeline.text_encoder, pipeline.text_encoder_2)
    yield "judge", tensors(*modules_of(roles.reward))
    yield "learning weights", tensors(*(learner.module for learner in learners))
    yield "averages", [average for learner in learners for average in learner.ema.values()]


def _fill(optimizer: torch.optim.Optimizer | None) -> None:
    """Let an optimizer make its state, which it does at its first step, by a step with no gradient."""
    if optimizer is not None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def count_step(
    recipe: PictureRecipe,
    model: TextToImage,
    reward: PictureReward | None,
    prompts: Sequence[str],
    *,
    micro_batch: int | None = None,
    processes: int = 1,
    grain: int = GRAIN,
) -> Ledger:
    """One step of a recipe, run and counted where the model is; on the meta device it costs no memory and nothing is computed.

    The step is the loop's own, on the roles of make_state and the conditions of conditions_of, with the optimizers' state
    there from the start. A batch of more than two micro-batches is cut to two, which need as much memory and as many FLOPs
    a sample.

    Args:
        model: such as `sdxl_on_meta()` or `described_on_meta(describe_pipeline(...))`.
        reward: where the model is.
        prompts: all prompts of the run.
        micro_batch: as in post_train.
        processes: how many share the run; what is counted is one of them, whose rows are the recipe's batch. Full copies are
            spread, see `spread_on_meta` and `in_transit`, which is on the meta device alone; adapters are whole in each.
        grain: as in Tally.

    Raises:
        ValueError: if full copies of several processes are to be counted on another device than meta.
    """
    device = model.device.type
    size = recipe.batch if micro_batch is None else micro_batch
    batch = recipe.batch if size < 1 or recipe.batch % size else size * min(2, recipe.batch // size)
    spread = processes > 1 and recipe.roles == "full"
    if spread and device != "meta":
        raise ValueError(
            f"copies that {processes} processes share are counted on the meta device, not on {device}; use that"
        )
    state = make_state(recipe, model, reward, Share(processes) if spread else ALONE)
    tally = Tally(device, grain)
    for name, tensors in _held(model, state):
        tally.adopt(name, tensors)
    with tally:
        tally.enter("optimizer state")
        for learner in (state.roles.generator, state.roles.assistant):
            _fill(learner.optimizer)
        tally.enter("prompts")
        # without a cache's file: it would be written, and rows from the disk are as large as fresh ones
        conditions = conditions_of(recipe.model_copy(update={"prompt_cache": None}), model, prompts)
        held = {name: size for name, size in tally.live.items() if size}
        tally.peaks.clear()
        tally.at_peak, tally.flops = {}, Counter()
        loop = recipe.loop | {"steps": 1, "warmup": 0, "batch": batch}
        with phases_of(state, tally.enter):
            for _ in post_train(state, recipe.method, conditions, micro_batch=micro_batch, **loop):
                pass
    if spread:
        networks = [learner.module for learner in (state.roles.generator, state.roles.assistant)]
        tally.add(TRANSIT, max(in_transit(one, model.pipeline.unet.dtype, processes) for one in networks))
    seen = [phase for phase in PHASES if phase in tally.peaks]
    at_peak = {name: size for name, size in tally.at_peak.items() if size}
    learning = state.roles.generator.parameters().values()
    lent = sum(p.nbytes for p in learning) if recipe.cuda_graphs else None
    return Ledger(held, {phase: tally.peaks[phase] for phase in seen}, at_peak, dict(tally.flops), batch, lent)


def _thriftier(recipe: PictureRecipe, micro_batch: int) -> Iterator[tuple[PictureRecipe, int, dict[str, object]]]:
    """The recipe and micro-batch with one saving after another, and all changes so far; what costs the least comes first."""
    savings: tuple[dict[str, object], ...] = (
        {"cuda_graphs": False},
        {"optimizer": "rmsprop"},
        {"checkpoint_decoder": True},
        {"checkpoint_unets": True},
        {"micro_batch": 1},
        {"roles": "lora"},
    )
    changes: dict[str, object] = {}
    for saving in savings:
        if saving.items() <= (recipe.written | {"micro_batch": micro_batch}).items():
            continue
        changes |= saving
        micro_batch = 1 if "micro_batch" in saving else micro_batch
        recipe = recipe.replace(**{key: value for key, value in saving.items() if key != "micro_batch"})
        yield recipe, micro_batch, dict(changes)


def require_fit(
    recipe: PictureRecipe,
    model: TextToImage,
    reward: PictureReward | None,
    prompts: Sequence[str],
    *,
    memory: int,
    micro_batch: int | None = None,
    processes: int = 1,
) -> Ledger:
    """`count_step`, if the step with its reserves fits into a memory of so many bytes.

    Raises:
        DoesNotFitError: if it does not. What the text says would fit was counted, too.
    """
    size = recipe.batch if micro_batch is None else micro_batch
    ledger = count_step(recipe, model, reward, prompts, micro_batch=size, processes=processes)
    if ledger.need <= memory:
        return ledger
    found: dict[str, object] | None = None
    remedy = "no setting of the recipe makes it fit: take fewer pixels, or a card with more"
    for other, own_size, changes in _thriftier(recipe, size):
        needed = count_step(other, model, reward, prompts, micro_batch=own_size, processes=processes).need
        if needed <= memory:
            found = changes
            settings = ", ".join(f"{key}: {str(value).lower()}" for key, value in changes.items())
            remedy = f"with {settings} it needs {needed / GIB:.3g}"
            break
    raise DoesNotFitError(
        f"a step needs {ledger.need / GIB:.3g} GiB ({ledger.peak / GIB:.3g} counted, of which {ledger.static / GIB:.3g} are "
        f"held between steps, and reserves), but there are {memory / GIB:.3g}; {remedy}",
        need=ledger.need,
        memory=memory,
        changes=found,
    )
