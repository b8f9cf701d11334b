"""How a phase saves the random number generators."""

import pytest
import torch

from train import phase


def test_random_numbers_continue_where_they_were_saved() -> None:
    torch.manual_seed(1)
    saved = phase.rng_states()
    drawn = torch.rand(3)
    phase.restore_rng_states(saved)
    assert torch.equal(torch.rand(3), drawn)


def test_a_job_on_the_cpu_does_not_ask_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_old(device: object = None) -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_rng_state", too_old)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", too_old)
    assert phase.rng_states()["cuda"] is None
