"""Benchmark the served model against reference points: a no-op handler, a FastAPI twin, and no server at all.

They run one after the other on this machine and share its cores with the client. The no-op handler has as many workers
as the model and the same batching. It is registered when the server starts. To load it later would need either the
model API, which without tokens runs code of any user of this machine, or tokens, whose cost would affect all ratios.
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

SIZES = (1, 100, 1000, 10_000)  # sequences per request; those above the model's limit are left out
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
WARM_UP_LINES = 2  # length of the warm-up, in lines: Java runs half as fast until its JIT has compiled the hot code


@dataclass(frozen=True, kw_only=True)
class Line:
    """One measurement: how `what` answered requests for `n` sequences over `connections` connections.

    Attributes:
        per_second: requests per second.
        p50, p99: latency in milliseconds.
    """

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
    launch.check(settings)  # now, not when the server starts at the end
    with (
        models.located(settings.runs, settings.model) as source,
        tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder,
    ):
        try:
            artifact = _artifact(source, Path(folder, "artifact"))
            sizes = _sizes(artifact)
        except archive.UNREADABLE as problem:
            raise ServeError(f"{source}: not a complete Lookalike model ({problem})") from problem
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
    """The sizes that the model accepts."""
    settings = yaml.safe_load((archive.HERE / archive.CONFIG).read_text())["handler"]
    offer = handler.offered(artifacts.load(artifact), settings)
    return tuple(n for n in SIZES if n <= request.most_rows("json", offer.candidates, offer)[0])


def _in_process(artifact: Path, seconds: float, sizes: tuple[int, ...]) -> Iterator[Line]:
    """Generate and encode in a loop, in a separate process with one thread: the upper limit of one core."""
    command = [sys.executable, "-m", "serve.twin", "loop", str(artifact), str(seconds), *map(str, sizes)]
    done = subprocess.run(command, cwd=archive.HERE.parent, capture_output=True, text=True)
    if done.returncode:
        raise ServeError(f"the loop in process failed: {done.stderr.strip().splitlines()[-1]}")
    for measured in map(json.loads, done.stdout.splitlines()):
        yield Line(what="in process", connections=1, failures=0, **measured)


@contextmanager
def _twin(artifact: Path) -> Iterator[int]:
    """Run a FastAPI server for the same artifact and yield its port."""
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
    """Run TorchServe with the model and the no-op handler."""
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
    """Measure every size over every number of connections; the largest size also as npy."""
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
    """Endless requests, each with its own seed."""
    for seed in itertools.count():
        yield json.dumps({"n": n, "seed": seed}).encode()
