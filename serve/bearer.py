"""The operator's own token for a server and its replicas, in place of those that TorchServe generates.

TorchServe accepts no token from outside, so the workers check this one. This module is a LEAF (see train/__init__.py).
"""

import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "LOOKALIKE_TOKEN_FILE"  # tells a worker the path of the token file
SHORTEST = 16


def read(path: str | Path | None) -> str | None:
    """The token in a file; None if no path is given.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no usable token.
    """
    if not path:
        return None
    token = Path(path).read_text().strip()
    if len(token) < SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"must hold one token of at least {SHORTEST} printable ASCII characters")
    return token


def header(token: str | None) -> dict[str, str]:
    """The header by which a request shows its token; none without a token."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def admits(token: str | None, headers: Mapping[str, Any]) -> bool:
    """Whether a request with these headers (names in any case) is authorized; the comparison takes constant time."""
    if token is None:
        return True
    given = next((value for name, value in headers.items() if name.lower() == "authorization"), "")
    scheme, _, value = str(given).partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(value.strip().encode(errors="replace"), token.encode())
