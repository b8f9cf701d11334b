"""A client of TorchServe's management API, which listens on a private Unix socket, and the tokens of both its APIs."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from serve import bearer
from serve.errors import ServeError
from serve.state import State

SECONDS = 130  # registering waits until the workers have loaded the version: startupTimeout in model-config.yaml


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def call(path: Path, method: str, target: str, token: str | None, seconds: float = SECONDS) -> Any:
    """The parsed JSON answer to one management request.

    Raises:
        ServeError: the API does not answer in JSON, or refuses.
    """
    connection = _UnixConnection(path, seconds)
    try:
        connection.request(method, target, headers=bearer.header(token))
        answer = connection.getresponse()
        body = answer.read()
        parsed = json.loads(body) if body.strip() else {}
    except (OSError, http.client.HTTPException, ValueError) as problem:
        raise ServeError(
            f"the server does not answer ({problem}): it is still loading its model, has just ended, or hangs; "
            "try again in a moment, or end it with: python -m serve stop (or: make stop)"
        ) from problem
    finally:
        connection.close()
    if answer.status >= http.client.MULTIPLE_CHOICES:
        raise ServeError(f"TorchServe refused {method} {target}: {parsed.get('message', answer.reason)}")
    return parsed


def ask(state: State, method: str, target: str, seconds: float = SECONDS) -> Any:
    """`call` for a running server, with its token."""
    return call(state.management_socket, method, target, _token(state, "management"), seconds)


def readiness(worker: dict[str, Any]) -> str:
    """READY or not. TorchServe calls all other workers UNLOADING, also those that are loading or have died."""
    return "READY" if worker["status"] == "READY" else "NOT READY"


def inference_token(state: State) -> str | None:
    """The token that predictions need, or None if they need none."""
    return bearer.read(state.token_file) if state.token_file else _token(state, "inference")


def _token(state: State, kind: str) -> str | None:
    if not state.tokens:
        return None
    key: str = json.loads(state.key_file.read_text())[kind]["key"]
    return key
