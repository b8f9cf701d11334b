"""The bench: what is counted, and which sizes are asked for."""

import itertools
import socket
import threading
from pathlib import Path

import pytest

from serve import bench, load
from serve.models import ServeError
from serve.server import Settings
from tests.rated import rated_artifact


def test_refusals_are_no_throughput() -> None:
    def answer_twice(server: socket.socket) -> None:
        """The first answer is whole, the next ones are refusals."""
        connection, _ = server.accept()
        with connection:
            for status in itertools.chain(["200 OK"], itertools.repeat("413 Too Large")):
                if not connection.recv(1 << 16):
                    return
                connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}".encode())

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer_twice, args=(server,))
        thread.start()
        address = server.getsockname()
        found = load.run(address, "/", itertools.repeat(b"{}"), connections=1, seconds=0.2, accept="*/*")
        thread.join()
    assert found.failures > 0
    assert found.per_second < 20, "at most the first answer"


def test_no_more_is_asked_for_than_the_model_gives(tmp_path: Path, artifact_directory: Path) -> None:
    assert bench._sizes(artifact_directory) == bench.SIZES
    rated_artifact(tmp_path / "artifact")
    assert max(bench._sizes(tmp_path / "artifact")) <= 4000, "candidates are limited, too"


@pytest.mark.parametrize("name", ["card.json", "lookalike.mar"])
def test_a_damaged_model_is_refused_in_words(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(ServeError, match="not a whole model"):
        next(bench.run(Settings(runs=tmp_path, model=str(tmp_path)), 0.1))
