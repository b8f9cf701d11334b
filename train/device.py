"""Where a job trains: on GPUs, or on the CPU."""

import logging
import os
import platform
import warnings
from pathlib import Path

import torch

from train.errors import InputError

log = logging.getLogger("lookalike")

NO_GPU = "torch sees no GPU here"
# What torch says of machines without a GPU, and where none is to be used (CUDA_VISIBLE_DEVICES).
TOLD_OF_NONE = ("Found no NVIDIA driver", "No CUDA GPUs are available")
DRIVER = Path("/dev/nvidiactl")  # there where NVIDIA's driver is loaded, and in containers that were given a GPU


def chosen(device: str, processes: int) -> str:
    """The requested device, with "auto" decided: "cuda" if this many processes can use GPUs, else "cpu".

    Raises:
        InputError: a GPU is requested but cannot be used.
    """
    if device == "cpu":
        return device
    problem = gpu_problem(processes)
    if problem is None:
        return "cuda"
    if device == "cuda":
        raise InputError(f"--device cuda: {problem}; `python -m train doctor` may say why; --device cpu needs none")
    if problem != NO_GPU:
        log.warning("training uses the CPU: %s", problem)
    return "cpu"


def gpu_problem(processes: int = 1) -> str | None:
    """Why this many processes cannot train on GPUs here, or None; torchrun's LOCAL_WORLD_SIZE takes precedence.

    The GPU is really used, because torch also sees GPUs that it cannot use.
    """
    with warnings.catch_warnings(action="ignore"):  # torch warns of an old driver, which is told below
        if not torch.cuda.is_available():
            return _why_none_is_seen()
    gpus, processes = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    if gpus < processes:
        return f"there are {processes} processes here, but torch sees {gpus} GPUs"
    try:
        torch.ones(1, device=f"cuda:{os.environ.get('LOCAL_RANK', 0)}").add_(1).item()
    except RuntimeError as problem:  # too old for this torch, or held exclusively by another process
        return str(problem).splitlines()[0]
    return None


def _why_none_is_seen() -> str:
    """Why torch sees no GPU: it cannot use the driver, say, which is no reason to take the CPU without a word."""
    if torch.version.cuda is None:
        wanted = DRIVER.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
        return "there is an NVIDIA driver, but this torch is built without CUDA" if wanted else NO_GPU
    try:
        torch.cuda.init()
    except RuntimeError as problem:
        reason = str(problem).splitlines()[0]
        return NO_GPU if reason.startswith(TOLD_OF_NONE) else reason
    return NO_GPU


def name(device: str, threads: int, processes: int) -> str:
    """What so many processes compute on, for people."""
    if device == "cuda":
        return ("" if processes == 1 else f"{processes} x ") + torch.cuda.get_device_name()
    together = "" if processes == 1 else f"{processes} processes of "
    each = "1 thread" if threads == 1 else f"{threads} threads"
    return f"{platform.processor() or platform.machine()} CPU, {together}{each}"
