"""What all tests share."""

import signal
from collections.abc import Iterator

import hypothesis
import pytest
import torch

from tests.pretend_gpu import pretended_gpu

# The same examples in every run, and no verdicts by the clock: a busy machine is not a mistake.
hypothesis.settings.register_profile(
    "lookalike", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("lookalike")

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED ON A GPU: torch sees none here")


@pytest.fixture(autouse=True, scope="session")
def _foreground() -> None:
    """A shell's background jobs ignore SIGINT; the tests, and what they start, must not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """The nets of the tests are tiny: more threads than one only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(params=["pretended", pytest.param("real", marks=NO_GPU)])
def _gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """One GPU: a pretended one everywhere, and the real one where there is one."""
    if request.param == "real":
        yield
        torch.cuda.set_sync_debug_mode("default")
        return
    with pretended_gpu():
        yield
