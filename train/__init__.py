"""Lookalike's training side: data, codecs, networks, the training loop, evidence and export."""

import re

__version__ = "0.1.0"

# Named here, because naming them must not import torch.
MODEL_NAME = "lookalike"  # in MLflow's registry and in TorchServe
CARD, WEIGHTS = "card.json", "generator.safetensors"  # the files of an artifact
RUN_NAME = re.compile(r"(\d{5,})-.+")  # the name of a run directory begins with the run's number
ARTIFACT, ARCHIVE = "artifact", "lookalike.mar"  # what training leaves there for serving
JAVA = 17  # the oldest version with which TorchServe runs
# For `str.translate`: texts may hold characters that steer a terminal.
SHOWN_SAFELY = dict.fromkeys([*range(32), *range(127, 160)], "\ufffd")
NO_WORDS = "(none of the words)"  # shown for a row of words without any
MAX_SEED = 2**32 - 1  # torch's CPU generator (Mersenne Twister) ignores the higher bits of a seed

# The LEAF modules, which an artifact needs to run: they travel inside the model archive unchanged, with those of serve
# (`serve.archive.LEAVES`). They import the standard library, torch, numpy, numba, orjson, safetensors, tokenizers and
# one another only.
LEAVES = (
    "__init__.py",
    "artifact.py",
    "atomic.py",
    "catalogue.py",
    "codec.py",
    "generator.py",
    "language_model.py",
    "nade.py",
    "ngram.py",
    "scorer.py",
    "text_generator.py",
)
# All that serve imports of train, and its image has of it. What is no LEAF stays out of archives and imports the
# standard library, click and others of these only.
SERVED = (*LEAVES, "cpus.py", "errors.py", "exits.py", "store.py")
