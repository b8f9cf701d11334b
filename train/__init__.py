"""Lookalike's training side: data, codecs, networks, the training loop, evidence and export."""

__version__ = "0.1.0"
