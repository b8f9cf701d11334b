"""How many CPUs this process may use, and work that all of them share."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

CGROUP = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: a quota, or "max", and the period that it is for, in microseconds
HERE = threading.local()  # `abandoned`: set when nobody wants this thread's result any more
MOST_THREADS = 8  # more would mostly wait for each other, since Python itself runs one at a time


def usable(limit: Path = CGROUP) -> int:
    """Whole CPUs, at least one, that the process may run on within its container's limit."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = limit.read_text().split()
        return max(1, min(cpus, int(quota) // int(period)))
    except (OSError, ValueError):  # no limit
        return cpus


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """As `map`, in threads: one for each usable CPU. Results come in order; items are taken a few ahead.

    It helps where the function is mostly in large operations of torch or in compiled loops, which other threads need
    not wait for. Of torch's own threads, each should use one: several that share few CPUs wait for each other.
    """
    threads = min(MOST_THREADS, usable())
    if threads == 1:
        yield from map(function, items)
        return
    abandoned = threading.Event()

    def call(item: Item) -> Result:
        HERE.abandoned = abandoned
        return function(item)

    pool, begun = ThreadPoolExecutor(threads), deque[Future[Result]]()
    try:
        for item in items:
            begun.append(pool.submit(call, item))
            if len(begun) > threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        abandoned.set()
        pool.shutdown(cancel_futures=True)  # waits for what is running


def stop_if_abandoned() -> None:
    """End a long call by `in_threads` that nobody waits for any more (after Ctrl-C, say) by an error."""
    if hasattr(HERE, "abandoned") and HERE.abandoned.is_set():
        raise RuntimeError("nobody waits for the result")
