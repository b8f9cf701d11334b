"""How commands end: messages and exit codes."""

import click
import numpy as np
import pytest
import torch

from train import __main__ as commands
from train import fit as job


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError("Unable to allocate 7.63 MiB"),
        RuntimeError("alloc_cpu.cpp:127: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasSgemm`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
)
def test_whatever_runs_out_of_memory_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Exception
) -> None:
    def fail(*_: object) -> None:
        raise problem

    monkeypatch.setattr(job, "fit", fail)
    assert commands.main(["fit", "--data", "toy"]) == 1
    assert capsys.readouterr().err == "Error: out of memory: free some, or use fewer rows or columns\n"


def test_a_message_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["fit", "--data", "\x1b[2Jrows.csv"]) == 2
    assert capsys.readouterr().err.startswith("Error: --data \ufffd[2Jrows.csv: no such file")


def test_an_interruption_in_numpy_is_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """When numpy reads a buffer's format, as for scikit-learn, it takes whatever is raised for a bad format."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    @click.command()
    def command() -> None:
        np.asarray(memoryview(np.zeros(3, [("gradients", "f8"), ("count", "u4")])))

    monkeypatch.setattr("numpy._core._internal._dtype_from_pep3118", interrupt)
    monkeypatch.setattr(commands, "cli", command)
    assert commands.main([]) == 1
    assert capsys.readouterr().err.strip() == "Error: interrupted"
