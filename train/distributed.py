"""Training by several processes under torchrun: the same global batch, the same curve.

In the game every process draws the same random numbers for the whole batch and computes on its share of it; gradients
are averaged over the processes, so the weights stay the same everywhere. In the warm start and the refit each fits
other nets. The first process alone writes files and talks to MLflow. Everything here does nothing in a job of one
process.
"""

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Its functions hold on to the process group that is there when they are imported, and the optimizers import them late:
# Gloo's threads would go on after `leave`, and one that wants Python while that ends aborts the process.
import torch.distributed.nn.functional
from torch import Tensor

from train.config import Config, InputError, JobError

log = logging.getLogger("lookalike")

T = TypeVar("T")
PATIENCE = timedelta(
    days=7
)  # the others wait while the first one validates and saves; one that dies is noticed at once


@contextlib.contextmanager
def session(config: Config) -> Iterator[None]:
    """Join the processes that torchrun started: one GPU each, or the CPU.

    Raises:
        InputError: a batch cannot be shared equally among them, or texts are to be learned.
    """
    expected = int(os.environ.get("WORLD_SIZE", 1))
    if expected == 1:
        yield
        return
    if config.codec == "tokens":
        raise InputError("--codec tokens: texts are trained by one process; start it without torchrun")
    if config.batch_size % expected:
        raise InputError(f"--batch-size {config.batch_size}: torchrun's {expected} processes cannot share it equally")
    if config.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Gloo carries what the processes agree on, so that agreeing does not wait for the GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if config.device == "cuda" else "gloo", timeout=PATIENCE)
    yield
    leave()  # not after a failure: NCCL would wait here for processes that wait for this one


def leave() -> None:
    """Go on alone: the first process still judges when the others are done."""
    if dist.is_initialized():
        dist.destroy_process_group()


def processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    return rank() == 0


def share(batch: Tensor) -> Tensor:
    """This process's rows of a batch. A last batch that cannot be shared equally is everybody's, to the same effect."""
    return batch.chunk(processes())[rank()] if _is_shared(len(batch)) else batch


def before(rows: int) -> int:
    """How many rows of a batch of so many come before this process's share."""
    return rank() * rows // processes() if _is_shared(rows) else 0


def _is_shared(rows: int) -> bool:
    return dist.is_initialized() and rows % processes() == 0


def average_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Replace the gradients of what the optimizer trains by their means over the processes."""
    if not dist.is_initialized():
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if parameter.grad is None:  # not used by this process's rows, but perhaps by others'
            parameter.grad = torch.zeros_like(parameter)
    average([parameter.grad for parameter in parameters])


def average(values: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes."""
    if not dist.is_initialized():
        return
    flat = torch.cat([value.reshape(-1) for value in values])
    with _naming_losses():
        dist.all_reduce(flat)
    means = (flat / processes()).split([value.numel() for value in values])
    torch._foreach_copy_(list(values), [mean.view_as(value) for mean, value in zip(means, values, strict=True)])


def highest(*values: float) -> tuple[float, ...]:
    """The highest of each value over the processes: how they agree on clocks and on when to stop."""
    if not dist.is_initialized():
        return values
    shared = torch.tensor(values, dtype=torch.float64)
    with _naming_losses():
        dist.all_reduce(shared, dist.ReduceOp.MAX)
    return tuple(shared.tolist())


def from_first(value: T) -> T:
    """What the first process gives, with its tensors on the CPU, for all of them; what the others give is dropped."""
    return _from(0, value)


def gathered(value: T | None) -> list[T]:
    """What the processes give, in their order and with tensors on the CPU, for all of them; None is left out."""
    given = [_from(each, value) for each in range(processes())]
    return [each for each in given if each is not None]


def _from(process: int, value: T) -> T:
    if not dist.is_initialized():
        return value
    buffer = io.BytesIO()
    if process == rank():
        torch.save(value, buffer)  # rather than by pickle, which would put tensors of the first GPU there again
    holder: list[Any] = [buffer.getvalue()]
    with _naming_losses():
        dist.broadcast_object_list(holder, src=process, device=torch.device("cpu"))
    given: T = torch.load(io.BytesIO(holder[0]), map_location="cpu", weights_only=True)
    return given


@contextlib.contextmanager
def _naming_losses() -> Iterator[None]:
    try:
        yield
    except RuntimeError as problem:
        reason = str(problem).strip().splitlines()[0]
        log.error("another process of this job was lost (%s)", reason)  # torchrun may end this one before its last line
        raise JobError("another process was lost; go on from the last checkpoint with --resume") from problem
