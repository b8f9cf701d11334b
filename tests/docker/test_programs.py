"""The serving image's own programs: its entry point and its health check. No engine is needed."""

import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.docker.conftest import ROOT
from tests.ports import free_port

HEALTH_CHECK = [sys.executable, "-I", str(ROOT / "docker" / "healthcheck.py")]

Command = Callable[..., list[str]]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with two runs; the second is the newest."""
    for name in ("00001-toy-bits", "00002-toy-bits"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lookalike.mar").touch()
    return tmp_path


@pytest.fixture
def entrypoint(models: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The entry point, with the folder `models` in place of /models."""
    monkeypatch.delenv("LOOKALIKE_SERVE_MODEL", raising=False)
    found = importlib.util.spec_from_file_location("entrypoint", ROOT / "docker" / "entrypoint.py")
    assert found
    assert found.loader
    entrypoint = importlib.util.module_from_spec(found)
    found.loader.exec_module(entrypoint)
    monkeypatch.setattr(entrypoint, "MODELS", models)
    return entrypoint


@pytest.fixture
def command(entrypoint: Any) -> Command:
    """Translates a container's arguments as the entry point does."""
    return lambda *given: entrypoint.command(given)


def test_the_entry_point_serves_the_newest_model(command: Command, models: Path) -> None:
    newest = models / "00002-toy-bits" / "lookalike.mar"
    assert command("--port", "9000") == ["start", "--foreground", "--model", str(newest), "--port", "9000"]


@pytest.mark.parametrize("given", [["--model", "/models/00001-toy-bits"], ["--model=/models/00001-toy-bits"]])
def test_a_model_on_the_command_line_is_the_one_served(command: Command, given: list[str]) -> None:
    assert command("--port", "9000", *given) == ["start", "--foreground", "--port", "9000", *given]


def test_the_environment_names_a_model_unless_it_is_empty(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_SERVE_MODEL", "/models/00001-toy-bits")
    assert command() == ["start", "--foreground"]
    monkeypatch.setenv("LOOKALIKE_SERVE_MODEL", "")
    assert "--model" in command()


def test_what_is_mounted_and_cannot_be_read_is_named(entrypoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/models/lookalike.mar")

    monkeypatch.setattr("serve.models.find", find)
    assert entrypoint.main([]).startswith("Error: /models/lookalike.mar: Permission denied; ")


def test_the_health_check_asks_for_other_sequences_each_time(tmp_path: Path) -> None:
    """Repeating the same ones would show as drift."""
    asked: list[dict[str, int]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"sequences": [[0], [1]]}')

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.timeout = 10  # the health check may fail before it asks
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        state = {"port": server.server_port, "tokens": False, "token_file": None}
        (tmp_path / "serve").mkdir()
        (tmp_path / "serve" / "state.json").write_text(json.dumps(state))
        environment = os.environ | {"LOOKALIKE_SERVE_RUNS": str(tmp_path)}
        subprocess.run([sys.executable, "-I", ROOT / "docker" / "healthcheck.py"], env=environment, check=True)
        thread.join()
    assert asked == [{"n": 2}]


@pytest.fixture
def state(tmp_path: Path) -> dict[str, object]:
    """The state that a server would write, without a server."""
    (tmp_path / "serve").mkdir()
    return {"port": free_port(), "tokens": False, "token_file": None, "scratch": str(tmp_path)}


def check(tmp_path: Path, state: dict[str, object]) -> subprocess.CompletedProcess[str]:
    (tmp_path / "serve" / "state.json").write_text(json.dumps(state))
    environment = os.environ | {"LOOKALIKE_SERVE_RUNS": str(tmp_path)}
    return subprocess.run(HEALTH_CHECK, env=environment, capture_output=True, text=True)


def test_a_server_that_does_not_answer_is_unhealthy(tmp_path: Path, state: dict[str, object]) -> None:
    done = check(tmp_path, state)
    assert (done.returncode, done.stderr[:11]) == (1, "unhealthy: ")


@pytest.mark.parametrize(
    ("status", "body", "healthy"),
    [(200, b'{"sequences": [[0], [1]]}', True), (200, b'{"sequences": [[0]]}', False), (503, b"{}", False)],
)
@pytest.mark.parametrize("kind", ["none", "file", "drawn"])
def test_the_health_check_has_the_token_and_wants_a_prediction(
    tmp_path: Path, state: dict[str, object], status: int, body: bytes, healthy: bool, kind: str
) -> None:
    tokens: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            tokens.append(self.headers["Authorization"])
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    (tmp_path / "token").write_text("from-a-file-of-mine\n")
    keys = {name: {"key": f"for-{name}"} for name in ("management", "inference")}
    (tmp_path / "key_file.json").write_text(json.dumps(keys))
    state |= {"file": {"token_file": str(tmp_path / "token")}, "drawn": {"tokens": True}}.get(kind, {})
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.timeout = 10  # the health check may fail before it asks
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        done = check(tmp_path, state | {"port": server.server_port})
        thread.join()
    assert done.returncode == (not healthy)
    assert tokens == [{"none": None, "file": "Bearer from-a-file-of-mine", "drawn": "Bearer for-inference"}[kind]]
