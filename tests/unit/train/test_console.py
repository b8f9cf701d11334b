"""What a job prints for people."""

import torch

from train import console
from train.codec import BitsCodec, PresenceCodec


def test_rows_are_printed_by_their_words_or_their_values() -> None:
    rows = torch.tensor([[0, 0], [1, 0]])
    assert console._lines(PresenceCodec(["film", "plot"]), rows) == ["(none of the words)", "film"]
    assert console._lines(BitsCodec(["film", "plot"]), rows) == ["0 0", "1 0"]
