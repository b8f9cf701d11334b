"""The lock between a stopping server and its workers, so that no accepted request is lost.

TorchServe cannot drain. So each worker holds a shared lock on one file while it answers a batch. `begin` makes the file
longer, which tells workers to refuse new batches, and then waits for the exclusive lock. A worker that refuses a batch
signs the file. Its signature shows that TorchServe has passed on the answers to the batch before, since only then does
it send another. This module is a LEAF (see train/__init__.py).
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "LOOKALIKE_SERVE_DRAIN_FILE"  # tells a worker the path of the drain lock
MARK = b"\0"  # the first byte of the lock's file once a stop has begun


class Lock:
    """A worker's side of the drain lock; without a path there is no draining."""

    def __init__(self, path: str | None) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_APPEND) if path else None
        self._has_signed = False

    @contextmanager
    def shared(self) -> Iterator[bool]:
        """Hold the shared lock for one batch; yields False when the server is stopping."""
        if self._file is None:
            yield True
        elif self._has_begun(self._file):  # without the lock: many refusing workers could starve the stop of it
            yield False
        else:
            fcntl.flock(self._file, fcntl.LOCK_SH)
            try:
                yield not self._has_begun(self._file)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _has_begun(self, file: int) -> bool:
        """Whether a stop has begun; if so, this worker signs the file."""
        has_begun = os.fstat(file).st_size > 0
        if has_begun and not self._has_signed:
            with suppress(OSError):  # a full disk; the stop then waits in vain for a while
                os.write(file, b"%d\n" % os.getpid())
            self._has_signed = True
        return has_begun


def has_begun(path: Path) -> bool:
    """Whether a stop has begun, even if it was killed since; False if the lock's file has been deleted."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def begin(path: Path, seconds: float) -> bool:
    """Make workers refuse new batches and wait until they have answered those they took; False if `seconds` ran out.

    Raises:
        FileNotFoundError: the lock's file has been deleted, so there is nothing to wait on.
    """
    deadline = time.monotonic() + seconds
    with path.open("r+b") as file:
        file.truncate(len(MARK))  # unlike a write, this works on a full disk
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.01)
            else:
                return True


def signed(path: Path) -> set[int]:
    """The process ids of the workers that have refused a batch since `begin`."""
    return {int(line) for line in path.read_bytes()[len(MARK) :].split()}
