"""Writing rows: what is written can be read back."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from train import data, writers
from train.codec import BitsCodec, TokensCodec
from train.errors import InputError
from train.generator import LabelledRows

BITS = np.random.default_rng(1).integers(0, 2, (12, 3)).astype(np.uint8)


def codec_of(texts: list[str], **classes: Any) -> TokensCodec:
    return TokensCodec.fit(texts, kind="words", vocabulary=99, min_count=1, lowercase=True, **classes)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet", ".npy", ".CSV"])
def test_what_is_written_can_be_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    writers.check_writable(path)
    writers.write(path, LabelledRows(codes=torch.from_numpy(BITS)), BitsCodec(["x1", "x2", "x3"]))
    assert np.array_equal(data.load(str(path)).rows, BITS)


def test_json_is_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "JSONL_ROWS", 5)
    writers.write(tmp_path / "out.jsonl", LabelledRows(codes=torch.from_numpy(BITS)), BitsCodec(["x1", "x2", "x3"]))
    assert np.array_equal(data.load(str(tmp_path / "out.jsonl")).rows, BITS)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet", ".npy"])
def test_written_tokens_are_texts(tmp_path: Path, ending: str) -> None:
    texts = [f'a "{word}" film, isn\'t it?' for word in ("dull", "fine", "long", "new", "old")] * 2
    codec = codec_of(texts)
    writers.write(tmp_path / f"out{ending}", LabelledRows(codes=codec.encode(texts)), codec)
    assert data.load(str(tmp_path / f"out{ending}")).texts == texts


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(("named", "written"), [("stars", "stars"), ("text", "label")])
def test_written_classes_have_the_name_of_their_column(tmp_path: Path, ending: str, named: str, written: str) -> None:
    texts, labels = ["a dull film", "a fine film"] * 5, torch.arange(10) % 2
    codec = codec_of(texts, labels=["1 star", "5 stars"], label_column=named)
    path = tmp_path / f"out{ending}"
    writers.write(path, LabelledRows(codes=codec.encode(texts), labels=labels), codec)
    found = data.load(str(path), column="text", label_column=written)
    assert (found.texts, found.classes) == (texts, ["1 star", "5 stars"] * 5)


def test_an_array_of_texts_holds_no_classes(tmp_path: Path) -> None:
    codec = codec_of(["a film"], labels=["dull", "fine"])
    writers.write(tmp_path / "out.npy", LabelledRows(codes=codec.encode(["a film"]), labels=torch.ones(1).int()), codec)
    assert np.load(tmp_path / "out.npy").tolist() == ["a film"]


@pytest.mark.parametrize(("name", "message"), [("a.xls", "must end in .csv"), ("no/a.csv", "there is no folder")])
def test_what_cannot_be_written_is_refused_first(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        writers.check_writable(tmp_path / name)


def test_two_that_write_a_file_at_once_leave_a_whole_one_and_nothing_else(tmp_path: Path) -> None:
    """Two threads of one process, which switch while Arrow writes."""
    codec = BitsCodec(["x1", "x2", "x3"])
    path = tmp_path / "rows.csv"
    old = tmp_path / ".rows.csv.0a1b2c3d.partial"  # of a killed job
    old.touch()
    os.utime(old, (0, 0))
    samples = [torch.from_numpy(np.tile(BITS[i : i + 1], (50_000 + 20_000 * i, 1))) for i in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda codes: writers.write(path, LabelledRows(codes=codes), codec), samples))
    found = data.load(str(path)).rows
    assert any(np.array_equal(found, codes.numpy()) for codes in samples)
    assert list(tmp_path.iterdir()) == [path]
