"""Soak test: load a separate server for minutes and watch its failures and the memory of its processes."""

import itertools
import json
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from serve import load, models, server
from serve.client import Client
from serve.launch import Settings
from serve.load import Load
from serve.request import CONTENT_TYPES
from serve.state import State
from train import MODEL_NAME

CONNECTIONS = 16
SAMPLES = 180  # measurements of memory over the whole time
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Mean resident memory of a process in MiB, over the first and the last third of the time."""

    what: str
    first: float
    last: float


def run(settings: Settings, n: int, seconds: float, tell: Callable[[str], None]) -> tuple[Load, list[Memory]]:
    """Request n sequences with random seeds, over and over, on 16 connections; returns the load and the memory.

    Raises:
        ServeError: the server did not start, or refuses such requests.
    """
    with (
        models.located(settings.runs, settings.model) as source,
        tempfile.TemporaryDirectory(prefix="lookalike-soak-") as folder,
    ):
        mine = replace(settings, runs=Path(folder), model=str(source))
        state = server.start(mine, tell)
        try:
            Client(address=state.address).request(n)
            return _load(state, n, seconds)
        finally:
            server.stop(mine.runs)


def _load(state: State, n: int, seconds: float) -> tuple[Load, list[Memory]]:
    frontend = psutil.Process(state.pid)
    processes = [frontend, *frontend.children(recursive=True)]
    samples: list[list[float]] = []
    left = threading.Event()  # lets an interruption end the load early
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        stack.callback(left.set)
        loaded = pool.submit(
            load.run,
            (state.host, state.port),
            f"/predictions/{MODEL_NAME}",
            itertools.repeat(json.dumps({"n": n}).encode()),
            connections=CONNECTIONS,
            seconds=seconds,
            accept=CONTENT_TYPES["json"],
            is_over=left.is_set,
        )
        while wait([loaded], timeout=seconds / SAMPLES).not_done:
            samples.append([_resident(process) for process in processes])
    return loaded.result(), _compare(samples)


def _resident(process: psutil.Process) -> float:
    """Resident memory in MiB; 0 for a process that has ended, which shows in the mean."""
    try:
        return float(process.memory_info().rss) / MIB
    except psutil.Error:
        return 0.0


def _compare(samples: list[list[float]]) -> list[Memory]:
    third = max(len(samples) // 3, 1)
    means = [
        [sum(column) / third for column in zip(*part, strict=True)] for part in (samples[:third], samples[-third:])
    ]
    names = ["frontend", *(f"worker {k}" for k in range(1, len(samples[0])))]
    return [Memory(what=name, first=first, last=last) for name, first, last in zip(names, *means, strict=True)]


def text(measured: Load, memories: list[Memory], seconds: float) -> str:
    """The results, formatted for people."""
    first = (
        f"{measured.answers:,} answers in {(1 + load.WARM_UP) * seconds:,.0f} s ({measured.per_second:,.0f}/s), "
        f"median {measured.p50:.1f} ms, 99th percentile {measured.p99:.1f} ms, {measured.failures} failures"
    )
    lines = [f"{memory.what:10} {memory.first:7.1f} MiB, then {memory.last:7.1f} MiB" for memory in memories]
    return "\n".join([first, *lines])
