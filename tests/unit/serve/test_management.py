"""Requests to TorchServe's management API, over a Unix socket."""

import http.server
import socketserver
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from serve import management
from serve.errors import ServeError


@dataclass
class Api:
    """A management API: its socket, its (status, body) answer, and the (path, authorization) of each request."""

    path: Path
    answer: tuple[int, bytes] = (200, b"{}")
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    facts = Api(tmp_path / "socket")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            facts.asked.append((self.path, self.headers["Authorization"]))
            status, body = facts.answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    with socketserver.UnixStreamServer(str(facts.path), Handler) as listening, ThreadPoolExecutor(1) as pool:
        pool.submit(listening.serve_forever, 0.01)
        yield facts
        listening.shutdown()


def test_a_switch_waits_for_a_version_as_long_as_its_workers_may_take_to_load_it() -> None:
    config = Path(management.__file__).with_name("model-config.yaml")
    assert yaml.safe_load(config.read_text())["startupTimeout"] < management.SECONDS


@pytest.mark.parametrize(("token", "header"), [(None, None), ("secret", "Bearer secret")])
def test_a_request_brings_its_token(api: Api, token: str | None, header: str | None) -> None:
    api.answer = (200, b'[{"modelVersion": "1"}]')
    assert management.call(api.path, "GET", "/models", token) == [{"modelVersion": "1"}]
    assert api.asked == [("/models", header)]


def test_a_refusal_and_silence_are_told(api: Api, tmp_path: Path) -> None:
    api.answer = (404, b'{"code": 404, "message": "Model not found"}')
    with pytest.raises(ServeError, match="refused GET /models/x: Model not found"):
        management.call(api.path, "GET", "/models/x", None)
    with pytest.raises(ServeError, match=r"the server does not answer .* still loading its model, .* serve stop"):
        management.call(tmp_path / "none", "GET", "/models", None)
    api.answer = (200, b"<html>")
    with pytest.raises(ServeError, match=r"the server does not answer .* still loading its model, .* serve stop"):
        management.call(api.path, "GET", "/models", None)
