"""More processes of the command that runs here, with the variables by which torchrun tells its processes apart."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

from train.config import JobError

POLL_SECONDS = 0.05
GRACE_SECONDS = 2.0  # for one that is told to end


class Other:
    """A process of the same command that was started here. What it prints is kept from the terminal.

    Args:
        rank: its number; the process that starts it is number 0.
        number: how many there are in all.
        command: the arguments of `python -m train`.
        variables: what it finds in its environment besides.
    """

    def __init__(self, rank: int, number: int, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self.rank, self.number = rank, number
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - as long as the process
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "LOCAL_WORLD_SIZE": number}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "train", *command],
            env={**os.environ, **{name: str(value) for name, value in places.items()}, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,  # Ctrl-C is for the first one, which tells the others
        )

    def check(self) -> bool:
        """Whether it has ended, and well.

        Raises:
            JobError: it has failed, with the last line that it said.
        """
        if not (code := self._process.poll()):
            return code == 0
        self._said.seek(0)
        reason = (self._said.read().strip().splitlines() or ["it was lost"])[-1].removeprefix("Error: ")
        raise JobError(f"--processes {self.number}: process {self.rank} failed: {reason}")

    def end(self) -> None:
        """Take it away, if it is still there."""
        self._process.terminate()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()


@contextlib.contextmanager
def started(number: int, command: Sequence[str], **variables: str) -> Iterator[list[Other]]:
    """All processes of a command but this one; at the end none is left."""
    with contextlib.ExitStack() as stack:
        others = []
        for rank in range(1, number):
            others.append(Other(rank, number, command, variables))
            stack.callback(others[-1].end)
        yield others


def await_all(others: Sequence[Other]) -> None:
    """Wait until all have ended.

    Raises:
        JobError: as soon as one fails.
    """
    while sum(other.check() for other in others) < len(others):  # all are asked: any may have failed
        time.sleep(POLL_SECONDS)
