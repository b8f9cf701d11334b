"""Training with several processes, started by --processes or torchrun: the same global batch, the same curve.

In the game, and in the warm start of texts, every process draws the same random numbers for the whole batch and
computes on its share of it; gradients are averaged over the processes, so the weights stay the same everywhere. In the
warm start and the refit of 0/1 rows each process fits different nets. Only the first process writes files and talks to
MLflow. In a job of one process, everything here does nothing.
"""

import contextlib
import io
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed as dist

# Imported early: its functions keep the process group that exists when they are imported, and the optimizers import
# them late. Gloo's threads would then outlive `leave`, and one that needs Python as that ends aborts the process.
import torch.distributed.nn.functional
from torch import Tensor

from train.config import Config, from_json, unequal_shares
from train.errors import InputError, JobError, is_out_of_memory
from train.processes import GRACE_SECONDS, POLL_SECONDS, Worker, process_count, started

log = logging.getLogger("lookalike")

T = TypeVar("T")
RENDEZVOUS = "LOOKALIKE_RENDEZVOUS"  # tells a process that was started here the file through which all meet
CONFIG = "config"  # what the first one leaves there
PATIENCE = timedelta(days=7)  # the others wait while the first one validates; one that dies is noticed at once


class LostError(JobError):
    """Another process of the job has died."""


@contextlib.contextmanager
def session(config: Config) -> Iterator[None]:
    """Train together with the processes that torchrun started, or that are started here: one GPU each, or the CPU.

    Raises:
        InputError: a batch of 0/1 rows cannot be shared equally among them, or their number is contradictory.
        JobError: one of them has failed.
    """
    if (number := process_count(config.processes)) == 1:
        yield
        return
    # `Config` could not check this: it does not know torchrun's number, nor the codec where that was "auto".
    if config.codec != "tokens" and (unequal := unequal_shares(config, number)):
        raise InputError(unequal)
    if config.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    with contextlib.ExitStack() as stack:
        workers: list[Worker] = []
        if "WORLD_SIZE" not in os.environ:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lookalike-"))
            for library in ("GLOO", "NCCL"):  # so that no other machine can take part
                os.environ.setdefault(f"{library}_SOCKET_IFNAME", _loopback())
            # NCCL's process group would look into the folder each second, and after a failure, which removes it, the
            # process would wait at its end, for five minutes, for it to come back.
            os.environ.setdefault("TORCH_NCCL_DUMP_ON_TIMEOUT", "0")
            workers = stack.enter_context(started(number, ["follow"], **{RENDEZVOUS: str(Path(folder, "store"))}))
            group_options = _rendezvous(0, number, Path(folder, "store"), config, workers)
        elif RENDEZVOUS in os.environ:
            group_options = _rendezvous(int(os.environ["RANK"]), number, Path(os.environ[RENDEZVOUS]), config)
        else:
            group_options = {}  # torchrun sets environment variables
        # Gloo carries what the processes agree on, so that agreeing does not wait for the GPU.
        backend = "cpu:gloo,cuda:nccl" if config.device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE, **group_options)
        try:
            yield
        except LostError as problem:
            raise LostError(f"{_reason(workers)}{problem}") from problem
        leave()  # not after a failure: NCCL would wait here for processes that wait for this one


def _rendezvous(rank: int, number: int, path: Path, config: Config, workers: Sequence[Worker] = ()) -> dict[str, Any]:
    """Meet the other processes, for which the first one waits, and return the arguments for `init_process_group`.

    They meet through a file, because torch's other stores listen to the whole network.
    """
    store = dist.FileStore(str(path), number)
    if rank:
        store.set(str(rank), "here")
    else:
        store.set(CONFIG, config.to_json())
    while not store.check([str(worker.rank) for worker in workers]):
        if any(worker.check() for worker in workers):
            raise JobError(f"--processes {number}: a process ended before it had connected to the others")
        time.sleep(POLL_SECONDS)
    return {"store": store, "rank": rank, "world_size": number}


def given_config() -> Config:
    """The configuration with which the first process has started this one.

    Raises:
        InputError: `fit --processes` has not started this process.
    """
    if RENDEZVOUS not in os.environ:
        raise InputError("follow is started by `fit --processes` and cannot run by itself")
    store = dist.FileStore(os.environ[RENDEZVOUS], int(os.environ["WORLD_SIZE"]))
    return from_json(store.get(CONFIG).decode())


def _loopback() -> str:
    """The name of the network interface that no other machine reaches."""
    addresses = psutil.net_if_addrs()
    return next(name for name in addresses if any(each.address == "127.0.0.1" for each in addresses[name]))


def _reason(workers: Sequence[Worker]) -> str:
    """Why one of the others has ended, if that can be found out."""
    deadline = time.monotonic() + GRACE_SECONDS
    while workers and time.monotonic() < deadline:
        try:
            for worker in workers:
                worker.check()
        except JobError as problem:
            return f"{problem}; "
        time.sleep(POLL_SECONDS)
    return ""


def barrier() -> None:
    """Wait until all processes have reached this point."""
    all_reduce_max(0.0)


def agree(what: str, value: str) -> None:
    """Check that all processes have been given the same value.

    Raises:
        InputError: they have not; the message names `what`.
    """
    if broadcast(value) != value:
        raise InputError(
            f"process {rank()} and the first one differ in {what}; start all of them with the same command and files"
        )


def leave() -> None:
    """Leave the process group: the first process still judges when the others are done."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    return rank() == 0


def shard(batch: Tensor) -> Tensor:
    """This process's rows of a batch whose loss is a mean, so that shards must be equal; `portion` serves other losses.

    A last batch that cannot be split equally goes to every process as a whole, to the same effect.
    """
    return batch.chunk(world_size())[rank()] if _is_sharded(len(batch)) else batch


def shard_start(rows: int) -> int:
    """How many rows of a batch, which has `rows`, come before this process's shard."""
    return rank() * rows // world_size() if _is_sharded(rows) else 0


def _is_sharded(rows: int) -> bool:
    return dist.is_initialized() and rows % world_size() == 0


def portion(rows: int) -> slice:
    """Which of `rows` rows are this process's; possibly none if there are more processes than rows."""
    return slice(rank() * rows // world_size(), (rank() + 1) * rows // world_size())


def weighted_portion(rows: int) -> tuple[slice, float]:
    """This process's rows of a batch whose losses are added up, and the weight of each in a mean over the processes.

    A process without rows takes one with weight 0.
    """
    mine = portion(rows)
    return (slice(1), 0.0) if mine.start == mine.stop else (mine, float(world_size()))


def average_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Replace the gradients of the optimizer's parameters by their means over the processes."""
    if not dist.is_initialized():
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        if parameter.grad is None:  # not used by this process's rows, but perhaps by others'
            parameter.grad = torch.zeros_like(parameter)
    all_reduce_mean([parameter.grad for parameter in parameters])


def all_reduce_mean(values: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over the processes."""
    if not dist.is_initialized():
        return
    flat = torch.cat([value.reshape(-1) for value in values])
    with _lost_processes_named():
        dist.all_reduce(flat)
    means = (flat / world_size()).split([value.numel() for value in values])
    torch._foreach_copy_(list(values), [mean.view_as(value) for mean, value in zip(means, values, strict=True)])


def all_reduce_max(*values: float) -> tuple[float, ...]:
    """The highest of each value over the processes: how they agree on clocks and on when to stop."""
    if not dist.is_initialized():
        return values
    shared = torch.tensor(values, dtype=torch.float64)
    with _lost_processes_named():
        dist.all_reduce(shared, dist.ReduceOp.MAX)
    return tuple(shared.tolist())


def all_reduce_sum(value: float) -> float:
    """The sum of the processes' values, the same for all of them."""
    return sum(all_gather(value))


def broadcast(value: T) -> T:
    """The first process's value, for all of them, with tensors on the CPU; the values of the others are dropped."""
    return _broadcast_from(0, value)


def all_gather(value: T | None) -> list[T]:
    """The values of all processes, by rank, for all of them, with tensors on the CPU; None is left out."""
    given = [_broadcast_from(each, value) for each in range(world_size())]
    return [each for each in given if each is not None]


def _broadcast_from(process: int, value: T) -> T:
    if not dist.is_initialized():
        return value
    buffer = io.BytesIO()
    if process == rank():
        torch.save(value, buffer)
    size, content = torch.tensor(len(buffer.getvalue())), bytearray(buffer.getvalue())
    with _lost_processes_named():
        dist.broadcast(size, process)
        bytes_of = (
            torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(int(size), dtype=torch.uint8)
        )
        dist.broadcast(bytes_of, process)
    # Unpickles nothing but tensors and plain values; `broadcast_object_list` would unpickle anything.
    given: T = torch.load(io.BytesIO(bytes_of.numpy().tobytes()), map_location="cpu", weights_only=True)
    return given


@contextlib.contextmanager
def _lost_processes_named() -> Iterator[None]:
    try:
        yield
    except RuntimeError as problem:
        if is_out_of_memory(problem):
            raise
        log.debug("%s", problem)
        # NCCL's errors say more: with too little /dev/shm, say, nobody is lost.
        nccl = isinstance(problem, dist.DistBackendError)
        more = f", or NCCL failed: {' '.join(str(problem).split())}" if nccl else ""
        log.error("another process of this job was lost%s", more)  # torchrun may end this one before its last line
        raise LostError(f"another process was lost{more}") from problem
