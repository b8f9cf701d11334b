"""Staying in the foreground: no interruption is lost."""

import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serve import __main__ as commands
from serve import drain, server
from serve import state as states
from serve.server import ServeError
from serve.state import State

STATE = State(pid=1, host="127.0.0.1", port=1, metrics_port=2, tokens=False, workers=1, scratch="/nowhere")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in commands.INTERRUPTIONS}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Interrupted:
    """Is interrupted while it is finalized, where Python drops the exception."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_an_interruption_that_meets_a_finalizer_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = commands._interruptions()
    monkeypatch.setattr(sys, "unraisablehook", lambda problem: None)
    monkeypatch.setattr(states, "process", lambda state: Interrupted())
    assert server.attend(tmp_path, STATE, interrupted)
    assert interrupted()


@pytest.mark.parametrize("number", commands.INTERRUPTIONS)
def test_each_signal_interrupts(number: signal.Signals) -> None:
    interrupted = commands._interruptions()
    assert not interrupted()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)
    assert interrupted()


def test_a_start_that_does_not_stay_is_interrupted_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It then takes away the server that nobody knows of yet."""
    monkeypatch.setattr(server, "start", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert commands.main(["start", "--runs", str(tmp_path)]) == 1
    assert capsys.readouterr().err.endswith("Error: interrupted\n")


@pytest.mark.parametrize(
    ("command", "done"),
    [
        (["stop"], "serve.server.stop"),
        (["use", "1"], "serve.server.use"),
        (["bench"], "serve.bench.run"),
        (["soak"], "serve.soak.run"),
    ],
)
def test_a_command_that_takes_something_away_at_its_end_does_so_when_it_is_told_to_end(
    command: list[str],
    done: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken_away = []

    def work(*_: object) -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            taken_away.append(done)

    monkeypatch.setattr(done, work)
    assert commands.main([*command, "--runs", str(tmp_path)]) == 1
    assert taken_away == [done]
    assert capsys.readouterr().err.endswith("Error: interrupted\n")


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupted = commands._interruptions()
    signal.raise_signal(signal.SIGINT)
    assert not interrupted()


def test_a_server_that_ended_by_itself_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = replace(STATE, scratch=str(tmp_path))
    state.gate.touch()
    monkeypatch.setattr(states, "process", lambda state: None)
    with pytest.raises(ServeError, match="ended by itself"):
        server.attend(tmp_path, state, lambda: False)


@pytest.mark.parametrize("gone", [True, False], ids=["stopped", "stopping"])
def test_a_server_that_another_command_stopped_has_not_failed(
    gone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = replace(STATE, scratch=str(tmp_path))
    if not gone:
        state.gate.touch()
        assert drain.close(state.gate, 1)
    monkeypatch.setattr(states, "process", lambda state: None)
    assert not server.attend(tmp_path, state, lambda: False)


def test_a_server_that_is_being_started_is_not_said_to_be_none(tmp_path: Path) -> None:
    assert not server.stop(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with server._locked(tmp_path), pytest.raises(ServeError, match="another start or use is at work"):
        server.stop(tmp_path)
    assert not server.stop(tmp_path)
