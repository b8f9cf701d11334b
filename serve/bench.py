"""How fast is it? The served model beside what could be: a handler that does nothing, a FastAPI twin, no server at all.

All run one after the other on this machine and share its cores with the client that loads them. The handler that does
nothing has as many workers as the model, and its batches. It is served from the start: to load it later would need the
model API, which without tokens takes code from any user of this machine, or tokens, which `start` draws on loopback
only when asked to, and whose cost would be in all ratios.
"""

import itertools
import json
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import yaml

from serve import archive, handler, launch, load, models, request, server
from serve.errors import ServeError
from serve.launch import Settings
from serve.request import CONTENT_TYPES
from serve.state import State
from train import MODEL_NAME
from train import artifact as artifacts

SIZES = (1, 100, 1000, 10_000)  # sequences a request, as far as the model gives so many at once
CONNECTIONS = (1, 16)
NOOP = """
import logging
class Nothing:
    def initialize(self, context): logging.getLogger().setLevel(logging.WARNING)
    def handle(self, data, context):
        for index in range(len(data)):
            context.set_response_content_type(index, "application/json")
        return [b"{}"] * len(data)
"""
TWIN_SECONDS = 60
WARM_UP_LINES = 2  # a warm-up takes as long as so many lines: Java compiles what runs often, and is half as fast before


@dataclass(frozen=True, kw_only=True)
class Line:
    """One measurement: `what` answered requests for n sequences over so many connections."""

    what: str
    n: int
    format: str
    connections: int
    per_second: float
    p50: float
    p99: float
    failures: int

    @property
    def sequences_per_second(self) -> float:
        return self.n * self.per_second


def run(settings: Settings, seconds: float) -> Iterator[Line]:
    """Measure everything, `seconds` for each line.

    Raises:
        ServeError: the model is damaged, or a server did not start.
    """
    launch.check(settings)  # the server comes last, and so would its ports
    with (
        models.located(settings.runs, settings.model) as source,
        tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder,
    ):
        try:
            artifact = _artifact(source, Path(folder, "artifact"))
            sizes = _sizes(artifact)
        except archive.UNREADABLE as problem:
            raise ServeError(f"{source}: not a whole model of Lookalike ({problem})") from problem
        yield from _in_process(artifact, seconds, sizes)
        with _twin(artifact) as port:
            yield from _loaded("FastAPI twin", ("127.0.0.1", port), "/", seconds, sizes)
        with _torchserve(replace(settings, runs=Path(folder), model=str(source))) as state:
            address = (state.host, state.port)
            yield from _loaded("no-op handler", address, "/predictions/noop", seconds, (1,))
            yield from _loaded("TorchServe", address, f"/predictions/{MODEL_NAME}", seconds, sizes)


def text(line: Line) -> str:
    """A line of the table."""
    return (
        f"{line.what:14} {line.n:6,} {line.format:5} {line.connections:4} {line.per_second:10,.0f} "
        f"{line.sequences_per_second:13,.0f} {line.p50:9.2f} {line.p99:9.2f} {line.failures:5}"
    )


HEADING = (
    f"{'what':14} {'n':>6} {'as':5} {'conn':>4} {'requests/s':>10} {'sequences/s':>13} "
    f"{'p50 ms':>9} {'p99 ms':>9} fails"
)


def _artifact(source: Path, target: Path) -> Path:
    """The artifact in an archive, or `source` itself."""
    if source.is_dir():
        return source
    with zipfile.ZipFile(source) as contents:
        for name in archive.ARTIFACT_FILES:
            contents.extract(name, target)
    return target


def _sizes(artifact: Path) -> tuple[int, ...]:
    """Those that requests may ask for."""
    settings = yaml.safe_load((archive.HERE / archive.CONFIG).read_text())["handler"]
    offer = handler.offered(artifacts.load(artifact), settings)
    return tuple(n for n in SIZES if n <= request.most_rows("json", offer.candidates, offer)[0])


def _in_process(artifact: Path, seconds: float, sizes: tuple[int, ...]) -> Iterator[Line]:
    """Generate and encode in a loop, in a process of its own with one thread: what one core can do at best."""
    command = [sys.executable, "-m", "serve.twin", "loop", str(artifact), str(seconds), *map(str, sizes)]
    done = subprocess.run(command, cwd=archive.HERE.parent, capture_output=True, text=True)
    if done.returncode:
        raise ServeError(f"the loop in process failed: {done.stderr.strip().splitlines()[-1]}")
    for measured in map(json.loads, done.stdout.splitlines()):
        yield Line(what="in process", connections=1, failures=0, **measured)


@contextmanager
def _twin(artifact: Path) -> Iterator[int]:
    """A FastAPI server around the same artifact; its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "serve.twin", "serve", str(artifact), str(port)]
    with subprocess.Popen(
        command, cwd=archive.HERE.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as twin:
        try:
            deadline = time.monotonic() + TWIN_SECONDS
            while not _answers(port):
                if time.monotonic() > deadline or twin.poll() is not None:
                    raise ServeError("the FastAPI twin did not start; are fastapi and uvicorn installed?")
                time.sleep(server.POLL_SECONDS)
            yield port
        finally:
            twin.terminate()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def _torchserve(settings: Settings) -> Iterator[State]:
    """TorchServe with the model and, beside it, the handler that does nothing."""
    noop = models.store(settings.runs) / "noop.mar"
    noop.parent.mkdir(parents=True)
    model = {"modelName": "noop", "handler": "noop.py", "modelVersion": "1", "configFile": archive.CONFIG}
    with zipfile.ZipFile(noop, "w") as mar:
        mar.writestr("noop.py", NOOP)
        mar.writestr(archive.MANIFEST, json.dumps({"runtime": "python", "model": model}))
        mar.write(archive.HERE / archive.CONFIG, archive.CONFIG)
    state = server.start(replace(settings, beside=(f"noop={noop.name}",)), lambda line: None)
    try:
        yield state
    finally:
        server.stop(settings.runs)


def _loaded(what: str, address: tuple[str, int], path: str, seconds: float, sizes: tuple[int, ...]) -> Iterator[Line]:
    """Every size over every number of connections; the largest also as npy."""
    ask = partial(load.run, address, path)
    ask(_bodies(1), connections=max(CONNECTIONS), seconds=WARM_UP_LINES * seconds, accept=CONTENT_TYPES["json"])
    for n in sizes:
        for form in ("json", "npy") if n == max(sizes) > 1 else ("json",):
            for connections in CONNECTIONS:
                measured = ask(_bodies(n), connections=connections, seconds=seconds, accept=CONTENT_TYPES[form])
                yield Line(
                    what=what, n=n, format=form, connections=connections, per_second=measured.per_second,
                    p50=measured.p50, p99=measured.p99, failures=measured.failures,
                )  # fmt: skip


def _bodies(n: int) -> Iterator[bytes]:
    """Requests without end, each for a seed of its own."""
    for seed in itertools.count():
        yield json.dumps({"n": n, "seed": seed}).encode()
