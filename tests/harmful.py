"""An object that must never be unpickled."""

from typing import Any

import pytest


class Harmful:
    """Fails the test when it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)
