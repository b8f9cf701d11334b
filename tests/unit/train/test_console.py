"""What a job prints for people."""

import logging
from pathlib import Path

import pytest
import torch

from train import console
from train.codec import BitsCodec, PresenceCodec
from train.config import resolve
from train.prepare import prepare, resolved
from train.rundir import RunDirectory


def test_rows_are_printed_by_their_words_or_their_values() -> None:
    rows = torch.tensor([[0, 0], [1, 0]])
    assert console._lines(PresenceCodec(["film", "plot"]), rows) == ["(none of the words)", "film"]
    assert console._lines(BitsCodec(["film", "plot"]), rows) == ["0 0", "1 0"]


@pytest.mark.parametrize(("codec", "rows"), [("tokens", "texts"), ("presence", "rows")])
def test_texts_that_come_twice_are_called_texts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codec: str, rows: str
) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("a film\n" * 30)
    config = resolve({"data": str(path), "codec": codec, "words": 2})
    found = prepare(config)
    with caplog.at_level(logging.WARNING, logger="lookalike"):
        console.announce(RunDirectory(tmp_path), resolved(config, found), found, "CPU")
    assert f"100% of the held-out {rows} are also found among the training {rows}" in caplog.text
