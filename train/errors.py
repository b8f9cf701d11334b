"""Errors: whose fault one is decides how a command ends."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator

# cuBLAS says only that it is not initialised where it finds no memory for that.
OUT_OF_MEMORY = re.compile(
    "out of memory|allocate memory|not enough memory|ALLOC(ATION)?_FAILED|CUBLAS_STATUS_NOT_INITIALIZED", re.IGNORECASE
)


class InputError(ValueError):
    """A mistake that the user can correct: a wrong option, file or row. Commands end with exit code 2."""


class JobError(RuntimeError):
    """The work itself failed. Commands end with exit code 1."""


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether the machine or a GPU ran out of memory, which torch may say in the message only."""
    return isinstance(problem, MemoryError) or OUT_OF_MEMORY.search(str(problem)) is not None


@contextlib.contextmanager
def interruptions_shown() -> Iterator[None]:
    """Raise an interruption that came while numpy read a buffer's format: numpy makes it a ValueError's cause."""
    try:
        yield
    except ValueError as problem:
        if isinstance(problem.__cause__, KeyboardInterrupt):
            raise KeyboardInterrupt from problem
        raise


def did_you_mean(given: str, names: Iterable[str]) -> str:
    """A question to end a message with; empty if no name is similar to the given one."""
    return "".join(f"; did you mean {name}?" for name in difflib.get_close_matches(given, list(names), 1))
