"""One real TorchServe shared by the tests of this folder, started as `python -m serve start` does."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serve import server
from serve.launch import Settings
from tests.integration.serve.running import Served, make_run, settings_for
from tests.ports import free_port

ROOT = Path(server.__file__).parents[1]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Version 1 of a small model, with two workers."""
    runs = tmp_path_factory.mktemp("runs")
    make_run(runs, 1)
    grpc_port = free_port()
    settings = Settings(**(vars(settings_for(runs)) | {"workers": 2, "grpc_port": grpc_port, "model_api": True}))
    state = server.start(settings, print)
    yield Served(settings, state)
    server.stop(runs)


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `python -m serve ...` as a user does, from any folder."""

    def run(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LOOKALIKE")}
        call = [sys.executable, "-m", "serve", *map(str, arguments)]
        return subprocess.run(call, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)

    return run
