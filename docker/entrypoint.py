"""The serving container's process: serve what is mounted or baked in at /models, until a signal comes.

/models is a folder of runs (its newest archive is served), or one run directory or artifact, or holds lookalike.mar.
--model or LOOKALIKE_SERVE_MODEL names a model instead. The other options of `python -m serve start` are settings too.
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
    """The one model at /models, or the newest of many."""
    try:
        return models.find(MODELS, MODELS)
    except UsageError:
        return models.find(MODELS, None)


def command(given: Sequence[str]) -> list[str]:
    """The arguments of `python -m serve` for those that the container was given."""
    named = os.environ.get("LOOKALIKE_SERVE_MODEL") or any(word.split("=")[0] == "--model" for word in given)
    return ["start", "--foreground", *([] if named else ["--model", str(model())]), *given]


def main(given: Sequence[str]) -> int | str:
    """Serve; the exit code, or what is wrong with what is mounted."""
    try:
        arguments = command(given)
    except UsageError:
        return f"Error: there is no model at {MODELS}; mount the folder of your runs there, or bake one in"
    except OSError as problem:
        return f"Error: {problem.filename}: {problem.strerror}; the container's user must be able to read it"
    return commands.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
