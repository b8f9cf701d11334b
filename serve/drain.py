"""The lock between a server that stops and its workers, so that no accepted request is lost.

TorchServe itself drains nothing. So each worker shares a lock on one file while it answers a batch; `begin` writes into
that file, after which workers refuse what comes, and then waits until it can have the lock alone.
This module is a LEAF (see train/__init__.py).
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "LOOKALIKE_SERVE_DRAIN_FILE"  # where a worker finds the path of its server's drain lock


class Lock:
    """A worker's side of the drain lock; without a path its server never drains."""

    def __init__(self, path: str | None) -> None:
        self._file = os.open(path, os.O_RDONLY) if path else None

    @contextmanager
    def shared(self) -> Iterator[bool]:
        """Hold the lock for one batch, together with other workers; False when the server is stopping."""
        if self._file is None:
            yield True
            return
        fcntl.flock(self._file, fcntl.LOCK_SH)
        try:
            yield os.fstat(self._file).st_size == 0
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


def has_begun(path: Path) -> bool:
    """Whether a stop is at work; one that is over has taken the lock's file away."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return True


def begin(path: Path, seconds: float) -> bool:
    """Have workers refuse what comes, and wait until they have answered what they took; False when that took too long.

    Raises:
        FileNotFoundError: the lock's file is gone, so nobody could be waited for.
    """
    deadline = time.monotonic() + seconds
    with path.open("r+") as file:
        file.write("closed\n")
        file.flush()
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.01)
            else:
                return True
