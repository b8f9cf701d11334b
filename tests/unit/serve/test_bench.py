"""The bench of serving: what it counts, and which sizes it requests."""

import itertools
import math
import socket
import threading
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from serve import bench, load, models, server, soak
from serve.errors import ServeError
from serve.launch import Settings
from tests.rated import rated_artifact


@pytest.mark.parametrize(
    "refusal", [b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}", b"HTTP/1.1 200 OK\r\n", b""]
)
def test_refusals_and_lost_connections_are_no_throughput(refusal: bytes) -> None:
    """The first answer is complete; then each connection is closed after a refusal, or before a complete answer."""

    def answer(server: socket.socket) -> None:
        answers = itertools.chain([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"], itertools.repeat(refusal))
        with suppress(OSError):  # the socket was shut down
            while True:
                connection, _ = server.accept()
                with connection:
                    while connection.recv(1 << 16):
                        connection.sendall(sent := next(answers))
                        if sent == refusal:
                            break

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        address = server.getsockname()
        found = load.run(address, "/", itertools.repeat(b"{}"), connections=1, seconds=0.2, accept="*/*")
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert found.failures > 0
    assert found.answers == 1
    assert found.per_second < 20, "at most the first answer counts"


def _slow_server(server: socket.socket, seconds: float) -> None:
    """Answer each connection's requests one after the other, each after `seconds`."""

    def answer(connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while connection.recv(1 << 16):
                time.sleep(seconds)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with suppress(OSError):  # the socket was shut down
        while True:
            threading.Thread(target=answer, args=(server.accept()[0],)).start()


@pytest.mark.parametrize("duration", [0.1, 0.9])
def test_slow_answers_are_not_counted_too_often(duration: float) -> None:
    """A request sent during the warm-up does not count. One that takes longer than the whole measurement does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_slow_server, args=(server, duration))
        thread.start()
        found = load.run(server.getsockname(), "/", itertools.repeat(b"{}"), connections=4, seconds=0.5, accept="*/*")
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert 0.8 * 4 / duration < found.per_second <= 4 / duration
    assert found.p50 >= 1000 * duration


def test_failures_of_the_warm_up_count_too() -> None:
    """The server closes the first three connections without an answer, then answers."""
    refusals = iter([True] * 3)

    def answer(server: socket.socket) -> None:
        with suppress(OSError):  # the socket was shut down
            while True:
                connection, _ = server.accept()
                with connection:
                    while connection.recv(1 << 16):
                        if next(refusals, False):
                            break
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        found = load.run(server.getsockname(), "/", itertools.repeat(b"{}"), connections=1, seconds=1, accept="*/*")
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert found.failures == 3


def test_no_percentile_is_beyond_the_slowest() -> None:
    assert load.percentiles([1.0, 2.0, 3.0])[98] <= 3
    assert load.percentiles([4.0]) == [4.0] * 99
    assert all(map(math.isnan, load.percentiles([])))


def test_a_server_that_falls_silent_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "PATIENCE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TimeoutError, match="no answer came"):
        load.run(server.getsockname(), "/", itertools.repeat(b"{}"), connections=1, seconds=0.2, accept="*/*")


def test_no_more_is_asked_for_than_the_model_gives(tmp_path: Path, artifact_directory: Path) -> None:
    assert bench._sizes(artifact_directory) == bench.SIZES
    rated_artifact(tmp_path / "artifact")
    assert max(bench._sizes(tmp_path / "artifact")) <= 4000, "the limit is on rows times candidates"


@pytest.mark.parametrize("name", ["card.json", "lookalike.mar"])
def test_a_damaged_model_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("serve.launch.check", lambda settings: None)  # so that neither Java nor free ports are needed
    (tmp_path / name).write_text("{}")
    with pytest.raises(ServeError, match="not a complete Lookalike model"):
        next(bench.run(Settings(runs=tmp_path, model=str(tmp_path)), 0.1))


def test_nobody_can_load_code_into_the_server_that_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Settings] = []
    monkeypatch.setattr(server, "start", lambda settings, tell: started.append(settings))
    monkeypatch.setattr(server, "stop", lambda runs: None)
    with bench._torchserve(Settings(runs=tmp_path)):
        (settings,) = started
    assert not settings.loads_models
    assert not settings.need_tokens, "their cost would affect the ratios"
    assert settings.beside == ("noop=noop.mar",)
    with zipfile.ZipFile(models.store(tmp_path) / "noop.mar") as mar:
        assert set(mar.namelist()) == {"noop.py", "model-config.yaml", "MAR-INF/MANIFEST.json"}


def test_what_the_soak_compares_is_its_beginning_with_its_end() -> None:
    samples = [[float(k), 10.0] for k in (1, 1, 5, 5, 9, 9)]
    assert [(memory.what, memory.first, memory.last) for memory in soak._compare(samples)] == [
        ("frontend", 1, 9),
        ("worker 1", 10, 10),
    ]
