"""What a part of a job asks of another."""

from collections.abc import Callable
from typing import Any

import pytest


class AskedError(Exception):
    """Somebody was asked for something."""


def asked(whom: Any, what: str, act: Callable[[], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, by position and by name, with which an action calls a function first; there it ends."""

    def ask(*given: Any, **named: Any) -> None:
        raise AskedError(given, named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whom, what, ask)
        with pytest.raises(AskedError) as caught:
            act()
    given, named = caught.value.args
    return given, named
