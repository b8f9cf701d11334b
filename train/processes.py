"""Starts further processes of a command on this machine, with the same environment variables as torchrun's."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from train.errors import InputError, JobError

STARTED = "LOOKALIKE_STARTED"  # set in the processes that are started here
POLL_SECONDS = 0.05
GRACE_SECONDS = 2.0  # between SIGTERM and SIGKILL


class Worker:
    """Another process of the job, started here. Its output does not reach the terminal.

    Args:
        rank: its number; the process that starts it is number 0.
        number: how many processes there are in all.
        command: the arguments of `python -m train`.
        variables: further environment variables.
    """

    def __init__(self, rank: int, number: int, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self.rank, self.number = rank, number
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number, STARTED: 1}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "train", *command],
            env={**os.environ, **{name: str(value) for name, value in places.items()}, **variables},
            stdin=subprocess.PIPE,  # see `end_with_the_first`
            stdout=subprocess.DEVNULL,
            stderr=self.said,
            start_new_session=True,  # Ctrl-C reaches only the first process, which stops the workers
        )

    def check(self) -> bool:
        """Whether it has ended successfully; False while it runs.

        Raises:
            JobError: it has failed; the message is the error that it printed, or else its last line.
        """
        if not (code := self.process.poll()):
            return code == 0
        self.said.seek(0)
        ended = f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        said = self.said.read().strip().splitlines()
        # NCCL may have more to say when the process ends.
        reason = ([line for line in said if line.startswith("Error: ")] or said or [ended])[-1].removeprefix("Error: ")
        raise JobError(f"process {self.rank} of {self.number} failed: {reason}")


@contextlib.contextmanager
def started(number: int, command: Sequence[str], **variables: str) -> Iterator[list[Worker]]:
    """Start all processes of a command except this one, and end them on exit."""
    workers: list[Worker] = []
    try:
        for rank in range(1, number):
            workers.append(Worker(rank, number, command, variables))
        yield workers
    finally:
        for worker in workers:
            worker.process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS
        for worker in workers:
            try:
                worker.process.communicate(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:  # it may be waiting for this process
                worker.process.kill()
                worker.process.communicate()
            worker.said.close()


def await_all(workers: Sequence[Worker]) -> None:
    """Wait until all have ended.

    Raises:
        JobError: as soon as one fails.
    """
    while sum(worker.check() for worker in workers) < len(workers):  # asks all of them, as any may have failed
        time.sleep(POLL_SECONDS)


def end_with_the_first() -> None:
    """In a process that was started here: end when the one that started it ends, for whatever reason."""
    if STARTED in os.environ:
        threading.Thread(target=_end_when_nobody_holds_standard_input, daemon=True).start()


def _end_when_nobody_holds_standard_input() -> None:
    os.read(0, 1)  # nothing is ever written there
    os._exit(1)


def process_count(processes: int) -> int:
    """How many processes share the work: torchrun's number, or else the one given by the options.

    Raises:
        InputError: the two contradict each other, or only torchrun's number is known.
    """
    number = int(os.environ.get("WORLD_SIZE", processes))
    if processes not in (1, number):
        raise InputError(
            f"--processes {processes}: but WORLD_SIZE says that {number} were started (by torchrun?); leave out "
            f"--processes, or unset WORLD_SIZE if nothing has started them"
        )
    if number > 1 and "WORLD_SIZE" in os.environ and "RANK" not in os.environ:
        raise InputError(
            f"WORLD_SIZE says that {number} processes were started, but RANK does not say which one this is; unset "
            f"WORLD_SIZE if nothing has started them"
        )
    return number
