"""All generators that ship, by name. This module is a LEAF (see train/__init__.py)."""

from typing import Any

from train.generator import Generator, TextbookGenerator
from train.nade import NadeGenerator
from train.text_generator import TokenGenerator

GENERATORS: dict[str, Any] = {kind.name: kind for kind in (TextbookGenerator, NadeGenerator, TokenGenerator)}


def build(config: dict[str, Any]) -> Generator:
    """A new generator from what `Generator.config` returned, with untrained weights."""
    arguments = dict(config)
    return GENERATORS[arguments.pop("name")](**arguments)
