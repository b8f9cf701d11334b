"""What all tests share."""

import hypothesis
import pytest
import torch

# The same examples in every run, and no verdicts by the clock: a busy machine is not a mistake.
hypothesis.settings.register_profile(
    "lookalike", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("lookalike")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """The nets of the tests are tiny: more threads than one only wait for each other."""
    torch.set_num_threads(1)
