"""A small, untrained model of texts with classes, for tests which check that classes are passed on."""

from pathlib import Path
from typing import Any

import torch

from train import artifact
from train.artifact import Artifact
from train.codec import TokensCodec
from train.text_generator import TokenGenerator

CLASSES = ("1 star", "5 stars")
TEXTS = ["a dull film.", "the plot is great", "a great, fine film", "the film is dull and long"]


def rated_artifact(directory: Path, **facts: Any) -> Artifact:
    """An artifact of texts in two classes, with a quarter in the first one; the label column is "rating"."""
    torch.manual_seed(0)
    codec = TokensCodec.fit(
        TEXTS, kind="words", vocabulary=50, min_count=1, lowercase=True, labels=CLASSES, label_column="rating"
    )
    size = len(codec.pieces)
    made = TokenGenerator(codec.length, size, size, embedding=8, hidden=8, labels=2, candidates=2)
    assert made.model.label is not None
    torch.nn.init.normal_(made.model.label.weight, std=5)  # so that texts of the two classes differ
    made.shares.copy_(torch.tensor([0.25, 0.75]))
    return artifact.save(directory, made, codec, {"version": "1", "run_id": None, **facts})
