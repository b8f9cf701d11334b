"""The serving container's process: serve what is mounted or baked in at /models, until a signal comes.

/models is a folder of runs (its newest archive is served), or one run directory or artifact, or holds lookalike.mar.
LOOKALIKE_SERVE_MODEL names a model instead. The other options of `python -m serve start` are settings too.
"""

import os
import sys
from pathlib import Path

from serve import server
from serve.__main__ import main

MODELS = Path("/models")


def model() -> Path:
    """The one model at /models, or the newest of many."""
    try:
        return server.find_model(MODELS, MODELS)
    except server.UsageError:
        return server.find_model(MODELS, None)


if __name__ == "__main__":
    arguments = ["start", "--foreground", *sys.argv[1:]]
    if "LOOKALIKE_SERVE_MODEL" not in os.environ:
        try:
            arguments += ["--model", str(model())]
        except server.UsageError:
            sys.exit(f"Error: there is no model at {MODELS}; mount the folder of your runs there, or bake one in")
    sys.exit(main(arguments))
