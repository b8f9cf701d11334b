"""MLflow's store of the runs in a folder: where it is, and how it is written and waited for.

Serving uses this too, without torch and MLflow: only the standard library is imported (see train/__init__.py).
"""

import os
import re
import urllib.parse
from pathlib import Path

# MLflow's own defaults wait for an absent server for minutes, and draw bars of their own.
MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
SQLITE = "sqlite:///"  # how the address of a store in a file begins


def set_defaults() -> None:
    """Shorten MLflow's patience, unless the user has set it."""
    for variable, value in MLFLOW_DEFAULTS.items():
        os.environ.setdefault(variable, value)


def store_uri(out: Path) -> str:
    """Where runs are recorded: $MLFLOW_TRACKING_URI, else a SQLite file among the runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or file_uri(beside(out))


def beside(out: Path) -> Path:
    """The file of the store among the runs."""
    return out.resolve() / "mlflow.db"


def file_uri(file: Path) -> str:
    """The address of a store in a file: at a question mark it would be cut off, and %41 read as A."""
    return f"{SQLITE}{file}".replace("%", "%25").replace("?", "%3F")


def store_file(uri: str) -> Path | None:
    """The file of a SQLite store; None of another one."""
    return Path(urllib.parse.unquote(uri.removeprefix(SQLITE))) if uri.startswith(SQLITE) else None


def without_password(text: str) -> str:
    """An address, or a text with some, without who may use it, which files and messages must not tell."""
    text = re.sub(r"(?<=\w://)[^/\s?#][^\s?#]*@", "", text)  # a password may hold a slash
    return re.sub(r"([?&]\w*(?:user|password|passwd|token|secret)\w*=)[^&\s]*", r"\1…", text)
