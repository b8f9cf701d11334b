"""What all tests share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """The nets of the tests are tiny: more threads than one only wait for each other."""
    torch.set_num_threads(1)
