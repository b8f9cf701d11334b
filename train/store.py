"""MLflow's store for the runs in a folder: where it is, how its address is written, and how long to wait for it.

Serving uses this too, without torch and MLflow: only the standard library is imported (see train/__init__.py).
"""

import os
import re
import urllib.parse
from pathlib import Path

# By default, MLflow waits for an absent server for minutes and prints progress bars and URLs.
MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
SQLITE = "sqlite:///"  # the prefix of the address of a store in a file


def set_defaults() -> None:
    """Set MLflow's environment variables to these defaults, unless the user has set them."""
    for variable, value in MLFLOW_DEFAULTS.items():
        os.environ.setdefault(variable, value)


def store_uri(out: Path) -> str:
    """Where runs are recorded: $MLFLOW_TRACKING_URI, else a SQLite file beside the runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or file_uri(beside(out))


def beside(out: Path) -> Path:
    """The file of the store beside the runs."""
    return out.resolve() / "mlflow.db"


def file_uri(file: Path) -> str:
    """The address of a store in a file, escaped: it would be cut off at a question mark, and %41 be read as A."""
    return f"{SQLITE}{file}".replace("%", "%25").replace("?", "%3F")


def store_file(uri: str) -> Path | None:
    """The file of a SQLite store; None for other stores."""
    return Path(urllib.parse.unquote(uri.removeprefix(SQLITE))) if uri.startswith(SQLITE) else None


def without_password(text: str) -> str:
    """An address, or a text that contains some, without credentials, which must not get into files or messages."""
    text = re.sub(r"(?<=\w://)[^/\s?#]\S*@", "", text)  # SQLAlchemy takes passwords that contain / ? or #
    secrets = r"user|password|passwd|pwd|token|secret|odbc_connect"
    return re.sub(rf"([?&]\w*(?:{secrets})\w*=)[^&\s]*", r"\1…", text, flags=re.IGNORECASE)


def one_line(problem: BaseException) -> str:
    """What went wrong, short enough for a log line and without credentials."""
    return shorter(" ".join(without_password(str(problem)).split())) or type(problem).__name__


def shorter(text: str) -> str:
    """A text without its middle if it is long: MLflow's messages begin with what failed and end with why."""
    return text if len(text) <= 320 else f"{text[:120]} … {text[-200:]}"
