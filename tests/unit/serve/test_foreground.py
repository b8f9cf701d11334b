"""Staying in the foreground: no interruption is lost."""

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve import __main__ as commands
from serve import server
from serve import state as states
from serve.server import ServeError
from serve.state import State

STATE = State(pid=1, host="127.0.0.1", port=1, metrics_port=2, tokens=False, workers=1, scratch="/nowhere")


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
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
    server.attend(tmp_path, STATE, interrupted)
    assert interrupted()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_either_signal_interrupts(number: signal.Signals) -> None:
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


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupted = commands._interruptions()
    signal.raise_signal(signal.SIGINT)
    assert not interrupted()


def test_a_server_that_ended_by_itself_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "process", lambda state: None)
    with pytest.raises(ServeError, match="ended by itself"):
        server.attend(tmp_path, STATE, lambda: False)
