"""What all tests share."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from tests.pretend_gpu import pretended_gpu

HERE = Path(__file__).parent
SHARED = (HERE / "docker", HERE / "integration" / "serve")  # images, servers

# The same examples in every run, and no verdicts by the clock: a busy machine is not a mistake.
hypothesis.settings.register_profile(
    "lookalike", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("lookalike")

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT TESTED ON A GPU: torch sees none here")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """The nets of the tests are tiny: more threads than one only wait for each other."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file go to one worker of `make test`, and so do folders whose fixtures are expensive."""
    for item in items:
        folder = item.path.parent
        together = folder if folder in SHARED else item.path
        item.add_marker(pytest.mark.xdist_group(str(together.relative_to(HERE))))


@pytest.fixture(params=["pretended", pytest.param("real", marks=NO_GPU)])
def _gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """One GPU: a pretended one everywhere, and the real one where there is one."""
    if request.param == "real":
        yield
        return
    with pretended_gpu():
        yield
