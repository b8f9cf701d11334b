"""Starting, switching and stopping, as far as that shows without TorchServe."""

from pathlib import Path
from typing import Any

import pytest

from serve import server
from serve import state as states
from serve.server import ServeError, Settings
from serve.state import State


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """A server that is believed to run."""
    found = State(pid=1, host="127.0.0.1", port=1, metrics_port=2, tokens=False, workers=1, scratch=str(tmp_path))
    monkeypatch.setattr(states, "read", lambda runs: found)
    return found


def test_the_status_is_told_though_an_archive_is_damaged(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = states.directory(tmp_path) / "model-store"
    store.mkdir(parents=True)
    (store / "lookalike-1.mar").write_bytes(b"half")
    described: list[dict[str, Any]] = [{"modelVersion": "1", "workers": [], "jobQueueStatus": {}}]
    monkeypatch.setattr(server, "_manage", lambda *request: described)
    found = server.status(tmp_path)
    assert found
    assert [version["run_id"] for version in found["versions"]] == [None]


def test_a_slow_launcher_is_a_failure_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with pytest.raises(ServeError, match=r"launcher took longer than 0\.01 s\."):
        server._launch(Settings(runs=tmp_path, wait_seconds=0.01), tmp_path, tmp_path, tmp_path / "lookalike-1.mar")
