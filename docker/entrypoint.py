"""The entry point of the serving container: serve the model at /models until a signal comes.

/models is a folder of runs (its newest archive is served), a run directory, an artifact, or holds lookalike.mar.
--model or LOOKALIKE_SERVE_MODEL names another model. The other options of `python -m serve start` work too.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from serve import __main__ as commands
from serve import models
from serve.errors import UsageError

MODELS = Path("/models")


def model() -> Path:
    """The model at /models, or the newest of its runs.

    Raises:
        UsageError: there is none.
    """
    try:
        return models.find(MODELS, MODELS)
    except UsageError:
        return models.find(MODELS, None)


def command(given: Sequence[str]) -> list[str]:
    """The arguments of `python -m serve`, from those given to the container."""
    named = os.environ.get("LOOKALIKE_SERVE_MODEL") or any(word.split("=")[0] == "--model" for word in given)
    return ["start", "--foreground", *([] if named else ["--model", str(model())]), *given]


def main(given: Sequence[str]) -> int | str:
    """Serve; returns the exit code, or a message if there is no usable model."""
    try:
        arguments = command(given)
    except UsageError:
        return f"Error: there is no model at {MODELS}; mount the folder of your runs there, or bake one in"
    except OSError as problem:
        return f"Error: {problem.filename}: {problem.strerror}; the container's user must be able to read it"
    return commands.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
