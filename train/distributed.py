"""Training by several processes, of --processes or of torchrun: the same global batch, the same curve.

In the game every process draws the same random numbers for the whole batch and computes on its share of it; gradients
are averaged over the processes, so the weights stay the same everywhere. In the warm start and the refit each fits
other nets. The first process alone writes files and talks to MLflow. Everything here does nothing in a job of one
process.
"""

import contextlib
import io
import logging
import os
import time
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
from train.processes import POLL_SECONDS, started

log = logging.getLogger("lookalike")

T = TypeVar("T")
STORE = "LOOKALIKE_STORE"  # where a process that was started here finds the port at which all meet
PATIENCE = timedelta(days=7)  # the others wait while the first one validates; one that dies is noticed at once


@contextlib.contextmanager
def session(config: Config, command: Sequence[str]) -> Iterator[None]:
    """Train together with the processes that torchrun started, or that are started here: one GPU each, or the CPU.

    Their number is torchrun's, or what the options ask for.

    Args:
        command: the arguments of `python -m train` that led here; the others are started with the same ones.

    Raises:
        InputError: a batch of 0/1 rows cannot be shared equally among them.
        JobError: one of them fails before they have met.
    """
    if (number := int(os.environ.get("WORLD_SIZE", config.processes))) == 1:
        yield
        return
    if config.codec != "tokens" and config.batch_size % number:
        raise InputError(f"--batch-size {config.batch_size}: {number} processes cannot share it equally")
    if config.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    with _met(number, command) as place:
        # Gloo carries what the processes agree on, so that agreeing does not wait for the GPU.
        dist.init_process_group("cpu:gloo,cuda:nccl" if config.device == "cuda" else "gloo", timeout=PATIENCE, **place)
        yield
        leave()  # not after a failure: NCCL would wait here for processes that wait for this one


@contextlib.contextmanager
def _met(number: int, command: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Where the processes meet, as `init_process_group` takes it; torchrun says that by itself."""
    if STORE in os.environ:
        store = dist.TCPStore("127.0.0.1", int(os.environ[STORE]), is_master=False)
        store.set(os.environ["RANK"], "started")
        yield {"store": store, "rank": int(os.environ["RANK"]), "world_size": number}
    elif "WORLD_SIZE" in os.environ:
        yield {}
    else:
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        with started(number, command, **{STORE: str(store.port)}) as others:
            while not store.check([str(other.rank) for other in others]):
                if any(other.check() for other in others):
                    raise JobError(f"--processes {number}: a process ended before it had met the others")
                time.sleep(POLL_SECONDS)
            yield {"store": store, "rank": 0, "world_size": number}


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


def portion(rows: int) -> slice:
    """Which of so many rows are this process's; none, where there are more processes than rows."""
    return slice(rank() * rows // processes(), (rank() + 1) * rows // processes())


def weighted_portion(rows: int) -> tuple[slice, float]:
    """This process's rows of a batch whose losses are added up, and how often they count in a mean over the processes.

    A process that has none takes one that does not count.
    """
    mine = portion(rows)
    return (slice(1), 0.0) if mine.start == mine.stop else (mine, float(processes()))


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


def total(value: float) -> float:
    """The sum of what the processes give, the same for all of them."""
    return sum(gathered(value))


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
        log.debug("%s", problem)
        log.error("another process of this job was lost")  # torchrun may end this one before its last line
        raise JobError("another process was lost; go on from the last checkpoint with --resume") from problem
