"""Captures the arguments with which code calls a function."""

from collections.abc import Callable
from typing import Any

import pytest


class AskedError(Exception):
    """The watched function was called."""


def asked(whom: Any, what: str, act: Callable[[], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Run `act` until it first calls `whom.what`; returns that call's positional and keyword arguments."""

    def ask(*given: Any, **named: Any) -> None:
        raise AskedError(given, named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whom, what, ask)
        with pytest.raises(AskedError) as caught:
            act()
    given, named = caught.value.args
    return given, named
