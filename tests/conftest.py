"""Settings and fixtures of all tests."""

import signal
from collections.abc import Iterator

import hypothesis
import pytest
import torch

from tests.pretend_gpu import pretended_gpu

# The same examples in every run, and no deadlines: a busy machine would miss them.
hypothesis.settings.register_profile(
    "lookalike", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("lookalike")

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED ON A GPU: torch sees none here")


@pytest.fixture(autouse=True, scope="session")
def _foreground() -> None:
    """Restore SIGINT: background jobs of a shell ignore it, but the tests and their subprocesses need it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Use one thread: the tests' nets are too small to gain from more."""
    torch.set_num_threads(1)


@pytest.fixture(params=["pretended", pytest.param("real", marks=NO_GPU)])
def _gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """One GPU: first a simulated one, then a real one if there is one."""
    if request.param == "real":
        yield
        torch.cuda.set_sync_debug_mode("default")
        return
    with pretended_gpu():
        yield
