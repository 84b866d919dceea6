"""Half steps of the loop recorded once as CUDA graphs and replayed: the card no longer waits for Python.

A step in true size is some ninety thousand kernels, and one sample is too little work to hide the time in which a host launches
them. What is recorded is the loop's own `assistant_step` and `generator_step`, so results and gradients are the same.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from ..methods import Method
from ..roles import Roles, Trainable
from ..training import Batch, State, generator_step
from .decoded import Decoded
from .prompts import Prompt


class Recorder(Protocol):
    """Turns calls that take and give tensors at fixed places into something cheaper to repeat."""

    def rehearse(self, run: Callable[[], Any]) -> Any:
        """Call it once, before it is recorded."""

    def record(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """What does the same when it is called, and gives its results in the same tensors each time."""


class CudaRecorder:
    """Records CUDA graphs in one pool of memory, so that two half steps take the room of the larger."""

    def __init__(self) -> None:
        self._pool: Any = None
        gc.collect()  # networks refer to themselves in circles, and what was recorded before is gone
        torch.cuda.empty_cache()

    def rehearse(self, run: Callable[[], Any]) -> Any:
        """On a stream of its own, as everything that is recorded afterwards: libraries make their handles, the schedule its table."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            result = run()
        torch.cuda.current_stream().wait_stream(side)
        return result

    def record(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """Raises ValueError if the call asks the device for numbers, or brings some from the host."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                result = run()
        except RuntimeError as error:
            first: BaseException = error
            while first.__context__ is not None:  # the end of a recording that has failed raises, too
                first = first.__context__
            if isinstance(first, (torch.OutOfMemoryError, ValueError, TypeError)):
                raise first from None
            why = str(first).splitlines()[0]
            raise ValueError(
                f"this step cannot be recorded as a CUDA graph ({why}); set cuda_graphs to false"
            ) from error
        self._pool = graph.pool()

        def replay() -> Any:
            graph.replay()
            return result

        return replay


class Inputs(NamedTuple):
    """What a half step is computed from, all of it tensors: as Batch, the noise drawn and the words read.

    Attributes:
        text, pooled: of the prompts.
        read: what the reward makes of their words, as Decoded.read; None where no reward is asked.
    """

    z: Tensor
    t: Tensor
    noise: Tensor
    text: Tensor
    pooled: Tensor
    read: Any

    def batch(self) -> Batch:
        """As the loop has it."""
        return Batch(self.z, self.t, Prompt(self.text, self.pooled), lambda x0: self.noise)


def _read(reward: Any, prompt: Prompt) -> Any:
    """What a reward makes of the words. Raises TypeError unless that is tensors alone."""
    if not isinstance(reward, Decoded):
        raise TypeError(
            f"reward {type(reward).__name__} is no Decoded, so steps with it cannot be recorded; wrap it in one"
        )
    read = reward.read(prompt)
    for leaf in tree_leaves(read):
        if leaf is not None and not isinstance(leaf, Tensor):
            raise TypeError(
                f"reward {type(reward.reward).__name__} reads {leaf!r} of its prompts, which a recorded step would have for all of "
                "them; let read give tensors alone, or set cuda_graphs to false"
            )
    return read


def _compute(half: Callable[..., Any], state: State, method: Method, share: float, inputs: Inputs) -> Any:
    """A half step on these inputs, whose reward has read the words already."""
    reward = state.roles.reward
    if isinstance(reward, Decoded):

        def judge(x0: Tensor, condition: Any) -> Tensor:
            return reward.judge(x0, inputs.read)

        state = replace(state, roles=state.roles._replace(reward=judge))
    return half(state, method, inputs.batch(), share)


class _Half:
    """A half step with its inputs at fixed places: computed once as it stands, then recorded, then replayed."""

    def __init__(self, compute: Callable[[Inputs], Any], inputs: Inputs) -> None:
        self._inputs: Inputs = tree_map_only(Tensor, torch.clone, inputs)
        self._run = partial(compute, self._inputs)
        self._replay: Callable[[], Any] | None = None
        self._rehearsed = False

    def takes(self, inputs: Inputs) -> bool:
        """Whether other inputs have the same shapes and types."""
        own, others = (
            [leaf if leaf is None else (leaf.shape, leaf.dtype) for leaf in tree_leaves(one)]
            for one in (self._inputs, inputs)
        )
        return own == others

    def forget(self) -> None:
        """Let go of the recording; the next call records anew."""
        self._replay = None

    def __call__(self, inputs: Inputs, recorder: Recorder) -> Any:
        for place, value in zip(tree_leaves(self._inputs), tree_leaves(inputs), strict=True):
            if isinstance(place, Tensor):
                place.copy_(value)
        if not self._rehearsed:
            result = recorder.rehearse(self._run)
            self._rehearsed = True
        else:
            self._replay = self._replay or recorder.record(self._run)
            result = self._replay()
        return tree_map_only(Tensor, torch.clone, result)  # some of it are the inputs, which the next call overwrites


class Replays:
    """For State.perform: each half step is computed as it stands the first time, recorded the second time, and replayed.

    What is computed as it stands, and what is recorded, never need their memory at the same time. Gradients are added up where the
    recording has them: in tensors that parameters get as their `grad`, and that the roles share where they fit, since the loop
    never needs both roles' gradients at once.

    Args:
        recorder: makes what records, CUDA graphs by default.

    Raises:
        ValueError, TypeError: in a call, for a step that cannot be recorded, and a reward that is not in two parts.
    """

    def __init__(self, recorder: Callable[[], Recorder] = CudaRecorder) -> None:
        self._make_recorder = recorder
        self._halves: dict[Any, tuple[Roles, Method, float, _Half]] = {}
        self._recorder: Recorder | None = None
        self.release()

    def release(self) -> None:
        """Free the memory of what was recorded, for other work; it is recorded anew when it is asked for next."""
        for *_, known in self._halves.values():
            known.forget()
        self._recorder = None
        self._recorder = self._make_recorder()
        self._gradients: dict[Any, list[Tensor]] = {}

    def __call__(self, half: Callable[..., Any], state: State, method: Method, batch: Batch, share: float) -> Any:
        reward = state.roles.reward
        moves = half is generator_step
        learner = state.roles.generator if moves else state.roles.assistant
        prompt = batch.condition
        read = _read(reward, prompt) if moves and reward is not None else None
        inputs = Inputs(batch.z, batch.t, batch.noise(batch.z), prompt.text, prompt.pooled, read)
        about = state.roles, method, share
        known = self._halves.get(half)
        if known is None or known[:3] != about or not known[3].takes(inputs):
            if any(parameter.grad is not None for parameter in learner.parameters().values()):
                raise ValueError(
                    "the parts of a batch differ in shape, as prompts do whose tokens are not padded, so a step cannot be recorded "
                    "once for all; pad them, or set cuda_graphs to false"
                )
            known = self._halves[half] = (*about, _Half(partial(_compute, half, state, method, share), inputs))
            self.release()
        self._lend_gradients(learner)
        assert self._recorder is not None
        return known[3](inputs, self._recorder)

    def _lend_gradients(self, learner: Trainable) -> None:
        """Zeros at their fixed places to parameters that have no gradients."""
        parameters = list(learner.parameters().values())
        if all(parameter.grad is not None for parameter in parameters):
            return
        kinds = tuple((parameter.shape, parameter.dtype) for parameter in parameters)
        if kinds not in self._gradients:
            self._gradients[kinds] = [torch.zeros_like(parameter) for parameter in parameters]
        lent = self._gradients[kinds]
        torch._foreach_zero_(lent)
        for parameter, gradient in zip(parameters, lent, strict=True):
            parameter.grad = gradient
