"""The lock between a server that stops and its workers, so that no accepted request is lost.

TorchServe itself drains nothing. So each worker shares a lock on one file while it answers a batch; `begin` makes that
file longer, after which workers refuse what comes, and then waits until it can have the lock alone. A worker that
refuses signs the file: TorchServe has then passed on its answers to the batch before, or it would not have sent one.
This module is a LEAF (see train/__init__.py).
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "LOOKALIKE_SERVE_DRAIN_FILE"  # where a worker finds the path of its server's drain lock
MARK = b"\0"  # the first byte of a lock on which a stop is at work


class Lock:
    """A worker's side of the drain lock; without a path its server never drains."""

    def __init__(self, path: str | None) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_APPEND) if path else None
        self._has_signed = False

    @contextmanager
    def shared(self) -> Iterator[bool]:
        """Hold the lock for one batch, together with other workers; False when the server is stopping."""
        if self._file is None:
            yield True
        elif self._has_begun(self._file):  # without the lock: many workers that refuse would keep it from the stop
            yield False
        else:
            fcntl.flock(self._file, fcntl.LOCK_SH)
            try:
                yield not self._has_begun(self._file)
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def _has_begun(self, file: int) -> bool:
        """Whether a stop is at work; if so, this worker signs."""
        has_begun = os.fstat(file).st_size > 0
        if has_begun and not self._has_signed:
            with suppress(OSError):  # a full disk; the stop then waits in vain for a while
                os.write(file, b"%d\n" % os.getpid())
            self._has_signed = True
        return has_begun


def has_begun(path: Path) -> bool:
    """Whether a stop is at work, or was killed. A file that somebody has deleted stops nobody."""
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def begin(path: Path, seconds: float) -> bool:
    """Have workers refuse what comes, and wait until they have answered what they took; False when that took too long.

    Raises:
        FileNotFoundError: the lock's file is gone, so nobody could be waited for.
    """
    deadline = time.monotonic() + seconds
    with path.open("r+b") as file:
        file.truncate(len(MARK))  # not written, for which a full disk has no room
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
    """The processes of the workers that have refused something since `begin`."""
    return {int(line) for line in path.read_bytes()[len(MARK) :].split()}
