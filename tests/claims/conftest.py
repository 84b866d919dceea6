"""What the claims share: losses of the library as functions of (x0, x_t, noise), and the two verdicts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distar_core.losses import Noised, Scores
from distar_core.roles import MixtureScore
from distar_core.truth.quadrature import GeneratorScore, SampleLoss, Setting


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def library() -> Callable[..., SampleLoss]:
    """library(setting, loss): a function of losses.py, (noised, scores) -> [N], with the roles of `setting` filled in.

    The assistant is exact unless `assistant`, x_t -> score, is given.
    """

    def with_roles(
        setting: Setting,
        loss: Callable[[Noised, Scores], Tensor],
        assistant: Callable[[Tensor], Tensor] | None = None,
    ) -> SampleLoss:
        exact = GeneratorScore(setting.generator, setting.schedule)
        reference = MixtureScore(setting.reference, setting.schedule)

        def sample_loss(x0: Tensor, x_t: Tensor, noise: Tensor) -> Tensor:
            tracked = exact(x_t, setting.t) if assistant is None else assistant(x_t)
            noised = Noised(x0, x_t, noise, setting.t, setting.alpha, setting.sigma)
            return loss(noised, Scores(tracked, reference(x_t, setting.t, None)))

        return sample_loss

    return with_roles


@pytest.fixture
def holds(request: pytest.FixtureRequest) -> Callable[[float, float], None]:
    """holds(error, tolerance): the claim's verdict; the error is kept in the JUnit report."""

    def verdict(error: float, tolerance: float) -> None:
        request.node.user_properties.append(("error", f"{error:.1e}"))
        assert error <= tolerance

    return verdict


@pytest.fixture
def fails(request: pytest.FixtureRequest) -> Callable[[float, float], None]:
    """fails(wrong, own): the control's verdict, for a deterministic equality whose own error is `own`."""

    def verdict(wrong: float, own: float) -> None:
        request.node.user_properties.append(("control", f"{wrong:.1e} against {own:.1e}"))
        assert wrong >= 1e-2
        assert wrong >= 1000 * own

    return verdict
