"""The commands' frame."""

import time

import click
import pytest

from train import __main__ as commands


class Met:
    """An interruption meets its finalizer."""

    def __del__(self) -> None:
        raise KeyboardInterrupt


def test_an_interruption_in_a_finalizer_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        Met()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            time.sleep(0.01)

    monkeypatch.setattr(commands, "cli", command)
    assert commands.main([]) == 1
    assert capsys.readouterr().err.strip() == "Error: interrupted"
