"""Lookalike's training side: data, codecs, networks, the training loop, evidence and export."""

__version__ = "0.1.0"

# The modules that an artifact needs to run: they travel with it. Here, because naming them must not import torch.
LEAVES = (
    "__init__.py",
    "artifact.py",
    "catalogue.py",
    "codec.py",
    "generator.py",
    "nade.py",
    "ngram.py",
    "text_generator.py",
)
